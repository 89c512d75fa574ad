"""Results of HealthLake's jobs: followed to their end, read, and what they mean for the chain.

Belongs here: events as hints and Describe as truth, settling a batch, another attempt, stopping a chain. Does not
belong here: the files of a job (`ahi.healthlake.output`), starting the next (`ahi.healthlake.starts`).

COMPLETED_WITH_ERRORS is an end, and the SDK's waiter calls it success: manifest and FAILURE lines say what went in.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi import chain
from ahi.aws import is_transient
from ahi.clock import now
from ahi.errors import Setbacks
from ahi.healthlake import audit, failures, policy, sent
from ahi.healthlake.audit import Entry, What
from ahi.healthlake.failures import Stage
from ahi.healthlake.freeze import plan_job
from ahi.healthlake.output import Failed, Manifest, read_failures, read_manifest
from ahi.healthlake.service import SERVICE, HealthLake
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import BatchState, Policy, fhir_audit, fhir_batches, fhir_imports

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from ahi.healthlake.events import HealthLakeEvent
    from ahi.pipeline import Pipeline

ENDINGS = ("Import Job Completed", "Import Job Completed With Errors", "Import Job Failed")
LOOKS_AFTER_AN_END = 4
"""Describe may lag the event of an end for a moment."""

UNKNOWN_JOB_SECONDS = 3_600.0
"""How long a job that was started may be unknown to HealthLake before it counts as lost."""

UNTOLD = "HealthLake counts it as failed, or not at all, and has no FAILURE line for it"

GOOD = ("COMPLETED", "COMPLETED_WITH_ERRORS")


class ResultsPendingError(Exception):
    """A job has ended but its manifest or its FAILURE lines are not all in S3 yet; the next look finds them."""


def follow(pipeline: Pipeline, events: Iterable[HealthLakeEvent]) -> Counter[str]:
    """Ask HealthLake for the jobs that events name, and note those that ended. Returns counts of outcomes."""
    counts, service, setbacks = Counter[str](), HealthLake(pipeline), Setbacks(is_transient)
    by_job: dict[str, list[HealthLakeEvent]] = {}
    for event in events:
        by_job.setdefault(event.job_id, []).append(event)
    for job_id, own in by_job.items():
        job = _job_of(pipeline, job_id, own[0].input_uri)
        if job is None:
            counts["foreign"] += 1
            continue
        _note_events(pipeline, job, own)
        if job.state in (JobState.ENDED, JobState.SETTLED):
            counts["known"] += 1
            continue
        with setbacks.spared():
            patient = any(event.detail_type in ENDINGS for event in own)
            counts[_look(pipeline, service, job, job_id, looks=LOOKS_AFTER_AN_END if patient else 1)] += 1
    setbacks.settle()
    return counts


def follow_running(pipeline: Pipeline, *, older_than: dt.datetime) -> Counter[str]:
    """Ask HealthLake for every job submitted before a moment: an event may have been lost."""
    service = HealthLake(pipeline)
    return chain.look_at_submitted(
        pipeline.index, SERVICE, older_than, lambda job: _look(pipeline, service, job, job.job_id or "")
    )


def _job_of(pipeline: Pipeline, job_id: str, input_uri: str) -> chain.Job | None:
    """The job of an event. Its prefix finds a job whose start we made but did not live to record."""
    table = catalog.jobs
    open_ = table.c.state.in_((JobState.CLAIMED, JobState.PLANNED))
    claimed = sa.and_(table.c.input_uri == input_uri, table.c.starts > 0, open_, table.c.job_id.is_(None))
    found = chain.jobs(pipeline.index, SERVICE, sa.or_(table.c.job_id == job_id, claimed))
    return next((job for job in found if job.job_id == job_id), found[0] if found else None)


def _look(pipeline: Pipeline, service: HealthLake, job: chain.Job, job_id: str, *, looks: int = 1) -> str:
    report = service.describe(job_id, job.datastore_id)
    for _ in range(looks - 1):
        if report is None or report.ended:
            break
        time.sleep(0.25)
        report = service.describe(job_id, job.datastore_id)
    if report is None:
        since = (now() - job.submitted_at).total_seconds() if job.submitted_at else 0.0
        if since < UNKNOWN_JOB_SECONDS:
            return "not_found"
        text = "unknown to HealthLake"
        report = chain.Report(job_id, "UNKNOWN", ended=True, ended_at=None, message=text, output_folder=None)
    if not report.ended:
        if job.state in (JobState.CLAIMED, JobState.PLANNED):
            chain.submitted(pipeline.index, job, job_id)
        return "running"
    if job.state is JobState.PLANNED:
        chain.submitted(pipeline.index, job, job_id)
    chain.ended(pipeline.index, job, report)
    return "ended"


def _note_events(pipeline: Pipeline, job: chain.Job, events: Iterable[HealthLakeEvent]) -> None:
    """Put events into the account of their batch, each once however often it was delivered."""
    with pipeline.index.transaction() as connection:
        where = fhir_batches.c.job_key == job.job_key
        batch_id = connection.execute(sa.select(fhir_batches.c.batch_id).where(where)).scalar_one_or_none()
        known = set(connection.execute(sa.select(fhir_audit.c.note).where(fhir_audit.c.batch_id == batch_id)).scalars())
        entries = {
            event.event_id: Entry(event.detail_type, event.at, batch_id, job_id=event.job_id, note=event.event_id)
            for event in events
            if event.event_id not in known
        }
        audit.note(connection, entries.values())


def settle_ended(pipeline: Pipeline, *, patience_seconds: float = 0.0) -> tuple[Counter[str], list[str]]:
    """Settle every ended job whose results are there. Returns counts and the batches."""
    counts, batches, pause = Counter[str](), list[str](), 0.2
    deadline, setbacks = time.monotonic() + patience_seconds, Setbacks(is_transient)
    while True:
        late = 0
        for job in chain.jobs(pipeline.index, SERVICE, catalog.jobs.c.state == JobState.ENDED):
            with setbacks.spared():
                try:
                    found, batch_id = settle(pipeline, job)
                except ResultsPendingError:
                    late += 1
                else:
                    counts += found
                    batches += [batch_id] if batch_id else []
        if not late or time.monotonic() + pause > deadline:
            counts["results_awaited"] += late
            if not batches:
                setbacks.settle()
            return +counts, batches
        time.sleep(pause)
        pause *= 2


def settle(pipeline: Pipeline, job: chain.Job) -> tuple[Counter[str], str | None]:
    """Read what became of an ended job's batch, and make it true in one transaction. Returns counts and the batch.

    Raises ResultsPendingError when results that the job owes are not there yet.
    """
    folder, manifest, found = job.output_folder, None, Failed()
    if folder:
        manifest = read_manifest(pipeline, folder)
        if manifest is None and job.status in GOOD and _is_patient(pipeline, job):
            raise ResultsPendingError(job.job_key)
        found = read_failures(pipeline, folder, job.input_uri, limit=pipeline.settings.fhir_failure_rows)
        owed = manifest.failed if manifest and job.status in GOOD else 0
        if found.n_lines + found.n_unreadable < owed and _waited(job) < pipeline.settings.failed_job_seconds:
            raise ResultsPendingError(job.job_key)
    with pipeline.index.transaction() as connection:
        state = sa.select(catalog.jobs.c.state).where(catalog.jobs.c.job_key == job.job_key)
        batch = (
            connection.execute(sa.select(fhir_batches).where(fhir_batches.c.job_key == job.job_key)).mappings().first()
        )
        if connection.execute(state).scalar_one() != JobState.ENDED:
            return Counter(), None
        if batch is None:
            _close(connection, job, None, "superseded")
            return Counter(jobs_settled=1), None
        settled = _with_results if job.status in GOOD else _without_results
        return settled(connection, pipeline, job, batch, manifest, found), batch["batch_id"]


def _is_patient(pipeline: Pipeline, job: chain.Job) -> bool:
    settings = pipeline.settings
    return _waited(job) < (settings.manifest_seconds if job.status in GOOD else settings.failed_job_seconds)


def _waited(job: chain.Job) -> float:
    """Seconds since a job's end. The manifest is what its results end with: lines that lack then may be cut off."""
    return (now() - job.ended_at).total_seconds() if job.ended_at else 0.0


