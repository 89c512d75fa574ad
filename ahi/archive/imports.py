"""Shards of archives, from their manifests to the last of their objects in a final state.

Belongs here: what one run does with some shards, and what becomes of them when it ends early. Does not belong here:
entering objects (`ahi.archive.entry`), their jobs (`ahi.archive.jobs`), and results, which come by events, as those of
uploads do (`ahi.results`).

A run keeps nothing that is not in the catalog. Killed or cancelled at any moment, it leaves shards that are not
started, or whose objects are in the ledger in a state of their own; the next run of the same shards goes on from there.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError
from more_itertools import chunked

from ahi import chain, imports
from ahi.archive import jobs, leases
from ahi.archive.entry import Shard, enter, shards
from ahi.archive.isolation import ShardStalledError
from ahi.archive.keeping import keeping
from ahi.archive.known import known
from ahi.archive.progress import sample
from ahi.aws import is_transient
from ahi.clock import now
from ahi.errors import PermanentError, Troubles
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import IN_FLIGHT, JOBS_UNDER_WAY, ObjectState
from ahi.index.catalog_archives import ShardState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ahi.archive.keeping import Keeper
    from ahi.pipeline import Pipeline

AHEAD = 2
"""Shards that wait with their headers read for a job to be started: more would only be older when it is."""

SHARDS_OF_A_RUN = 20
"""A run costs 1.2 to 2.1 s of CPU whatever it does, and can keep this many jobs under way at a time."""

RUNS = 2
"""Runs of shards at a time of the six there are, unless a person sets another limit: uploads have the rest."""

START_SECONDS = 5.0
"""How long starts go on before the run looks round."""

PATIENCE_SECONDS = 900.0
"""How long AWS may fail in every look round before the run does."""


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
    troubles: Troubles = field(default_factory=Troubles)
    """Shards that could not be entered for what may pass, and jobs that could not be staged."""
    parked: list[str] = field(default_factory=list)
    """Shards left because their archive is paused."""

    @property
    def held(self) -> list[Shard]:
        """Those that are this run's."""
        return [*self.unentered, *self.open.values()]

    @property
    def shards(self) -> list[Shard]:
        """All that the run is not through with."""
        return [*self.held, *self.others.values()]

    def lose(self, keys: Collection[str]) -> None:
        """Leave shards to another run that has them."""
        self.others |= {shard.shard_key: shard for shard in self.held if shard.shard_key in keys}
        self.unentered = [shard for shard in self.unentered if shard.shard_key not in keys]
        self.open = {key: shard for key, shard in self.open.items() if key not in keys}

    def drop(self, key: str) -> None:
        """Be through with a shard."""
        self.unentered = [shard for shard in self.unentered if shard.shard_key != key]
        self.open.pop(key, None)
        self.others.pop(key, None)

    def let_others_first(self, shard: Shard) -> None:
        """Put a shard that cannot be entered for the moment behind the others."""
        self.troubles.note(shard.shard_key)
        self.unentered = [*(one for one in self.unentered if one is not shard), shard]

    @contextmanager
    def stalling(self, key: str) -> Iterator[None]:
        """Work on one shard that may stall: the others go on."""
        try:
            yield
        except ShardStalledError as error:
            self.stalled[key] = str(error)
            self.drop(key)


class Patience:
    """Bears what AWS answers now and then: each time in a row the wait is longer, until it has lasted too long."""

    def __init__(self, *, least_seconds: float, most_seconds: float, in_all_seconds: float) -> None:
        self._least, self._most, self._in_all = least_seconds, most_seconds, in_all_seconds
        self._since: float | None = None
        self._wait = least_seconds

    def bear(self, error: Exception) -> None:
        """Wait, or raise an error that waiting does not mend."""
        moment = time.monotonic()
        self._since = self._since or moment
        if not is_transient(error) or moment - self._since > self._in_all:
            raise error
        time.sleep(self._wait)
        self._wait = min(self._most, 2 * self._wait)

    def forget(self) -> None:
        """All is well again."""
        self._since, self._wait = None, self._least


