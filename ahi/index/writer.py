"""Parquet files of the index. Belongs here: Arrow tables to immutable files, and making those outlive a loss of power.

Does not belong here: making a file part of a table (`commit`), rows to Arrow (`columnar`), columns (`registry`).
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from more_itertools import peekable

from ahi.clock import day_of
from ahi.index.packing import ZSTD_LEVEL, group_rows, packed_writer
from ahi.index.registry import SCHEMA_VERSION
from ahi.index.sidecar import write_sidecar
from ahi.index.sql import text

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from ahi.index.columns import Table

    Columns = TypeVar("Columns", pa.RecordBatch, pa.Table)

# A group is in memory until it is written, and no part of it can spill: a row of documents' JSON has 4 KB.
ROW_GROUP_BYTES = "64MB"
# Columns of a batch with this much have a dictionary: it costs more than it saves where values are few.
WORTH_BYTES = 2_048
# Columns of a batch with this much are zstd, the others LZ4: a frame of zstd takes 50 us whatever is in it, which was
# half of what a batch's files cost. Compaction packs all columns, and most rows are in its files.
WORTH_ZSTD_BYTES = 32_768
# Each row has another value: a dictionary took more CPU and more bytes than the values.
DIFFERENT = frozenset(
    ("SOPInstanceUID", "MediaStorageSOPInstanceUID", "dataset_hash", "metadata_json", "frame_id", "crc32", "object_id")
)


class IndexWriteError(ValueError):
    """Rows do not fit their table. The text names table and column, never a value."""


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that no table holds yet.

    Attributes:
        path: Relative to the folder of the index.
        table_name: Table it was written for.
        n_rows: Rows in it.
        n_bytes: Its size.
        sha256: Digest of its bytes.
        schema_hash: Digest of its column names and types.
        batch_id: Batch that every row of it names.
        empty: Columns that are null in every row; None: not known.
    """

    path: str
    table_name: str
    n_rows: int
    n_bytes: int
    sha256: str
    schema_hash: str
    batch_id: str = ""
    empty: frozenset[str] | None = None


def schema_hash(columns: Sequence[tuple[str, str]]) -> str:
    """Digest of column names and DuckDB types. Files with equal digests can be read as one without `union_by_name`."""
    return hashlib.sha256("\n".join(f"{name} {kind}" for name, kind in columns).encode()).hexdigest()[:16]


def table_hash(table: Table) -> str:
    """Digest of a table's columns as the registry has them now."""
    found = _HASHES.get(table.name)
    if found is None or found[0] is not table:
        digest = schema_hash([(column.name, column.duckdb_type) for column in table.columns])
        found = _HASHES[table.name] = (table, digest)
    return found[1]


_HASHES: dict[str, tuple[Table, str]] = {}


def write_batch(
    root: Path, table: Table, data: pa.RecordBatch, stamp: dt.datetime, *, batch_id: str, run_id: str
) -> DataFile:
    """Write the rows of a batch, sorted, for a commit to sync and to take in."""
    from arro3.io import write_parquet

    if data.num_rows > 1:
        data = in_order(data, table.sort_by)
    packed, large, empty = list[str](), list[str](), list[str]()
    for column, cells in zip(table.columns, data.columns, strict=True):
        if cells.null_count == data.num_rows:
            empty.append(column.name)
        elif not column.is_nested and (n_bytes := cells.get_total_buffer_size()) >= WORTH_BYTES:
            large += (column.name,) if column.name not in DIFFERENT else ()
            packed += (column.name,) if n_bytes >= WORTH_ZSTD_BYTES else ()
    # One folder for all tables: a file in each of seven folders took the file system five times as long to make.
    path = new_path(root, f"batches/{day_of(stamp)}", table.name)
    sink = io.BytesIO()
    write_parquet(
        data,
        sink,
        compression="lz4_raw",
        column_compression=dict.fromkeys(packed, "zstd(1)"),
        dictionary_enabled=False,
        column_dictionary_enabled=dict.fromkeys(large, True),
        key_value_metadata=_provenance(table.name, batch_id=batch_id, run_id=run_id),
        max_row_group_size=group_rows(table.name),
        skip_arrow_metadata=True,
    )
    content = sink.getbuffer()
    # Buffered: a write of a raw file may take a part only, as of a disk nearly full, and says so by a number alone.
    with (root / path).open("xb") as handle:
        handle.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_sidecar(root / path, sha256)
    return DataFile(
        path, table.name, data.num_rows, len(content), sha256, table_hash(table), batch_id, frozenset(empty)
    )


