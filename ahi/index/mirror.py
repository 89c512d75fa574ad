"""Tables of the catalog for analysts. Belongs here: their rows as Arrow, at a cost that follows what changed.

Does not belong here: the views on them (`views`), the published file (`publish`), merging their files (`fold`).

These tables grow with the archive, so they are not copied at each publication. A mirrored table is in three parts:

- the delta: rows changed since commit `floor`, a table inside `index.duckdb`. It is small: see the slices.
- slices: Parquet files of the rows changed in a range of commits. When a delta has grown past a limit, the publication
  that showed it moves it into a slice and raises the floor (`slices`), at a cost that follows the delta.
- the base: Parquet files by day with one state of each row, into which upkeep folds the slices.

A row may stand in several parts. The state with the highest commit counts, and no two have the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.index import catalog as c
from ahi.index.parquet import files_relation
from ahi.index.sql import quoted
from ahi.index.writer import schema_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from ahi.index.store import Index
    from ahi.index.writer import DataFile

# Rows that are in memory at a time.
CHUNK_ROWS = 10_000
# A number above those of all commits: rows without one were changed after the newest.
UNNUMBERED = 2**62
SLICES = "slices"


STAMPS = (("header_published_at", "header_seq"), ("published_at", "indexed_seq"))


@dataclass(frozen=True)
class Mirror:
    """A table of the catalog that is published, by changes or whole (`whole`).

    Attributes:
        name: Name in the published index and in the catalog's list of files.
        table: The catalog's table.
        seq: Column with the commit that changed a row last; null in a row changed since the newest commit.
            Empty for a table that is published whole.
        part: SQL of DuckDB for the part of the base that a row belongs to; it must never change for a row.
        stamps: Columns with the time of the first publication that shows a commit, and the columns of that commit.
        hidden: Columns that are not published.
    """

    name: str
    table: sa.Table
    seq: str
    part: str = "'all'"
    stamps: tuple[tuple[str, str], ...] = ()
    hidden: tuple[str, ...] = ()

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names and DuckDB types."""
        return [(column.name, duckdb_type(column)) for column in self.table.columns if column.name not in self.hidden]

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
    Mirror("objects", c.objects, "changed_seq", "day", STAMPS),
    Mirror("heads", c.heads, "seq"),
    Mirror("documents", c.documents, "seq", "day"),
    Mirror("events", c.events, "seq", _utc_day("occurred_at")),
    Mirror("jobs", c.jobs, "seq", "day"),
    Mirror("quarantine", c.quarantine, "seq", _utc_day("first_seen")),
    Mirror("commits", c.commits, "seq", _utc_day("committed_at")),
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
        for column in (mirror.table.c[name] for name, _ in mirror.columns)
    ]
    query = sa.select(*picked).where(*where).execution_options(yield_per=CHUNK_ROWS)
    for rows in connection.execute(query).partitions():
        values = zip(*rows, strict=True)
        yield pa.table([pa.array(part, kind) for part, kind in zip(values, schema.types, strict=True)], schema=schema)


def floor_of(connection: sa.Connection, mirror: Mirror) -> int:
    """Commit up to which the files of a mirror hold every row."""
    value = connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == mirror.floor_name))
    return int(value or 0)


def in_delta(mirror: Mirror, floor: int) -> sa.ColumnElement[bool]:
    """Condition of the rows changed since the floor."""
    seq = mirror.table.c[mirror.seq]
    return sa.or_(seq > floor, seq.is_(None)) if seq.nullable else seq > floor


def delta_sizes(connection: sa.Connection, most: int) -> dict[str, tuple[int, int]]:
    """Floor of each mirror and the rows of its delta, counted up to a number; asked for all mirrors at once."""
    state = c.state
    stored = connection.execute(
        sa.select(state.c.name, state.c.value).where(state.c.name.in_([mirror.floor_name for mirror in MIRRORS]))
    )
    known = {name: int(value) for name, value in stored}
    floors = {mirror.name: known.get(mirror.floor_name, 0) for mirror in MIRRORS}
    some = (
        sa.select(sa.literal(1)).select_from(mirror.table).where(in_delta(mirror, floors[mirror.name])).limit(most)
        for mirror in MIRRORS
    )
    counts = connection.execute(
        sa.select(*(sa.select(sa.func.count()).select_from(one.subquery()).scalar_subquery() for one in some))
    ).one()
    return {name: (floor, int(count)) for (name, floor), count in zip(floors.items(), counts, strict=True)}


def delta_name(mirror: Mirror) -> str:
    """Table of the published file that has the delta."""
    return f"internal.{quoted(mirror.name + '_delta')}"


def mirror_relations() -> list[str]:
    """Statements that make the mirrors in the published file, without rows."""
    found = []
    for mirror in MIRRORS:
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in mirror.columns)
        found.append(f"CREATE TABLE {delta_name(mirror)} ({columns})")
        found.append(f"CREATE VIEW internal.{quoted(mirror.name)} AS SELECT * FROM {delta_name(mirror)}")
    return found


def is_slice(row: sa.Row[Any]) -> bool:
    """Whether a live file of a mirror is a slice; the base holds rows of every commit."""
    return int(row.first_seq) > 0


def put_state(connection: sa.Connection, name: str, value: str) -> None:
    """Set a cursor of the catalog. Only inside a write transaction."""
    changed = connection.execute(c.state.update().where(c.state.c.name == name).values(value=value))
    if not changed.rowcount:
        connection.execute(c.state.insert().values(name=name, value=value))


def mirror_files(index: Index, mirror: Mirror, files: Sequence[sa.Row[Any] | DataFile]) -> str:
    """SELECT of a mirror's columns from some of its files."""
    written = [(row.path, row.schema_hash) for row in files]
    return f"SELECT * FROM {files_relation(index.root, mirror.name, mirror.columns, mirror.digest, written)}"


def newest_select(index: Index, mirror: Mirror, files: Sequence[sa.Row[Any]], delta: str = "") -> str:
    """SELECT of one row for each key, its newest state, from live files of a mirror and its delta, if it has one."""
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
    selects = [f"SELECT * FROM {delta}"] if delta else []
    return " UNION ALL ".join([*selects, *([stored] if files else [])])
