"""The keys of an archive from an S3 Inventory report ("Locating your inventory list", S3 user guide).

Belongs here: finding a report, checking that it is whole, reading its files, CSV or Parquet. Does not belong here:
keeping what was read (`inventory`).

A report is `manifest.json` with `manifest.checksum` beside it, and files that the manifest names with their MD5. It
names current objects only, or every version with `IsLatest` and `IsDeleteMarker`; of those the current ones count.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_plus

from botocore.exceptions import ClientError

from ahi.archive import parts
from ahi.archive.archives import split_uri
from ahi.aws import GONE, error_code
from ahi.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    import pyarrow as pa
    import pyarrow.compute as pc

    from ahi.archive.archives import Archive
    from ahi.pipeline import Pipeline

ROWS = 50_000
"""Rows of a report's file in memory at a time."""

TIERED = "INTELLIGENT_TIERING"
ARCHIVE_TIERS = ("ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE", "DEEP_ARCHIVE_ACCESS")
"""Tiers of that storage class that have to be restored first, in the words of S3 Inventory and of `HeadObject`."""

_PARQUET = {"e_tag": "etag", "size": "size_bytes", "last_modified_date": "last_modified"}
_PARQUET |= {"intelligent_tiering_access_tier": "tier"}
_CSV = {
    "Bucket": "bucket",
    "Key": "key",
    "VersionId": "version_id",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size_bytes",
    "LastModifiedDate": "last_modified",
    "ETag": "etag",
    "StorageClass": "storage_class",
    "IntelligentTieringAccessTier": "tier",
}
_NEEDED = {"bucket", "key", "size_bytes", "last_modified", "etag"}


@dataclass(frozen=True)
class ReportFile:
    """One file of a report: a unit of a look."""

    bucket: str
    key: str
    md5: str
    kind: str
    """CSV or Parquet."""
    columns: str
    """Of CSV, which has no line for them: names in order."""


@dataclass(frozen=True)
class Report:
    """One report."""

    key: str
    as_of: dt.datetime
    files: list[ReportFile]


def newest_report(pipeline: Pipeline, archive: Archive) -> Report:
    """The report that an archive names, or the newest in the folder that it names, checked against its checksum.

    Raises:
        PermanentError: There is none, it is not whole, of another bucket, or lacks a column that is needed.
    """
    assert archive.report_uri
    bucket, key = split_uri(archive.report_uri)
    manifest = key if key.endswith(".json") else _newest_manifest(pipeline, bucket, key)
    body, checksum = _body(pipeline, bucket, manifest), _body(pipeline, bucket, manifest[:-5] + ".checksum")
    if hashlib.md5(body, usedforsecurity=False).hexdigest() != checksum.decode(errors="replace").strip():
        raise PermanentError("manifest.json of the inventory is not what manifest.checksum says: take another report")
    try:
        return _parse(bucket, manifest, json.loads(body), archive)
    except (ValueError, KeyError, TypeError) as error:
        raise PermanentError(f"manifest.json of the inventory is not understood: {type(error).__name__}") from None


def _newest_manifest(pipeline: Pipeline, bucket: str, folder: str) -> str:
    """Key of the newest `YYYY-MM-DDTHH-MMZ/manifest.json` of a report configuration whose checksum is there too."""
    prefix = folder if folder.endswith("/") or not folder else folder + "/"
    pages = pipeline.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    days = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
    for day in sorted((day for day in days if day.endswith("Z/")), reverse=True):
        # The checksum is written last: without it the report is still being written.
        if len(parts_of_day := _keys(pipeline, bucket, day)) > 1 and f"{day}manifest.checksum" in parts_of_day:
            return f"{day}manifest.json"
    raise PermanentError("No S3 Inventory report lies there: name a manifest.json, or the folder of its configuration")


def _keys(pipeline: Pipeline, bucket: str, prefix: str) -> set[str]:
    answer = pipeline.aws.s3.list_objects_v2(Bucket=bucket, Prefix=prefix)
    return {entry["Key"] for entry in answer.get("Contents", [])}


def _body(pipeline: Pipeline, bucket: str, key: str) -> bytes:
    try:
        return pipeline.aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error_code(error) in GONE:
            raise PermanentError(
                "The inventory report has no manifest.json, or no manifest.checksum beside it"
            ) from None
        raise


def _parse(bucket: str, key: str, manifest: dict[str, Any], archive: Archive) -> Report:
    if manifest["sourceBucket"] != archive.bucket:
        raise PermanentError("The inventory report is of another bucket than the archive")
    kind = manifest["fileFormat"]
    if kind not in ("CSV", "Parquet"):
        raise PermanentError(f"The inventory report is {kind}: have it written as Parquet or CSV")
    columns = manifest["fileSchema"] if kind == "CSV" else ""
    if kind == "CSV" and (missing := _NEEDED - {_CSV.get(name, name) for name in _names(columns)}):
        raise PermanentError(f"The inventory report lacks {', '.join(sorted(missing))}: add the fields to it")
    as_of = dt.datetime.fromtimestamp(int(manifest["creationTimestamp"]) / 1_000, dt.UTC)
    files = [ReportFile(bucket, file["key"], file["MD5checksum"], kind, columns) for file in manifest["files"]]
    return Report(key, as_of, files)