def _with_results(
    connection: sa.Connection,
    pipeline: Pipeline,
    job: chain.Job,
    batch: sa.RowMapping,
    manifest: Manifest | None,
    found: Failed,
) -> Counter[str]:
    """A job that HealthLake calls completed, with errors or without: its counts are believed, and nothing else."""
    batch_id, n_sent, limit = batch["batch_id"], batch["n_sent"] or 0, pipeline.settings.fhir_failure_rows
    n_imported = (manifest.imported if manifest else None) or 0
    n_failed = max(found.n_lines, manifest.failed if manifest else 0, n_sent - n_imported)
    untold = n_failed - len(found.told)
    _note_counts(connection, job, batch, manifest)
    more = found.rest + Counter({(_stage_of_untold(manifest, found), "", UNTOLD): n_failed - found.n_lines})
    if not untold:
        failures.sent_again(connection, batch_id)
    failures.enter(connection, batch_id, found.rows, limit=limit, more=more)
    retry_seconds = pipeline.settings.fhir_retry_seconds
    sent.settle(connection, batch_id, found.tracked, is_unknown=untold > 0, retry_seconds=retry_seconds)
    if not untold:
        failures.resolve(connection, batch_id)
    _close(connection, job, batch_id, job.status or "", n_imported=n_imported, n_failed=n_failed)
    is_odd = manifest is not None and manifest.scanned is not None and manifest.scanned != n_sent
    policy.judge(connection, batch, n_failed or int(is_odd))
    return Counter(jobs_settled=1, imported=n_imported, failed=n_failed)


def _stage_of_untold(manifest: Manifest | None, found: Failed) -> Stage:
    """Who failed on resources that no line names: as the manifest has it, or else HealthLake."""
    refused = (manifest.customer_errors if manifest else None) or 0
    return Stage.IMPORT if refused > found.by_stage[Stage.IMPORT] else Stage.SERVER


