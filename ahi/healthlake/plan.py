"""From NDJSON files in S3 to batches: what goes in, at which versions, in which order.

Belongs here: listing a prefix, splitting files on line borders, packing parts within the limits, and writing the plan
down. Does not belong here: reading what is in the lines (`ahi.healthlake.freeze`).
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import ClientError
from more_itertools import chunked, constrained_batches

from ahi.aws import FORBIDDEN, GONE, error_code
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.healthlake import audit
from ahi.healthlake.audit import Entry, What
from ahi.index.catalog_fhir import BatchState, Policy, fhir_batches, fhir_files, fhir_imports, fhir_parts

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from ahi.pipeline import Pipeline

BLOCK = 2**20
"""Bytes read at a time in search of the end of a line."""

SUFFIX = ".ndjson"
"""Files of any other name are left out, compressed ones too; upper case will do."""

HISTORY, INDEX = "history", "index"


@dataclass(frozen=True)
class SourceFile:
    """One object version with NDJSON."""

    bucket: str
    key: str
    version_id: str | None
    etag: str
    size_bytes: int
    received_at: dt.datetime

    @property
    def file_id(self) -> str:
        """Digest of bucket, key and version, or of the ETag where versions are off."""
        version = self.version_id or f"etag:{self.etag}"
        return hashlib.sha256(f"{self.bucket}\0{self.key}\0{version}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Part:
    """Bytes of a file from the start of a line to the end of a line."""

    file: SourceFile
    first_byte: int
    end_byte: int

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return self.end_byte - self.first_byte


@dataclass(frozen=True)
class Terms:
    """How the batches of an import go in."""

    policy: Policy = Policy.STOP
    stop_ratio: float = 0.0
    is_ordered: bool = True
    priority: int = 0
    files_per_batch: int | None = None
    bytes_per_batch: int | None = None


@dataclass(frozen=True)
class Planned:
    """What a planning made."""

    import_id: str
    batch_ids: tuple[str, ...]
    n_files: int
    n_bytes: int
    n_known: int
    """Files that an earlier import has, at the same version, and that did not fail there."""
    n_skipped: int
    """Objects that are not `.ndjson`, or empty."""


def plan_import(pipeline: Pipeline, source_uri: str, terms: Terms) -> Planned:
    """Plan every NDJSON file below a prefix that no import has yet. Files go in by their keys, in order.

    Raises:
        PermanentError: No data store is set, the address is none of S3, or there is no such bucket.
    """
    datastore(pipeline)
    files, skipped = list_files(pipeline, source_uri)
    known = _known(pipeline, [file.file_id for file in files])
    new = [file for file in files if file.file_id not in known]
    settings = pipeline.settings
    failed = _failed_parts(pipeline, new)
    parts = (
        part for file in new for part in failed.get(file.file_id) or split(pipeline, file, settings.fhir_bytes_per_file)
    )
    most_bytes = min(terms.bytes_per_batch or settings.fhir_bytes_per_job, settings.fhir_bytes_per_job)
    most_files = min(terms.files_per_batch or settings.fhir_files_per_job, settings.fhir_files_per_job)
    groups = constrained_batches(parts, most_bytes, most_files, get_len=lambda part: part.n_bytes, strict=False)
    batches = [list(group) for group in groups]
    import_id = f"{now():%Y%m%d}-{uuid.uuid4().hex[:6]}"
    n_bytes = sum(part.n_bytes for group in batches for part in group)
    if not batches:
        return Planned(import_id, (), 0, 0, len(known), skipped)
    with pipeline.index.transaction() as connection:
        if _known_in(connection, [file.file_id for file in new]):
            raise PermanentError("Another import has planned some of these files just now: run the command again.")
        open_import(connection, pipeline, import_id, HISTORY, terms, source_uri)
        _enter_files(connection, import_id, new)
        ids = tuple(
            add_batch(connection, import_id, group, number=number, priority=terms.priority)
            for number, group in enumerate(batches, 1)
        )
    return Planned(import_id, ids, len(new), n_bytes, len(known), skipped)


def datastore(pipeline: Pipeline) -> str:
    """The HealthLake data store. Raises PermanentError with the variable to set when there is none."""
    if not pipeline.settings.fhir_datastore_id:
        raise PermanentError("AHI_FHIR_DATASTORE_ID is not set: make a HealthLake data store, or run `make up`")
    return pipeline.settings.fhir_datastore_id


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key or prefix. Raises PermanentError when it is no address of S3."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise PermanentError("The source is an address such as s3://bucket/history/")
    return bucket, key


def list_files(pipeline: Pipeline, source_uri: str) -> tuple[list[SourceFile], int]:
    """NDJSON files below a prefix at their present versions, by key, and how many other objects there are."""
    bucket, prefix = split_uri(source_uri)
    found, skipped = list[SourceFile](), 0
    try:
        for page in pipeline.aws.s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Versions", []):
                if not entry["IsLatest"] or entry["Key"].endswith("/"):
                    continue
                if not entry["Key"].lower().endswith(SUFFIX) or not entry["Size"]:
                    skipped += 1
                    continue
                version = entry.get("VersionId")
                version = version if version and version != "null" else None
                etag = entry["ETag"].strip('"')
                found.append(SourceFile(bucket, entry["Key"], version, etag, entry["Size"], entry["LastModified"]))
    except ClientError as error:
        if error_code(error) in GONE | {"NoSuchBucket"}:
            raise PermanentError(f"There is no bucket {bucket}.") from None
        if error_code(error) in FORBIDDEN:
            text = "give the pipeline's role FhirReadPolicyArn of the stack, made with FhirBucketArns"
            raise PermanentError(f"The bucket {bucket} may not be listed ({error_code(error)}): {text}.") from None
        raise
    return sorted(found, key=lambda file: file.key), skipped


def split(pipeline: Pipeline, file: SourceFile, limit: int) -> Iterator[Part]:
    """Parts of a file of at most `limit` bytes, each ending with a line; a longer line is a part of its own."""
    first = 0
    while file.size_bytes - first > limit:
        end = _border(pipeline, file, first, first + limit)
        yield Part(file, first, end)
        first = end
    if first < file.size_bytes:
        yield Part(file, first, file.size_bytes)


def _border(pipeline: Pipeline, file: SourceFile, first: int, wanted: int) -> int:
    """The last end of a line up to `wanted`, or else the first one after it."""
    at = wanted
    while at > first:
        start = max(first, at - BLOCK)
        place = read_range(pipeline, file, start, at).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        at = start
    at = wanted
    while at < file.size_bytes:
        place = read_range(pipeline, file, at, min(at + BLOCK, file.size_bytes)).find(b"\n")
        if place >= 0:
            return at + place + 1
        at += BLOCK
    return file.size_bytes


def read_range(pipeline: Pipeline, file: SourceFile, start: int, end: int) -> bytes:
    """Bytes of exactly this version of a file."""
    return pipeline.aws.s3.get_object(**exact(file), Range=f"bytes={start}-{end - 1}")["Body"].read()  # type: ignore[arg-type]


def exact(file: SourceFile) -> dict[str, str]:
    """Arguments of a read that gives this version or fails: where versions are off, the ETag must be the same."""
    which = {"VersionId": file.version_id} if file.version_id else {"IfMatch": file.etag}
    return {"Bucket": file.bucket, "Key": file.key, **which}


def open_import(
    connection: sa.Connection, pipeline: Pipeline, import_id: str, origin: str, terms: Terms, source: str | None = None
) -> None:
    """Enter a chain of batches, unless it is there."""
    if connection.execute(sa.select(fhir_imports.c.import_id).where(fhir_imports.c.import_id == import_id)).first():
        return
    row = {
        "import_id": import_id,
        "origin": origin,
        "source_uri": source,
        "datastore_id": datastore(pipeline),
        "validation_level": pipeline.settings.fhir_validation_level,
        "policy": terms.policy,
        "stop_ratio": terms.stop_ratio,
        "is_ordered": terms.is_ordered,
        "created_at": now(),
    }
    connection.execute(fhir_imports.insert().values(row))


def add_batch(
    connection: sa.Connection,
    import_id: str,
    parts: Sequence[Part],
    *,
    number: int,
    priority: int = 0,
    position: float | None = None,
    received_at: dt.datetime | None = None,
    **more: object,
) -> str:
    """Enter a batch with its parts at its place in the chain. Returns its id."""
    batch_id, moment = f"{import_id}-{number:05d}", now()
    received = received_at or min(part.file.received_at for part in parts)
    row = {
        "batch_id": batch_id,
        "import_id": import_id,
        "state": BatchState.PLANNED,
        "position": float(number) if position is None else position,
        "priority": priority,
        "received_at": received,
        "planned_at": moment,
        "n_files": len(parts),
        "n_bytes": sum(part.n_bytes for part in parts),
        **more,
    }
    connection.execute(fhir_batches.insert().values(row))
    rows = [
        {"batch_id": batch_id, "number": n, "file_id": part.file.file_id, "first_byte": part.first_byte,
         "end_byte": part.end_byte}
        for n, part in enumerate(parts)
    ]  # fmt: skip
    if rows:
        connection.execute(fhir_parts.insert(), rows)
    entries = [Entry(What.RECEIVED, received, batch_id), Entry(What.PLANNED, moment, batch_id)]
    audit.note(connection, entries)
    return batch_id


def _enter_files(connection: sa.Connection, import_id: str, files: Sequence[SourceFile]) -> None:
    moment = now()
    for some in chunked(files, 500):
        # A file whose batch failed before has a row: it is of this import now.
        connection.execute(fhir_files.delete().where(fhir_files.c.file_id.in_([file.file_id for file in some])))
        rows = [{**vars(f), "file_id": f.file_id, "import_id": import_id, "planned_at": moment} for f in some]
        connection.execute(fhir_files.insert(), rows)
        received = (Entry(What.RECEIVED, file.received_at, file_id=file.file_id) for file in some)
        planned = (Entry(What.PLANNED, moment, file_id=file.file_id) for file in some)
        audit.note(connection, [*received, *planned])


def _failed_parts(pipeline: Pipeline, files: Sequence[SourceFile]) -> dict[str, list[Part]]:
    """Parts of files that an import has, whose batches failed in it: the others are in, or on their way."""
    found, by_id = dict[str, list[Part]](), {file.file_id: file for file in files}
    query = sa.select(fhir_parts).join(fhir_files, fhir_files.c.file_id == fhir_parts.c.file_id)
    query = query.join(fhir_batches, fhir_batches.c.batch_id == fhir_parts.c.batch_id)
    query = query.where(fhir_batches.c.state == BatchState.FAILED, fhir_batches.c.import_id == fhir_files.c.import_id)
    with pipeline.index.engine.connect() as connection:
        for some in chunked(by_id, 500):
            mine = query.where(fhir_parts.c.file_id.in_(some)).order_by(fhir_parts.c.first_byte)
            for row in connection.execute(mine):
                part = Part(by_id[row.file_id], row.first_byte, row.end_byte)
                found.setdefault(row.file_id, []).append(part)
    return found


def _known(pipeline: Pipeline, file_ids: Sequence[str]) -> set[str]:
    with pipeline.index.engine.connect() as connection:
        return _known_in(connection, file_ids)


def _known_in(connection: sa.Connection, file_ids: Sequence[str]) -> set[str]:
    """Those that an import has, unless a batch of theirs failed in it: what did not go in may be imported again."""
    table, found = fhir_files, set[str]()
    failed = (
        sa.exists()
        .where(fhir_parts.c.file_id == table.c.file_id, fhir_parts.c.batch_id == fhir_batches.c.batch_id)
        .where(fhir_batches.c.import_id == table.c.import_id, fhir_batches.c.state == BatchState.FAILED)
    )
    for some in chunked(file_ids, 500):
        query = sa.select(table.c.file_id).where(table.c.file_id.in_(some), sa.not_(failed))
        found |= set(connection.execute(query).scalars())
    return found