def run(
    pipeline: Pipeline,
    shard_keys: Sequence[str],
    closed: Callable[[Outcome], None],
    looked_round: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Import shards, and return when every object of them is in a final state, or their archive is paused.

    A run of a paused archive would hold a slot for as long as a person wants. Its shards are parked instead, once what
    the service has of them is through; the sensor `archive_shards` asks for them when the archive is resumed.

    Args:
        pipeline: With the id of the run.
        shard_keys: Which. A shard that is done is told at once and nothing is done about it.
        closed: Is told of each shard as it is done.
        looked_round: Is called each time the run has looked round.

    Returns:
        Counts of what was done; parked: shards that were left.

    Raises:
        PermanentError: A shard is unknown, or some have stalled; all others are through then.
        ClientError: AWS refuses something that is no single object's or job's matter, or fails for long.
    """
    found = shards(pipeline, shard_keys)
    if missing := sorted(set(shard_keys) - {shard.shard_key for shard in found}):
        raise PermanentError(f"No archive shard {', '.join(missing[:5])}: plan the archive again")
    counts, work = Counter[str](), Work([shard for shard in found if shard.state is not ShardState.DONE])
    for shard in found:
        if shard.state is ShardState.DONE:
            closed(_outcome(pipeline, shard))
    settings = pipeline.settings
    patience = Patience(
        least_seconds=settings.archive_poll_seconds,
        most_seconds=settings.archive_lease_seconds / 3,
        in_all_seconds=PATIENCE_SECONDS,
    )
    try:
        with keeping(pipeline) as keeper:
            while work.shards:
                try:
                    done = _round(pipeline, work, keeper, closed)
                except (BotoCoreError, ClientError) as error:
                    patience.bear(error)
                    continue
                patience.forget()
                counts += done
                looked_round()
                if not done:
                    time.sleep(settings.archive_poll_seconds)
    finally:
        left = [shard.shard_key for shard in work.held]
        leases.let_go(pipeline, [*left, *work.stalled], work.stalled)
    if work.stalled:
        key, why = next(iter(work.stalled.items()))
        raise PermanentError(f"{len(work.stalled)} shards have stalled, {key} among them. {why}")
    counts["parked"] = len(work.parked)
    return counts


def _round(pipeline: Pipeline, work: Work, keeper: Keeper, closed: Callable[[Outcome], None]) -> Counter[str]:
    """One look round: what is through, what can be planned and started, and the next shard. Returns what was done."""
    done = Counter[str]()
    _share_out(pipeline, work)
    keeper.hold(work.held)
    paused = _paused(pipeline, work.shards)
    idle = _idle(pipeline, [shard.shard_key for shard in work.shards if shard.archive_id in paused])
    still = _in_flight(pipeline, list(work.open))
    for key, shard in [(key, shard) for key, shard in work.open.items() if not still.get(key)]:
        with work.stalling(key):
            if outcome := _close(pipeline, shard):
                closed(outcome)
                done["closed"] += 1
                work.drop(key)
    if parked := sorted(idle & {shard.shard_key for shard in work.shards}):
        leases.park(pipeline, parked)
        for key in parked:
            work.drop(key)
        work.parked += parked
        done["parked"] += len(parked)
    for key, shard in list(work.open.items()):
        if still.get(key, {}).get(ObjectState.READY) and shard.archive_id not in paused:
            with work.stalling(key):
                done["planned"] += jobs.plan(pipeline, shard)
    done += _start(pipeline, work)
    work.lose(keeper.lost())
    sample(pipeline, {shard.archive_id for shard in work.shards})
    if shard_ := _next(pipeline, work, paused):
        with work.stalling(shard_.shard_key):
            try:
                enter(pipeline, shard_, at_last=work.troubles.is_past_help(shard_.shard_key))
            except (BotoCoreError, ClientError):
                work.let_others_first(shard_)
                raise
            work.drop(shard_.shard_key)
            work.open[shard_.shard_key] = shard_
            done["entered"] += 1
    return done


def _start(pipeline: Pipeline, work: Work) -> Counter[str]:
    """Start what is planned, each archive at its own pace, so that a slow one holds up no other."""
    by_archive, done = defaultdict[str, list[str]](list), Counter[str]()
    for shard in work.open.values():
        by_archive[shard.archive_id].append(shard.shard_key)
    for keys in by_archive.values():
        lane, seconds = jobs.ArchiveLane(pipeline, keys), START_SECONDS / len(by_archive)
        done += imports.start_planned(pipeline, budget_seconds=seconds, lane=lane, troubles=work.troubles)
        for key, why in jobs.refused(pipeline, keys).items():
            with work.stalling(key):
                raise ShardStalledError(why)
    return done


def _next(pipeline: Pipeline, work: Work, paused: set[str]) -> Shard | None:
    """The shard to enter now: of an archive that is not paused, and of which not enough waits to be started."""
    waiting = Counter(work.open[key].archive_id for key in _waiting(pipeline, list(work.open)))
    may = (shard for shard in work.unentered if shard.archive_id not in paused)
    return next((shard for shard in may if waiting[shard.archive_id] < AHEAD), None)


def _idle(pipeline: Pipeline, keys: Sequence[str]) -> set[str]:
    """Shards of which the service has nothing, so that no result is to come.

    Asked before their objects are counted: what ends in between is not idle, and closed in the next round.
    """
    table = catalog.jobs
    live = table.c.state.in_(JOBS_UNDER_WAY)
    with pipeline.index.engine.connect() as connection:
        busy = set[str | None]()
        for some in chunked(keys, 500):
            query = sa.select(table.c.shard_key).where(table.c.shard_key.in_(some), live)
            busy |= set(connection.execute(query).scalars())
    return set(keys) - busy


def _share_out(pipeline: Pipeline, work: Work) -> None:
    """Hold on to this run's shards, and take over those of runs that went silent: two runs may have the same.

    A shard that another run has done meanwhile is told as any other, by whoever looks.
    """
    work.lose(leases.take(pipeline, [shard.shard_key for shard in work.held]))
    if not work.others:
        return
    refused = set(leases.take(pipeline, list(work.others)))
    for shard in shards(pipeline, list(work.others)):
        if shard.state is ShardState.DONE or shard.shard_key not in refused:
            del work.others[shard.shard_key]
            if shard.state is ShardState.PLANNED:
                work.unentered.append(shard)
            else:
                work.open[shard.shard_key] = shard


def _in_flight(pipeline: Pipeline, shard_keys: Sequence[str]) -> dict[str, dict[str, int]]:
    """Objects of shards that are not in a final state, by state."""
    table, found = catalog.objects, dict[str, dict[str, int]]()
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.shard_key, table.c.state, sa.func.count())
        query = query.where(table.c.shard_key.in_(shard_keys), table.c.state.in_(IN_FLIGHT))
        for key, state, number in connection.execute(query.group_by(table.c.shard_key, table.c.state)):
            found.setdefault(key, {})[state] = number
    return found


def _waiting(pipeline: Pipeline, shard_keys: Sequence[str]) -> list[str]:
    """Shards of which something has not been started yet."""
    table = catalog.jobs
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.shard_key).distinct()
        query = query.where(table.c.shard_key.in_(shard_keys), table.c.state == catalog.JobState.PLANNED)
        return [str(key) for key in connection.execute(query).scalars()]


def _paused(pipeline: Pipeline, some: Sequence[Shard]) -> set[str]:
    """Those archives of shards that are paused."""
    table, names = c.archives, sorted({shard.archive_id for shard in some})
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.archive_id).where(table.c.archive_id.in_(names), table.c.paused_at.is_not(None))
        return set(connection.execute(query).scalars())


def _close(pipeline: Pipeline, shard: Shard) -> Outcome | None:
    """Set a shard down as done, with its numbers; None: something of it is on its way, be it by another way.

    Raises:
        ShardStalledError: The ledger does not have all its objects, or some wait where no run is at work.
    """
    outcome, table = _outcome(pipeline, shard), c.archive_shards
    entered = sum(outcome.states.values())
    if entered + outcome.known != shard.n_objects:
        elsewhere = known(pipeline, shard.shard_key)
        if elsewhere.left:
            raise ShardStalledError(
                f"{elsewhere.left} of its objects are in shards of another archive, or of this, that no run is at: "
                "launch those, then this again"
            )
        if elsewhere.on_their_way:
            return None
        outcome = replace(outcome, known=elsewhere.final)
    if entered + outcome.known != shard.n_objects:
        raise ShardStalledError(
            f"Its manifest names {shard.n_objects} objects; the ledger has {entered} of them, and {outcome.known} "
            "by another way: see `ahi archive report`"
        )
    values = {f"n_{state}": outcome.states.get(state, 0) for state in ("imported", "failed", "set_aside")}
    with pipeline.index.transaction() as connection:
        of_shard = catalog.objects.c.shard_key == shard.shard_key
        open_ = sa.select(catalog.objects.c.object_id).where(of_shard, catalog.objects.c.state.in_(IN_FLIGHT))
        if connection.execute(open_.limit(1)).first():
            return None  # taken back by `ahi archive retry` since it was counted
        images = sa.select(sa.func.count(catalog.objects.c.image_set_id.distinct()))
        n_image_sets = connection.execute(images.where(of_shard)).scalar_one()
        change = table.update().where(table.c.shard_key == shard.shard_key)
        done = {"state": ShardState.DONE, "ended_at": now(), "lease_until": None, "attempts": outcome.jobs}
        done |= {"message": None, "set_down_at": None}
        connection.execute(change.values(n_image_sets=n_image_sets, n_known=outcome.known, **done, **values))
    return outcome


def _outcome(pipeline: Pipeline, shard: Shard) -> Outcome:
    table, own = catalog.objects, c.archive_shards
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.state, sa.func.count(), sa.func.max(table.c.state_since))
        rows = connection.execute(query.where(table.c.shard_key == shard.shard_key).group_by(table.c.state)).all()
        begun = sa.select(own.c.started_at, own.c.n_known).where(own.c.shard_key == shard.shard_key)
        started_at, n_known = connection.execute(begun).one()
        tried = catalog.jobs.c.status.is_distinct_from(chain.WITHDRAWN)
        of_shard = sa.select(sa.func.count()).where(catalog.jobs.c.shard_key == shard.shard_key, tried)
        n_jobs = connection.execute(of_shard).scalar_one()
    last = max((row[2] for row in rows), default=None)
    seconds = (last - started_at).total_seconds() if last and started_at else 0.0
    states = {str(row[0]): int(row[1]) for row in rows}
    return Outcome(shard.shard_key, shard.archive_id, shard.n_objects, n_known or 0, states, n_jobs, seconds)
