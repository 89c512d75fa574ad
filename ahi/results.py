"""Results of import jobs: what HealthImaging says became of each file, into the ledger.

Belongs here: following jobs to their end, reading manifest and ndjson files, settling objects one by one. Does not
belong here: starting jobs (`ahi.imports`) and reading image sets (`ahi.image_sets`).

COMPLETED does not mean that every file is in, and a FAILED job may have imported some: only the lines decide. An
object that no line mentions goes into another job, until its attempts are spent.
"""

from __future__ import annotations

import ast
import datetime as dt
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from botocore.exceptions import ClientError
from more_itertools import chunked

from ahi import chain, quarantine
from ahi.aws import GONE, error_code, is_transient
from ahi.clock import now
from ahi.errors import Setbacks
from ahi.import_service import SERVICE, HealthImaging
from ahi.index import catalog
from ahi.index.catalog import JobState, ObjectState
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ahi.events import ImportJobEvent
    from ahi.pipeline import Pipeline
    from ahi.settings import Settings

TRANSIENT = ("InternalServerException", "ThrottlingException", "ServerError", "ServiceUnavailableException")
"""Exception types of a failure line that another attempt may cure."""


MOST_RAISES = 2
"""The wait before another attempt grows by four this often, and then no more."""

UNKNOWN_JOB_SECONDS = 3_600.0
"""How long a job that was started may be unknown to HealthImaging before it counts as lost."""


Summary = Mapping[str, Any]
"""The `jobSummary` of a job's manifest; empty when there is none."""


class ManifestPendingError(Exception):
    """A job has ended but its manifest is not in S3 yet; it comes seconds later, and the next look finds it."""


@dataclass(frozen=True)
class FileResult:
    """One line of SUCCESS, WARNING or FAILURE ("Understanding import jobs", HealthImaging developer guide)."""

    input_key: str
    image_set_id: str | None
    is_primary: bool | None
    image_set_version: int | None
    warnings: tuple[str, ...]
    error_type: str | None
    error_text: str | None
    evidence: str
    """Where the line stands."""
    line: int
    """Its number there, from 1. Of a file that has a warning, too, that of its success."""


def follow(pipeline: Pipeline, events: Iterable[ImportJobEvent]) -> Counter[str]:
    """Ask HealthImaging for the jobs that events name, and note those that ended. Returns counts of outcomes."""
    counts, seen, setbacks = Counter[str](), set(), Setbacks(is_transient)
    service = HealthImaging(pipeline)
    for event in events:
        if event.job_id in seen:
            continue
        seen.add(event.job_id)
        job = chain.job_named(pipeline.index, SERVICE, event.job_id, event.job_name)
        if job is None:
            counts["foreign"] += 1
        elif job.state in (JobState.ENDED, JobState.SETTLED):
            counts["known"] += 1
        else:
            with setbacks.spared():
                counts[_look(pipeline, service, job, event.job_id)] += 1
    setbacks.settle()
    return counts


def follow_running(pipeline: Pipeline, *, older_than: dt.datetime) -> Counter[str]:
    """Ask HealthImaging for every job submitted before a moment: an event may have been lost."""
    service = HealthImaging(pipeline)
    return chain.look_at_submitted(
        pipeline.index, SERVICE, older_than, lambda job: _look(pipeline, service, job, job.job_id or "")
    )


def _look(pipeline: Pipeline, service: HealthImaging, job: chain.Job, job_id: str) -> str:
    report = service.describe(job_id)
    if report is None:
        since = (now() - job.submitted_at).total_seconds() if job.submitted_at else 0.0
        if since < UNKNOWN_JOB_SECONDS:
            return "not_found"
        report = chain.Report(
            job_id, "UNKNOWN", ended=True, ended_at=None, message="unknown to HealthImaging", output_folder=None
        )
    if not report.ended:
        if job.state is JobState.CLAIMED:
            chain.submitted(pipeline.index, job, job_id)
        return "running"
    chain.ended(pipeline.index, job, report)
    return "ended"


