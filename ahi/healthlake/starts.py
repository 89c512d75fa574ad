"""Starting jobs of the chain: which batch is next, whether the slot is free, and what an answer changes.

Belongs here: order, holds, priorities, stopped chains, foreign jobs. Does not belong here: claims, tokens and lost
answers (`ahi.chain`), the calls (`ahi.healthlake.service`).
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError

from ahi import chain
from ahi.aws import error_code, is_transient
from ahi.clock import now
from ahi.healthlake import audit
from ahi.healthlake.audit import Entry, What
from ahi.healthlake.service import CONFIGURATION, SERVICE, HealthLake
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import BatchState, Policy, fhir_batches, fhir_imports

if TYPE_CHECKING:
    from ahi import pacing
    from ahi.pipeline import Pipeline

PATIENCE_SECONDS = 5.0
"""A start that has to wait longer for its turn is left to the next run."""

REFUSALS = 5
"""Starts that may be refused for want of a right: a new role takes a while to be known everywhere."""

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

    In an ordered chain a batch waits until those before it are settled, held ones too. Where errors may stop a chain,
    a batch also waits for results that are not read yet.
    """
    batch, other, job, ended = fhir_batches, fhir_batches.alias("earlier"), catalog.jobs, catalog.jobs.alias("ended")
    before = sa.or_(
        other.c.priority > batch.c.priority,
        sa.and_(other.c.priority == batch.c.priority, other.c.position < batch.c.position),
    )
    open_ = other.c.state.in_((BatchState.PLANNED, BatchState.FROZEN))
    earlier = sa.exists().where(other.c.import_id == batch.c.import_id, open_, before)
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
    """How many jobs may be at HealthLake at a time, beside those of others; None when there is nothing to start."""
    settings, table = pipeline.settings, catalog.jobs
    with pipeline.index.engine.connect() as connection:
        if connection.execute(next_job()).first() is None:
            return None
        ours = sa.select(table.c.job_id).where(table.c.service == SERVICE, table.c.job_id.is_not(None))
        ours = ours.where(table.c.state.in_((JobState.SUBMITTED, JobState.ENDED)))
        known = set(connection.execute(ours).scalars())
        running = sa.select(sa.func.count()).where(
            table.c.service == SERVICE, table.c.state.in_((JobState.CLAIMED, JobState.SUBMITTED))
        )
        if connection.execute(running).scalar_one() >= settings.fhir_jobs_in_service:
            return None
    try:
        foreign = service.foreign(known)
    except ClientError as error:
        # Not allowed to look, or asked too often: a full HealthLake says so itself.
        if not is_transient(error) and error_code(error) not in CONFIGURATION:
            raise
        foreign = 0
    if foreign:
        counts["foreign_jobs"] = foreign
    return chain.Limits(settings.fhir_jobs_in_service - foreign, settings.fhir_starts_per_second)


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
        code = error_code(error)
        chain.give_back(index, job, after_seconds=chain.back_off(job), message=code)
        if job.starts >= REFUSALS:
            with index.transaction() as connection:
                stop_import_of(connection, job.job_key, f"StartFHIRImportJob: {code}; correct it, then continue")
            return "stopped"
        return "refused"
    if job_id is None:
        return "taken_over"
    with index.transaction() as connection:
        batch_id = connection.execute(
            sa.select(fhir_batches.c.batch_id).where(fhir_batches.c.job_key == job.job_key)
        ).scalar_one_or_none()
        audit.note(connection, [Entry(What.SUBMITTED, batch_id=batch_id, job_id=job_id)])
    return "started"


def stop_import_of(connection: sa.Connection, job_key: str, reason: str) -> None:
    """Start nothing more of the chain that a job belongs to until a person continues it."""
    batch = connection.execute(sa.select(fhir_batches).where(fhir_batches.c.job_key == job_key)).mappings().first()
    if batch is None:
        return
    running = sa.and_(fhir_imports.c.import_id == batch["import_id"], fhir_imports.c.stopped_at.is_(None))
    stop = fhir_imports.update().where(running).values(stopped_at=now(), stopped_reason=reason)
    if connection.execute(stop).rowcount:
        audit.note(connection, [Entry(What.STOPPED, batch_id=batch["batch_id"], note=reason)])
