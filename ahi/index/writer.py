"""Parquet files of the index. Belongs here: Arrow tables to immutable files, and making those outlive a loss of power.

Does not belong here: making a file part of a table (`commit`), rows to Arrow (`columnar`), columns (`registry`).
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

from ahi.clock import day_of
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

# Readers skip whole groups by their statistics. Small groups make a look at one study cheap, and every query pay for
# reading about them: of 1 M series, 100,000 / 30,000 / 10,000 rows a group cost a look at all columns of one study
# 123 / 71 / 122 ms of CPU, at six columns 25 / 21 / 62 ms. Tables with many more rows keep large groups.
ROW_GROUP_ROWS = 100_000
SERIES_GROUP_ROWS = 30_000
# A group is in memory until it is written, and no part of it can spill: a row of documents' JSON has 4 KB.
ROW_GROUP_BYTES = "64MB"
# Level 1 costs half of level 3's CPU and few bytes more (storage reference, 2.1).
ZSTD_LEVEL = 1
# Columns of a batch with less than this have neither dictionary nor statistics: those were a quarter of what a file
# cost, and a seventh of the bytes of one with two rows. Compaction's files, which most rows are in, have all three.
WORTH_BYTES = 2_048
# Columns of a batch with this much are zstd: up to here it made files larger, and took a third of a one-row file's CPU.
WORTH_ZSTD_BYTES = 128
# Each row has another value: a dictionary took more CPU and more bytes than the values.
DIFFERENT = frozenset(
    ("SOPInstanceUID", "MediaStorageSOPInstanceUID", "dataset_hash", "metadata_json", "frame_id", "crc32", "object_id")
)
# Readers look for rows by these, whatever the size of a file.
LOOKED_FOR = frozenset(
    ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "image_set_id", "object_id", "patient_key")
)
SYNC_THREADS = 4


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
    root: Path, table: Table, data: pa.Table, stamp: dt.datetime, *, batch_id: str, run_id: str
) -> DataFile:
    """Write the rows of a batch, sorted, for a commit to sync and to take in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(data) > 1:
        data = in_order(data, table.sort_by)
    packed, large, empty = list[str](), list[str](), set(data.column_names)
    for field, cells in zip(data.schema, data.columns, strict=True):
        if cells.null_count < len(data):
            empty.remove(field.name)
            n_bytes = cells.get_total_buffer_size()
            packed += _leaves(field) if n_bytes >= WORTH_ZSTD_BYTES else ()
            large += _leaves(field) if n_bytes >= WORTH_BYTES else ()
    # One folder for all tables: a file in each of seven folders took the file system five times as long to make.
    path = new_path(root, f"batches/{day_of(stamp)}", table.name)
    # In memory: to Arrow, a file of Python's is five calls for each column.
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        data.schema,
        compression=dict.fromkeys(packed, "zstd") or "none",
        use_dictionary=[leaf for leaf in large if leaf not in DIFFERENT],  # type: ignore[arg-type]
        write_statistics=large + [name for name in data.column_names if name in LOOKED_FOR],
        store_schema=False,
    ) as writer:
        writer.write_table(data, row_group_size=group_rows(table.name))
        writer.add_key_value_metadata(_provenance(table.name, batch_id=batch_id, run_id=run_id))
    content = memoryview(sink.getvalue())
    with (root / path).open("xb") as handle:
        handle.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_sidecar(root / path, sha256)
    return DataFile(path, table.name, len(data), len(content), sha256, table_hash(table), batch_id, frozenset(empty))


def in_order(data: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Rows in the order of keys, nulls last. Columns without any value are left as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    order = pc.sort_indices(data.select(keys), sort_keys=[(name, "ascending") for name in keys])
    if order.equals(pa.arange(0, len(data)).cast(pa.uint64())):  # type: ignore[attr-defined] # the stubs are older
        return data
    cells = [cells if cells.null_count == len(data) else cells.take(order) for cells in data.columns]
    return pa.Table.from_arrays(cells, schema=data.schema)


def _leaves(field: pa.Field[Any]) -> list[str]:
    """Paths of the Parquet columns that an Arrow column is written to."""
    import pyarrow as pa

    if pa.types.is_list(field.type):
        inner = field.type.value_field.with_name("element")
        return [f"{field.name}.list.{leaf}" for leaf in _leaves(inner)]
    if pa.types.is_struct(field.type):
        return [f"{field.name}.{leaf}" for inner in field.type for leaf in _leaves(inner)]
    return [field.name]


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
    import pyarrow.parquet as pq

    path, n_rows, empty = new_path(root, folder), 0, set(schema.names)
    with (root / path).open("x+b") as handle:
        # Arrow's own copy of the schema, with every column's description, would be half of a small file.
        with pq.ParquetWriter(
            handle,
            schema,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            store_schema=False,
        ) as writer:
            for part in parts:
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


def group_rows(table: str) -> int:
    """Rows in a row group of a table."""
    return SERIES_GROUP_ROWS if table in ("series", "studies", "patients") else ROW_GROUP_ROWS


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
    """Make files and their names survive a loss of power, all at once.

    The disk's journal is then written once or twice: one after the other, ten files of a commit took 6.5 times as long.
    """
    files = [root / path for path in paths]
    if not files:
        return
    wanted = [*files, *dict.fromkeys(file.parent for file in files)]
    failures: list[OSError] = []

    def work(part: Sequence[Path]) -> None:
        try:
            for path in part:
                _sync(path)
        except OSError as error:
            failures.append(error)

    # Threads of its own instead of a pool: to start a pool's took twice the CPU of the syncs.
    first, *others = (wanted[n::SYNC_THREADS] for n in range(min(SYNC_THREADS, len(wanted))))
    threads = [Thread(target=work, args=(part,)) for part in others]
    for thread in threads:
        thread.start()
    work(first)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
