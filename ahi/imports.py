"""HealthImaging import jobs: what goes into one, its prefix, its start.

Belongs here: planning ready objects into jobs within the quotas, staging them under one prefix, and HealthImaging as
a service of the chain. Does not belong here: the chain itself (`ahi.chain`) and results (`ahi.results`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import chain
from ahi.aws import GONE, THROTTLED, error_code
from ahi.clock import day_of, now
from ahi.index import catalog
from ahi.index.catalog import JobState, ObjectState
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ahi.index.store import Commit
    from ahi.pipeline import Pipeline

SERVICE = "medical-imaging"
PLAN_ROWS = 50_000
"""Ready objects read in one planning; the rest waits for the next, so that memory stays bounded."""

Identity = tuple[str | None, str | None, str | None]
"""Study, series and SOP instance UID."""


@dataclass(frozen=True)
class _Ready:
    object_id: str
    bucket: str
    key: str
    version_id: str | None
    size_bytes: int
    identity: Identity
    association_prefix: str | None
    attempts: int


def plan(pipeline: Pipeline) -> int:
    """Put ready objects into planned jobs. Returns how many jobs were planned.

    Two objects of one SOP instance never share a job, nor run in two at once: HealthImaging keeps the last it sees,
    so the order in which they arrived has to be the order in which they are imported.
    """
    with pipeline.index.engine.connect() as connection:
        if not _choose(connection):
            return 0
    with pipeline.index.commit(kind="planned", run_id=pipeline.run_id) as commit:
        # Chosen again inside the transaction: another run may have planned them since.
        groups = list(_groups(commit.connection, pipeline, _choose(commit.connection)))
        for group, prefix in groups:
            _insert(commit, pipeline, group, prefix)
        return len(groups)


def _choose(connection: sa.Connection) -> list[_Ready]:
    """Ready objects of which no other of the same instance is on its way or chosen before them."""
    ready = _ready(connection)
    taken, chosen = _busy_identities(connection, ready), []
    for item in ready:
        if item.identity not in taken:
            taken.add(item.identity)
            chosen.append(item)
    return chosen


def _ready(connection: sa.Connection) -> list[_Ready]:
    table = catalog.objects
    query = sa.select(table).where(table.c.state == ObjectState.READY)
    query = query.order_by(table.c.landed_at, table.c.key).limit(PLAN_ROWS)
    return [
        _Ready(
            row["object_id"],
            row["bucket"],
            row["key"],
            row["version_id"],
            row["size_bytes"] or 0,
            (row["StudyInstanceUID"], row["SeriesInstanceUID"], row["SOPInstanceUID"]),
            row["association_prefix"],
            row["attempts"],
        )
        for row in connection.execute(query).mappings()
    ]


def _busy_identities(connection: sa.Connection, ready: Sequence[_Ready]) -> set[Identity]:
    """Identities of `ready` that a running job already imports."""
    table, busy = catalog.objects, set[Identity]()
    columns = (table.c.StudyInstanceUID, table.c.SeriesInstanceUID, table.c.SOPInstanceUID)
    uids = sorted({item.identity[2] or "" for item in ready})
    for start in range(0, len(uids), 500):
        some = table.c.SOPInstanceUID.in_(uids[start : start + 500])
        query = sa.select(*columns).where(table.c.state == ObjectState.IMPORTING, some)
        busy |= {(row[0], row[1], row[2]) for row in connection.execute(query)}
    return busy


def _groups(
    connection: sa.Connection, pipeline: Pipeline, ready: Sequence[_Ready]
) -> Iterator[tuple[list[_Ready], str | None]]:
    """Jobs' worth of objects, each with the closed prefix that serves it in place, or None when it is staged."""
    settings = pipeline.settings
    by_prefix: dict[str | None, list[_Ready]] = {}
    for item in ready:
        by_prefix.setdefault(item.association_prefix, []).append(item)
    staged = by_prefix.pop(None, [])
    for prefix, items in sorted(by_prefix.items(), key=lambda pair: str(pair[0])):
        size = sum(item.size_bytes for item in items)
        fits = len(items) <= settings.max_files_per_job and size <= settings.max_bytes_per_job
        if fits and prefix and _whole(connection, items, prefix):
            yield items, prefix
        else:
            staged += items
    group: list[_Ready] = []
    size = 0
    for item in staged:
        if group and (len(group) >= settings.max_files_per_job or size + item.size_bytes > settings.max_bytes_per_job):
            yield group, None
            group, size = [], 0
        group.append(item)
        size += item.size_bytes
    if group:
        yield group, None


