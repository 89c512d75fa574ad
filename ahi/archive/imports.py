"""Shards of archives, from their manifests to the last of their objects in a final state.

Belongs here: what one run does with some shards, and what becomes of them when it ends early. Does not belong here:
entering objects (`ahi.archive.entry`), their jobs (`ahi.archive.jobs`), and results, which come by events, as those of
uploads do (`ahi.results`).

A run keeps nothing that is not in the catalog. Killed or cancelled at any moment, it leaves shards that are not
started, or whose objects are in the ledger in a state of their own; the next run of the same shards goes on from there.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi import imports
from ahi.archive import jobs
from ahi.archive.entry import Shard, enter, shards
from ahi.archive.isolation import ShardStalledError
from ahi.archive.progress import sample
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import IN_FLIGHT, ObjectState
from ahi.index.catalog_archives import ShardState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ahi.pipeline import Pipeline

AHEAD = 2
"""Shards that wait with their headers read for a job to be started: more would only be older when it is."""

START_SECONDS = 5.0
"""How long starts go on before the run looks round."""


@dataclass(frozen=True)
class Outcome:
    """What became of one shard, in numbers."""

    shard_key: str
    archive_id: str
    objects: int
    known: int
    """Objects that something else had entered into the ledger before."""
    states: dict[str, int]
    jobs: int
    seconds: float
    """From its objects' entry into the ledger to the last result."""


@dataclass
class Work:
    """What one run has before it."""

    unentered: list[Shard]
    open: dict[str, Shard] = field(default_factory=dict)
    """Shards in the ledger whose objects are not all in a final state."""
    stalled: dict[str, str] = field(default_factory=dict)
    others: dict[str, Shard] = field(default_factory=dict)
    """Shards that another run is at."""


def run(pipeline: Pipeline, shard_keys: Sequence[str], closed: Callable[[Outcome], None]) -> Counter[str]:
    """Import shards, and return when every object of them is in a final state.

    Args:
        pipeline: With the id of the run.
        shard_keys: Which. A shard that is done is told at once and nothing is done about it.
        closed: Is told of each shard as it is done.

    Returns:
        Counts of what was done.

    Raises:
        PermanentError: A shard is unknown, or some have stalled; all others are done then.
    """
    found = shards(pipeline, shard_keys)
    if missing := sorted(set(shard_keys) - {shard.shard_key for shard in found}):
        raise PermanentError(f"No archive shard {', '.join(missing[:5])}: plan the archive again")
    counts, work = Counter[str](), Work([shard for shard in found if shard.state is not ShardState.DONE])
    for shard in found:
        if shard.state is ShardState.DONE:
            closed(_outcome(pipeline, shard))
    try:
        while work.unentered or work.open or work.others:
            done = _round(pipeline, work, closed)
            counts += done
            if not done:
                time.sleep(pipeline.settings.archive_poll_seconds)
    finally:
        _let_go(pipeline, [shard.shard_key for shard in [*work.unentered, *work.open.values()]], work.stalled)
    if work.stalled:
        key, why = next(iter(work.stalled.items()))
        raise PermanentError(f"{len(work.stalled)} shards have stalled, {key} among them. {why}")
    return counts


def _round(pipeline: Pipeline, work: Work, closed: Callable[[Outcome], None]) -> Counter[str]:
    """One look round: what is through, what can be planned and started, and the next shard. Returns what was done."""
    done = Counter[str]()
    _share_out(pipeline, work)
    still = _in_flight(pipeline, list(work.open))
    for key in [key for key in work.open if not still.get(key)]:
        closed(_close(pipeline, work.open.pop(key)))
        done["closed"] += 1
    for key, shard in list(work.open.items()):
        if still[key].get(ObjectState.READY):
            try:
                done["planned"] += jobs.plan(pipeline, shard)
            except ShardStalledError as error:
                work.stalled[key] = str(error)
                del work.open[key]
    if work.open:
        lane = jobs.ArchiveLane(pipeline, list(work.open))
        done += imports.start_planned(pipeline, budget_seconds=START_SECONDS, lane=lane)
    archives = {shard.archive_id for shard in [*work.unentered, *work.open.values()]}
    sample(pipeline, archives)
    if work.unentered and _waiting(pipeline, list(work.open)) < AHEAD and not _paused(pipeline, work.unentered[0]):
        shard = work.unentered.pop(0)
        enter(pipeline, shard)
        work.open[shard.shard_key] = shard
        done["entered"] += 1
    return done


def _share_out(pipeline: Pipeline, work: Work) -> None:
    """Hold on to this run's shards, and take over those of runs that went silent: two runs may have the same.

    A shard that another run has done meanwhile is told as any other, by whoever looks.
    """
    mine = [*work.unentered, *work.open.values()]
    refused = set(_lease(pipeline, [shard.shard_key for shard in mine]))
    for shard in mine:
        if shard.shard_key in refused:
            work.others[shard.shard_key] = shard
            work.open.pop(shard.shard_key, None)
    work.unentered = [shard for shard in work.unentered if shard.shard_key not in refused]
    if not work.others:
        return
    refused = set(_lease(pipeline, list(work.others)))
    for shard in shards(pipeline, list(work.others)):
        if shard.state is ShardState.DONE or shard.shard_key not in refused:
            del work.others[shard.shard_key]
            if shard.state is ShardState.PLANNED:
                work.unentered.append(shard)
            else:
                work.open[shard.shard_key] = shard