def _note_counts(connection: sa.Connection, job: chain.Job, batch: sa.RowMapping, manifest: Manifest | None) -> None:
    """The batch is settled with what its manifest counts."""
    values: dict[str, Any] = {"state": BatchState.SETTLED, "settled_at": now()}
    # An earlier job of the batch may have had a manifest.
    names = ("scanned", "imported", "customer_errors", "server_errors")
    values |= {f"n_{name}": getattr(manifest, name) if manifest else None for name in names}
    connection.execute(fhir_batches.update().where(fhir_batches.c.batch_id == batch["batch_id"]).values(values))
    entry = None
    if manifest is None:
        entry = Entry("no manifest", batch_id=batch["batch_id"], job_id=job.job_id)
    elif not manifest.adds_up or manifest.scanned != batch["n_sent"]:
        text = f"sent {batch['n_sent']}, scanned {manifest.scanned}, imported {manifest.imported}"
        text += f", failed {manifest.failed}"
        entry = Entry("counts differ", batch_id=batch["batch_id"], job_id=job.job_id, note=text)
    audit.note(connection, [entry] if entry else [])


def _without_results(
    connection: sa.Connection,
    pipeline: Pipeline,
    job: chain.Job,
    batch: sa.RowMapping,
    _: Manifest | None,
    found: Failed,
) -> Counter[str]:
    """A job that failed whole: another attempt, or the batch has failed and its chain stops.

    It may have a manifest, and part of it may be in: all of it is sent again, which HealthLake takes as updates. Not so
    in an ordered chain that has put later batches behind it: what is older must not go over what they brought.
    """
    batch_id, mine = batch["batch_id"], fhir_batches.c.batch_id == batch["batch_id"]
    _close(connection, job, batch_id, job.status or "")
    # A refused start is refused again until a setting changes; a job that failed or was lost may have met a passing
    # trouble.
    is_followed = _is_followed(connection, job, batch["import_id"])
    if job.status != "REJECTED" and batch["attempt"] < pipeline.settings.fhir_max_attempts and not is_followed:
        values = plan_job(connection, pipeline, dict(batch), n_bytes=job.n_bytes)
        connection.execute(fhir_batches.update().where(mine).values(values))
        return Counter(jobs_settled=1, batches_tried_again=1)
    reason = f"{job.status}: {job.message or 'HealthLake does not say why'}"
    reason += "; later batches were behind it already, so it is not tried again" if is_followed else ""
    values = {"state": BatchState.FAILED, "reason": reason, "settled_at": now()}
    connection.execute(fhir_batches.update().where(mine).values(values))
    failures.enter(connection, batch_id, found.rows, limit=pipeline.settings.fhir_failure_rows, more=found.rest)
    sent.settle(
        connection, batch_id, found.tracked, is_unknown=True, retry_seconds=pipeline.settings.fhir_retry_seconds
    )
    terms = sa.select(fhir_imports.c.policy).where(fhir_imports.c.import_id == batch["import_id"])
    if job.status == "REJECTED" or connection.execute(terms).scalar_one() != Policy.CONTINUE:
        policy.stop(connection, batch, reason)
    return Counter(jobs_settled=1, batches_failed=1)


def _is_followed(connection: sa.Connection, job: chain.Job, import_id: str) -> bool:
    """Whether a later batch of the same ordered chain went to HealthLake before this job had ended."""
    if job.submitted_at is None:
        return False
    later = (
        sa.select(fhir_batches.c.batch_id)
        .join(catalog.jobs, catalog.jobs.c.job_key == fhir_batches.c.job_key)
        .join(fhir_imports, fhir_imports.c.import_id == fhir_batches.c.import_id)
        .where(fhir_imports.c.import_id == import_id, fhir_imports.c.is_ordered.is_(True))
        .where(catalog.jobs.c.submitted_at > job.submitted_at)
    )
    return connection.execute(later.limit(1)).first() is not None


def _close(connection: sa.Connection, job: chain.Job, batch_id: str | None, status: str, **numbers: int) -> None:
    """The job is settled; what its account lacks of its times is added."""
    moment = now()
    done = catalog.jobs.update().where(catalog.jobs.c.job_key == job.job_key)
    connection.execute(done.values(state=JobState.SETTLED, settled_at=moment, **numbers))
    mine = sa.and_(fhir_audit.c.batch_id == batch_id, fhir_audit.c.job_id == job.job_id)
    told = set(connection.execute(sa.select(fhir_audit.c.what).where(mine)).scalars())
    entries = [Entry(What.SETTLED, moment, batch_id, job_id=job.job_id, note=status)]
    if job.job_id:
        entries.insert(0, Entry(What.ENDED, job.ended_at, batch_id, job_id=job.job_id, note=status))
        if What.SUBMITTED not in told:
            entries.insert(0, Entry(What.SUBMITTED, job.submitted_at, batch_id, job_id=job.job_id))
    audit.note(connection, entries)