def _whole(connection: sa.Connection, items: Sequence[_Ready], prefix: str) -> bool:
    """Whether `items` are all that lies under a prefix, each at its only version and at its first attempt."""
    table = catalog.objects
    under = sa.select(sa.func.count()).where(
        table.c.bucket == items[0].bucket, table.c.key >= prefix, table.c.key < prefix[:-1] + "0"
    )
    return connection.execute(under).scalar_one() == len(items) and not any(item.attempts for item in items)


def _insert(commit: Commit, pipeline: Pipeline, group: Sequence[_Ready], prefix: str | None) -> None:
    settings, moment = pipeline.settings, now()
    content = [settings.datastore_id, *sorted(f"{item.object_id}:{item.attempts}" for item in group)]
    job_key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]
    source = f"s3://{group[0].bucket}/{prefix}" if prefix else f"s3://{settings.staging_bucket}/{job_key}/"
    commit.connection.execute(
        catalog.jobs.insert().values(
            job_key=job_key,
            service=SERVICE,
            state=JobState.PLANNED,
            day=day_of(moment),
            datastore_id=settings.datastore_id,
            input_uri=source,
            output_uri=f"s3://{settings.lake_bucket}/jobs/",
            in_place=prefix is not None,
            n_objects=len(group),
            n_bytes=sum(item.size_bytes for item in group),
            planned_at=moment,
        )
    )
    table = catalog.objects
    change = (
        table.update()
        .where(table.c.object_id == sa.bindparam("which"))
        .values(
            state=ObjectState.IMPORTING,
            state_since=moment,
            job_key=job_key,
            input_key=sa.bindparam("where"),
            attempts=table.c.attempts + 1,
            changed_seq=commit.seq,
        )
    )
    rows = [{"which": i.object_id, "where": i.key if prefix else f"{job_key}/{i.object_id}"} for i in group]
    commit.connection.execute(change, rows)


def advance(pipeline: Pipeline) -> Counter[str]:
    """Plan what is ready and start what the limits leave room for. Returns counts: planned, started and so on."""
    planned = plan(pipeline)
    return Counter(planned=planned) + start_planned(pipeline)


def start_planned(pipeline: Pipeline, *, budget_seconds: float = 20.0) -> Counter[str]:
    """Start planned jobs while the limits leave room. Returns counts: started, pushed_back, rejected.

    Waits for the pace of the service, but at most `budget_seconds` in all: the next event or sweep goes on from there.
    """
    settings, counts = pipeline.settings, Counter[str]()
    limits = chain.Limits(settings.max_jobs_in_flight, settings.job_starts_per_second)
    service = HealthImaging(pipeline)
    deadline = time.monotonic() + budget_seconds
    if pipeline.run_id:
        chain.recover(pipeline.index, service, silent_seconds=settings.claim_seconds, who=pipeline.run_id)
    while True:
        job = chain.claim(pipeline.index, SERVICE, limits, pipeline.run_id or "")
        if job is None:
            return counts
        if isinstance(job, float):
            if time.monotonic() + job > deadline:
                return counts
            time.sleep(job)
            continue
        if not job.in_place:
            counts["gone"] += stage(pipeline, job)
        try:
            job_id = chain.start(pipeline.index, service, job)
        except chain.RejectedError as error:
            _reject(pipeline, job, str(error))
            counts["rejected"] += 1
            continue
        counts["started" if job_id else "pushed_back"] += 1
        if not job_id:
            return counts


