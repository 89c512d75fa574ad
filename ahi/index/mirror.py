"""Tables of the catalog for analysts. Belongs here: their rows as Arrow, at a cost that follows what changed.

Does not belong here: the views on them (`views`) and the published file (`publish`).

The ledger grows with the archive, so it is not copied at each publication. A mirrored table is in two parts: Parquet
files with every row up to commit `floor` (the ledger's by arrival day), and a delta with every row changed since, which
is a table inside `index.duckdb` and hides older rows of the same key. When the delta grows past a limit, the files
of the days that it touches are written again and the floor rises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.writer import DataFile, schema_hash, write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from ahi.index.store import Index

# Rows of a delta that do not call for new files: about 20 ms of a publication.
DELTA_ROWS = 2_000
# A larger delta is borne while it is below this part of the files it would rewrite, so a row is rewritten O(log) often.
DELTA_SHARE = 0.1


@dataclass(frozen=True)
class Mirror:
    """A table of the catalog that is published by changes.

    Attributes:
        name: Name in the published index and in the catalog's list of files.
        table: The catalog's table.
        seq: Column with the commit that changed a row last.
        day: Column by which files are split, if any.
    """

    name: str
    table: sa.Table
    seq: str
    day: str | None = None

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


MIRRORS = (
    Mirror("objects", c.objects, "changed_seq", "day"),
    Mirror("heads", c.heads, "seq"),
    Mirror("documents", c.documents, "seq"),
    Mirror("events", c.events, "seq"),
)
# Copied whole each time: one row for up to 5,000 objects, or for each thing that went wrong. 10,000 rows cost ~50 ms.
WHOLE = (c.jobs, c.quarantine)


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


def read_arrow(connection: sa.Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> pa.Table:
    """Rows of a catalog table as Arrow. Times and booleans are read as the integers they are stored as, for speed."""
    import pyarrow as pa

    types = {
        "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
        "BIGINT": pa.int64(),
        "INTEGER": pa.int32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "VARCHAR": pa.string(),
    }
    columns = [(column, duckdb_type(column)) for column in table.columns]
    picked = [sa.type_coerce(column, sa.BigInteger) if kind == "TIMESTAMPTZ" else column for column, kind in columns]
    rows = connection.execute(sa.select(*picked).where(*where)).fetchall()
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pa.table(
        {column.name: pa.array(part, types[kind]) for (column, kind), part in zip(columns, values, strict=True)}
    )


def floor_of(connection: sa.Connection, mirror: Mirror) -> int:
    """Commit up to which the files of a mirror hold every row."""
    value = connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == mirror.floor_name))
    return int(value or 0)


def read_delta(connection: sa.Connection, mirror: Mirror) -> pa.Table:
    """Rows changed since the floor."""
    return read_arrow(connection, mirror.table, mirror.table.c[mirror.seq] > floor_of(connection, mirror))


def absorb(index: Index, mirror: Mirror) -> int:
    """Write rows of a large delta to files and raise the floor. Call it under the lock of publishing.

    Only rows up to the last publication are taken: their publishing times are known and will not change with it.

    Returns:
        Rows written; 0 when the delta is small.
    """
    table, seq = mirror.table, mirror.table.c[mirror.seq]
    with index.snapshot() as connection:
        floor = floor_of(connection, mirror)
        ceiling = connection.scalar(sa.select(sa.func.max(c.publications.c.seq))) or 0
        changed = sa.and_(seq > floor, seq <= ceiling)
        n_changed = connection.scalar(sa.select(sa.func.count()).select_from(table).where(changed)) or 0
        if n_changed <= DELTA_ROWS:
            return 0
        live = connection.execute(
            sa.select(c.files).where(c.files.c.table_name == mirror.name, c.files.c.retired_seq.is_(None))
        ).fetchall()
        days: list[str] = ["all"]
        if mirror.day:
            days = list(connection.scalars(sa.select(table.c[mirror.day]).where(changed).distinct()))
        old = [row for row in live if row.path.split("/")[2] in days]
        if n_changed <= DELTA_SHARE * sum(row.n_rows for row in old):
            return 0
        written: list[DataFile] = []
        for day in days:
            where = [seq <= ceiling, *([table.c[mirror.day] == day] if mirror.day else [])]
            data = read_arrow(connection, table, *where)
            written.append(
                write_table(index.root, f"{mirror.name}/{day}", data, table=mirror.name, columns=mirror.columns)
            )
    _swap(index, mirror, [row.path for row in old], written, floor, ceiling)
    return sum(file.n_rows for file in written)


def _swap(index: Index, mirror: Mirror, old: list[str], written: list[DataFile], floor: int, ceiling: int) -> None:
    from ahi.index.store import file_row

    # A commit of its own, so that the retired files have a number and the next publication is not skipped.
    with index.commit(kind="absorb") as commit:
        if floor_of(commit.connection, mirror) != floor:
            raise RuntimeError(f"Another publisher has written {mirror.name} at the same time: run one at a time.")
        retire = (
            c.files.update()
            .where(c.files.c.path == sa.bindparam("old"))
            .values(retired_seq=commit.seq, retired_at=now())
        )
        if old:
            commit.connection.execute(retire, [{"old": path} for path in old])
        commit.connection.execute(c.files.insert(), [file_row(file, 0, ceiling, commit.seq) for file in written])
        put_state(commit.connection, mirror.floor_name, str(ceiling))


def put_state(connection: sa.Connection, name: str, value: str) -> None:
    """Set a cursor of the catalog. Only inside a write transaction."""
    changed = connection.execute(c.state.update().where(c.state.c.name == name).values(value=value))
    if not changed.rowcount:
        connection.execute(c.state.insert().values(name=name, value=value))


def mirror_hash(mirror: Mirror) -> str:
    """Digest of a mirror's columns as they are now."""
    return schema_hash(mirror.columns)