def settle_ended(
    pipeline: Pipeline, *, patience_seconds: float = 0.0, of_archives: bool | None = None
) -> tuple[Counter[str], list[str]]:
    """Settle ended jobs whose manifest is there: of archives, of uploads, or (None) all, those of uploads first.

    Looks again for late manifests until `patience_seconds` have passed; a later event or sweep does the rest.

    Returns:
        Counts (jobs_settled, imported, failed, retried, manifests_awaited), and the keys of the jobs that are settled,
        be it by another meanwhile.
    """
    counts, settled = Counter[str](), list[str]()
    deadline, pause = time.monotonic() + patience_seconds, 0.2
    which = catalog.jobs.c.state == JobState.ENDED
    if of_archives is not None:
        which = sa.and_(which, catalog.jobs.c.shard_key.is_not(None) == of_archives)
    # A job whose results cannot be read stays ended, which the closure check shows.
    setbacks = Setbacks(is_transient)
    while True:
        late = 0
        for job in sorted(chain.jobs(pipeline.index, SERVICE, which), key=lambda job: job.shard_key is not None):
            with setbacks.spared():
                try:
                    counts += settle(pipeline, job)
                    settled.append(job.job_key)
                except ManifestPendingError:
                    late += 1
        if not late or time.monotonic() + pause > deadline:
            counts["manifests_awaited"] += late
            counts["jobs_settled"] = len(settled)
            if not settled:
                setbacks.settle()
            return counts, settled
        time.sleep(pause)
        pause *= 2


def settle(pipeline: Pipeline, job: chain.Job) -> Counter[str]:
    """Move every object of an ended job to imported, failed, or ready for another job, in one transaction.

    An object that counted as failed and that HealthImaging has taken all the same is imported: the lines decide.

    Raises ManifestPendingError when a completed job's manifest is not there yet.
    """
    summary = _manifest(pipeline, job)
    results, unreadable = _results(pipeline, job, summary)
    if len(results) + len(unreadable) < _reported(summary) and _is_patient(pipeline, job):
        raise ManifestPendingError(job.job_key)
    versions = {
        str(item["imageSetId"]): _version(item.get("imageSetVersion")) for item in _list(summary, "imageSetsSummary")
    }
    table, moment, counts = catalog.objects, now(), Counter[str]()
    open_ = (ObjectState.IMPORTING, ObjectState.FAILED)
    with pipeline.index.commit(kind="settled", run_id=pipeline.run_id) as commit:
        connection, seq = commit.connection, commit.seq
        state = sa.select(catalog.jobs.c.state).where(catalog.jobs.c.job_key == job.job_key)
        if connection.execute(state).scalar_one() != JobState.ENDED:
            return counts
        columns = (table.c.object_id, table.c.input_key, table.c.attempts, table.c.state)
        rows = connection.execute(sa.select(*columns).where(table.c.job_key == job.job_key)).all()
        changes = []
        for object_id, input_key, attempts, was in (row for row in rows if row.state in open_):
            result = results.get(input_key)
            if was == ObjectState.FAILED and not (result and result.image_set_id):
                continue
            change = _change(result, job, attempts, pipeline.settings, versions)
            counts[{"imported": "imported", "failed": "failed"}.get(str(change["state"]), "retried")] += 1
            changes.append({"which": object_id, **change})
        _apply(connection, changes, moment, job.ended_at, seq)
        _mark_indexed(connection, job.job_key, seq)
        commit.bury_headers_of_deleted(table.c.job_key == job.job_key)
        done = catalog.jobs.update().where(catalog.jobs.c.job_key == job.job_key)
        unknown = _unknown(connection, job, results, {row.input_key for row in rows})
        quarantine.enter(connection, [*unreadable, *unknown], None)
        numbers = {f"n_{name}": counts[name] for name in ("imported", "failed", "retried")}
        connection.execute(
            done.values(state=JobState.SETTLED, settled_at=moment, n_image_sets=len(versions), **numbers)
        )
    return counts


def _unknown(
    connection: sa.Connection, job: chain.Job, results: Mapping[str, FileResult], ours: set[str]
) -> list[quarantine.Item]:
    """Lines about files that nobody entered: they came into a folder between its last look and the job's."""
    table, keys = catalog.objects, sorted(set(results) - ours)
    bucket = job.input_uri.removeprefix("s3://").partition("/")[0]
    for some in chunked(keys, 500):
        query = sa.select(table.c.key).where(table.c.bucket == bucket, table.c.key.in_(some))
        ours = ours | set(connection.execute(query).scalars())  # what has its own row has its own job to come
    why = "the file was not in the job when it was started"
    return [
        quarantine.Item("job_results", Reason.RESULT_OF_UNKNOWN_FILE, why, results[key].evidence)
        for key in keys
        if key not in ours
    ]


