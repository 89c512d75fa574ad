"""Upload batches into the ledger: what landed, read by its header.

Belongs here: one inbox batch of the upload queue, from messages to one commit. Does not belong here: the header
reader (`ahi.dicom.headers`) and what becomes of ready objects (`ahi.imports`).
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError, ParamValidationError

from ahi import inbox, ledger, quarantine
from ahi.aws import FORBIDDEN, GONE, error_code, is_transient
from ahi.clock import now
from ahi.collector import collector_paused
from ahi.dicom.headers import Header, HeaderFailure, read_header
from ahi.events import AssociationClosed, ObjectCreated, ObjectRemoved, Unreadable, Upload, parse_upload
from ahi.header_rows import Headed, header_rows
from ahi.index.catalog import ObjectState
from ahi.index.store import AlreadyCommittedError
from ahi.modalities import modality_shown
from ahi.patients import patient_key_of
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ahi.inbox import Batch
    from ahi.index.columnar import Rows
    from ahi.pipeline import Pipeline


@dataclass
class UploadReport:
    """What one upload batch did, in numbers. Holds nothing of a patient."""

    already_committed: bool = False
    messages: int = 0
    objects: int = 0
    duplicates: int = 0
    bytes_landed: int = 0
    bytes_read: int = 0
    superseded: int = 0
    removed: int = 0
    released: int = 0
    quarantined: int = 0
    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)


@dataclass
class _Contents:
    created: dict[str, ObjectCreated] = field(default_factory=dict)
    event_ids: dict[str, str] = field(default_factory=dict)
    """Message that announced an object; none of those that a listing found."""
    removed: list[ObjectRemoved] = field(default_factory=list)
    closed: list[AssociationClosed] = field(default_factory=list)
    quarantined: list[quarantine.Item] = field(default_factory=list)


class S3Bytes:
    """One object version as a source of ranged GETs (`GetObject` with `Range`)."""

    def __init__(self, pipeline: Pipeline, item: ObjectCreated) -> None:
        self._s3 = pipeline.aws.s3
        self._where = {"Bucket": item.bucket, "Key": item.key}
        if item.version_id and item.version_id != "null":
            self._where["VersionId"] = item.version_id
        self._item = item
        self._size = item.size

    @property
    def size(self) -> int:
        """Bytes of the object, from its event or else asked for once."""
        if self._size is None:
            self._size = self._s3.head_object(**self._where)["ContentLength"]  # type: ignore[arg-type]
        return self._size

    def read(self, start: int, length: int) -> bytes:
        """Bytes from `start`, fewer at the end of the object."""
        if length <= 0 or start >= self.size:
            return b""
        span = f"bytes={start}-{min(start + length, self.size) - 1}"
        return self._s3.get_object(Range=span, **self._where)["Body"].read()  # type: ignore[arg-type]


def process(pipeline: Pipeline, batch: Batch) -> UploadReport:
    """Enter everything one batch announces. A replay changes nothing.

    Raises what S3 raises beyond "gone" and "forbidden": nothing of the batch is entered then; it is asked for again.
    """
    messages = inbox.read(pipeline, batch)
    contents = _parse(pipeline, batch, messages)
    for closed in contents.closed:
        # An event's own times and order win over the listing's.
        contents.created = _lying_under(pipeline, closed) | contents.created
    with pipeline.index.engine.connect() as connection:
        known = ledger.known(connection, contents.created)
    fresh = {object_id: item for object_id, item in contents.created.items() if object_id not in known}
    report = UploadReport(messages=len(messages), duplicates=len(contents.created) - len(fresh))
    rows, headers = _read(pipeline, batch, fresh, report)
    try:
        _commit(pipeline, batch, contents, rows, headers, report)
    except AlreadyCommittedError:
        return UploadReport(already_committed=True, messages=len(messages))
    return report


def _parse(pipeline: Pipeline, batch: Batch, messages: Sequence[inbox.Message]) -> _Contents:
    contents = _Contents()
    for message in messages:
        for item in parse_upload(message.body):
            found = _admit(pipeline, item)
            match found:
                case ObjectCreated():
                    object_id = ledger.object_id_of(found.bucket, found.key, found.version_id, found.etag)
                    contents.created[object_id] = found
                    contents.event_ids[object_id] = message.message_id
                case ObjectRemoved():
                    contents.removed.append(found)
                case AssociationClosed():
                    contents.closed.append(found)
                case Unreadable():
                    evidence = f"{batch.object_key}#{message.message_id}"
                    contents.quarantined.append(quarantine.Item("uploads", found.reason, found.text, evidence))
    return contents


def _admit(pipeline: Pipeline, item: Upload) -> Upload:
    """The item, unless it is of another bucket or would close what is not an association."""
    settings = pipeline.settings
    if not isinstance(item, Unreadable) and item.bucket != settings.landing_bucket:
        return Unreadable(Reason.UNKNOWN_BUCKET, "an event of another bucket")
    if isinstance(item, AssociationClosed) and not item.prefix.startswith(settings.association_prefix):
        return Unreadable(Reason.MANIFEST_NOT_UNDERSTOOD, f"its prefix is not under {settings.association_prefix}")
    return item


def _lying_under(pipeline: Pipeline, closed: AssociationClosed) -> dict[str, ObjectCreated]:
    """What S3 has under a closed prefix: an event of one of its objects may be late or lost."""
    return {
        ledger.object_id_of(item.bucket, item.key, item.version_id, item.etag): item
        for item in listing(pipeline, closed.bucket, closed.prefix)
    }


def listing(pipeline: Pipeline, bucket: str, prefix: str = "") -> Iterator[ObjectCreated]:
    """The current object versions under a prefix (`ListObjectVersions`), page by page."""
    for page in pipeline.aws.s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Versions", []):
            if entry["IsLatest"] and not entry["Key"].endswith("/"):
                version, etag = entry.get("VersionId"), entry["ETag"].strip('"')
                yield ObjectCreated(bucket, entry["Key"], version, etag, entry["Size"], "", entry["LastModified"])


def _read(
    pipeline: Pipeline, batch: Batch, fresh: Mapping[str, ObjectCreated], report: UploadReport
) -> tuple[list[dict[str, object]], Rows]:
    """Ledger rows and header rows of new objects, their headers read side by side."""
    with ThreadPoolExecutor(pipeline.settings.header_threads) as pool:
        outcomes = pool.map(lambda item: _outcome(pipeline, item), fresh.values())
        return rows_of(pipeline, batch, fresh, outcomes, report)


def rows_of(
    pipeline: Pipeline,
    batch: Batch,
    fresh: Mapping[str, ObjectCreated],
    outcomes: Iterable[Header | HeaderFailure],
    report: UploadReport,
) -> tuple[list[dict[str, object]], Rows]:
    """Ledger rows and header rows of objects by id, from what reading their headers gave, in the same order."""
    rows, headers = list[dict[str, object]](), list[Headed]()
    with collector_paused():
        for (object_id, item), outcome in zip(fresh.items(), outcomes, strict=True):
            row = _row(pipeline, batch, object_id, item, outcome)
            rows.append(row)
            if isinstance(outcome, Header):
                headers.append(Headed(object_id, item, outcome))
                report.modalities[modality_shown(row["Modality"])] += 1
            report.states[str(row["state"])] += 1
            report.bytes_landed += item.size or 0
            report.bytes_read += outcome.bytes_read
            if row["reason_code"]:
                report.reasons[str(row["reason_code"])] += 1
        report.objects = len(rows)
        stamp = {"received_at": batch.received_at, "indexed_at": now(), "dagster_run_id": pipeline.run_id}
        return rows, header_rows(headers, patient_key_of(pipeline), stamp)


def _outcome(pipeline: Pipeline, item: ObjectCreated) -> Header | HeaderFailure:
    try:
        return read_header(S3Bytes(pipeline, item))
    except ClientError as error:
        if error_code(error) in GONE:
            return HeaderFailure(Reason.OBJECT_GONE, "not in the bucket when its header was read", 0)
        if error_code(error) in FORBIDDEN:
            return HeaderFailure(Reason.ACCESS_DENIED, "S3 refused to let us read it", 0)
        if is_transient(error):
            raise
        # One object that S3 will not give (archived, another's encryption key) must not hold up its batch.
        return HeaderFailure(Reason.UNREADABLE, f"S3 answered {error_code(error)}", 0)
    except ParamValidationError:
        return HeaderFailure(Reason.UNREADABLE, "S3 takes no such key or version", 0)


def _row(
    pipeline: Pipeline, batch: Batch, object_id: str, item: ObjectCreated, outcome: Header | HeaderFailure
) -> dict[str, object]:
    settings, moment = pipeline.settings, now()
    state, reason, text = ObjectState.READY, None, None
    if isinstance(outcome, HeaderFailure):
        state, reason, text = ObjectState.FAILED, outcome.reason, outcome.text
    elif outcome.pixel_complete is False:
        state, reason, text = ObjectState.FAILED, Reason.BROKEN_PIXELS, "the pixel data ends before its declared length"
    elif (item.size or 0) > settings.max_bytes_per_job:
        state, reason, text = ObjectState.FAILED, Reason.TOO_LARGE, "larger than an import job may be"
    elif settings.association_prefix and item.key.startswith(settings.association_prefix):
        state = ObjectState.HELD
    values = outcome.values if isinstance(outcome, Header) else {}
    identity = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "Manufacturer")
    return {
        "object_id": object_id,
        "bucket": item.bucket,
        "key": item.key,
        "version_id": item.version_id,
        "etag": item.etag,
        "size_bytes": item.size,
        "sequencer": item.sequencer,
        "state": state,
        "state_since": moment,
        "reason_code": reason,
        "reason_text": text,
        **{name: values.get(name) for name in identity},
        "TransferSyntaxUID": outcome.transfer_syntax if isinstance(outcome, Header) else None,
        "attempts": 0,
        "batch_id": batch.batch_id,
        "day": batch.day,
        "landed_at": item.at or batch.received_at,
        "received_at": batch.received_at,
    }


def _commit(
    pipeline: Pipeline,
    batch: Batch,
    contents: _Contents,
    rows: list[dict[str, object]],
    headers: Rows,
    report: UploadReport,
) -> None:
    """Make the batch true: ledger, headers, quarantine, consumed, all or nothing."""
    file = pipeline.index.write("headers", headers, batch_id=batch.batch_id)
    files = [file] if file else []
    commit_ = pipeline.index.commit(batch_id=batch.batch_id, kind="uploads", run_id=pipeline.run_id, files=files)
    with commit_ as commit:
        # Another batch may have entered some of them since we looked: their rows count, ours do not.
        taken = ledger.known(commit.connection, [str(row["object_id"]) for row in rows])
        commit.discard("headers", sorted(taken))
        stamp = {"header_at": commit.committed_at, "header_seq": commit.seq}
        entered = [
            {**row, **stamp, "event_id": contents.event_ids.get(str(row["object_id"]))}
            for row in rows
            if row["object_id"] not in taken
        ]
        report.superseded = ledger.enter(commit, entered)
        report.duplicates += len(taken)
        report.removed = ledger.remove(commit, contents.removed)
        for closed in contents.closed:
            stated = closed.n_objects
            report.released += ledger.release(commit, closed.bucket, closed.prefix, association=True, stated=stated)
        report.quarantined = quarantine.enter(commit.connection, contents.quarantined, batch.batch_id)
        inbox.consume(commit.connection, batch, commit.seq)
