"""What the views stand on in the published file. Belongs here: relations of the schema `internal` of Parquet tables.

Does not belong here: the views (`views`), the file and its swap (`publish`), relations of the catalog's own tables
(`mirror`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import map_reduce

from ahi.index import catalog as c
from ahi.index.history import VALIDITY, history_table
from ahi.index.parquet import files_relation, select_list
from ahi.index.pending import (
    SHOWN,
    as_instances,
    as_series,
    counts_select,
    documents_select,
    holding,
    keys_select,
    read_pending,
    rows_select,
    with_counts,
)
from ahi.index.sql import quoted, text
from ahi.index.writer import table_hash

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb
    import pyarrow as pa

    from ahi.index.columns import Table
    from ahi.index.pending import Pending
    from ahi.index.store import Index


TYPES = "internal.types"
DEAD = "internal.dead"
PENDING = "internal.pending"
PENDING_SERIES = "internal.pending_series"
DEAD_COLUMNS = (
    ("row_key", "VARCHAR"),
    ("batch_id", "VARCHAR"),
    ("valid_from", "TIMESTAMPTZ"),
    ("valid_to", "TIMESTAMPTZ"),
)


@dataclass(frozen=True)
class Snapshot:
    """Everything a publication shows of Parquet tables, read in one transaction."""

    seq: int
    committed_at: dt.datetime | None
    files: Mapping[str, list[sa.Row[Any]]]
    dead: dict[str, pa.Table]
    pending: Pending | None

    def live(self, table: str) -> list[sa.Row[Any]]:
        """Files of a table."""
        return self.files.get(table, [])


def read_snapshot(connection: sa.Connection, tables: Iterable[str], datastore_id: str = "") -> Snapshot:
    """What the catalog says now; pending objects beside the documents of their data store (`read_pending`)."""
    newest = connection.execute(
        sa.select(c.commits.c.seq, c.commits.c.committed_at).order_by(c.commits.c.seq.desc()).limit(1)
    ).first()
    return Snapshot(
        seq=newest.seq if newest else 0,
        committed_at=newest.committed_at if newest else None,
        files=map_reduce(
            connection.execute(sa.select(c.files).where(c.files.c.retired_seq.is_(None)).order_by(c.files.c.live_seq)),
            lambda row: str(row.table_name),
        ),
        dead=read_dead(connection, tables),
        pending=read_pending(connection, datastore_id),
    )


def read_dead(connection: sa.Connection, tables: Iterable[str]) -> dict[str, pa.Table]:
    """Keys of each table's rows that do not count, and from when to when they did: the columns `DEAD_COLUMNS`.

    One question for all tables: most have none, and a question each was half of a publication's CPU.
    """
    import pyarrow as pa

    born, died = c.commits.alias(), c.commits.alias()
    times = (sa.type_coerce(one.c.committed_at, sa.BigInteger) for one in (born, died))
    wanted = list(tables)
    found = connection.execute(
        sa.select(c.dead.c.table_name, c.dead.c.row_key, c.dead.c.batch_id, *times)
        .join(born, born.c.seq == c.dead.c.rows_seq)
        .join(died, died.c.seq == c.dead.c.seq)
        .where(c.dead.c.table_name.in_(wanted), c.dead.c.purged_seq.is_(None))
    )
    rows: dict[str, list[Any]] = {name: [] for name in wanted}
    for name, *row in found:
        rows[name].append(row)
    kinds = [pa.string(), pa.string(), pa.timestamp("us", tz="UTC"), pa.timestamp("us", tz="UTC")]
    schema = pa.schema([pa.field(name, kind) for (name, _), kind in zip(DEAD_COLUMNS, kinds, strict=True)])
    empty = schema.empty_table()
    return {
        name: pa.table(
            [pa.array(one, kind) for one, kind in zip(zip(*dead, strict=True), kinds, strict=True)], schema=schema
        )
        if dead
        else empty
        for name, dead in rows.items()
    }


def empty_relations(tables: Mapping[str, Table], others: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    """Statements that make the relations of live files, typed and without rows.

    `others` are names and types of the columns of relations that are no tables of the registry.

    One empty table has the types of all, as rows: views of typed nulls took a publication three times as long to carry
    along, and a query of such a view ten times as long.
    """
    columns: dict[str, Sequence[tuple[str, str]]] = {
        f"{name}_files": [(x.name, x.duckdb_type) for x in table.columns] for name, table in tables.items()
    }
    columns |= others
    types = (
        f"{quoted(name)} STRUCT({', '.join(f'{quoted(one)} {kind}' for one, kind in found)})"
        for name, found in columns.items()
    )
    return [
        f"CREATE TABLE {TYPES} ({', '.join(types)})",
        *(f"CREATE VIEW {_inside(name)} AS SELECT unnest({quoted(name)}) FROM {TYPES}" for name in columns),
    ]


def fixed_relations(tables: Mapping[str, Table]) -> list[str]:
    """Statements that make the relations that stand on those of `empty_relations`."""
    dead = ", ".join(f"{name} {kind}" for name, kind in DEAD_COLUMNS)
    statements = [f"CREATE TABLE {DEAD} (table_name VARCHAR, {dead})"]
    validity = ", ".join(f"NULL::{column.duckdb_type} AS {quoted(column.name)}" for column in VALIDITY)
    for name in tables:
        files, rows, past = (_inside(name + part) for part in ("_files", "_rows", "_past"))
        statements.append(f"CREATE VIEW {rows} AS SELECT * FROM {files}")
        statements.append(f"CREATE VIEW {past} AS SELECT *, {validity} FROM {files} WHERE false")
    for name in (name for name in SHOWN if name in tables):
        current = _current(name, documents_select(name, *_none(name)))
        statements += [f"CREATE VIEW {_inside(view)} AS {sql}" for view, sql in current.items()]
    return statements


def build_relations(connection: duckdb.DuckDBPyConnection, index: Index, shown: Snapshot) -> None:
    """Make the relations in the open file. What has no rows stays as the template has it: typed and empty."""
    documents: dict[str, tuple[str, str]] = {}
    for table in index.tables.values():
        name, keys, past = table.name, shown.dead[table.name], history_table(table)
        if files := shown.live(name):
            relation, picked = _relation(index, table, files), _picked(table, files)
            replace(connection, f"{name}_files", f"SELECT {picked} FROM {relation}")
            if keys.num_rows:
                append(connection, DEAD, _named(name, keys))
                replace(connection, f"{name}_rows", f"SELECT r.* FROM {_counting(table, _inside(f'{name}_files'))}")
            if name in SHOWN:
                documents[name] = picked, _counting(table, relation) if keys.num_rows else relation
        if files := shown.live(past.name):
            replace(connection, f"{name}_past", table_select(index, past, files))
    early, counts = _early(connection, index, shown)
    for name in (name for name in SHOWN if name in documents or name in early):
        of_documents = documents_select(name, *documents.get(name, _none(name)), is_counted=bool(counts))
        for view, select in _current(name, of_documents, early.get(name)).items():
            is_counted = name == "series" and counts
            replace(connection, view, with_counts(select, counts, index.datastore_id) if is_counted else select)


def _current(name: str, documents: str, early: str | None = None) -> dict[str, str]:
    """Views of what a table shows, primary and all: rows of documents, and those of headers where some are pending."""
    more = f" UNION ALL {early}" if early else ""
    return {f"{name}_current": f"{documents} WHERE is_primary{more}", f"{name}_current_all": f"{documents}{more}"}


def _none(name: str) -> tuple[str, str]:
    """What to select of a table without files, and from where: typed, and no row."""
    return "*", _inside(f"{name}_rows")


def _inside(name: str) -> str:
    return f"internal.{quoted(name)}"


def append(connection: duckdb.DuckDBPyConnection, name: str, data: pa.Table) -> None:
    """Put rows into a table of the open file."""
    connection.register("incoming", data)
    connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")
    connection.unregister("incoming")


def replace(connection: duckdb.DuckDBPyConnection, name: str, select: str) -> None:
    """Give a relation of the schema `internal` its rows."""
    connection.execute(f"CREATE OR REPLACE VIEW {_inside(name)} AS {select}")


def table_select(index: Index, table: Table, files: Sequence[sa.Row[Any]]) -> str:
    """SELECT of a table's columns from some of its files, rows that do not count included."""
    return f"SELECT * FROM {_relation(index, table, files)}"


