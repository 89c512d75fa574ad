"""How far the import of an archive is, how fast it goes, and when it will end.

Belongs here: counting, sampling while runs are at work, and the reckoning from samples. Does not belong here: showing
it (`ahi.cli.archive_status`, the asset's metadata).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import ObjectState
from ahi.index.catalog_archives import ShardState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ahi.index.store import Index
    from ahi.pipeline import Pipeline

SAMPLE_SECONDS = 5.0
"""Time between two samples of an archive. A day's import leaves 17,280."""

RECENT = 60
"""Samples that the present rate is taken over, at least; of a long import the last quarter of its time."""

FINAL = (ObjectState.IMPORTED, ObjectState.FAILED, ObjectState.SET_ASIDE)


@dataclass(frozen=True)
class Sample:
    """One count, at one moment."""

    at: dt.datetime
    n_final: int
    is_paused: bool
    ends_at: dt.datetime | None


@dataclass(frozen=True)
class Progress:
    """Where the import of an archive stands."""

    archive_id: str
    paused_at: dt.datetime | None
    starts_per_second: float | None
    """Rate that was set; None: the service's quota."""
    shards: dict[str, int]
    """Shards by state."""
    objects: int
    """In all shards, whether started or not."""
    n_bytes: int
    entered: int
    states: dict[str, int]
    """Objects of the ledger by state."""
    known: int
    """Objects that something else had entered before; they count as done."""
    indexed: int
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    """When the last object had reached a final state; None: it has not."""
    objects_per_second: float | None
    ends_at: dt.datetime | None
    eta_error: float | None
    """How far off the forecast of half the time ago was, as a share of the whole time; None: too early to say."""

    @property
    def final(self) -> int:
        """Objects that are through."""
        return sum(self.states.get(state, 0) for state in FINAL) + self.known

    @property
    def share(self) -> float:
        """Of the whole, from 0 to 1."""
        return self.final / self.objects if self.objects else 0.0


def progress(index: Index, archive_id: str) -> Progress:
    """Count one archive. Raises PermanentError when there is none of that name."""
    with index.snapshot() as connection:
        archive = connection.execute(sa.select(c.archives).where(c.archives.c.archive_id == archive_id)).first()
        if archive is None:
            raise PermanentError(f"No archive {archive_id}: `ahi archive list` names those there are")
        return _progress(connection, archive)


def all_archives(index: Index) -> list[str]:
    """Names of the archives, oldest first."""
    with index.engine.connect() as connection:
        query = sa.select(c.archives.c.archive_id).order_by(c.archives.c.created_at)
        return list(connection.execute(query).scalars())


def shard_keys(index: Index) -> list[str]:
    """Every shard that can be imported, of every archive."""
    table = c.archive_shards
    with index.engine.connect() as connection:
        query = sa.select(table.c.shard_key).where(table.c.state != ShardState.SPLIT).order_by(table.c.shard_key)
        return list(connection.execute(query).scalars())


def continuous_archives(index: Index) -> list[str]:
    """Archives that are looked at again by a schedule."""
    table = c.archives
    with index.engine.connect() as connection:
        query = sa.select(table.c.archive_id).where(table.c.is_continuous, table.c.paused_at.is_(None))
        return list(connection.execute(query.order_by(table.c.archive_id)).scalars())


def grown_shards(index: Index, *, most: int) -> list[str]:
    """Shards that later looks at continuous archives added and that no run has had, oldest first.

    Those of the first look wait for a person, who says when a large import may begin.
    """
    table, archives = c.archive_shards, c.archives
    query = sa.select(table.c.shard_key).where(
        table.c.archive_id == archives.c.archive_id,
        archives.c.is_continuous,
        archives.c.paused_at.is_(None),
        table.c.state == ShardState.PLANNED,
        table.c.run_id.is_(None),
        table.c.generation > 1,
    )
    with index.engine.connect() as connection:
        return list(connection.execute(query.order_by(table.c.planned_at, table.c.shard_key).limit(most)).scalars())


def _progress(connection: sa.Connection, archive: sa.Row[tuple[object, ...]]) -> Progress:
    archive_id = archive.archive_id
    counted = counts(connection, archive_id)
    points = samples(connection, archive_id)
    done, ended_at = counted.done, None
    started = _active_since(points)
    rate = reckon(points)
    left = counted.objects - done
    if not left:
        ended_at = connection.execute(
            sa.select(sa.func.max(c.archive_shards.c.ended_at)).where(c.archive_shards.c.archive_id == archive_id)
        ).scalar_one()
    ends_at = now() + dt.timedelta(seconds=left / rate) if rate and left and not archive.paused_at else None
    return Progress(
        archive_id,
        archive.paused_at,
        archive.rate,
        counted.shards,
        counted.objects,
        counted.n_bytes,
        counted.entered,
        counted.states,
        counted.known,
        counted.indexed,
        started,
        ended_at,
        rate,
        ends_at,
        _error(points, ends_at or ended_at),
    )


@dataclass(frozen=True)
class Counts:
    """What the catalog has of an archive, in numbers."""

    shards: dict[str, int]
    objects: int
    n_bytes: int
    entered: int
    states: dict[str, int]
    known: int
    indexed: int

    @property
    def done(self) -> int:
        """Objects that are through."""
        return sum(self.states.get(state, 0) for state in FINAL) + self.known


