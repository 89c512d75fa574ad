"""Tables of the catalog for analysts. Belongs here: their rows as Arrow, at a cost that follows what changed.

Does not belong here: the views on them (`views`), the published file (`publish`), merging their files (`fold`).

These tables grow with the archive, so they are not copied at each publication. A mirrored table is in three parts:

- the delta: rows changed since commit `floor`, a table inside `index.duckdb`. It is small: see the slices.
- slices: Parquet files of the rows changed in a range of commits. When a delta has grown past a limit, the publication
  that showed it moves it into a slice and raises the floor, at a cost that follows the delta and not the table.
- the base: Parquet files by day with one state of each row, into which upkeep folds the slices.

A row may stand in several parts. The state with the highest commit counts, and no two have the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.index import catalog as c
from ahi.index.parquet import files_select
from ahi.index.sql import quoted
from ahi.index.writer import schema_hash, write_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from ahi.index.store import Index

# Rows of a delta that are no slice yet: about 20 ms of a publication.
DELTA_ROWS = 2_000
# Rows that are in memory at a time.
CHUNK_ROWS = 20_000
# A number above those of all commits: rows without one were changed after the newest.
UNNUMBERED = 2**62
SLICES = "slices"


@dataclass(frozen=True)
class Mirror:
    """A table of the catalog that is published by changes.

    Attributes:
        name: Name in the published index and in the catalog's list of files.
        table: The catalog's table.
        seq: Column with the commit that changed a row last; null in a row changed since the newest commit.
        part: SQL of DuckDB for the part of the base that a row belongs to; it must never change for a row.
    """

    name: str
    table: sa.Table
    seq: str
    part: str = "'all'"

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names and DuckDB types."""
        return [(column.name, duckdb_type(column)) for column in self.table.columns]

    @property
    def keys(self) -> list[str]:
        """Names of the primary key."""
        return [column.name for column in self.table.primary_key]

    @property
    def floor_name(self) -> str:
        """Name of its floor in the catalog's `state`."""
        return f"mirror:{self.name}"

    @property
    def digest(self) -> str:
        """Digest of its columns as they are now."""
        return schema_hash(self.columns)


def _utc_day(column: str) -> str:
    # By the number, since DuckDB's own day of a TIMESTAMPTZ is that of the session's time zone.
    day = f"DATE '1970-01-01' + (epoch_us({column}) // 86_400_000_000)::INTEGER"
    return f"coalesce(({day})::VARCHAR, 'undated')"


MIRRORS = (
    Mirror("objects", c.objects, "changed_seq", "day"),
    Mirror("heads", c.heads, "seq"),
    Mirror("documents", c.documents, "seq", "day"),
    Mirror("events", c.events, "seq", _utc_day("occurred_at")),
    Mirror("jobs", c.jobs, "seq", "day"),
    Mirror("quarantine", c.quarantine, "seq", _utc_day("first_seen")),
)


def duckdb_type(column: sa.Column[Any]) -> str:
    """DuckDB type of a column of the catalog."""
    if isinstance(column.type, c.Instant):
        return "TIMESTAMPTZ"
    for kind, name in (
        (sa.BigInteger, "BIGINT"),
        (sa.Integer, "INTEGER"),
        (sa.Float, "DOUBLE"),
        (sa.Boolean, "BOOLEAN"),
    ):
        if isinstance(column.type, kind):
            return name
    return "VARCHAR"


