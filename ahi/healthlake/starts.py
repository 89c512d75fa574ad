"""Starting jobs of the chain: which batch is next, whether the slot is free, and what an answer changes.

Belongs here: order, holds, priorities, stopped chains, foreign jobs. Does not belong here: claims, tokens and lost
answers (`ahi.chain`), the calls (`ahi.healthlake.service`).
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError

from ahi import chain, findings
from ahi.aws import error_code, is_transient
from ahi.clock import now
from ahi.healthlake import audit, policy
from ahi.healthlake.audit import Entry, What
from ahi.healthlake.service import CONFIGURATION, SERVICE, HealthLake
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import BatchState, Policy, fhir_audit, fhir_batches, fhir_imports

if TYPE_CHECKING:
    from ahi import pacing
    from ahi.pipeline import Pipeline

PATIENCE_SECONDS = 5.0
"""A start that has to wait longer for its turn is left to the next run."""

REFUSALS = 5
"""Calls that may be refused for want of a right: a new role takes a while to be known everywhere."""

BLIND_SECONDS = 15.0
"""How long nothing is started after HealthLake could not say which jobs it has: the SDK has tried five times."""

FOREIGN = "healthlake slot"
"""When jobs of others were last seen in the way."""

UNANSWERED = 3
"""Starts without an answer that one run looks after."""


class NextBatch:
    """The one job that may be started next: the lane of HealthLake's jobs."""

    def condition(self) -> sa.ColumnElement[bool]:
        """Frozen, not held, its chain not stopped, and nothing that must be settled before it."""
        return catalog.jobs.c.job_key == next_job().scalar_subquery()

    def wants(self, connection: sa.Connection, job_key: str) -> list[pacing.Want] | None:  # noqa: ARG002
        """Nothing but the service's own tokens."""
        return []


def next_job() -> sa.Select[tuple[str]]:
    """Key of the job to start next. Higher priorities go first, then older chains, then places in a chain.

    In an ordered chain a batch waits until those before it are settled, held ones too, or at HealthLake, whose queue
    keeps their order. Where errors may stop a chain, a batch also waits for results that are not read yet.
    """
    batch, other, job, ended = fhir_batches, fhir_batches.alias("earlier"), catalog.jobs, catalog.jobs.alias("ended")
    before = sa.or_(
        other.c.priority > batch.c.priority,
        sa.and_(other.c.priority == batch.c.priority, other.c.position < batch.c.position),
    )
    open_ = other.c.state.in_((BatchState.PLANNED, BatchState.FROZEN))
    taken = catalog.jobs.alias("taken")
    is_taken = sa.exists().where(taken.c.job_key == other.c.job_key, taken.c.state == JobState.SUBMITTED)
    earlier = sa.exists().where(
        other.c.import_id == batch.c.import_id, open_, before, sa.not_(is_taken.correlate(other))
    )
    unread = (
        sa.exists()
        .where(ended.c.job_key == other.c.job_key, other.c.import_id == batch.c.import_id)
        .where(ended.c.state == JobState.ENDED)
    )
    due = sa.or_(job.c.not_before.is_(None), job.c.not_before <= now())
    return (
        sa.select(job.c.job_key)
        .join(batch, batch.c.job_key == job.c.job_key)
        .join(fhir_imports, fhir_imports.c.import_id == batch.c.import_id)
        .where(job.c.service == SERVICE, job.c.state == JobState.PLANNED, due)
        .where(batch.c.state == BatchState.FROZEN, batch.c.held_at.is_(None), fhir_imports.c.stopped_at.is_(None))
        .where(sa.or_(fhir_imports.c.is_ordered.is_(False), sa.not_(earlier)))
        .where(sa.or_(fhir_imports.c.policy == Policy.CONTINUE, sa.not_(unread)))
        .order_by(batch.c.priority.desc(), fhir_imports.c.created_at, batch.c.position)
        .limit(1)
        .correlate(None)
    )


def start_due(pipeline: Pipeline) -> Counter[str]:
    """Start jobs while HealthLake has room. Returns counts: started, back_pressure, foreign and so on.

    Raises what AWS raised when nothing was started, with the job given back to wait or, when HealthLake may have it,
    still claimed.
    """
    index, settings, counts = pipeline.index, pipeline.settings, Counter[str]()
    service, who = HealthLake(pipeline), pipeline.run_id or ""
    trouble: Exception | None = None
    chain.recover(index, service, silent_seconds=settings.claim_seconds, who=pipeline.run_id)
    while counts["unanswered"] < UNANSWERED:
        limits = _limits(pipeline, service, counts)
        job = chain.claim(index, SERVICE, limits, who, NextBatch()) if limits else None
        if isinstance(job, float) and job <= PATIENCE_SECONDS:
            time.sleep(job)
            continue
        if not isinstance(job, chain.Job):
            break
        try:
            counts[_start_one(pipeline, service, job, limits)] += 1
        except (BotoCoreError, ClientError) as error:
            trouble = trouble or error
            counts["unanswered"] += 1
            # The answer may be lost and not the start: the job is looked for, and else started with the same token.
            chain.recover(index, service, silent_seconds=settings.claim_seconds, who=pipeline.run_id)
        if counts["back_pressure"]:
            break
    if trouble and not counts["started"]:
        raise trouble
    return counts