def _relation(index: Index, table: Table, files: Sequence[sa.Row[Any]]) -> str:
    columns = [(column.name, column.duckdb_type) for column in table.columns]
    written = [(str(row.path), str(row.schema_hash)) for row in files]
    return files_relation(index.root, table.name, columns, table_hash(table), written)


def empty_columns(files: Sequence[sa.Row[Any]]) -> frozenset[str]:
    """Columns that no row of any of the files has a value in, as far as the catalog knows."""
    known = [frozenset((row.empty_columns or "").split(",")) for row in files]
    return frozenset.intersection(*known) - {""} if known else frozenset()


def _picked(table: Table, files: Sequence[sa.Row[Any]]) -> str:
    # Of the tables that most looks go to only, since each publication writes the list anew.
    empty = empty_columns(files) if table.name in SHOWN else frozenset()
    return select_list([(column.name, column.duckdb_type) for column in table.columns], empty) if empty else "*"


def _named(table: str, keys: pa.Table) -> pa.Table:
    import pyarrow as pa

    return keys.add_column(0, "table_name", pa.array([table] * len(keys), pa.string()))


def dead_of(table: Table) -> str:
    """SELECT of the dead keys of a table in the published file."""
    return f"SELECT * FROM {DEAD} WHERE table_name = {text(table.name)}"