def arrow_schema(mirror: Mirror) -> pa.Schema:
    """Arrow types of a mirror's columns."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {
        "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
        "BIGINT": pa.int64(),
        "INTEGER": pa.int32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "VARCHAR": pa.string(),
    }
    return pa.schema([(name, types[kind]) for name, kind in mirror.columns])


def read_parts(connection: sa.Connection, mirror: Mirror, *where: sa.ColumnElement[bool]) -> Iterator[pa.Table]:
    """Rows of a mirror as Arrow, some at a time. Times are read as the integers they are stored as, for speed."""
    import pyarrow as pa

    schema = arrow_schema(mirror)
    picked = [
        sa.type_coerce(column, sa.BigInteger) if isinstance(column.type, c.Instant) else column
        for column in mirror.table.columns
    ]
    query = sa.select(*picked).where(*where).execution_options(yield_per=CHUNK_ROWS)
    for rows in connection.execute(query).partitions():
        values = zip(*rows, strict=True)
        yield pa.table([pa.array(part, kind) for part, kind in zip(values, schema.types, strict=True)], schema=schema)


def floor_of(connection: sa.Connection, mirror: Mirror) -> int:
    """Commit up to which the files of a mirror hold every row."""
    value = connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == mirror.floor_name))
    return int(value or 0)


def read_delta(connection: sa.Connection, mirror: Mirror) -> Iterator[pa.Table]:
    """Rows changed since the floor."""
    seq = mirror.table.c[mirror.seq]
    changed = seq > floor_of(connection, mirror)
    return read_parts(connection, mirror, sa.or_(changed, seq.is_(None)) if seq.nullable else changed)


def is_slice(row: sa.Row[Any]) -> bool:
    """Whether a live file of a mirror is a slice; the base holds rows of every commit."""
    return int(row.first_seq) > 0


def slice_delta(index: Index, mirror: Mirror, ceiling: int) -> int:
    """Move the delta's rows up to a commit into a slice. Call it under the lock of publishing.

    Args:
        index: The index.
        mirror: The table.
        ceiling: The last publication: the publishing times of its rows are known and will not change with it.

    Returns:
        Rows written.
    """
    from ahi.index.store import file_row

    seq = mirror.table.c[mirror.seq]
    with index.snapshot() as connection:
        floor = floor_of(connection, mirror)
        parts = read_parts(connection, mirror, seq > floor, seq <= ceiling)
        file = write_parts(
            index.root,
            f"{mirror.name}/{SLICES}",
            parts,
            arrow_schema(mirror),
            table=mirror.name,
            columns=mirror.columns,
        )
    if not file.n_rows:
        # Every row of the delta was changed again since.
        (index.root / file.path).unlink()
        return 0
    # No commit of its own: the publication that is out shows these rows already, and the next one takes the file.
    with index.transaction() as connection:
        if floor_of(connection, mirror) != floor:
            raise RuntimeError(f"Another publisher has written {mirror.name} at the same time: run one at a time.")
        connection.execute(c.files.insert(), [file_row(file, floor + 1, ceiling, ceiling)])
        put_state(connection, mirror.floor_name, str(ceiling))
    return file.n_rows


def put_state(connection: sa.Connection, name: str, value: str) -> None:
    """Set a cursor of the catalog. Only inside a write transaction."""
    changed = connection.execute(c.state.update().where(c.state.c.name == name).values(value=value))
    if not changed.rowcount:
        connection.execute(c.state.insert().values(name=name, value=value))


def mirror_files(index: Index, mirror: Mirror, files: Sequence[sa.Row[Any]]) -> str:
    """SELECT of a mirror's columns from some of its files."""
    written = [(row.path, row.schema_hash) for row in files]
    return files_select(index.root, mirror.name, mirror.columns, mirror.digest, written)


def newest_select(index: Index, mirror: Mirror, files: Sequence[sa.Row[Any]], delta: str = "") -> str:
    """SELECT of one row for each key, its newest state, from live files of a mirror and, if named, its delta table."""
    names = ", ".join(quoted(name) for name, _ in mirror.columns)
    keys, seq = ", ".join(quoted(key) for key in mirror.keys), quoted(mirror.seq)
    slices = [row for row in files if is_slice(row)]
    newer = []
    if slices:
        newer.append(f"SELECT {keys}, {seq}::BIGINT AS {seq} FROM ({mirror_files(index, mirror, slices)})")
    if delta:
        # A row of the delta is newer than any in a file, whatever its number.
        newer.append(f"SELECT {keys}, {UNNUMBERED}::BIGINT AS {seq} FROM {delta}")
    stored = mirror_files(index, mirror, files)
    if newer and files:
        same = " AND ".join(f"n.{quoted(key)} = r.{quoted(key)}" for key in mirror.keys)
        newest = f"ANTI JOIN ({' UNION ALL '.join(newer)}) n ON {same} AND n.{seq} > r.{seq}"
        stored = f"SELECT r.* FROM ({stored}) r {newest}"
    selects = [f"SELECT {names} FROM {delta}"] if delta else []
    return " UNION ALL ".join([*selects, *([stored] if files else [])])
