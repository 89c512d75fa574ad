"""The published `index.duckdb`. Belongs here: building it beside the old one and swapping the two.

Does not belong here: the views (`views`), the catalog's tables in it (`mirror`).

The file holds views over the live Parquet files, the few rows that no longer count, and what the catalog changed
lately; it is small, whatever the size of the index. Paths in it are absolute: DuckDB takes relative ones from the
reader's working directory, so a moved index must be published again (its next `publish` does).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.engine import locked
from ahi.index.mirror import MIRRORS, WHOLE, absorb, mirror_hash, put_state, read_arrow, read_delta
from ahi.index.registry import SCHEMA_VERSION
from ahi.index.sql import literal_path, quoted, text
from ahi.index.views import INFO_COLUMNS, catalog_columns, empty_select, names, template_statements
from ahi.index.writer import schema_hash, sync_folder, table_hash

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from ahi.index.store import Index

# DuckDB 1.4 and later read it; by default 2.0 writes files that only 2.0 opens.
STORAGE = "STORAGE_VERSION 'v1.2.0'"
# Raise it when the way of building changes but not the text of the views.
BUILD = "1"
PUBLISHED = "published"


@dataclass(frozen=True)
class Publication:
    """What analysts see now.

    Attributes:
        path: The published file.
        seq: Newest commit in it.
        published_at: When it took the place of the one before.
        is_new: False when nothing had changed and the file was left alone.
    """

    path: Path
    seq: int
    published_at: dt.datetime
    is_new: bool


@dataclass(frozen=True)
class _Snapshot:
    """Everything a publication shows, read in one transaction."""

    seq: int
    committed_at: dt.datetime | None
    files: list[sa.Row[tuple[object, ...]]]
    dead: dict[str, pa.Table]
    deltas: dict[str, pa.Table]
    whole: dict[str, pa.Table]

    def live(self, table: str) -> list[sa.Row[tuple[object, ...]]]:
        return [row for row in self.files if row.table_name == table]


def publish(index: Index) -> Publication:
    """Show analysts everything committed so far, or leave the file alone if it does already.

    One publisher works at a time; another waits, and then often finds nothing left to do. So an older snapshot never
    takes the place of a newer one. Readers keep the file they have open.
    """
    with locked(index.root / ".publish.lock"):
        _sweep(index.root)
        template = _template_id(index)
        # Where it stands is part of what was published: a moved index has other paths.
        marker = f"{template} {index.root}"
        with index.snapshot() as connection:
            current = _current(index, connection, marker)
        if current:
            return current
        for mirror in MIRRORS:
            absorb(index, mirror)
        with index.snapshot() as connection:
            shown = _read(connection, index.tables)
        temporary = index.root / f".index-{uuid.uuid4().hex}.duckdb"
        published_at = _build(index, temporary, _template(index, template), shown)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(index.path)
        sync_folder(index.root)
        _record(index, shown.seq, published_at, marker)
    return Publication(index.path, shown.seq, published_at, is_new=True)


def _sweep(root: Path) -> None:
    """Remove what killed publishers left. Under the lock nobody is at work on it."""
    for left in root.glob(".index-*.duckdb*"):
        left.unlink(missing_ok=True)


def _current(index: Index, connection: sa.Connection, marker: str) -> Publication | None:
    """The publication there is, if it shows the newest commit with today's views."""
    newest = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
    last = connection.execute(sa.select(c.publications).order_by(c.publications.c.seq.desc()).limit(1)).first()
    built = connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == PUBLISHED))
    if last is None or last.seq != newest or built != marker or not index.path.exists():
        return None
    return Publication(index.path, last.seq, last.published_at, is_new=False)


def read_dead(connection: sa.Connection, table: str) -> pa.Table:
    """Keys of a table's rows that do not count, as a relation (row_key, batch_id)."""
    import pyarrow as pa

    wanted = sa.and_(c.dead.c.table_name == table, c.dead.c.purged_seq.is_(None))
    rows = connection.execute(sa.select(c.dead.c.row_key, c.dead.c.batch_id).where(wanted)).fetchall()
    row_keys, batches = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"row_key": pa.array(row_keys, pa.string()), "batch_id": pa.array(batches, pa.string())})


