"""Slices of the mirrored tables. Belongs here: moving a delta into a Parquet file, at a cost that follows the delta.

Does not belong here: what a delta is (`mirror`), and folding slices into the base (`fold`).

A slice holds published rows only: their publishing times are known and do not change with it. A delta that is too large
for `index.duckdb`, after a time without publications, is written to a file first; once that is published, the file is
copied with the publishing times, and stays as long as a reader may have it open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.mirror import SLICES, arrow_schema, floor_of, in_delta, put_state, read_parts
from ahi.index.parquet import files_relation, spilling
from ahi.index.sidecar import remove_with_sidecar
from ahi.index.sql import quoted, text
from ahi.index.writer import copied_file, write_parts

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

    import pyarrow as pa
    import sqlalchemy as sa

    from ahi.index.mirror import Mirror
    from ahi.index.store import Index
    from ahi.index.writer import DataFile

# Rows of a delta that are no slice yet: about 20 ms of a publication.
DELTA_ROWS = 2_000
# Rows that a publication takes into its own file; DuckDB would hold 1 KiB of memory for each until it is written.
BULK_ROWS = 50_000


def write_delta(index: Index, connection: sa.Connection, mirror: Mirror, floor: int) -> DataFile:
    """Write the delta to a file of no table yet."""
    return _write(index, mirror, read_parts(connection, mirror, in_delta(mirror, floor)))


def keep_until_replaced(connection: sa.Connection, files: list[DataFile], seq: int) -> None:
    """Enter files that only publication `seq` reads, as retired by whatever is published after it."""
    from ahi.index.store import file_row

    gone = {"retired_seq": seq + 1, "retired_at": now()}
    if files:
        connection.execute(c.files.insert(), [file_row(file, 0, seq, seq) | gone for file in files])


def slice_delta(index: Index, mirror: Mirror, ceiling: int) -> int:
    """Move the delta's rows up to the last publication into a slice. Call it under the lock of publishing.

    Returns:
        Rows written.
    """
    seq = mirror.table.c[mirror.seq]
    with index.snapshot() as connection:
        floor = floor_of(connection, mirror)
        file = _write(index, mirror, read_parts(connection, mirror, seq > floor, seq <= ceiling))
    if not file.n_rows:
        # Every row of the delta was changed again since.
        remove_with_sidecar(index.root / file.path)
        return 0
    return _enter(index, mirror, file, floor, ceiling)


def slice_bulk(index: Index, mirror: Mirror, bulk: DataFile, ceiling: int, published_at: dt.datetime) -> int:
    """Make a slice of the delta that was published as a file. Call it under the lock of publishing.

    Args:
        index: The index.
        mirror: The table.
        bulk: The file.
        ceiling: Commit that the publication showed.
        published_at: Its time, which rows that it was the first to show do not have in the file.

    Returns:
        Rows written.
    """
    moment = f"{text(published_at.isoformat())}::TIMESTAMPTZ"
    stamped = ", ".join(
        f"coalesce({stamp}, CASE WHEN {number} <= {ceiling} THEN {moment} END) AS {stamp}"
        for stamp, number in mirror.stamps
    )
    rows = files_relation(index.root, mirror.name, mirror.columns, mirror.digest, [(bulk.path, bulk.schema_hash)])
    # Rows without a number stay in the delta until a commit has given them one.
    picked = f"* REPLACE ({stamped})" if stamped else "*"
    select = f"SELECT {picked} FROM {rows} WHERE {quoted(mirror.seq)} IS NOT NULL"
    with index.snapshot() as connection:
        floor = floor_of(connection, mirror)
    with spilling(index.root) as duck:
        folder = f"{mirror.name}/{SLICES}"
        file = copied_file(duck, index.root, folder, select, table=mirror.name, columns=mirror.columns)
    return _enter(index, mirror, file, floor, ceiling) if file else 0


def _write(index: Index, mirror: Mirror, parts: Iterator[pa.Table]) -> DataFile:
    schema, folder = arrow_schema(mirror), f"{mirror.name}/{SLICES}"
    return write_parts(index.root, folder, parts, schema, table=mirror.name, columns=mirror.columns)


def _enter(index: Index, mirror: Mirror, file: DataFile, floor: int, ceiling: int) -> int:
    from ahi.index.store import file_row

    # No commit of its own: the publication that is out shows these rows already, and the next one takes the file.
    with index.transaction() as connection:
        if floor_of(connection, mirror) != floor:
            raise RuntimeError(f"Another publisher has written {mirror.name} at the same time: run one at a time.")
        connection.execute(c.files.insert(), [file_row(file, floor + 1, ceiling, ceiling)])
        put_state(connection, mirror.floor_name, str(ceiling))
    return file.n_rows
