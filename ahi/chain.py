"""The job chain: planned, claimed, submitted, ended, settled. One state machine for every service that runs imports.

Belongs here: moving a job along, its limits, and what happens when an answer is lost. Does not belong here: what a
job contains (`ahi.imports`) and what its results mean (`ahi.results`).

A start whose answer is lost must not become two jobs. So the client token is stored before the call, a claim that
has gone silent is taken over by looking for the job by its name first, and only then started again with that token.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from ahi import pacing
from ahi.aws import is_transient
from ahi.clock import now
from ahi.errors import Setbacks
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.repeating import repeating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ahi.index.store import Index


CALL_SECONDS = 2.0
"""How long a start under way keeps others waiting for its answer; only a process that dies in it uses it up."""

POLL_SECONDS = 0.02

WITHDRAWN = "WITHDRAWN"
"""Status of a job that was planned and taken back before it was started: it never was."""


@dataclass(frozen=True)
class Job:
    """One job of the chain, as the catalog has it."""

    job_key: str
    service: str
    state: JobState
    day: str
    datastore_id: str
    input_uri: str
    output_uri: str
    in_place: bool
    client_token: str | None
    n_objects: int
    n_bytes: int
    claimed_at: dt.datetime | None
    claimed_by: str | None
    starts: int
    submitted_at: dt.datetime | None
    job_id: str | None
    ended_at: dt.datetime | None
    status: str | None
    message: str | None
    output_folder: str | None
    shard_key: str | None = None


@dataclass(frozen=True)
class Report:
    """What a service says of a job now."""

    job_id: str
    status: str
    ended: bool
    ended_at: dt.datetime | None
    message: str | None
    output_folder: str | None


@dataclass(frozen=True)
class Limits:
    """How much a service takes at a time."""

    in_flight: int
    starts_per_second: float
    burst: float = 1.0


class Lane(Protocol):
    """Some planned jobs of a service, and what each of them needs beyond the service's limits to be started."""

    def condition(self) -> sa.ColumnElement[bool]:
        """Which jobs."""

    def wants(self, connection: sa.Connection, job_key: str) -> list[pacing.Want] | None:
        """Tokens that the start of a job takes beside the service's own; None: it must not be started now."""


class BackPressureError(Exception):
    """The service wants fewer or later calls: the job goes back to planned, nothing failed."""

    def __init__(self, text: str, *, of_service: bool = True) -> None:
        super().__init__(text)
        self.of_service = of_service
        """Whether the next job would meet the same; False when only this job is in the way of another."""


class RejectedError(Exception):
    """The service refuses this very job, and would again. The text is the service's own."""


class Service(Protocol):
    """A service that runs import jobs."""

    name: str

    def start(self, job: Job) -> str:
        """Start the job with its client token; returns the service's job id.

        Raises BackPressureError or RejectedError; anything else means that the answer is unknown.
        """

    def find(self, job: Job) -> str | None:
        """Job id of an earlier start of this job whose answer was lost, or None."""

    def describe(self, job_id: str) -> Report | None:
        """The job's present state; None when the service does not know it."""


class LiveLane:
    """Jobs of uploads: they need nothing but the service."""

    def condition(self) -> sa.ColumnElement[bool]:
        """Jobs that no shard of an archive stands behind."""
        return catalog.jobs.c.shard_key.is_(None)

    def wants(self, connection: sa.Connection, job_key: str) -> list[pacing.Want] | None:  # noqa: ARG002
        """Nothing."""
        return []


def claim(index: Index, service: str, limits: Limits, who: str, lane: Lane | None = None) -> Job | float | None:
    """Take the oldest planned job of a lane (that of uploads unless told), if the limits leave room.

    Returns the claimed job; or seconds to wait for the next start; or None when there is nothing to start now.
    """
    table, moment, lane = catalog.jobs, now(), lane or LiveLane()
    mine = table.c.service == service
    with index.transaction() as connection:
        query = sa.select(table).where(mine, is_due(moment), lane.condition())
        row = connection.execute(query.order_by(table.c.planned_at, table.c.job_key).limit(1)).mappings().first()
        if row is None:
            return None
        running = sa.select(sa.func.count()).where(mine, table.c.state.in_((JobState.CLAIMED, JobState.SUBMITTED)))
        if connection.execute(running).scalar_one() >= limits.in_flight:
            return None
        more = lane.wants(connection, row["job_key"])
        if more is None:
            return None
        own = pacing.Want(f"{service}:start", limits.starts_per_second, limits.burst)
        wait = pacing.take_all(connection, [own, *more])
        if wait:
            return wait
        # The token follows from the content, so whoever starts this job again starts the same one.
        values = {
            "state": JobState.CLAIMED,
            "client_token": row["job_key"],
            "claimed_at": moment,
            "claimed_by": who,
            "starts": row["starts"] + 1,
        }
        connection.execute(table.update().where(table.c.job_key == row["job_key"]).values(values))
        return _job({**row, **values})


