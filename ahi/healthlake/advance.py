"""One step of the chain: what ended is settled, what may start is started, what comes next is frozen.

Belongs here: the order of these, and how much of it one run does. Does not belong here: any of them.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi import findings, leases
from ahi.clock import now
from ahi.healthlake import results, starts
from ahi.healthlake.freeze import freeze
from ahi.healthlake.service import SERVICE
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import BatchState, fhir_batches, fhir_imports

if TYPE_CHECKING:
    from ahi.pipeline import Pipeline

FREEZE_SECONDS = 20.0
"""How long one run goes on freezing batches: in between it looks whether a job can be started."""

LEASE_SECONDS = 60.0
"""A batch that another run has taken up to freeze, or whose source was not to be read, is left alone for so long."""

RESULTS_SECONDS, RESULTS_AGE, RESULTS_LONGEST = 5.0, 0.1, 600.0
"""How often a run looks for a manifest that is late, which a job may owe for a day: by the time it is owed so far."""

_LEASE = "freeze:"

LOOK, OWED = "healthlake jobs", "healthlake results"


@dataclass
class Progress:
    """What a step did."""

    counts: Counter[str] = field(default_factory=Counter)
    frozen: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)


def advance(pipeline: Pipeline, *, patience_seconds: float = 0.0) -> Progress:
    """Settle, start, freeze ahead. What one run leaves, the next goes on with."""
    progress = Progress()
    if not pipeline.settings.fhir_datastore_id:
        return progress
    _look_after_silent_jobs(pipeline, progress)
    counts, batches = results.settle_ended(pipeline, patience_seconds=patience_seconds)
    progress.counts += counts
    progress.settled += batches
    if counts["results_awaited"]:
        findings.done(pipeline, OWED)
    _start(pipeline, progress)
    deadline = time.monotonic() + FREEZE_SECONDS
    while time.monotonic() < deadline and (batch_id := _to_freeze(pipeline)):
        if not _take(pipeline, batch_id):
            break
        done = Counter[str]()
        try:
            progress.counts += (done := freeze(pipeline, batch_id))
        finally:
            _leave(pipeline, batch_id, for_seconds=LEASE_SECONDS if done["batches_unreadable"] else 0.0)
        progress.frozen += [batch_id] if done["batches_frozen"] else []
        _start(pipeline, progress)
    return progress


def _start(pipeline: Pipeline, progress: Progress) -> None:
    before = _submitted(pipeline)
    progress.counts += starts.start_due(pipeline)
    progress.started += sorted(_submitted(pipeline) - before)


def _submitted(pipeline: Pipeline) -> set[str]:
    jobs = catalog.jobs
    query = sa.select(fhir_batches.c.batch_id).join(jobs, jobs.c.job_key == fhir_batches.c.job_key)
    with pipeline.index.engine.connect() as connection:
        return set(connection.execute(query.where(jobs.c.state == JobState.SUBMITTED)).scalars())


def _look_after_silent_jobs(pipeline: Pipeline, progress: Progress) -> None:
    """Ask for running jobs that no event has told of, at intervals."""
    moment, seconds = now(), pipeline.settings.fhir_look_seconds
    if findings.due(pipeline, LOOK, seconds, moment):
        progress.counts += results.follow_running(pipeline, older_than=moment - dt.timedelta(seconds=seconds))
        findings.done(pipeline, LOOK)


def _to_freeze(pipeline: Pipeline) -> str | None:
    """The next batch to freeze: one whose chain has fewer ready to go before it than shall be.

    Each chain counts for itself, and only what goes before the batch. So a batch that others wait for is never kept
    from being frozen by those that wait, nor a chain by another that is held or may not start.
    """
    batch, job = fhir_batches, catalog.jobs
    waits = sa.and_(batch.c.state == BatchState.FROZEN, job.c.state == JobState.PLANNED, batch.c.held_at.is_(None))
    order = (batch.c.priority.desc(), batch.c.position)

    def before(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        number = sa.func.sum(sa.case((condition, 1), else_=0))
        return number.over(partition_by=batch.c.import_id, order_by=order, rows=(None, 0))

    waiting = (
        sa.select(
            batch.c.batch_id,
            batch.c.priority,
            batch.c.position,
            fhir_imports.c.created_at,
            fhir_imports.c.is_ordered,
            sa.and_(batch.c.state == BatchState.PLANNED, batch.c.held_at.is_(None)).label("is_next"),
            before(waits).label("ready"),
            before(batch.c.held_at.is_not(None)).label("held"),
        )
        .join(fhir_imports, fhir_imports.c.import_id == batch.c.import_id)
        .join(job, job.c.job_key == batch.c.job_key, isouter=True)
        .where(batch.c.state.in_((BatchState.PLANNED, BatchState.FROZEN)), fhir_imports.c.stopped_at.is_(None))
        .subquery()
    )
    # What is held holds those behind it in an ordered chain: they cannot be started however ready they are.
    free = sa.or_(waiting.c.is_ordered.is_(False), waiting.c.held == 0)
    query = sa.select(waiting.c.batch_id).where(waiting.c.is_next, free)
    query = query.where(waiting.c.ready < pipeline.settings.fhir_frozen_ahead)
    lease = catalog.leases
    query = query.where(~sa.exists().where(lease.c.name == _LEASE + waiting.c.batch_id, lease.c.until > now()))
    query = query.order_by(waiting.c.priority.desc(), waiting.c.created_at, waiting.c.position).limit(1)
    with pipeline.index.engine.connect() as connection:
        return connection.execute(query).scalar_one_or_none()


def _take(pipeline: Pipeline, batch_id: str) -> bool:
    """Take up a batch to freeze. Two runs that do it at once write the same, so a lost lease costs work and no more."""
    with pipeline.index.transaction() as connection:
        return leases.take(connection, _LEASE + batch_id, seconds=LEASE_SECONDS) is not None


def _leave(pipeline: Pipeline, batch_id: str, *, for_seconds: float) -> None:
    mine = catalog.leases.c.name == _LEASE + batch_id
    with pipeline.index.transaction() as connection:
        if for_seconds:
            until = now() + dt.timedelta(seconds=for_seconds)
            connection.execute(catalog.leases.update().where(mine).values(until=until))
        else:
            leases.let_go(connection, _LEASE + batch_id)


def is_work_waiting(pipeline: Pipeline) -> bool:
    """Whether a run would find something to do without an event: cheap enough for every tick."""
    if not pipeline.settings.fhir_datastore_id:
        return False
    jobs, moment = catalog.jobs, now()
    mine = sa.and_(jobs.c.service == SERVICE, jobs.c.state != JobState.SETTLED)
    states = sa.select(jobs.c.state, sa.func.count().label("n")).where(mine).group_by(jobs.c.state)
    silent = jobs.c.claimed_at <= moment - dt.timedelta(seconds=pipeline.settings.claim_seconds)
    left = sa.select(jobs.c.job_key).where(mine, jobs.c.state == JobState.CLAIMED, silent)
    with pipeline.index.engine.connect() as connection:
        open_ = {row.state: row.n for row in connection.execute(states)}
        if connection.execute(left.limit(1)).first():
            return True
        running = open_.get(JobState.SUBMITTED, 0) + open_.get(JobState.CLAIMED, 0)
        is_free = running < pipeline.settings.fhir_jobs_in_service
        is_next = is_free and connection.execute(starts.next_job()).first() is not None
        newest = connection.execute(sa.select(sa.func.max(jobs.c.ended_at)).where(mine, jobs.c.state == JobState.ENDED))
        ended_at = newest.scalar_one()
    if JobState.ENDED in open_:
        owed_for = (moment - ended_at).total_seconds() if ended_at else 0.0
        seconds = min(RESULTS_LONGEST, max(RESULTS_SECONDS, RESULTS_AGE * owed_for))
        if findings.due(pipeline, OWED, seconds, moment):
            return True
    if is_next and starts.is_slot_worth_a_look(pipeline, moment):
        return True
    if JobState.SUBMITTED in open_ and findings.due(pipeline, LOOK, pipeline.settings.fhir_look_seconds, moment):
        return True
    return _to_freeze(pipeline) is not None