def in_order(data: Columns, keys: Sequence[str]) -> Columns:
    """Rows in the order of keys, nulls last. Columns without any value are left as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    order = pc.sort_indices(data.select(keys), sort_keys=[(name, "ascending") for name in keys])
    if order.equals(pa.arange(0, data.num_rows).cast(pa.uint64())):  # type: ignore[attr-defined] # the stubs are older
        return data
    cells = [cells if cells.null_count == data.num_rows else cells.take(order) for cells in data.columns]
    return type(data).from_arrays(cells, schema=data.schema)


def write_parts(
    root: Path,
    folder: str,
    parts: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    table: str,
    columns: Sequence[tuple[str, str]],
    batch_id: str = "",
    run_id: str = "",
) -> DataFile:
    """Write Arrow tables of one schema, one after the other, to a new file under `data/<folder>/`, and sync it.

    Memory follows the largest part and not the file.

    Args:
        root: Folder of the index.
        folder: Folder of the file, under `data/`.
        parts: What to write.
        schema: Their schema.
        table: Table that the file is for.
        columns: Names and DuckDB types of its columns.
        batch_id: Batch of the commit that will take the file in.
        run_id: Dagster run that writes it.
    """
    path, n_rows, empty = new_path(root, folder), 0, set(schema.names)
    with (root / path).open("x+b") as handle:
        # Not `spy`, nor `tee`: those keep 57 parts alive, which was 2.6 GB.
        some = peekable(parts)
        with packed_writer(handle, schema, some.peek() if some else None) as writer:
            for part in some:
                writer.write_table(part, row_group_size=group_rows(table))
                n_rows += part.num_rows
                empty -= {name for name in empty if part[name].null_count < part.num_rows}
            writer.add_key_value_metadata(_provenance(table, batch_id=batch_id, run_id=run_id))
        handle.flush()
        n_bytes = handle.seek(0, os.SEEK_END)
        handle.seek(0)
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    write_sidecar(root / path, sha256)
    sync_files(root, [path])
    return DataFile(
        path=path,
        table_name=table,
        n_rows=n_rows,
        n_bytes=n_bytes,
        sha256=sha256,
        schema_hash=schema_hash(columns),
        batch_id=batch_id,
        empty=frozenset(empty),
    )


def copied_file(
    connection: duckdb.DuckDBPyConnection,
    root: Path,
    folder: str,
    select: str,
    *,
    table: str,
    columns: Sequence[tuple[str, str]],
    run_id: str = "",
) -> DataFile | None:
    """Write what a SELECT of DuckDB gives to a new, synced file under `data/<folder>/`; None if it gives no row.

    The connection is one of `parquet.spilling`: only one that may reorder rows bounds the bytes of a row group.
    """
    path = new_path(root, folder)
    target = root / path
    copied = connection.execute(
        f"COPY ({select}) TO {text(str(target))} (FORMAT parquet, KV_METADATA {provenance_sql(table, run_id=run_id)}, "
        f"COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL}, ROW_GROUP_SIZE {group_rows(table)}, "
        f"ROW_GROUP_SIZE_BYTES '{ROW_GROUP_BYTES}')"
    ).fetchone()
    n_rows = int(copied[0]) if copied else 0
    if not n_rows:
        target.unlink()
        return None
    with target.open("rb") as handle:
        os.fsync(handle.fileno())
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    write_sidecar(target, sha256)
    sync_folder(target.parent)
    return DataFile(path, table, n_rows, target.stat().st_size, sha256, schema_hash(columns))


def _provenance(table: str, **known: str) -> dict[str, str]:
    """Key-value metadata of a file: what it is and who wrote it. What is empty is left out."""
    return {"table": table, "schema_version": SCHEMA_VERSION} | {key: value for key, value in known.items() if value}


def provenance_sql(table: str, **known: str) -> str:
    """The same for DuckDB's option KV_METADATA."""
    return f"{{{', '.join(f'{text(key)}: {text(value)}' for key, value in _provenance(table, **known).items())}}}"


def new_path(root: Path, folder: str, name: str = "") -> str:
    """A path that no file has, relative to the root; its folder is there and synced. It tells of no patient."""
    relative = f"data/{folder}"
    target = root / relative
    if not target.exists():
        missing = [part for part in (target, *target.parents) if not part.exists()]
        target.mkdir(parents=True, exist_ok=True)
        for part in missing:
            sync_folder(part.parent)
    return f"{relative}/{f'{name}-' if name else ''}{uuid.uuid4().hex}.parquet"


def sync_files(root: Path, paths: Iterable[str]) -> None:
    """Make files and their names survive a loss of power.

    The kernel is first told to begin with all of them, so that the disk's journal is written once or twice: one after
    the other, ten files of a commit took 6.5 times as long. Threads did that, too, at three times the CPU.
    """
    files = [root / path for path in paths]
    folders = dict.fromkeys(file.parent for file in files)
    # Another process may have made a folder just now, and not have come to syncing its name.
    folders |= dict.fromkeys(folder.parent for folder in folders)
    with ExitStack() as opened:
        handles = []
        for path in (*files, *folders):
            handles.append(os.open(path, os.O_RDONLY))
            opened.callback(os.close, handles[-1])
        if hasattr(os, "posix_fadvise"):
            for handle in handles[: len(files)]:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        for handle in handles:
            os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