def _names(columns: str) -> list[str]:
    return [name.strip() for name in columns.split(",")]


def pages(pipeline: Pipeline, archive: Archive, file: ReportFile, after: str) -> Iterator[tuple[pa.Table, str]]:
    """Current objects of an archive in one file of a report, each page with the number of rows read so far.

    Args:
        pipeline: The pipeline.
        archive: The archive.
        file: The file.
        after: That number of the last page that was kept; what it covers is passed over.

    Raises:
        PermanentError: The file is not what the manifest says.
    """
    done, n_read = int(after or 0), 0
    with parts.scratch(pipeline) as folder:
        path = _download(pipeline, file, folder)
        for rows in _parquet_rows(path) if file.kind == "Parquet" else _csv_rows(path, _names(file.columns)):
            n_read += rows.num_rows
            if n_read <= done:
                continue
            yield _normal(rows.filter(_wanted(archive, rows))), str(n_read)


def _wanted(archive: Archive, rows: pa.Table) -> pc.Expression:
    """Condition of current objects of the archive."""
    import pyarrow.compute as pc

    condition = (pc.field("bucket") == archive.bucket) & pc.starts_with(pc.field("key"), archive.prefix)
    if "is_latest" in rows.column_names:
        condition &= pc.field("is_latest").is_null() | pc.field("is_latest")
    if "is_delete_marker" in rows.column_names:
        condition &= pc.field("is_delete_marker").is_null() | ~pc.field("is_delete_marker")
    return condition


def _download(pipeline: Pipeline, file: ReportFile, folder: Path) -> Path:
    path, digest = folder / "file", hashlib.md5(usedforsecurity=False)
    with path.open("wb") as out:
        for chunk in pipeline.aws.s3.get_object(Bucket=file.bucket, Key=file.key)["Body"].iter_chunks(2**20):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != file.md5:
        raise PermanentError("A file of the inventory report is not what its manifest says: take another report")
    return path


def _parquet_rows(path: Path) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as source:
        names = [_PARQUET.get(name, name) for name in source.schema_arrow.names]
        if missing := _NEEDED - set(names):
            raise PermanentError(f"The inventory report lacks {', '.join(sorted(missing))}: add the fields to it")
        for batch in source.iter_batches(ROWS):
            yield pa.Table.from_batches([batch]).rename_columns(names)


def _csv_rows(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    from pyarrow import csv

    names = [_CSV.get(name, name) for name in columns]
    kinds: dict[str, pa.DataType] = {name: pa.string() for name in names}
    kinds |= {"size_bytes": pa.int64(), "is_latest": pa.bool_(), "is_delete_marker": pa.bool_()}
    with pa.input_stream(str(path), compression="gzip") as source:
        reader = csv.open_csv(
            cast("IO[bytes]", source),
            read_options=csv.ReadOptions(column_names=names, block_size=8 * 2**20),
            convert_options=csv.ConvertOptions(
                column_types=kinds,
                strings_can_be_null=True,
                null_values=[""],
                include_columns=[name for name in names if name in _CSV.values()],
            ),
        )
        for batch in reader:
            rows = pa.Table.from_batches([batch])
            # Keys in CSV are URL-encoded, a space as a plus sign.
            keys = [unquote_plus(key) if "%" in key or "+" in key else key for key in map(str, rows["key"].to_pylist())]
            yield rows.set_column(rows.schema.get_field_index("key"), "key", pa.array(keys, pa.string()))


def _normal(rows: pa.Table) -> pa.Table:
    """The columns of a part, in their types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, Any] = {}
    for field in parts.schema():
        if field.name not in rows.column_names:
            columns[field.name] = pa.nulls(rows.num_rows, field.type)
        elif pa.types.is_timestamp(field.type) and pa.types.is_timestamp(rows[field.name].type):
            # Parquet's TIMESTAMP_MILLIS may come without a zone; it is UTC.
            column: Any = rows[field.name]
            utc = column if column.type.tz else pc.assume_timezone(column, "UTC")
            columns[field.name] = pc.cast(utc, field.type)
        else:
            columns[field.name] = pc.cast(rows[field.name], field.type)
    if "tier" in rows.column_names and "storage_class" in rows.column_names:
        # Which tier an object is in decides whether it can be read at once: it goes with its class.
        named: Any = pc.cast(rows["tier"], pa.string())
        tier = pc.fill_null(named, "")
        known: Any = pc.not_equal(tier, pa.scalar(""))
        both = pc.binary_join_element_wise(columns["storage_class"], tier, ":")
        columns["storage_class"] = pc.if_else(known, both, columns["storage_class"])
    return pa.table(columns, parts.schema())