def counts(connection: sa.Connection, archive_id: str) -> Counts:
    """Count the shards of an archive and their objects in the ledger. Its cost follows the shards under way.

    What is done is read off its shard, so that the ledger is counted for the others only.
    """
    own, table = c.archive_shards, catalog.objects
    of_archive = sa.and_(own.c.archive_id == archive_id, own.c.state != ShardState.SPLIT)
    states, known = dict.fromkeys(ObjectState, 0), 0
    shards, objects, n_bytes = dict[str, int](), 0, 0
    sums = [sa.func.coalesce(sa.func.sum(own.c[f"n_{name}"]), 0) for name in ("objects", "bytes", "known", *FINAL)]
    for row in connection.execute(
        sa.select(own.c.state, sa.func.count(), *sums).where(of_archive).group_by(own.c.state)
    ):
        shards[row[0]] = row[1]
        objects, n_bytes, known = objects + row[2], n_bytes + int(row[3]), known + row[4]
        for state, number in zip(FINAL, row[5:], strict=True):
            states[state] += number if row[0] == ShardState.DONE else 0
    under_way = sa.select(own.c.shard_key).where(
        of_archive, own.c.state.in_((ShardState.STARTED, ShardState.CANCELLED))
    )
    query = sa.select(table.c.state, sa.func.count()).where(table.c.shard_key.in_(under_way)).group_by(table.c.state)
    for state, number in connection.execute(query):
        states[ObjectState(state)] += number
    unseen = sa.select(sa.func.count()).where(
        table.c.state == ObjectState.IMPORTED, table.c.indexed_seq.is_(None), table.c.shard_key.is_not(None)
    )
    unseen = unseen.where(table.c.shard_key.in_(sa.select(own.c.shard_key).where(of_archive)))
    indexed = states[ObjectState.IMPORTED] - connection.execute(unseen).scalar_one()
    some = {str(state): number for state, number in states.items() if number}
    return Counts(shards, objects, n_bytes, sum(states.values()), some, known, indexed)


def sample(pipeline: Pipeline, archive_ids: Iterable[str]) -> None:
    """Note how far archives are, unless somebody did so a moment ago."""
    table, moment = c.archive_progress, now()
    late = moment - dt.timedelta(seconds=SAMPLE_SECONDS)
    for archive_id in sorted(archive_ids):
        newest = sa.select(sa.func.max(table.c.at)).where(table.c.archive_id == archive_id)
        with pipeline.index.engine.connect() as connection:
            last = connection.execute(newest).scalar_one()
        if last is None or last <= late:
            _note(pipeline, archive_id, moment)


def _note(pipeline: Pipeline, archive_id: str, moment: dt.datetime) -> None:
    seen = progress(pipeline.index, archive_id)
    row = {
        "archive_id": archive_id,
        "at": moment,
        "n_total": seen.objects,
        "n_entered": seen.entered,
        "n_final": seen.final,
        "n_failed": seen.states.get(ObjectState.FAILED, 0),
        "is_paused": seen.paused_at is not None,
        "ends_at": seen.ends_at,
    }
    with pipeline.index.transaction() as connection:
        there = sa.and_(c.archive_progress.c.archive_id == archive_id, c.archive_progress.c.at == moment)
        connection.execute(c.archive_progress.delete().where(there))
        connection.execute(c.archive_progress.insert().values(row))


def samples(connection: sa.Connection, archive_id: str) -> list[Sample]:
    """Samples of an archive, oldest first."""
    table = c.archive_progress
    query = sa.select(table.c.at, table.c.n_final, table.c.is_paused, table.c.ends_at)
    query = query.where(table.c.archive_id == archive_id).order_by(table.c.at)
    return [Sample(*row) for row in connection.execute(query)]


def _active_since(points: Sequence[Sample]) -> dt.datetime | None:
    return points[0].at if points else None


def reckon(points: Sequence[Sample]) -> float | None:
    """Objects a second: the slope of a line through the samples. None until something is through.

    Jobs end in lumps of thousands, so two samples say little, and the time before the first end says nothing of the
    rate: the line runs over the samples since then. Time in a pause, or between two runs, does not count.
    """
    begun = next((n for n, point in enumerate(points) if point.n_final > points[0].n_final), None) if points else None
    if begun is None:
        return None
    line = points[begun:]
    clock, times, done = 0.0, [0.0], [line[0].n_final]
    for before, after in pairwise(line):
        step = (after.at - before.at).total_seconds()
        if not (before.is_paused or after.is_paused) and step < 12 * SAMPLE_SECONDS:
            clock += step
        times.append(clock)
        done.append(after.n_final)
    recent = max(RECENT, len(times) // 4)
    return _slope(times[-recent:], done[-recent:])


def _slope(times: Sequence[float], values: Sequence[int]) -> float | None:
    """Of the line of least squares."""
    n = len(times)
    mean_t, mean_v = sum(times) / n, sum(values) / n
    spread = sum((t - mean_t) ** 2 for t in times)
    if not spread:
        return None
    slope = sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values, strict=True)) / spread
    return slope if slope > 0 else None


def _error(points: Sequence[Sample], ends_at: dt.datetime | None) -> float | None:
    """How far the forecast of half the time ago is from what is known now, as a share of the whole time."""
    if ends_at is None or not points:
        return None
    begun = points[0].at
    middle = begun + (points[-1].at - begun) / 2
    forecast = next((point.ends_at for point in points if point.at >= middle and point.ends_at), None)
    whole = (ends_at - begun).total_seconds()
    return abs((ends_at - forecast).total_seconds()) / whole if forecast and whole > 0 else None


def course(index: Index, archive_id: str, *, most: int = 100) -> list[tuple[float, float]]:
    """Objects that were through, by minutes since the first sample; at most so many points."""
    with index.engine.connect() as connection:
        points = samples(connection, archive_id)
    step = max(1, -(-len(points) // most))
    some = [*points[::step], *points[-1:]]
    return [((point.at - points[0].at).total_seconds() / 60, float(point.n_final)) for point in some]
