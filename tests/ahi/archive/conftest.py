"""A bucket that holds an archive, beside a site."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ahi.settings import load_settings
from tests.conftest import AwsStack
from tests.site_fixtures import clear_bucket

SCHEMA = (
    "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass, "
    "IntelligentTieringAccessTier"
)


@dataclass
class Holding:
    """A bucket of a hospital."""

    s3: Any
    bucket: str

    def put(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.s3.delete_object(Bucket=self.bucket, Key=key)

    def report(
        self,
        kind: str,
        *,
        files: int = 2,
        day: str = "2026-11-20T01-00Z",
        extra: Any = (),
        versions: Mapping[str, str] | None = None,
    ) -> str:
        """Write an S3 Inventory report of what the bucket holds now, in the documented form; gives the manifest."""
        named_versions = versions or {}
        entries = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        rows: list[tuple[Any, ...]] = [
            (
                *(self.bucket, e["Key"], named_versions.get(e["Key"], "v1"), True, False),
                *(e["Size"], e["LastModified"], e["ETag"].strip('"'), "STANDARD"),
            )
            for e in entries
            if not e["Key"].startswith("reports/")
        ]
        rows += extra
        folder, named = f"reports/{self.bucket}/daily/", []
        for number in range(files):
            body = _body(kind, rows[number::files])
            key = f"{folder}data/{uuid.uuid4()}{'.csv.gz' if kind == 'CSV' else '.parquet'}"
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
            named.append({"key": key, "size": len(body), "MD5checksum": hashlib.md5(body).hexdigest()})
        manifest = {
            "sourceBucket": self.bucket,
            "destinationBucket": f"arn:aws:s3:::{self.bucket}",
            "version": "2016-11-30",
            "creationTimestamp": "1763600000000",
            "fileFormat": kind,
            "fileSchema": SCHEMA if kind == "CSV" else "message s3.inventory { required binary bucket (UTF8); }",
            "files": named,
        }
        text = json.dumps(manifest).encode()
        self.put({f"{folder}{day}/manifest.json": text})
        self.put({f"{folder}{day}/manifest.checksum": hashlib.md5(text).hexdigest().encode()})
        return f"s3://{self.bucket}/{folder}{day}/manifest.json"


def _body(kind: str, rows: list[tuple[Any, ...]]) -> bytes:
    if kind == "CSV":
        lines = []
        for bucket, key, version, latest, marker, size, modified, etag, storage in rows:
            stamp = f"{modified:%Y-%m-%dT%H:%M:%S}.000Z"
            flags = [str(latest).lower(), str(marker).lower()]
            values = [bucket, quote_plus(key), version, *flags, "" if size is None else size, stamp, etag]
            values += storage.partition(":")[::2]
            lines.append(",".join(f'"{value}"' for value in values))
        return gzip.compress("\n".join(lines).encode() + b"\n")
    names = ["bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag"]
    columns = list(zip(*rows, strict=True)) or [[]] * 9
    # Written as class or class:tier by tests; two columns of a report.
    columns[8:] = zip(*(one.partition(":")[::2] for one in columns[8]), strict=True) if rows else [[], []]
    names += ["storage_class", "intelligent_tiering_access_tier"]
    table = pa.table(dict(zip(names, map(list, columns), strict=True)))
    at = table.schema.get_field_index("last_modified_date")
    stamps = pa.array([t.astimezone(dt.UTC).replace(tzinfo=None) for t in columns[6]], pa.timestamp("ms"))
    out = io.BytesIO()
    pq.write_table(table.set_column(at, "last_modified_date", stamps), out, compression="snappy")
    return out.getvalue()


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    """The command of each test reads the settings of its own site."""
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


@pytest.fixture
def holding(aws_stack: AwsStack) -> Iterator[Holding]:
    s3, bucket = aws_stack.client("s3"), f"old-pacs-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    yield Holding(s3, bucket)
    clear_bucket(s3, bucket)
    s3.delete_bucket(Bucket=bucket)