def is_due(moment: dt.datetime) -> sa.ColumnElement[bool]:
    """Whether a job waits to be started, and may be."""
    table = catalog.jobs
    ready = sa.or_(table.c.not_before.is_(None), table.c.not_before <= moment)
    return sa.and_(table.c.state == JobState.PLANNED, ready)


@contextmanager
def kept(index: Index, job: Job, *, silent_seconds: float) -> Iterator[Callable[[], bool]]:
    """Keep a claim while its job is staged, which may take many times what makes a claim silent.

    Args:
        index: The index.
        job: As it was claimed.
        silent_seconds: After how long a claim may be taken over.

    Yields:
        What tells whether the claim still stood when it was last kept.
    """
    is_lost, change = threading.Event(), catalog.jobs.update().where(_held(job))

    def keep() -> bool:
        # What fails now may come through the next time, and the start makes sure of the claim.
        with suppress(sa.exc.SQLAlchemyError), index.transaction() as connection:
            if not connection.execute(change.values(claimed_at=now())).rowcount:
                is_lost.set()
        return not is_lost.is_set()

    with repeating(keep, every_seconds=silent_seconds / 4, name="keep claim"):
        yield lambda: not is_lost.is_set()


def renew(index: Index, job: Job, limits: Limits | None = None) -> Job | None:
    """Make sure of a claim before the start, and wait for the service's pace where limits are given.

    Another may have taken over a claim that was silent for long: None. Between claim and start a job is staged, for
    times of any length, so starts that were claimed a second apart may stand here together.
    """
    table = catalog.jobs
    while True:
        moment, wait = now(), 0.0
        with index.transaction() as connection:
            if connection.execute(table.update().where(_held(job)).values(claimed_at=moment)).rowcount == 0:
                return None
            if limits:
                want = pacing.Want(_door(job.service), limits.starts_per_second, limits.burst)
                wait = pacing.take_all(connection, [want])
                if not wait:
                    pacing.restart(connection, want.bucket, in_seconds=CALL_SECONDS)
        if not wait:
            return replace(job, claimed_at=moment)
        time.sleep(max(wait, POLL_SECONDS))


def _door(service: str) -> str:
    """The bucket of tokens that are taken just before a call; those of `claim` keep work from piling up behind it."""
    return f"{service}:call"


def submitted(index: Index, job: Job, job_id: str, *, paced: bool = False) -> None:
    """Record the job id the service gave, and the hop of every object in it.

    `paced`: the next start keeps its distance from this moment, not from the call's. When exactly the service took it
    in between is not known, and by the service's clock two starts must not be closer than its rate.

    Also for a job that was given back meanwhile: the service has it, and must not be asked for it again.
    """
    moment, table = now(), catalog.jobs
    open_ = sa.and_(table.c.job_key == job.job_key, table.c.state.in_((JobState.PLANNED, JobState.CLAIMED)))
    with index.commit(kind="submitted") as commit:
        update = table.update().where(open_)
        commit.connection.execute(update.values(state=JobState.SUBMITTED, job_id=job_id, submitted_at=moment))
        of_job = catalog.objects.update().where(catalog.objects.c.job_key == job.job_key)
        commit.connection.execute(of_job.values(submitted_at=moment, changed_seq=commit.seq))
        if paced:
            pacing.restart(commit.connection, _door(job.service))


def give_back(index: Index, job: Job, *, after_seconds: float, message: str | None = None) -> None:
    """Return a claimed job to planned, not to be started before some seconds have passed."""
    values = {"state": JobState.PLANNED, "not_before": now() + dt.timedelta(seconds=after_seconds), "claimed_at": None}
    with index.transaction() as connection:
        connection.execute(catalog.jobs.update().where(_held(job)).values(message=message, **values))


def back_off(job: Job) -> float:
    """Seconds until a job that could not be started is tried again: 5, doubled each time, ten minutes at most."""
    return float(min(600, 5 * 2 ** min(job.starts - 1, 10)))


