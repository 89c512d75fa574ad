"""What lies below the prefix of an import job: copies of its objects, or their folder as it lies.

Belongs here: copying, and making sure of a folder. Does not belong here: what shares a job (`ahi.imports`), and the
chain (`ahi.chain`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError

from ahi.aws import FORBIDDEN, GONE, error_code, is_transient
from ahi.clock import now
from ahi.index import catalog, catalog_archives
from ahi.index.catalog import JobState, ObjectState
from ahi.ledger import NO_JOB
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from boto3.s3.transfer import TransferConfig

    from ahi import chain
    from ahi.errors import Troubles
    from ahi.pipeline import Pipeline

MOST_COPY_BYTES = 5 * 2**30
"""CopyObject ends there ("Copying objects", S3 user guide); what is larger is copied in parts."""

PART_BYTES = 512 * 2**20
"""A part of such a copy: ten to twenty requests for what one job may hold, where the default would make a thousand."""

SURELY_REFUSED = (Reason.NOT_DICOM, Reason.EMPTY, Reason.BROKEN, Reason.NO_IDENTITY, Reason.NOT_AN_INSTANCE)
"""Failures of a header with which HealthImaging takes no file either. In a folder that is used as it lies they may
stay: the job has a failure line for each, and they remain failed."""


FEWEST_REFUSED = 2
"""Refused objects from which on their share says anything: of a job of one object, one is always all."""

MOST_TROUBLED = 20
"""Objects of a job that S3 does not copy for the moment from which on it is S3's trouble: no more are tried."""

FEWEST_TRIES = 3
"""Times in a row that an object is tried, however long that takes, before it is failed for what may pass."""


@dataclass(frozen=True)
class _Row:
    """An object to copy."""

    object_id: str
    bucket: str
    key: str
    version_id: str | None
    etag: str | None
    size_bytes: int | None
    input_key: str


@dataclass(frozen=True)
class _Failure:
    """One that was not copied, for good."""

    object_id: str
    reason: Reason
    text: str
    error: BotoCoreError | ClientError
    may_pass: bool = False
    """By itself: it is tried again before it is failed."""


def stage(
    pipeline: Pipeline,
    job: chain.Job,
    *,
    troubles: Troubles | None = None,
    stands: Callable[[], bool] = lambda: True,
) -> int:
    """Copy a job's objects, server-side, under its prefix. Returns how many could not be, which are failed from now on.

    Repeating it writes the same keys again. A copy is named by number and object id: a sender's key may name a patient.

    Args:
        pipeline: The pipeline.
        job: Claimed.
        troubles: Which objects S3 does not copy for the moment, and since when: a few of them are failed at last.
            None: all are waited for.
        stands: Whether the claim does; once it does not, nothing more is copied and nothing is failed.

    Raises:
        BotoCoreError, ClientError: S3 fails, or refuses more than half of several objects: that is no single object's
            doing, unless a person has said so.
    """
    table = catalog.objects
    columns = [table.c[name] for name in _Row.__dataclass_fields__]
    query = sa.select(*columns).where(table.c.job_key == job.job_key, table.c.state == ObjectState.IMPORTING)
    with pipeline.index.engine.connect() as connection:
        rows = [_Row(**row) for row in connection.execute(query).mappings()]
    with ThreadPoolExecutor(pipeline.settings.copy_threads) as pool:
        waiting = list[_Failure]()
        outcomes = list(pool.map(lambda row: _copy_unless(pipeline, row, waiting, stands), rows))
    if not stands():
        return 0
    at_last = _past_help(troubles, rows, outcomes, waiting)
    if len(at_last) < len(waiting):
        raise next(one for one in waiting if one not in at_last).error
    failures = [failure for failure in outcomes if failure]
    refused = [failure for failure in failures if failure.reason is not Reason.OBJECT_GONE]
    if are_most(len(refused), len(rows)) and not is_set_down(pipeline, job.shard_key):
        raise refused[0].error
    if failures:
        with pipeline.index.commit(kind="gone", run_id=pipeline.run_id) as commit:
            # Where the claim was lost, the object may be further on by now.
            waits = (table.c.job_key == job.job_key, table.c.state == ObjectState.IMPORTING)
            change = table.update().where(table.c.object_id == sa.bindparam("which"), *waits)
            change = change.values(changed_seq=commit.seq, state=ObjectState.FAILED, state_since=now())
            change = change.values(reason_code=sa.bindparam("code"), reason_text=sa.bindparam("text"))
            rows_ = [{"which": one.object_id, "code": one.reason, "text": one.text} for one in failures]
            commit.connection.execute(change, rows_)
    return len(failures)


def are_most(refused: int, number: int) -> bool:
    """Whether S3 refuses so many of some objects that it is no single object's doing."""
    return refused >= FEWEST_REFUSED and 2 * refused > number


def is_set_down(pipeline: Pipeline, shard_key: str | None) -> bool:
    """Whether a person has said that what is refused of a shard fails (`ahi archive retry --set-down`)."""
    if shard_key is None:
        return False
    table = catalog_archives.archive_shards
    with pipeline.index.engine.connect() as connection:
        return bool(connection.scalar(sa.select(table.c.set_down_at).where(table.c.shard_key == shard_key)))


def _copy_unless(pipeline: Pipeline, row: _Row, waiting: list[_Failure], stands: Callable[[], bool]) -> _Failure | None:
    """Copy an object, unless nobody needs it now. What S3 does not copy for the moment is in `waiting`, too."""
    if not stands() or len(waiting) >= MOST_TROUBLED:
        return None
    failure = _copy(pipeline, row)
    if failure and failure.may_pass:
        waiting.append(failure)
    return failure