def _limits(pipeline: Pipeline, service: HealthLake, counts: Counter[str]) -> chain.Limits | None:
    """How many jobs may be at HealthLake at a time, beside those of others; None when nothing is to be started now."""
    settings, table = pipeline.settings, catalog.jobs
    with pipeline.index.engine.connect() as connection:
        found = connection.execute(next_job()).first()
        if found is None:
            return None
        job_key = str(found[0])
        store = connection.execute(sa.select(table.c.datastore_id).where(table.c.job_key == job_key)).scalar_one()
        ours = sa.select(table.c.job_id).where(table.c.service == SERVICE, table.c.job_id.is_not(None))
        ours = ours.where(table.c.state.in_((JobState.SUBMITTED, JobState.ENDED)))
        known = set(connection.execute(ours).scalars())
        running = sa.select(sa.func.count()).where(
            table.c.service == SERVICE, table.c.state.in_((JobState.CLAIMED, JobState.SUBMITTED))
        )
        n_running = connection.execute(running).scalar_one()
    if n_running >= settings.fhir_jobs_in_service:
        return None
    try:
        foreign = service.foreign(known, store)
    except ClientError as error:
        # HealthLake queues what it is given, so nothing else would keep ours from going before a job of others.
        if is_transient(error):
            counts["back_pressure"] += 1
            _postpone(pipeline, job_key, BLIND_SECONDS, error_code(error))
        elif error_code(error) in CONFIGURATION:
            counts[_refused(pipeline, job_key, error)] += 1
        else:
            raise
        return None
    if foreign:
        counts["foreign_jobs"] = foreign
    if n_running + foreign >= settings.fhir_jobs_in_service:
        findings.done(pipeline, FOREIGN)
        return None
    findings.remember(pipeline, f"{FOREIGN}:done", None)
    return chain.Limits(settings.fhir_jobs_in_service - foreign, settings.fhir_starts_per_second)


def is_slot_worth_a_look(pipeline: Pipeline, moment: dt.datetime) -> bool:
    """Whether to look for room: after jobs of others were in the way, events tell of it, or else an interval does."""
    return findings.due(pipeline, FOREIGN, pipeline.settings.fhir_look_seconds, moment)


def _postpone(pipeline: Pipeline, job_key: str, seconds: float, message: str) -> None:
    """Start a planned job no sooner than some seconds from now."""
    table, until = catalog.jobs, now() + dt.timedelta(seconds=seconds)
    waits = sa.and_(table.c.job_key == job_key, table.c.state == JobState.PLANNED)
    with pipeline.index.transaction() as connection:
        connection.execute(table.update().where(waits).values(not_before=until, message=message))


def _refused(pipeline: Pipeline, job_key: str, error: ClientError) -> str:
    """A call was refused for want of a right, or of the data store: wait, doubling, and then stop the chain."""
    call, code = error.operation_name, error_code(error)
    with pipeline.index.transaction() as connection:
        batch = _batch_of(connection, job_key)
        audit.note(connection, [Entry(What.REFUSED, batch_id=batch["batch_id"], note=f"{call}: {code}")])
        refused = sa.and_(fhir_audit.c.batch_id == batch["batch_id"], fhir_audit.c.what == What.REFUSED)
        times = connection.execute(sa.select(sa.func.count()).where(refused)).scalar_one()
        # After a person has let the chain go on, it has as many tries again.
        is_last = times % REFUSALS == 0
        if is_last:
            policy.stop(connection, batch, f"{call}: {code}; correct it, then continue")
    _postpone(pipeline, job_key, 5.0 * 2 ** ((times - 1) % REFUSALS), code)
    return "stopped" if is_last else "refused"


def _batch_of(connection: sa.Connection, job_key: str) -> sa.RowMapping:
    return connection.execute(sa.select(fhir_batches).where(fhir_batches.c.job_key == job_key)).mappings().one()


def _start_one(pipeline: Pipeline, service: HealthLake, job: chain.Job, limits: chain.Limits | None) -> str:
    """Start one claimed job. Returns what became of it; raises what leaves the claim standing."""
    index = pipeline.index
    try:
        job_id = chain.start(index, service, job, limits)
    except chain.RejectedError as error:
        report = chain.Report("", "REJECTED", ended=True, ended_at=None, message=str(error), output_folder=None)
        chain.ended(index, job, report)
        return "rejected"
    except chain.BackPressureError:
        return "back_pressure"
    except ClientError as error:
        if is_transient(error):
            raise
        chain.give_back(index, job, after_seconds=chain.back_off(job), message=error_code(error))
        return _refused(pipeline, job.job_key, error)
    if job_id is None:
        return "taken_over"
    with index.transaction() as connection:
        audit.note(
            connection, [Entry(What.SUBMITTED, batch_id=_batch_of(connection, job.job_key)["batch_id"], job_id=job_id)]
        )
    return "started"