def _held(job: Job) -> sa.ColumnElement[bool]:
    """Whether the claim that `job` was read with still stands."""
    table = catalog.jobs
    mine = sa.and_(table.c.claimed_by == job.claimed_by, table.c.claimed_at >= job.claimed_at)
    return sa.and_(table.c.job_key == job.job_key, table.c.state == JobState.CLAIMED, mine)


def ended(index: Index, job: Job, report: Report) -> bool:
    """Record that a job reached its end at the service. False when the chain knew that already."""
    # A service's clock may be ahead of ours, and what its results lack is waited for since this moment.
    moment = min(report.ended_at or now(), now())
    with index.transaction() as connection:
        live = catalog.jobs.c.state.in_((JobState.CLAIMED, JobState.SUBMITTED))
        change = catalog.jobs.update().where(catalog.jobs.c.job_key == job.job_key, live)
        values = {
            "state": JobState.ENDED,
            "job_id": report.job_id,
            "ended_at": moment,
            "status": report.status,
            "message": report.message,
            "output_folder": report.output_folder,
        }
        return connection.execute(change.values(values)).rowcount > 0


def start(index: Index, service: Service, job: Job, limits: Limits | None = None) -> str | None:
    """Start a claimed job and record it, at the pace of `limits` if there are any.

    Returns its job id; None when another has taken over the claim.

    Raises BackPressureError with the job given back, RejectedError with it still claimed: its owner decides what
    becomes of the contents. Any other error leaves the claim standing, since the service may have the job.
    """
    held = renew(index, job, limits)
    if held is None:
        return None
    try:
        job_id = service.start(held)
    except Exception as error:
        if limits:
            with index.transaction() as connection:
                pacing.restart(connection, _door(held.service))
        if isinstance(error, BackPressureError):
            give_back(index, held, after_seconds=back_off(held))
        raise
    submitted(index, held, job_id, paced=limits is not None)
    return job_id


def recover(index: Index, service: Service, *, silent_seconds: float, who: str | None = None) -> tuple[int, int]:
    """Take over claims that have gone silent, and those `who` itself left behind in an earlier attempt.

    Returns (found at the service, given back to be started again).
    """
    table = catalog.jobs
    cutoff = now() - dt.timedelta(seconds=silent_seconds)
    found = again = 0
    setbacks = Setbacks(lambda error: isinstance(error, BackPressureError) or is_transient(error))
    left = table.c.claimed_at <= cutoff
    silent = sa.and_(table.c.state == JobState.CLAIMED, sa.or_(left, table.c.claimed_by == who) if who else left)
    for job in jobs(index, service.name, silent):
        with setbacks.spared():
            job_id = service.find(job)
            if job_id is not None:
                submitted(index, job, job_id)
                found += 1
            else:
                give_back(index, job, after_seconds=0)
                again += 1
    setbacks.settle()
    return found, again


def jobs(index: Index, service: str, where: sa.ColumnElement[bool]) -> list[Job]:
    """Jobs of one service that meet a condition, oldest first."""
    table = catalog.jobs
    with index.engine.connect() as connection:
        query = sa.select(table).where(table.c.service == service, where).order_by(table.c.planned_at)
        return [_job(row) for row in connection.execute(query).mappings()]


def look_at_submitted(index: Index, service: str, older_than: dt.datetime, look: Callable[[Job], str]) -> Counter[str]:
    """Look at every job that the service took before a moment, whatever becomes of one look.

    Args:
        index: The index.
        service: Whose jobs.
        older_than: The moment.
        look: Asks the service for one, and says in a word what came of it.

    Returns:
        How often each word was said.

    Raises:
        Exception: One that the next job would meet as well, at once; else the first, after all have had their turn.
    """
    counts, setbacks, table = Counter[str](), Setbacks(is_transient), catalog.jobs
    taken = sa.and_(table.c.state == JobState.SUBMITTED, table.c.submitted_at <= older_than)
    for job in jobs(index, service, taken):
        with setbacks.spared():
            counts[look(job)] += 1
    setbacks.settle()
    return counts


def job_named(index: Index, service: str, job_id: str, job_name: str) -> Job | None:
    """The job with the id that the service gave, or with the name that we gave, if it is one of ours.

    The name finds a job whose start we made but did not live to record.
    """
    table = catalog.jobs
    found = jobs(index, service, sa.or_(table.c.job_id == job_id, table.c.job_key == job_name))
    return found[0] if found else None


def _job(row: object) -> Job:
    values = {field.name: row[field.name] for field in fields(Job)}  # type: ignore[index]
    return Job(**{**values, "state": JobState(values["state"])})