def _lease(pipeline: Pipeline, shard_keys: Sequence[str]) -> list[str]:
    """Take or renew the leases of shards. Returns those that another run holds."""
    table, moment, refused = c.archive_shards, now(), list[str]()
    until = moment + dt.timedelta(seconds=pipeline.settings.archive_lease_seconds)
    me = pipeline.run_id or ""
    with pipeline.index.transaction() as connection:
        for start in range(0, len(shard_keys), 500):
            some = table.c.shard_key.in_(shard_keys[start : start + 500])
            free = sa.or_(table.c.lease_until.is_(None), table.c.lease_until <= moment, table.c.run_id == me)
            connection.execute(table.update().where(some, free).values(run_id=me, lease_until=until))
            again = sa.and_(some, table.c.run_id == me, table.c.state == ShardState.CANCELLED)
            connection.execute(table.update().where(again).values(state=ShardState.STARTED, message=None))
            query = sa.select(table.c.shard_key).where(some, sa.or_(table.c.run_id.is_(None), table.c.run_id != me))
            refused += connection.execute(query).scalars().all()
    return refused


def _let_go(pipeline: Pipeline, left: Sequence[str], stalled: Mapping[str, str]) -> None:
    """Free what a run that ends early still holds, and note that it was taken back."""
    table = c.archive_shards
    with pipeline.index.transaction() as connection:
        for key in [*left, *stalled]:
            mine = sa.and_(table.c.shard_key == key, table.c.run_id == (pipeline.run_id or ""))
            connection.execute(table.update().where(mine).values(lease_until=None, message=stalled.get(key)))
            started = sa.and_(mine, table.c.state == ShardState.STARTED)
            connection.execute(table.update().where(started).values(state=ShardState.CANCELLED))


def _in_flight(pipeline: Pipeline, shard_keys: Sequence[str]) -> dict[str, dict[str, int]]:
    """Objects of shards that are not in a final state, by state."""
    table, found = catalog.objects, dict[str, dict[str, int]]()
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.shard_key, table.c.state, sa.func.count())
        query = query.where(table.c.shard_key.in_(shard_keys), table.c.state.in_(IN_FLIGHT))
        for key, state, number in connection.execute(query.group_by(table.c.shard_key, table.c.state)):
            found.setdefault(key, {})[state] = number
    return found


def _waiting(pipeline: Pipeline, shard_keys: Sequence[str]) -> int:
    """Shards of which something has not been started yet."""
    table = catalog.jobs
    with pipeline.index.engine.connect() as connection:
        query = sa.select(sa.func.count(table.c.shard_key.distinct()))
        query = query.where(table.c.shard_key.in_(shard_keys), table.c.state == catalog.JobState.PLANNED)
        return connection.execute(query).scalar_one()


def _paused(pipeline: Pipeline, shard: Shard) -> bool:
    table = c.archives
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.paused_at).where(table.c.archive_id == shard.archive_id)
        return connection.execute(query).scalar_one_or_none() is not None


def _close(pipeline: Pipeline, shard: Shard) -> Outcome:
    """Set a shard down as done, with its numbers."""
    outcome, table = _outcome(pipeline, shard), c.archive_shards
    values = {f"n_{state}": outcome.states.get(state, 0) for state in ("imported", "failed", "set_aside")}
    with pipeline.index.transaction() as connection:
        images = sa.select(sa.func.count(catalog.objects.c.image_set_id.distinct()))
        n_image_sets = connection.execute(images.where(catalog.objects.c.shard_key == shard.shard_key)).scalar_one()
        change = table.update().where(table.c.shard_key == shard.shard_key)
        done = {"state": ShardState.DONE, "ended_at": now(), "lease_until": None, "attempts": outcome.jobs}
        connection.execute(change.values(n_image_sets=n_image_sets, **done, **values))
    return outcome


def _outcome(pipeline: Pipeline, shard: Shard) -> Outcome:
    table, own = catalog.objects, c.archive_shards
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.state, sa.func.count(), sa.func.max(table.c.state_since))
        rows = connection.execute(query.where(table.c.shard_key == shard.shard_key).group_by(table.c.state)).all()
        begun = sa.select(own.c.started_at, own.c.n_known).where(own.c.shard_key == shard.shard_key)
        started_at, known = connection.execute(begun).one()
        of_shard = sa.select(sa.func.count()).where(catalog.jobs.c.shard_key == shard.shard_key)
        n_jobs = connection.execute(of_shard).scalar_one()
    last = max((row[2] for row in rows), default=None)
    seconds = (last - started_at).total_seconds() if last and started_at else 0.0
    states = {str(row[0]): int(row[1]) for row in rows}
    return Outcome(shard.shard_key, shard.archive_id, shard.n_objects, known or 0, states, n_jobs, seconds)