def stage(pipeline: Pipeline, job: chain.Job) -> int:
    """Copy a job's objects, server-side, under its prefix. Returns how many were gone, which are then set failed.

    Repeating it writes the same keys again. A copy is named by the object's id: a sender's key may name a patient.
    """
    table = catalog.objects
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.object_id, table.c.bucket, table.c.key, table.c.version_id, table.c.size_bytes)
        rows = connection.execute(
            query.where(table.c.job_key == job.job_key, table.c.state == ObjectState.IMPORTING)
        ).all()

    def copy(row: sa.Row[tuple[str, str, str, str | None, int]]) -> str | None:
        source = {"Bucket": row.bucket, "Key": row.key} | ({"VersionId": row.version_id} if row.version_id else {})
        target = {"Bucket": pipeline.settings.staging_bucket, "Key": f"{job.job_key}/{row.object_id}"}
        try:
            if row.size_bytes > 5 * 2**30:
                # CopyObject ends at 5 GB ("Copying objects", S3 user guide); the transfer manager copies in parts.
                pipeline.aws.s3.copy(source, target["Bucket"], target["Key"])  # type: ignore[arg-type]
            else:
                pipeline.aws.s3.copy_object(CopySource=source, MetadataDirective="REPLACE", **target)  # type: ignore[arg-type]
        except ClientError as error:
            if error_code(error) in GONE:
                return str(row.object_id)
            raise
        return None

    with ThreadPoolExecutor(pipeline.settings.copy_threads) as pool:
        gone = [object_id for object_id in pool.map(copy, rows) if object_id]
    if gone:
        with pipeline.index.commit(kind="gone", run_id=pipeline.run_id) as commit:
            change = (
                table.update()
                .where(table.c.object_id == sa.bindparam("which"))
                .values(
                    changed_seq=commit.seq,
                    state=ObjectState.FAILED,
                    state_since=now(),
                    reason_code=Reason.OBJECT_GONE,
                    reason_text="gone from the landing bucket before it was copied",
                )
            )
            commit.connection.execute(change, [{"which": object_id} for object_id in gone])
    return len(gone)


def _reject(pipeline: Pipeline, job: chain.Job, text: str) -> None:
    """A start that the service refuses ends the job as failed; settling gives its objects another way or a reason."""
    report = chain.Report(job.job_id or "", "REJECTED", ended=True, ended_at=None, message=text, output_folder=None)
    chain.ended(pipeline.index, job, report)


class HealthImaging:
    """AWS HealthImaging as a service of the chain."""

    name = SERVICE

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def start(self, job: chain.Job) -> str:
        """StartDICOMImportJob. The job's name is its key, which holds nothing of a patient."""
        imaging, settings = self._pipeline.aws.imaging, self._pipeline.settings
        try:
            answer = imaging.start_dicom_import_job(
                jobName=job.job_key,
                datastoreId=job.datastore_id,
                dataAccessRoleArn=settings.import_role_arn,
                clientToken=job.client_token or job.job_key,
                inputS3Uri=job.input_uri,
                outputS3Uri=job.output_uri,
            )
        except ClientError as error:
            if error_code(error) in THROTTLED | {"ServiceQuotaExceededException", "ConflictException"}:
                raise chain.BackPressureError(error_code(error)) from error
            if error_code(error) == "ValidationException":
                raise chain.RejectedError(str(error)) from error
            raise
        return answer["jobId"]

    def find(self, job: chain.Job) -> str | None:
        """ListDICOMImportJobs, looking for the job's name among those submitted since it was claimed."""
        pages = self._pipeline.aws.imaging.get_paginator("list_dicom_import_jobs")
        for page in pages.paginate(datastoreId=job.datastore_id):
            for summary in page["jobSummaries"]:
                if summary["jobName"] == job.job_key:
                    return summary["jobId"]
        return None

    def describe(self, job_id: str) -> chain.Report | None:
        """GetDICOMImportJob. Its output URI already ends in the job's own folder."""
        try:
            answer = self._pipeline.aws.imaging.get_dicom_import_job(
                datastoreId=self._pipeline.settings.datastore_id, jobId=job_id
            )
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return None
            raise
        job = answer["jobProperties"]
        status = job["jobStatus"]
        folder = job["outputS3Uri"]
        return chain.Report(
            job_id,
            status,
            ended=status in {"COMPLETED", "FAILED"},
            ended_at=job.get("endedAt"),
            message=job.get("message"),
            output_folder=folder if folder.endswith("/") else folder + "/",
        )
