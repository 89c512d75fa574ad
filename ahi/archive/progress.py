"""How far the import of an archive is.

Belongs here: counting, and sampling while runs are at work. Does not belong here: the reckoning from samples
(`forecast`), and showing it (`ahi.cli.archive_status`, the asset's metadata).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.archive import forecast
from ahi.archive.forecast import IDLE_SECONDS, SAMPLE_SECONDS
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import IN_FLIGHT, ObjectState
from ahi.index.catalog_archives import ShardState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ahi.index.store import Index
    from ahi.pipeline import Pipeline

FINAL = (ObjectState.IMPORTED, ObjectState.FAILED, ObjectState.SET_ASIDE)


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
    is_at_work: bool
    """Whether a run has some of its shards; none has while it is paused, done, or waits for a person."""
    objects_per_second: float | None
    """Of active time; None: not known yet, or nothing is at work."""
    ends_at: dt.datetime | None
    eta_error: float | None
    """How far off the forecast of half the time ago was, as a share of the active time; None: too early to say."""

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
        query = sa.select(table.c.shard_key).order_by(table.c.shard_key)
        return list(connection.execute(query).scalars())


def continuous_archives(index: Index) -> list[str]:
    """Archives that are looked at again by a schedule."""
    table = c.archives
    with index.engine.connect() as connection:
        query = sa.select(table.c.archive_id).where(table.c.is_continuous, table.c.paused_at.is_(None))
        return list(connection.execute(query.order_by(table.c.archive_id)).scalars())


def grown_shards(index: Index, *, most: int, after: int = 0) -> list[str]:
    """Shards that later plans of continuous archives added and that no run has had, oldest first, `after` so many.

    Those of the first plan that was kept wait for a person, who says when a large import may begin by launching some of
    them; until then nothing of the archive is imported by itself. Dry runs and looks confirm nothing.
    """
    table, archives, other = c.archive_shards, c.archives, c.archive_shards.alias("other")
    first = sa.select(table.c.archive_id, sa.func.min(table.c.generation).label("generation"))
    oldest = first.group_by(table.c.archive_id).subquery()
    launched = sa.exists().where(
        other.c.archive_id == oldest.c.archive_id,
        other.c.generation == oldest.c.generation,
        other.c.run_id.is_not(None),
    )
    query = sa.select(table.c.shard_key).where(
        table.c.archive_id == archives.c.archive_id,
        table.c.archive_id == oldest.c.archive_id,
        archives.c.is_continuous,
        archives.c.paused_at.is_(None),
        table.c.state == ShardState.PLANNED,
        table.c.run_id.is_(None),
        table.c.generation > oldest.c.generation,
        launched,
    )
    with index.engine.connect() as connection:
        ordered = query.order_by(table.c.planned_at, table.c.shard_key).limit(most).offset(after)
        return list(connection.execute(ordered).scalars())


def _progress(connection: sa.Connection, archive: sa.Row[tuple[object, ...]]) -> Progress:
    archive_id, moment = archive.archive_id, now()
    counted = counts(connection, archive_id)
    points = forecast.samples(connection, archive_id)
    left, ends_at, ended_at = counted.objects - counted.done, None, None
    is_at_work = bool(left) and _is_at_work(connection, archive_id, points, moment)
    begun = counted.entered + counted.known
    present = forecast.and_now(points, moment, n_entered=begun, n_final=counted.done) if left else points
    rate = forecast.reckon(present) if is_at_work or not left else None
    if not left:
        of_archive = c.archive_shards.c.archive_id == archive_id
        closed = connection.scalar(sa.select(sa.func.max(c.archive_shards.c.ended_at)).where(of_archive))
        ended_at = max(filter(None, (closed, counted.last_at)), default=None)
    elif rate and not archive.paused_at and (seconds := forecast.remaining(present, counted.objects)) is not None:
        ends_at = moment + dt.timedelta(seconds=seconds)
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
        points[0].at if points else None,
        ended_at,
        is_at_work,
        rate,
        ends_at,
        forecast.error(points, ends_at or ended_at),
    )


def _is_at_work(connection: sa.Connection, archive_id: str, points: list[forecast.Sample], moment: dt.datetime) -> bool:
    """Whether a run holds shards of an archive, or noted how far it is a moment ago."""
    table = c.archive_shards
    held = sa.select(table.c.shard_key).where(table.c.archive_id == archive_id, table.c.lease_until > moment)
    if connection.execute(held.limit(1)).first():
        return True
    return bool(points) and (moment - points[-1].at).total_seconds() < IDLE_SECONDS


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
    last_at: dt.datetime | None
    """When the last object of shards under way changed its state."""

    @property
    def done(self) -> int:
        """Objects that are through."""
        return sum(self.states.get(state, 0) for state in FINAL) + self.known


def counts(connection: sa.Connection, archive_id: str) -> Counts:
    """Count the shards of an archive and their objects in the ledger. Its cost follows the shards under way.

    What is done is read off its shard, so that the ledger is counted for the others only.
    """
    own, table = c.archive_shards, catalog.objects
    of_archive = own.c.archive_id == archive_id
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
    last_at = None
    for shard in _under_way(connection, of_archive):
        last_at = max(filter(None, (last_at, shard.last_at)), default=None)
        for state, number in shard.states.items():
            states[state] += number
        if shard.is_through:
            shards[shard.state] -= 1
            shards[ShardState.DONE] = shards.get(ShardState.DONE, 0) + 1
    unseen = sa.select(sa.func.count()).where(
        table.c.state == ObjectState.IMPORTED, table.c.indexed_seq.is_(None), table.c.shard_key.is_not(None)
    )
    unseen = unseen.where(table.c.shard_key.in_(sa.select(own.c.shard_key).where(of_archive)))
    indexed = states[ObjectState.IMPORTED] - connection.execute(unseen).scalar_one()
    some = {str(state): number for state, number in states.items() if number}
    of_state = {state: number for state, number in shards.items() if number}
    return Counts(of_state, objects, n_bytes, sum(states.values()), some, known, indexed, last_at)


@dataclass
class _UnderWay:
    """One shard that is not closed, as the ledger has it."""

    state: str
    n_objects: int
    n_known: int
    states: dict[ObjectState, int]
    last_at: dt.datetime | None = None

    @property
    def is_through(self) -> bool:
        """Every object of it is in a final state, though the run that would have closed it is gone."""
        in_flight = sum(self.states.get(state, 0) for state in IN_FLIGHT)
        return not in_flight and sum(self.states.values()) + self.n_known >= self.n_objects


def _under_way(connection: sa.Connection, of_archive: sa.ColumnElement[bool]) -> Iterable[_UnderWay]:
    own, table, found = c.archive_shards, catalog.objects, dict[str, _UnderWay]()
    open_ = sa.and_(of_archive, own.c.state.in_((ShardState.STARTED, ShardState.CANCELLED)))
    columns = (own.c.shard_key, own.c.state, own.c.n_objects, own.c.n_known)
    for key, state, n_objects, n_known in connection.execute(sa.select(*columns).where(open_)):
        found[key] = _UnderWay(state, n_objects, n_known or 0, {})
    query = sa.select(table.c.shard_key, table.c.state, sa.func.count(), sa.func.max(table.c.state_since))
    mine = table.c.shard_key.in_(sa.select(own.c.shard_key).where(open_))
    for key, state, number, at in connection.execute(query.where(mine).group_by(table.c.shard_key, table.c.state)):
        found[key].states[ObjectState(state)] = number
        found[key].last_at = max(filter(None, (found[key].last_at, at)))
    return found.values()


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
    values = {
        "n_total": seen.objects,
        "n_entered": seen.entered + seen.known,
        "n_final": seen.final,
        "n_failed": seen.states.get(ObjectState.FAILED, 0),
        "is_paused": seen.paused_at is not None,
        "ends_at": seen.ends_at,
    }
    with pipeline.index.transaction() as connection:
        forecast.note(connection, archive_id, moment, values)


def course(index: Index, archive_id: str, *, most: int = 100) -> list[tuple[float, float]]:
    """Objects that were through, by minutes of active time since the first sample; at most so many points."""
    with index.engine.connect() as connection:
        points = forecast.samples(connection, archive_id)
    step = max(1, -(-len(points) // most))
    some = [*points[::step], *points[-1:]]
    return [(point.active_seconds / 60, float(point.n_final)) for point in some]