def _read(connection: sa.Connection, tables: Iterable[str]) -> _Snapshot:
    newest = connection.execute(
        sa.select(c.commits.c.seq, c.commits.c.committed_at).order_by(c.commits.c.seq.desc()).limit(1)
    ).first()
    return _Snapshot(
        seq=newest.seq if newest else 0,
        committed_at=newest.committed_at if newest else None,
        files=list(
            connection.execute(sa.select(c.files).where(c.files.c.retired_seq.is_(None)).order_by(c.files.c.live_seq))
        ),
        dead={name: read_dead(connection, name) for name in tables},
        deltas={mirror.name: read_delta(connection, mirror) for mirror in MIRRORS},
        whole={table.name: read_arrow(connection, table) for table in WHOLE},
    )


def _internal(index: Index) -> dict[str, list[tuple[str, str]]]:
    """Columns of each relation of the schema `internal` that a view stands on."""
    columns = {f"{t.name}_rows": [(x.name, x.duckdb_type) for x in t.columns] for t in index.tables.values()}
    columns |= {mirror.name: mirror.columns for mirror in MIRRORS}
    columns |= {table.name: catalog_columns(table) for table in WHOLE}
    return columns | {"info": list(INFO_COLUMNS.items())}


@lru_cache(maxsize=8)
def _template_id(index: Index) -> str:
    """Digest of the views. They follow from the code, so an index asks once."""
    parts = [BUILD, *template_statements(index.tables, _internal(index))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _template(index: Index, template: str) -> Path:
    """A file with all views, empty, and their comments. Making it costs 0.5 ms for each of 600 comments: once."""
    path = index.root / f".template-{template}.duckdb"
    if path.exists():
        return path
    import duckdb

    temporary = index.root / f".index-{uuid.uuid4().hex}.duckdb"
    with duckdb.connect() as connection:
        _attach(connection, temporary)
        connection.execute("BEGIN")
        for statement in template_statements(index.tables, _internal(index)):
            connection.execute(statement)
        connection.execute("COMMIT")
        _detach(connection)
    for old in index.root.glob(".template-*.duckdb"):
        old.unlink(missing_ok=True)
    return temporary.rename(path)


def _attach(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    connection.execute("SET threads = 1")
    connection.execute(f"ATTACH {text(str(path))} AS published ({STORAGE})")
    connection.execute("USE published")


def _detach(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("USE memory")
    connection.execute("DETACH published")


def _build(index: Index, path: Path, template: Path, shown: _Snapshot) -> dt.datetime:
    """Write the file; returns the time it names as its publication, taken as late as can be."""
    import duckdb

    # What has no rows stays as the template has it: a typed, empty view.
    shutil.copyfile(template, path)
    with duckdb.connect() as connection:
        _attach(connection, path)
        connection.execute("BEGIN")
        for table in index.tables.values():
            columns = [(column.name, column.duckdb_type) for column in table.columns]
            if not shown.live(table.name):
                continue
            rows = _files_select(index.root, table.name, columns, table_hash(table), shown.live(table.name))
            keys = shown.dead[table.name]
            if keys.num_rows:
                dead = f"internal.{quoted('dead_' + table.name)}"
                _create(connection, dead, keys)
                rows = (
                    f"SELECT r.* FROM ({rows}) r ANTI JOIN {dead} d "
                    f"ON d.row_key = r.{quoted(table.row_key)} AND d.batch_id = r.batch_id"
                )
            _replace(connection, f"{table.name}_rows", rows)
        for mirror in MIRRORS:
            if not shown.live(mirror.name) and not shown.deltas[mirror.name].num_rows:
                continue
            delta = f"internal.{quoted(mirror.name + '_delta')}"
            _create(connection, delta, shown.deltas[mirror.name])
            select = f"SELECT {names(dict(mirror.columns))} FROM {delta}"
            if live := shown.live(mirror.name):
                files = _files_select(index.root, mirror.name, mirror.columns, mirror_hash(mirror), live)
                same = " AND ".join(f"d.{quoted(key)} = r.{quoted(key)}" for key in mirror.keys)
                select += f" UNION ALL SELECT r.* FROM ({files}) r ANTI JOIN {delta} d ON {same}"
            _replace(connection, mirror.name, select)
        for name, rows_of_table in shown.whole.items():
            if not rows_of_table.num_rows:
                continue
            _create(connection, f"internal.{quoted(name + '_copy')}", rows_of_table)
            _replace(connection, name, f"SELECT * FROM internal.{quoted(name + '_copy')}")
        published_at = _write_info(connection, index, shown)
        connection.execute("COMMIT")
        _detach(connection)
    return published_at


def _write_info(connection: duckdb.DuckDBPyConnection, index: Index, shown: _Snapshot) -> dt.datetime:
    stored = [*index.tables, *(mirror.name for mirror in MIRRORS)]
    rows = {name: sum(int(row.n_rows) for row in shown.live(name)) for name in stored}
    files = {name: len(shown.live(name)) for name in stored}
    rows |= {name: rows[name] + delta.num_rows for name, delta in shown.deltas.items()}
    published_at = now()
    values = ", ".join(f"?::{kind} AS {name}" for name, kind in INFO_COLUMNS.items())
    connection.execute(
        f"CREATE TABLE internal.info_row AS SELECT {values}",
        [shown.seq, shown.committed_at, published_at, SCHEMA_VERSION, rows, files],
    )
    _replace(connection, "info", "SELECT * FROM internal.info_row")
    return published_at


def _create(connection: duckdb.DuckDBPyConnection, name: str, data: pa.Table) -> None:
    connection.register("incoming", data)
    connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
    connection.unregister("incoming")


def _replace(connection: duckdb.DuckDBPyConnection, name: str, select: str) -> None:
    connection.execute(f"CREATE OR REPLACE VIEW internal.{quoted(name)} AS {select}")


def _files_select(
    root: Path, name: str, columns: list[tuple[str, str]], digest: str, live: Sequence[sa.Row[tuple[object, ...]]]
) -> str:
    return files_select(root, name, columns, [(str(row.path), str(row.schema_hash) == digest) for row in live])


def files_select(root: Path, name: str, columns: list[tuple[str, str]], files: Sequence[tuple[str, bool]]) -> str:
    """SELECT of a table's columns as they are now from files, some of which may have been written with others.

    Args:
        root: Folder of the index.
        name: Table.
        columns: Names and DuckDB types now.
        files: Path, and whether the file has exactly these columns.
    """
    if not files:
        return empty_select(columns)
    paths = [path for path, _ in files]
    if all(same for _, same in files):
        return f"SELECT {names(dict(columns))} FROM read_parquet([{_paths(root, paths)}])"
    # By name costs 1.9 times the CPU on many files, so only where columns differ. An empty file with today's columns
    # stands first: a column that no file has yet would be an error otherwise.
    picked = ", ".join(f"TRY_CAST({quoted(column)} AS {kind}) AS {quoted(column)}" for column, kind in columns)
    paths = [_empty_file(root, name, columns), *paths]
    return f"SELECT {picked} FROM read_parquet([{_paths(root, paths)}], union_by_name = true)"


def _paths(root: Path, paths: Sequence[str]) -> str:
    return ", ".join(text(literal_path(root / path)) for path in paths)


def _empty_file(root: Path, name: str, columns: list[tuple[str, str]]) -> str:
    """A Parquet file with these columns and no rows, made when it is missing."""
    import duckdb

    path = f"data/_schemas/{name}-{schema_hash(columns)}.parquet"
    if not (root / path).exists():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        temporary = root / f"{path}.{uuid.uuid4().hex}"
        with duckdb.connect() as connection:
            connection.execute(f"COPY ({empty_select(columns)}) TO {text(str(temporary))} (FORMAT parquet)")
        temporary.replace(root / path)
    return path


def _record(index: Index, seq: int, published_at: dt.datetime, marker: str) -> None:
    """Tell the catalog, and give the objects that are shown for the first time their publishing time."""
    with index.transaction() as connection:
        last = connection.scalar(sa.select(sa.func.max(c.publications.c.seq))) or 0
        if last == seq and last:
            connection.execute(
                c.publications.update().where(c.publications.c.seq == seq).values(published_at=published_at)
            )
        else:
            connection.execute(c.publications.insert().values(seq=seq, published_at=published_at))
        put_state(connection, PUBLISHED, marker)
        for stamp, number in (
            (c.objects.c.header_published_at, c.objects.c.header_seq),
            (c.objects.c.published_at, c.objects.c.indexed_seq),
        ):
            connection.execute(
                # Only rows changed since the last publication can lack it, and those an index finds.
                c.objects.update()
                .where(c.objects.c.changed_seq > last, stamp.is_(None), number <= seq)
                .values({stamp: published_at})
            )
