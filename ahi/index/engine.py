"""Connections to the catalog. Belongs here: the engine, the one way to write, and making the tables.

Does not belong here: tables (`catalog`) and what is written (`commit`).

SQLite and PostgreSQL are the same code by URL. Every write transaction takes one lock before it reads anything
(SQLite: BEGIN IMMEDIATE; PostgreSQL: an advisory lock), so the order of commit numbers is the order of commits, and
what a transaction read cannot have changed when it writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import uuid
from contextlib import contextmanager
from functools import lru_cache
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool

from ahi.errors import PermanentError
from ahi.index import catalog, catalog_archives, catalog_fhir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

BUSY_SECONDS = 30
CREATED = "created"
CHANGED = "changed:"
WRITE = "ahi_write"
UNNOTED = "ahi_unnoted"
"""Option of a statement that changes only columns which are not published."""
# Any number, the same in every process: the lock that serialises writers on PostgreSQL ("ahi" in ASCII).
ADVISORY_LOCK = 0x616869
# The wait for the lock ends, and so does a writer whose machine is gone: nobody else would free its lock for hours.
BEGIN_POSTGRESQL = (
    f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'; "
    f"SET LOCAL idle_in_transaction_session_timeout = '{2 * BUSY_SECONDS}s'; "
    f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"
)


def open_engine(url: str) -> sa.Engine:
    """Engine of a catalog. It opens no connection now, and keeps none: a fork of the process can use it.

    Args:
        url: SQLAlchemy URL: `sqlite:///...`, or `postgresql://...` with or without the name of a driver.

    Raises:
        PermanentError: It names another kind of database, or a driver that is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise PermanentError("AHI_CATALOG_URL is no URL of a database, such as postgresql://host/name.") from None
    if parsed.drivername in ("postgres", "postgresql"):
        # SQLAlchemy would take psycopg 3; the lock has psycopg2.
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise PermanentError(f"The catalog is SQLite or PostgreSQL, not {parsed.drivername}: correct AHI_CATALOG_URL.")
    # One statement for many rows instead of a round trip for each.
    options = {"executemany_mode": "values_plus_batch"} if parsed.drivername == "postgresql+psycopg2" else {}
    try:
        # An error would quote the parameters, and keys and names of patients are among them.
        engine = sa.create_engine(parsed, poolclass=NullPool, hide_parameters=True, **options)
    except ModuleNotFoundError as error:
        raise PermanentError(
            f"The driver {error.name} of the catalog's database is not installed: pip install 'ahi-pipeline[postgres]'."
        ) from error
    sa.event.listen(engine, "before_execute", _note_statement)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transaction handling begins late and never IMMEDIATE; None turns it off, `_begin_sqlite` begins.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA synchronous = FULL")
    # What is erased is overwritten with zeros and not only unlinked: it held names and UIDs.
    connection.execute("PRAGMA secure_delete = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def write_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A write transaction, alone in its catalog until it ends: keep it short, call no service inside.

    Commits at the end of the block; any exception rolls back and goes on.
    """
    is_postgresql = engine.dialect.name == "postgresql"
    # READ COMMITTED whatever the server's default is: each statement then sees what was committed before the lock.
    options = {"isolation_level": "READ COMMITTED"} if is_postgresql else {}
    with engine.connect().execution_options(**{WRITE: True}, **options) as connection, connection.begin():
        if is_postgresql:
            connection.exec_driver_sql(BEGIN_POSTGRESQL)
        yield connection
        _mark(connection, connection.info.pop(catalog.NOTED, ()))


def _note_statement(
    connection: sa.Connection, clause: Any, _many: object, _one: object, options: Mapping[str, object]
) -> None:
    """Hear of each statement before it is executed; those by text and by the driver are not heard of."""
    if getattr(clause, "is_dml", False) and not options.get(UNNOTED):
        _note_change(connection, clause)


def _note_change(connection: sa.Connection, statement: sa.UpdateBase) -> None:
    """Remember that this transaction changes a table, if it has `NOTED` in its info."""
    table = statement.table
    if isinstance(table, sa.Table) and table.info.get(catalog.NOTED):
        connection.info.setdefault(catalog.NOTED, set()).add(table.name)


def _mark(connection: sa.Connection, names: Iterable[str]) -> None:
    """Say in the catalog that tables were changed. The value means nothing but that it is another one."""
    state = catalog.state
    for name in sorted(names):
        value = {"name": f"{CHANGED}{name}", "value": uuid.uuid4().hex}
        connection.execute(state.delete().where(state.c.name == value["name"]))
        connection.execute(state.insert(), [value])


def empty_log(engine: sa.Engine) -> bool:
    """Bring the write-ahead log of SQLite, which holds older states of rows, into the file and empty it.

    Gives False when a reader kept it from that. PostgreSQL looks after its log by itself.
    """
    if engine.dialect.name != "sqlite":
        return True
    raw = engine.raw_connection()
    try:
        busy = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        raw.close()
    return not busy


@contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A read transaction in which every statement sees the same commit. It never blocks a writer."""
    options = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def create_tables(engine: sa.Engine, folder: Path) -> None:
    """Make what the catalog lacks of today's tables, columns and indexes. Safe when several processes do it at once.

    A catalog that has all of it, which is nearly every time, is only read, and no lock is waited for.

    Args:
        engine: The catalog.
        folder: An existing folder of the index, for the lock.
    """
    if _is_complete(engine):
        return
    with locked(folder / ".create.lock"):
        if _is_complete(engine):
            return
        if engine.dialect.name == "sqlite":
            raw = engine.raw_connection()
            try:
                # Readers then go on beside a writer. The setting stays with the file; changing it needs to be alone.
                raw.cursor().execute("PRAGMA journal_mode = WAL")
            finally:
                raw.close()
        with write_transaction(engine) as connection:
            there, known = set(sa.inspect(connection).get_table_names()), catalog.metadata.tables
            new = [table for table in catalog.metadata.sorted_tables if table.name not in there]
            catalog.metadata.create_all(connection, tables=new, checkfirst=False)
            _add_missing(connection, there)
            # Earlier code did not note changes.
            _mark(connection, [name for name in there if name in known and known[name].info.get(catalog.NOTED)])
            state = catalog.state
            connection.execute(state.delete().where(state.c.name == CREATED))
            connection.execute(state.insert().values(name=CREATED, value=_digest()))


def _is_complete(engine: sa.Engine) -> bool:
    """Whether the catalog says that it was made, or brought up to date, with the tables of this code."""
    made = sa.select(catalog.state.c.value).where(catalog.state.c.name == CREATED)
    try:
        with engine.connect() as connection:
            return connection.scalar(made) == _digest()
    except sa.exc.DBAPIError:
        return False


@lru_cache(maxsize=1)
def _digest() -> str:
    """Digest of the tables, columns and indexes of this code, so that no one has to count versions."""
    # They are imported, so their tables are among these.
    assert catalog_archives.archives.metadata is catalog_fhir.fhir_batches.metadata is catalog.metadata
    tables = catalog.metadata.sorted_tables
    parts = [f"{table.name}.{column.name} {column.type!r}" for table in tables for column in table.columns]
    parts += [
        f"{index.name} {[column.name for column in index.columns]} {index.dialect_options['sqlite']['where']}"
        for table in tables
        for index in table.indexes
    ]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


def _add_missing(connection: sa.Connection, names: set[str]) -> None:
    """Bring tables of earlier code up to date: columns are added, with their default in old rows; indexes follow."""
    inspector, prepare = sa.inspect(connection), connection.dialect.identifier_preparer
    for table in (catalog.metadata.tables[name] for name in sorted(names) if name in catalog.metadata.tables):
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                words = [prepare.format_column(column), column.type.compile(dialect=connection.dialect)]
                if not column.nullable:
                    assert isinstance(column.default, sa.ColumnDefault)
                    words.append(f"NOT NULL DEFAULT {column.default.arg!r}")
                connection.execute(sa.text(f"ALTER TABLE {prepare.format_table(table)} ADD COLUMN {' '.join(words)}"))
        wanted = {str(index.name): index for index in table.indexes}
        there = {
            str(index["name"]): index["column_names"]
            for index in inspector.get_indexes(table.name)
            if str(index["name"]).startswith("ix_")
        }
        same = {name for name, index in wanted.items() if there.get(name) == [x.name for x in index.columns]}
        for name in sorted(set(there) - same):
            connection.execute(sa.text(f"DROP INDEX {prepare.quote(name)}"))
        for name in sorted(set(wanted) - same):
            wanted[name].create(connection)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file of the index. The system frees it when its process ends, killed or not."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of `locked` unless somebody has it; gives whether it is held."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def insert_missing(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows with the same columns whose primary key is not there yet; leave the others as they are."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), list(rows))
    else:
        execute_many(connection, _insert(table, tuple(rows[0]), missing=True), rows)


def insert_many(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows with the same columns."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(table.insert(), list(rows))
    else:
        execute_many(connection, _insert(table, tuple(rows[0])), rows)


def execute_many(connection: sa.Connection, statement: sa.UpdateBase, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute a statement for many rows with the same names, which are all of its parameters without a value.

    On SQLite by column and by the driver itself: SQLAlchemy's way from a dict to parameters costs as much as SQLite.

    Args:
        connection: A write transaction.
        statement: Made once, as it is compiled once for each.
        rows: Values by parameter.
    """
    if not rows:
        return
    if connection.dialect.name != "sqlite":
        connection.execute(statement, list(rows))
        return
    _note_change(connection, statement)
    sql, parameters = _prepared(statement, connection.dialect)
    cells: list[Iterable[Any]] = []
    for name, bind, fixed in parameters:
        if name not in rows[0]:
            cells.append(repeat(fixed))
            continue
        values = list(map(itemgetter(name), rows))
        if bind is not None:
            bound = {value: bind(value) for value in dict.fromkeys(values)}
            values = [bound[value] for value in values]
        cells.append(values)
    connection.exec_driver_sql(sql, list(zip(*cells, strict=False)))


@lru_cache(maxsize=256)
def _insert(table: sa.Table, names: tuple[str, ...], *, missing: bool = False) -> sa.Insert:
    """INSERT of some columns into SQLite; the others get their default. `missing` passes over keys that are there."""
    values: dict[str, Any] = {
        column.name: column.default.arg
        for column in table.columns
        if isinstance(column.default, sa.ColumnDefault) and column.default.is_scalar
    }
    values |= {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
    return sqlite.insert(table).values(values).on_conflict_do_nothing() if missing else table.insert().values(values)


@lru_cache(maxsize=256)
def _prepared(statement: sa.UpdateBase, dialect: sa.Dialect) -> tuple[str, list[tuple[str, Any, Any]]]:
    """SQL of a statement, and its parameters in order: name, function to the driver's value, and a value if it has."""
    compiled = statement.compile(dialect=dialect)
    parameters = []
    for name in compiled.positiontup or ():
        bind = compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
        fixed = compiled.params[name]
        parameters.append((name, bind, fixed if bind is None or fixed is None else bind(fixed)))
    return str(compiled), parameters