def _counting(table: Table, rows: str) -> str:
    """Relation of those rows of a table that count; its columns are those of `rows`."""
    same = f"d.row_key = r.{quoted(table.row_key)} AND d.batch_id = r.batch_id"
    return f"{rows} r ANTI JOIN ({dead_of(table)}) d ON {same}"


def _early(connection: duckdb.DuckDBPyConnection, index: Index, shown: Snapshot) -> tuple[dict[str, str], str]:
    """SELECTs of the header rows of pending objects by table, and the relation that counts those of other series.

    Keys and counts go into the file.
    """
    pending = shown.pending
    held = holding(shown.live("headers"), pending.commits) if pending else []
    if pending is None or not held:
        return {}, ""
    headers, instances = index.tables["headers"], index.tables["instances"]
    documents = table_select(index, instances, holding(shown.live("instances"), pending.head_commits))
    documents = f"SELECT r.* FROM {_counting(instances, f'({documents})')}"
    connection.register("pending", pending.objects)
    connection.register("pending_heads", pending.heads)
    # Few series have some rows from documents and some still to come; only theirs are looked up.
    here = f"SELECT d.* FROM ({documents}) d SEMI JOIN pending_heads h ON h.SeriesInstanceUID = d.SeriesInstanceUID"
    here += f" WHERE d.datastore_id = {text(index.datastore_id)}" if index.datastore_id else ""
    connection.execute(f"CREATE TEMP TABLE keys AS {keys_select('pending', 'pending_heads', here)}")
    connection.unregister("pending")
    connection.unregister("pending_heads")
    connection.execute(f"CREATE TABLE {PENDING} AS SELECT * EXCLUDE (of_study, of_series) FROM keys")
    connection.execute(f"CREATE TABLE {PENDING_SERIES} AS {counts_select('keys')}")
    connection.execute("DROP TABLE keys")
    replace(connection, "headers_pending", rows_select(table_select(index, headers, held), PENDING))
    rows = "internal.headers_pending"
    (is_counted,) = connection.execute(f"SELECT count(*) > 0 FROM {PENDING_SERIES}").fetchone() or (False,)
    series = as_series(index.tables["series"], headers, rows, index.datastore_id, is_counted=is_counted)
    early = {
        "instances": as_instances(instances, headers, rows, index.datastore_id),
        "series": series,
    }
    return early, PENDING_SERIES if is_counted else ""