def _change(
    result: FileResult | None, job: chain.Job, attempts: int, settings: Settings, versions: Mapping[str, int | None]
) -> dict[str, object]:
    """New values of one object, from its line and the fate of its job."""
    common: dict[str, object] = dict.fromkeys(("not_before", "reason_code", "reason_text", "warnings"))
    common["manifest_line"] = result.line if result else None
    place: dict[str, object] = {"image_set_id": None, "image_set_version": None, "is_primary": None}
    if result and result.image_set_id:
        version = result.image_set_version or versions.get(result.image_set_id)
        place = {"image_set_id": result.image_set_id, "image_set_version": version, "is_primary": result.is_primary}
        return {**common, **place, "state": ObjectState.IMPORTED, "warnings": ",".join(result.warnings) or None}
    if result and not _transient(result.error_type):
        reason = {"reason_code": Reason.IMPORT_REJECTED, "reason_text": result.error_text}
        return {**common, **place, **reason, "state": ObjectState.FAILED}
    # Which object of a failed job is to blame is found out when it is planned again (`ahi.archive.isolation`).
    is_open = job.shard_key is not None and result is None and job.status != "COMPLETED"
    if attempts < settings.max_attempts or is_open:
        wait = dt.timedelta(seconds=settings.retry_seconds * 4 ** min(attempts - 1, MOST_RAISES))
        return {**common, **place, "state": ObjectState.READY, "not_before": now() + wait}
    if result:
        code, text = Reason.IMPORT_SERVER_ERROR, result.error_text
    elif job.status == "COMPLETED":
        code, text = Reason.NOT_REPORTED, f"in none of {attempts} jobs' results"
    else:
        code, text = Reason.JOB_FAILED, job.message or f"{attempts} jobs failed without saying why"
    return {**common, **place, "state": ObjectState.FAILED, "reason_code": code, "reason_text": text}


def _transient(error_type: str | None) -> bool:
    return error_type is None or error_type in TRANSIENT


def _apply(
    connection: sa.Connection,
    changes: list[dict[str, object]],
    moment: dt.datetime,
    ended_at: dt.datetime | None,
    seq: int,
) -> None:
    if not changes:
        return
    table = catalog.objects
    names = [name for name in changes[0] if name != "which"]
    values: dict[str, object] = {name: sa.bindparam(f"new_{name}") for name in names}
    statement = table.update().where(table.c.object_id == sa.bindparam("which"))
    statement = statement.values(
        **values, state_since=moment, settled_at=moment, job_ended_at=ended_at, changed_seq=seq
    )
    connection.execute(statement, [{"which": c["which"]} | {f"new_{name}": c[name] for name in names} for c in changes])


def _mark_indexed(connection: sa.Connection, job_key: str, seq: int) -> None:
    """Objects whose image set was indexed before their job was settled are indexed from that moment."""
    objects, heads = catalog.objects, catalog.heads
    head = sa.and_(heads.c.image_set_id == objects.c.image_set_id, heads.c.version >= objects.c.image_set_version)
    at = sa.select(heads.c.indexed_at).where(head).limit(1).scalar_subquery()
    mine = sa.and_(
        objects.c.job_key == job_key, objects.c.state == ObjectState.IMPORTED, objects.c.indexed_seq.is_(None)
    )
    there = sa.exists().where(head)
    connection.execute(objects.update().where(mine, there).values(indexed_at=at, indexed_seq=seq, changed_seq=seq))


def output(pipeline: Pipeline, job: chain.Job) -> tuple[Summary, dict[str, FileResult]]:
    """A settled job's summary and lines by input key, read again from its files."""
    summary = _manifest(pipeline, job)
    return summary, _results(pipeline, job, summary)[0]


