"""How fast the import of an archive goes and when it will end, from samples that its runs leave.

Belongs here: keeping samples, few of them, and the reckoning. Does not belong here: counting (`ahi.archive.progress`).

All reckoning is in active time: pauses, and times in which no run was at work, stand still. So a rate does not sink
overnight, and an error of a forecast is not made small by waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.index import catalog_archives as c

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

SAMPLE_SECONDS = 5.0
"""Time between two samples of an archive."""

IDLE_SECONDS = 12 * SAMPLE_SECONDS
"""Without a sample for so long, no run is at work."""

RECENT = 60
"""Samples that the present rate is taken over, at least; of a long import the last quarter of its time."""

FEW_LUMPS = 4
"""Of results, too few for a rate."""

MOST = 600
"""Samples kept of an archive. Beyond, every second goes but the first and the newest, so the oldest are the fewest."""


@dataclass(frozen=True)
class Sample:
    """One count, at one moment."""

    at: dt.datetime
    active_seconds: float
    """Time since the first sample in which runs were at work."""
    n_entered: int
    """Objects that have begun: in the ledger, or found to be known by another way."""
    n_final: int
    ends_at: dt.datetime | None
    """When the import was expected to end, as reckoned then."""
    is_paused: bool = False


def samples(connection: sa.Connection, archive_id: str) -> list[Sample]:
    """Samples of an archive, oldest first."""
    table = c.archive_progress
    columns = (
        table.c.at,
        table.c.active_seconds,
        table.c.n_entered,
        table.c.n_final,
        table.c.ends_at,
        table.c.is_paused,
    )
    query = sa.select(*columns).where(table.c.archive_id == archive_id).order_by(table.c.at)
    found, paused = list[Sample](), False
    for at, noted, n_entered, n_final, ends_at, is_paused in connection.execute(query):
        active = noted
        if active is None:  # noted before active time was
            before = found[-1] if found else None
            active = before.active_seconds + _step(before.at, at, is_paused=paused or is_paused) if before else 0.0
        found.append(Sample(at, active, n_entered, n_final, ends_at, bool(is_paused)))
        paused = is_paused
    return found


def and_now(points: Sequence[Sample], at: dt.datetime, *, n_entered: int, n_final: int) -> list[Sample]:
    """The samples and what is counted now: what they say alone was true when the last of them was noted."""
    if not points:
        return []
    last = points[-1]
    active = last.active_seconds + _step(last.at, at, is_paused=last.is_paused)
    return [*points, Sample(at, active, n_entered, n_final, None)]


def note(connection: sa.Connection, archive_id: str, at: dt.datetime, values: Mapping[str, object]) -> None:
    """Add a sample, with the active time up to it. The caller holds a write transaction."""
    table = c.archive_progress
    mine = table.c.archive_id == archive_id
    last = connection.execute(sa.select(table).where(mine).order_by(table.c.at.desc()).limit(1)).mappings().first()
    active = 0.0
    if last is not None:
        active = last["active_seconds"]
        if active is None:
            active = samples(connection, archive_id)[-1].active_seconds
        active += _step(last["at"], at, is_paused=bool(last["is_paused"] or values["is_paused"]))
    connection.execute(table.delete().where(mine, table.c.at == at))
    row = {"archive_id": archive_id, "at": at, "active_seconds": active, **values}
    connection.execute(table.insert().values(row))
    number = connection.execute(sa.select(sa.func.count()).select_from(table).where(mine)).scalar_one()
    if number > MOST:
        old = [point.at for point in samples(connection, archive_id)[1 : -2 * RECENT : 2]]
        connection.execute(table.delete().where(mine, table.c.at.in_(old)))


def _step(before: dt.datetime, after: dt.datetime, *, is_paused: bool) -> float:
    """Active time between two samples."""
    seconds = (after - before).total_seconds()
    return 0.0 if is_paused or not 0 < seconds < IDLE_SECONDS else seconds


def reckon(points: Sequence[Sample]) -> float | None:
    """Objects a second of active time: the slope of a line through the samples. None until something is through."""
    line = _line(points)
    return _slope(line, [point.n_final for point in line]) if line else None


def remaining(points: Sequence[Sample], n_objects: int) -> float | None:
    """Seconds of active time until all objects are through; None while nothing is.

    What is through comes in lumps, what enters the ledger in small steps: the time until the last object has entered,
    and then as long as objects took from there of late. Once all have entered, by the rate of what is through; two or
    three lumps have none to speak of.

    Args:
        points: Samples, oldest first.
        n_objects: In all.
    """
    line, last = _line(points), points[-1] if points else None
    rate = _slope(line, [point.n_final for point in line]) if line else None
    if last is None or rate is None:
        return None
    # Objects enter from the first moment, whatever is through: the first quarter has few enough samples as it is.
    begun = _recent(points)
    entering = _slope(begun, [point.n_entered for point in begun])
    by_rate = (n_objects - last.n_final) / rate
    # Samples of older versions do not count what was known as entered.
    if not entering or any(point.n_entered < point.n_final for point in line):
        return by_rate
    taken = _taken(points, since=line[0].active_seconds)
    if last.n_entered < n_objects:
        return (n_objects - last.n_entered) / entering + taken
    left = _entered_at(points, n_objects) + taken - last.active_seconds
    return left if len(_lumps(points)) < FEW_LUMPS and left > 0 else by_rate


def _taken(points: Sequence[Sample], *, since: float) -> float:
    """Seconds that objects took from entering to being through, the mean of those that got through since then.

    Samples between two lumps say nothing: the objects of the last lump only seem to take longer and longer.
    """
    lumps = [point for point in _lumps(points) if point.active_seconds >= since]
    return sum(point.active_seconds - _entered_at(points, point.n_final) for point in lumps) / len(lumps)


def _lumps(points: Sequence[Sample]) -> list[Sample]:
    """The samples that first show results."""
    return [after for before, after in pairwise(points) if after.n_final > before.n_final]


def _entered_at(points: Sequence[Sample], number: int) -> float:
    """When so many objects had entered, between two samples as on a straight line."""
    for before, after in pairwise(points):
        if after.n_entered >= number:
            share = (number - before.n_entered) / max(1, after.n_entered - before.n_entered)
            return before.active_seconds + max(0.0, share) * (after.active_seconds - before.active_seconds)
    return points[-1].active_seconds


def _line(points: Sequence[Sample]) -> list[Sample]:
    """The samples that say how fast it goes now; none until something is through.

    Jobs end in lumps of thousands, so two samples say little, and the time before the first end says nothing of the
    rate: the line runs over the samples since then.
    """
    begun = next((n for n, point in enumerate(points) if point.n_final > points[0].n_final), None) if points else None
    if begun is None:
        return []
    return _recent(points[begun:])


def _recent(points: Sequence[Sample]) -> list[Sample]:
    """The last of some samples: so many, or of a long import the last quarter of its time."""
    first, last = points[0].active_seconds, points[-1].active_seconds
    start = min(points[-RECENT:][0].active_seconds, last - (last - first) / 4)
    return [point for point in points if point.active_seconds >= start]


def _slope(line: Sequence[Sample], numbers: Sequence[int]) -> float | None:
    """Of the line of least squares. Older samples stand further apart, and each counts for the time around it."""
    times = [point.active_seconds for point in line]
    gaps = [after - before for before, after in pairwise(times)]
    if not sum(gaps):
        return None
    weights = [before + after for before, after in zip([gaps[0], *gaps], [*gaps, gaps[-1]], strict=True)]
    whole = sum(weights)
    mean_t = sum(w * t for w, t in zip(weights, times, strict=True)) / whole
    mean_n = sum(w * n for w, n in zip(weights, numbers, strict=True)) / whole
    spread = sum(w * (t - mean_t) ** 2 for w, t in zip(weights, times, strict=True))
    if not spread:
        return None
    both = (w * (t - mean_t) * (n - mean_n) for w, t, n in zip(weights, times, numbers, strict=True))
    slope = sum(both) / spread
    return slope if slope > 0 else None


def error(points: Sequence[Sample], ends_at: dt.datetime | None) -> float | None:
    """How far the forecast of half the time ago is from what is known now, as a share of the whole active time.

    Args:
        points: Samples, oldest first.
        ends_at: When the import ended, or is expected to; None: nobody knows, and then nor does this.
    """
    if ends_at is None or not points:
        return None
    last = points[-1]
    middle = next((p for p in points if p.ends_at and p.active_seconds >= last.active_seconds / 2), None)
    whole = last.active_seconds + (ends_at - last.at).total_seconds()
    if middle is None or middle.ends_at is None or whole <= 0:
        return None
    forecast = middle.active_seconds + (middle.ends_at - middle.at).total_seconds()
    return abs(whole - forecast) / whole