def _past_help(
    troubles: Troubles | None, rows: Sequence[_Row], outcomes: Sequence[_Failure | None], waiting: Sequence[_Failure]
) -> list[_Failure]:
    """Those of the objects that S3 does not copy for the moment that have been waited for: none while they are many."""
    if troubles is None or len(waiting) >= MOST_TROUBLED:
        return []
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome is None:
            troubles.forget(row.object_id)
    for one in waiting:
        troubles.note(one.object_id)
    return [one for one in waiting if troubles.is_past_help(one.object_id, fewest_times=FEWEST_TRIES)]


def _copy(pipeline: Pipeline, row: _Row) -> _Failure | None:
    source = {"Bucket": row.bucket, "Key": row.key} | ({"VersionId": row.version_id} if row.version_id else {})
    target = {"Bucket": pipeline.settings.staging_bucket, "Key": row.input_key}
    # Neither metadata nor tags come along: they are the sender's, and may say anything.
    once = {"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE"}
    if row.etag and not row.version_id:
        # Without a version, what lies there now may be another object than the one whose header was read.
        once["CopySourceIfMatch"] = row.etag
    try:
        if (row.size_bytes or 0) > MOST_COPY_BYTES:
            pipeline.aws.s3.copy(source, target["Bucket"], target["Key"], ExtraArgs=once, Config=_in_parts())  # type: ignore[arg-type]
        else:
            pipeline.aws.s3.copy_object(CopySource=source, **once, **target)  # type: ignore[arg-type]
    except (BotoCoreError, ClientError) as error:
        code = error_code(error) or type(error).__name__
        if code in GONE or code in ("PreconditionFailed", "412"):
            text = "gone from its bucket, or overwritten there, before it was copied"
            return _Failure(row.object_id, Reason.OBJECT_GONE, text, error)
        may_pass = is_transient(error)
        if not may_pass and not isinstance(error, ClientError):
            raise
        reason = Reason.ACCESS_DENIED if code in FORBIDDEN else Reason.UNREADABLE
        return _Failure(row.object_id, reason, f"S3 refused to copy it: {code}", error, may_pass=may_pass)
    return None


def _in_parts() -> TransferConfig:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MOST_COPY_BYTES, multipart_chunksize=PART_BYTES)


def as_planned(pipeline: Pipeline, job: chain.Job) -> chain.Job:
    """A claimed job on an archive's folder, if that still holds just what the job is about; else the job by copies.

    A job in place imports whatever lies there, and it may have been planned days ago.
    """
    if not job.in_place or job.shard_key is None:
        return job
    table = catalog.objects
    query = sa.select(table.c.key, table.c.etag).where(table.c.job_key == job.job_key)
    with pipeline.index.engine.connect() as connection:
        expected = {(row.key, row.etag) for row in connection.execute(query)}
    bucket, _, prefix = job.input_uri.removeprefix("s3://").partition("/")
    return job if holds(pipeline, bucket, prefix, expected) else _by_copies(pipeline, job)


def holds(pipeline: Pipeline, bucket: str, prefix: str, expected: set[tuple[str, str | None]]) -> bool:
    """Whether a folder holds these keys with these entity tags, and nothing else. Raises what may pass by itself."""
    found = set[tuple[str, str | None]]()
    try:
        for page in pipeline.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            found |= {(entry["Key"], entry["ETag"].strip('"')) for entry in page.get("Contents", [])}
            if len(found) > len(expected):
                return False
    except ClientError as error:
        if is_transient(error):
            raise
        return False  # the copies will say what S3 refuses
    return found == expected


def _by_copies(pipeline: Pipeline, job: chain.Job) -> chain.Job:
    """Make a claimed job in place one by copies; what failed by its header has no part in it any more."""
    jobs, objects = catalog.jobs, catalog.objects
    source = f"s3://{pipeline.settings.staging_bucket}/{job.job_key}/"
    mine = sa.and_(objects.c.job_key == job.job_key, objects.c.state == ObjectState.IMPORTING)
    with pipeline.index.commit(kind="planned", run_id=pipeline.run_id) as commit:
        connection = commit.connection
        ids = connection.execute(sa.select(objects.c.object_id).where(mine).order_by(objects.c.key)).scalars().all()
        held = sa.and_(
            jobs.c.job_key == job.job_key, jobs.c.state == JobState.CLAIMED, jobs.c.claimed_by == job.claimed_by
        )
        values = {"in_place": False, "input_uri": source, "n_objects": len(ids)}
        if not connection.execute(jobs.update().where(held).values(**values)).rowcount:
            return job  # somebody else has taken over the claim, which the start will notice
        change = objects.update().where(objects.c.object_id == sa.bindparam("which"))
        rows = [{"which": one, "where": copy_key(job.job_key, number, one)} for number, one in enumerate(ids)]
        if rows:
            connection.execute(change.values(input_key=sa.bindparam("where"), changed_seq=commit.seq), rows)
        others = sa.and_(objects.c.job_key == job.job_key, objects.c.state == ObjectState.FAILED)
        connection.execute(objects.update().where(others).values(**NO_JOB, changed_seq=commit.seq))
    return replace(job, in_place=False, input_uri=source, n_objects=len(ids))


def copy_key(job_key: str, number: int, object_id: str) -> str:
    """Key of a copy, with its place in the job in front.

    HealthImaging takes a prefix in the order of its keys, and of what contradicts itself the first comes out primary:
    so that is the first to arrive, not the one whose id happens to be smallest.
    """
    return f"{job_key}/{number:05d}-{object_id}"