def _manifest(pipeline: Pipeline, job: chain.Job) -> Summary:
    """The job summary; empty for a job that failed or was refused without leaving one."""
    if not job.output_folder:
        return {}
    text = _text(pipeline, job.output_folder + "job-output-manifest.json")
    if text is None:
        if _is_patient(pipeline, job):
            raise ManifestPendingError(job.job_key)
        return {}
    try:
        summary = json.loads(text)["jobSummary"]
    except (ValueError, KeyError, TypeError):
        return {}  # the lines decide anyway
    return summary if isinstance(summary, dict) else {}


def _is_patient(pipeline: Pipeline, job: chain.Job) -> bool:
    """Whether missing results may still come: S3 gets them a little after the job's end.

    A failed job may never write any; a completed one does.
    """
    waited = (now() - job.ended_at).total_seconds() if job.ended_at else 0.0
    settings = pipeline.settings
    patience = settings.manifest_seconds if job.status == "COMPLETED" else settings.failed_job_seconds
    return waited < patience


def _reported(summary: Mapping[str, object]) -> int:
    """How many lines the summary promises. Settling with fewer would import again what is in."""
    names = ("numberOfImportedFiles", "numberOfFilesWithCustomerError", "numberOfFilesWithServerError")
    return sum(_version(summary.get(name)) or 0 for name in names)


def _results(
    pipeline: Pipeline, job: chain.Job, summary: Mapping[str, object]
) -> tuple[dict[str, FileResult], list[quarantine.Item]]:
    """Every line of the job's ndjson files by input key, and those that cannot be read.

    A warning line adds to its success line.
    """
    results: dict[str, FileResult] = {}
    unreadable: list[quarantine.Item] = []
    for name, folder in (
        ("failureOutputS3Uri", "FAILURE/failure.ndjson"),
        ("successOutputS3Uri", "SUCCESS/success.ndjson"),
        ("warningsOutputS3Uri", "WARNING/warning.ndjson"),
    ):
        uri = f"{job.output_folder}{folder}" if job.output_folder else None
        declared = summary.get(name)
        if isinstance(declared, str) and declared:
            uri = declared.rstrip("/") + "/" + folder.split("/")[1]
        for number, text in _lines(pipeline, uri):
            evidence = f"{uri}#{job.job_key}:{folder}:{number}"
            try:
                line = _result(text, evidence, number)
            except (ValueError, KeyError, TypeError, AttributeError, SyntaxError):
                why = f"line {number} of {folder} cannot be read"
                unreadable.append(quarantine.Item("job_results", Reason.RESULT_NOT_UNDERSTOOD, why, evidence))
            else:
                earlier = results.get(line.input_key)
                if earlier and earlier.image_set_id and line.warnings:
                    line = replace(line, line=earlier.line, evidence=earlier.evidence)
                results[line.input_key] = line
    return results, unreadable


def _lines(pipeline: Pipeline, uri: str | None) -> Iterator[tuple[int, str]]:
    """Lines of a file with their numbers from 1, without empty ones; none when there is no file."""
    text = _text(pipeline, uri) if uri else None
    return ((number, line) for number, line in enumerate((text or "").split("\n"), 1) if line.strip())


def _result(text: str, evidence: str, number: int) -> FileResult:
    try:
        line = json.loads(text)
    except ValueError:
        # The developer guide prints its sample lines with Python's True.
        line = ast.literal_eval(text)
    response, error = line.get("importResponse") or {}, line.get("exception") or {}
    return FileResult(
        input_key=str(line["inputFile"]),
        image_set_id=response.get("imageSetId"),
        is_primary=response.get("isPrimary"),
        image_set_version=_version(response.get("imageSetVersion")),
        warnings=tuple(str(w.get("warning_reason_code")) for w in response.get("warnings") or ()),
        error_type=error.get("exceptionType"),
        error_text=error.get("message"),
        evidence=evidence,
        line=number,
    )


def _text(pipeline: Pipeline, uri: str) -> str | None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        body: bytes = pipeline.aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error_code(error) in GONE:
            return None
        raise
    return body.decode()


def _list(summary: Mapping[str, object], name: str) -> list[dict[str, object]]:
    value = summary.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _version(value: object) -> int | None:
    return int(str(value)) if value is not None and str(value).isdigit() else None
