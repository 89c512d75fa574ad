"""Shards: what one import job of an archive takes, named object by object.

Belongs here: the files that name a shard's objects, and reading one. Does not belong here: which object goes into which
shard (`ahi.archive.plan`), and importing it.

A manifest is a Parquet file in the lake bucket with one row group for each of its shards. It is written once and never
again: what a shard imports is fixed from the moment it is planned. A reader takes the file's footer and one row group.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.errors import PermanentError
from ahi.index import catalog_archives as c

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    from mypy_boto3_s3 import S3Client

    from ahi.pipeline import Pipeline

FOOTER_BYTES = 256 * 2**10
"""Read from the end of a manifest at once: its footer, and all of it where it is small."""


@dataclass(frozen=True)
class ArchiveObject:
    """One object of an archive, as a look at it found it."""

    bucket: str
    key: str
    version_id: str | None
    """From an S3 Inventory of all versions; None: a listing, or an unversioned bucket."""
    etag: str
    size_bytes: int
    last_modified: dt.datetime


def schema() -> pa.Schema:
    """Columns of a manifest."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {
        "bucket": pa.string(),
        "key": pa.string(),
        "version_id": pa.string(),
        "etag": pa.string(),
        "size_bytes": pa.int64(),
        "last_modified": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema(types)


def read_shard(pipeline: Pipeline, shard_key: str) -> Iterator[ArchiveObject]:
    """What a shard imports, in the order of its keys; the same whenever it is asked.

    Raises:
        PermanentError: The catalog knows no such shard, or its manifest is gone from the lake bucket.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = c.archive_shards
    with pipeline.index.engine.connect() as connection:
        where = table.c.shard_key == shard_key
        row = connection.execute(sa.select(table.c.manifest_key, table.c.row_group).where(where)).first()
    if row is None:
        raise PermanentError(f"No archive shard {shard_key}: `ahi archive list` names the archives, plan theirs first")
    source = RangedObject(pipeline.aws.s3, pipeline.settings.lake_bucket, row.manifest_key)
    with pq.ParquetFile(pa.PythonFile(source, mode="r")) as file:
        found = file.read_row_group(row.row_group).select(schema().names)
    for batch in found.to_batches(max_chunksize=1_000):
        yield from (ArchiveObject(**values) for values in batch.to_pylist())


def write_manifest(pipeline: Pipeline, object_key: str, shards: Iterable[Sequence[ArchiveObject]]) -> None:
    """Write the manifest of some shards, the n-th as row group n. Give it a key that nothing has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    body = io.BytesIO()
    with pq.ParquetWriter(body, schema(), compression="zstd") as writer:
        for objects in shards:
            rows = pa.Table.from_pylist([vars(one) for one in objects], schema())
            writer.write_table(rows, row_group_size=max(1, rows.num_rows))
    pipeline.aws.s3.put_object(Bucket=pipeline.settings.lake_bucket, Key=object_key, Body=body.getvalue())


class RangedObject(io.RawIOBase):
    """An object of S3 as a file to seek in, read by ranged GETs (`GetObject` with `Range`)."""

    def __init__(self, s3: S3Client, bucket: str, key: str) -> None:
        super().__init__()
        self._s3, self._bucket, self._key = s3, bucket, key
        answer = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes=-{FOOTER_BYTES}")
        self._tail = answer["Body"].read()
        self._size = int(answer.get("ContentRange", f"/{len(self._tail)}").rpartition("/")[2])
        self._at = 0

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def seekable(self) -> bool:
        """Any place can be read first."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the start, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from here; what the first GET brought is not asked for again."""
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        start, self._at = self._at, max(self._at, end)
        held = self._size - len(self._tail)
        if start >= end:
            return b""
        if start >= held:
            return self._tail[start - held : end - held]
        span = f"bytes={start}-{end - 1}"
        return self._s3.get_object(Bucket=self._bucket, Key=self._key, Range=span)["Body"].read()
