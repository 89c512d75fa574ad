"""Upkeep of the files. Belongs here: merging small ones, and removing what nothing needs any more.

Does not belong here: when to do it (a schedule) and what a commit writes (`commit`).

Nothing is changed in place: compaction writes a new file and retires its inputs, which stay on disk for readers of
older publications until the grace period is over.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import astuple, dataclass, replace
from operator import add
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import peekable

from ahi.clock import day_of, now
from ahi.index import catalog as c
from ahi.index.engine import locked, locked_if_free
from ahi.index.fold import fold
from ahi.index.history import history_table
from ahi.index.leftovers import remove_leftovers
from ahi.index.mirror import MIRRORS
from ahi.index.ordering import is_large, sorted_groups
from ahi.index.packing import group_rows
from ahi.index.parquet import spilling
from ahi.index.registry import arrow_schema
from ahi.index.relations import empty_columns, read_dead, table_select
from ahi.index.sidecar import mend_sidecars, remove_with_sidecar
from ahi.index.sql import quoted
from ahi.index.writer import DataFile, copied_file, write_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from ahi.index.columns import Table
    from ahi.index.store import Index

# Bytes that one merge takes in, so that its memory and its output stay bounded: 16 files of the small size.
MERGE_FILES = 16
# Files below so many times the small size are merged with each other, too, once there are enough of them: each file
# costs whoever opens the index. So 50 M instances have 40 files, not 280, for one more time that a row is written.
LARGE_TIMES = 8
MEDIUM_FILES = 8
# Files below this part of the small size are merged with each other first, once there are so many of them, as each file
# makes a look at one study a quarter of a millisecond dearer. A merge of them takes in the small size at most.
BATCH_FILES = 16
BATCH_PART = 16
# Held by whoever merges or erases.
COMPACT_LOCK = ".compact.lock"
# Keys that a view may have to leave out: reading them costs each publication about 20 ms, and each query a join.
DEAD_KEYS = 20_000
# Whether a file may hold rows of a dead key. The commits of one file often lie between those of another: by them alone,
# two such files kept each other's keys from being purged, and were written again at each run.
_MAY_HOLD = sa.and_(
    c.dead.c.rows_seq.between(c.files.c.first_seq, c.files.c.last_seq),
    sa.func.coalesce(c.files.c.clean_seq, 0) < c.dead.c.seq,
)


@dataclass(frozen=True)
class CompactionResult:
    """What compaction did: merged files in, files out, bytes in and out, keys that `dead` no longer needs.

    Files and bytes out are of what counts; `rows_past` are the rows that went into history files.
    """

    files_in: int = 0
    files_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    keys_purged: int = 0
    rows_past: int = 0
    rows_out: int = 0

    def __add__(self, other: CompactionResult) -> CompactionResult:
        """Both together."""
        return CompactionResult(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True)
class ExpiryResult:
    """What expiry removed: retired files, files of no commit, bytes (of other left-overs too), rows of the catalog."""

    retired: int
    orphans: int
    n_bytes: int
    dead_rows: int
    publications: int


@dataclass(frozen=True)
class _SizeClass:
    """Files of a size: from `least` bytes to below `most`; so many are merged, and so many bytes of them at once."""

    least: int
    most: int
    enough: int
    at_once: int

    @property
    def live(self) -> sa.ColumnElement[bool]:
        """Whether a file is one."""
        files = c.files.c
        return sa.and_(files.retired_seq.is_(None), files.n_bytes >= self.least, files.n_bytes < self.most)


@dataclass(frozen=True)
class Inputs:
    """Files to merge and keys that do not count, as of one commit."""

    seq: int
    files: Sequence[sa.Row[Any]]
    dead: pa.Table
    erased: Sequence[str] = ()
    """Row keys that go into no file any more."""


def compact(index: Index) -> CompactionResult:
    """Merge the small files of each table that has at least `index.compact_files` of them, and fold mirrors' slices.

    What single commits wrote is merged as `compact_batches` does, what comes of small files again once there are
    `MEDIUM_FILES`, until files have `LARGE_TIMES` the small size.

    Where more than `DEAD_KEYS` rows have to be left out at each reading, large files are written again without them.

    Rows that no longer count go into a history file, and the rest is sorted as the registry says. A commit that happens
    meanwhile is not touched. Publish afterwards: only then do readers see the new files.
    """
    result = CompactionResult()
    small, at_once = index.small_file_bytes, MERGE_FILES * index.small_file_bytes
    sizes = (
        _batches(index),
        _SizeClass(0, small, index.compact_files, at_once),
        _SizeClass(small, LARGE_TIMES * small, MEDIUM_FILES, at_once),
    )
    with locked(index.root / COMPACT_LOCK):
        for table in index.tables.values():
            for one in (table, history_table(table)):
                while inputs := _mergeable(index, one, sizes):
                    result += merge(index, one, inputs)
            rewritten: set[str] = set()
            while inputs := _burdened(index, table, rewritten):
                result += merge(index, table, inputs, rewritten=rewritten)
        for mirror in MIRRORS:
            old, new = fold(index, mirror)
            result += CompactionResult(
                len(old), len(new), sum(row.n_bytes for row in old), sum(file.n_bytes for file in new)
            )
    return result


def compact_batches(index: Index) -> CompactionResult:
    """Merge what single commits wrote, of each table that has `BATCH_FILES` of such files, or `index.compact_files`.

    Quick, so that whoever publishes can do it: one merge a table, which takes in the small size at most. Nothing is
    done while somebody compacts or erases. Readers see the new files from the next publication on.
    """
    result, size = CompactionResult(), _batches(index)
    with locked_if_free(index.root / COMPACT_LOCK) as is_mine:
        names = _tables_with(index, size) if is_mine else set()
        for table in index.tables.values():
            for one in (table, history_table(table)):
                if one.name in names and (inputs := _mergeable(index, one, [size])):
                    result += merge(index, one, inputs)
    return result


def _batches(index: Index) -> _SizeClass:
    """Files of single commits, and what came of the first merges of them."""
    small = index.small_file_bytes
    return _SizeClass(0, small // BATCH_PART, min(BATCH_FILES, index.compact_files), small)


def _tables_with(index: Index, size: _SizeClass) -> set[str]:
    """Names of tables with enough files of a size, by one question: nearly always there are none."""
    name = c.files.c.table_name
    with index.snapshot() as connection:
        enough = sa.func.count() >= size.enough
        return set(connection.scalars(sa.select(name).where(size.live).group_by(name).having(enough)))


def _mergeable(index: Index, table: Table, sizes: Iterable[_SizeClass]) -> Inputs | None:
    """Files of the first size of which a table has enough, oldest first, and dead keys; None if it has of none.

    Read in one transaction: apart, a commit between could be lost.
    """
    files = c.files.c
    with index.snapshot() as connection:
        for size in sizes:
            found = connection.execute(
                sa.select(c.files)
                .where(files.table_name == table.name, size.live)
                .order_by(files.first_seq, files.path)
            ).fetchall()
            if len(found) >= size.enough:
                seq = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
                picked = _within(found, size.at_once)
                return Inputs(seq, picked, read_dead(connection, [table.name])[table.name])
    return None


def _within(files: Sequence[sa.Row[Any]], n_bytes: int) -> list[sa.Row[Any]]:
    """The first of some files that have so many bytes together, and two at least."""
    picked: list[sa.Row[Any]] = []
    for row in files:
        n_bytes -= row.n_bytes
        if n_bytes < 0 and len(picked) > 1:
            break
        picked.append(row)
    return picked


def _burdened(index: Index, table: Table, rewritten: set[str]) -> Inputs | None:
    """The live file with the most dead rows, if the table has too many; not one that was rewritten just now."""
    with index.snapshot() as connection:
        of_table = sa.and_(c.dead.c.table_name == table.name, c.dead.c.purged_seq.is_(None))
        if (connection.scalar(sa.select(sa.func.count()).where(of_table)) or 0) <= DEAD_KEYS:
            return None
        n_dead = sa.select(sa.func.count()).select_from(c.dead).where(of_table, _MAY_HOLD).scalar_subquery()
        worst = connection.execute(
            sa.select(c.files)
            .where(
                c.files.c.table_name == table.name,
                c.files.c.retired_seq.is_(None),
                c.files.c.path.not_in(rewritten),
                n_dead > 0,
            )
            .order_by(n_dead.desc())
            .limit(1)
        ).first()
        if worst is None:
            return None
        seq = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
        return Inputs(seq, [worst], read_dead(connection, [table.name])[table.name])


def merge(index: Index, table: Table, inputs: Inputs, *, rewritten: set[str] | None = None) -> CompactionResult:
    """Write the rows of some files into one that counts and one of history, in one commit with retiring the files.

    Args:
        index: The index.
        table: Table of the registry, or of history.
        inputs: What to merge.
        rewritten: The path of the file that counts is added to it.

    Raises:
        RuntimeError: A file is not live any more.
    """
    output, past = (_known_empty(file, inputs) for file in _write_merged(index, table, inputs))
    from ahi.index.store import file_row

    paths = [str(row.path) for row in inputs.files]
    with index.commit(kind="compact") as commit:
        connection = commit.connection
        live = c.files.c.retired_seq.is_(None)
        found = set(connection.scalars(sa.select(c.files.c.path).where(live, c.files.c.table_name == table.name)))
        if not found.issuperset(paths):
            raise RuntimeError(f"Files of {table.name} were retired while they were merged: compact in one place only.")
        connection.execute(
            c.files.update()
            .where(c.files.c.path == sa.bindparam("old"))
            .values(retired_seq=commit.seq, retired_at=now()),
            [{"old": path} for path in paths],
        )
        if new := [file for file in (output, past) if file]:
            first, last = (min(row.first_seq for row in inputs.files), max(row.last_seq for row in inputs.files))
            rows = [file_row(file, first, last, commit.seq) | {"clean_seq": inputs.seq} for file in new]
            connection.execute(c.files.insert(), rows)
        purged = _purge(connection, table.name, commit.seq)
    if output and rewritten is not None:
        rewritten.add(output.path)
    return CompactionResult(
        files_in=len(paths),
        files_out=1 if output else 0,
        bytes_in=sum(row.n_bytes for row in inputs.files),
        bytes_out=output.n_bytes if output else 0,
        keys_purged=purged,
        rows_past=past.n_rows if past else 0,
        rows_out=output.n_rows if output else 0,
    )


def _write_merged(index: Index, table: Table, inputs: Inputs) -> tuple[DataFile | None, DataFile | None]:
    """The rows of the inputs that count, and those that did once, each in a synced file; None if there are none."""
    rows, past = table_select(index, table, inputs.files), history_table(table)
    with spilling(index.root) as connection:
        if inputs.erased:
            import pyarrow as pa

            connection.register("erased", pa.table({"key": pa.array(inputs.erased, pa.string())}))
            rows = f"SELECT * FROM ({rows}) WHERE {quoted(table.row_key)} NOT IN (SELECT key FROM erased)"
        n_rows = sum(row.n_rows for row in inputs.files)
        if not inputs.dead.num_rows:
            return _copy(connection, index, table, rows, n_rows), None
        connection.register("dead", inputs.dead)
        same = f"d.row_key = r.{quoted(table.row_key)} AND d.batch_id = r.batch_id"
        counting = f"SELECT r.* FROM ({rows}) r ANTI JOIN dead d ON {same}"
        # A row whose own commit found it outdated never counted.
        ended = (
            f"SELECT r.*, d.valid_from, d.valid_to FROM ({rows}) r JOIN dead d ON {same} AND d.valid_to > d.valid_from"
        )
        counted = _copy(connection, index, table, counting, n_rows)
        return counted, _copy(connection, index, past, ended, min(n_rows, inputs.dead.num_rows))


def _known_empty(file: DataFile | None, inputs: Inputs) -> DataFile | None:
    """The file with what its inputs tell of columns without values. Its own statistics count an empty list as null."""
    return file and replace(file, empty=empty_columns(inputs.files))


def _copy(connection: duckdb.DuckDBPyConnection, index: Index, table: Table, rows: str, most: int) -> DataFile | None:
    """Write rows of a SELECT, `most` at most, to a file in the order of their table; None if there are none."""
    columns = [(column.name, column.duckdb_type) for column in table.columns]
    folder = f"{table.name}/{day_of(now())}"
    if not is_large(most, len(columns)):
        select = f"SELECT * FROM ({rows}) ORDER BY {', '.join(quoted(name) for name in table.sort_by)}"
        return copied_file(connection, index.root, folder, select, table=table.name, columns=columns)
    schema = arrow_schema(table)
    groups = sorted_groups(connection, rows, table.sort_by, group_rows(table.name))
    parts = peekable(part.cast(schema) for part in groups)
    if not parts:
        return None
    return write_parts(index.root, folder, parts, schema, table=table.name, columns=columns)


def _purge(connection: sa.Connection, table: str, seq: int) -> int:
    """Mark dead keys whose rows no live file of a table holds any more. `seq` is the commit that marks them."""
    holds = (
        sa.select(c.files.c.path)
        .where(c.files.c.table_name == table, c.files.c.retired_seq.is_(None), _MAY_HOLD)
        .correlate(c.dead)
        .exists()
    )
    marked = connection.execute(
        c.dead.update()
        .where(c.dead.c.table_name == table, c.dead.c.purged_seq.is_(None), ~holds)
        .values(purged_seq=seq, purged_at=now())
    )
    return int(marked.rowcount)


def expire(index: Index) -> ExpiryResult:
    """Remove files that no reader within the grace period can need, and what no commit ever took in.

    A retired file goes once a publication without it has been out for the grace period. A file that the catalog does
    not know goes when it is older than the grace period, which therefore must exceed the longest write; so does what
    killed processes left elsewhere.
    """
    cutoff = now() - dt.timedelta(seconds=index.grace_seconds)
    # Storage is listed before the catalog is read: a file committed between the two is known, and stays.
    stored = _stored(index.root)
    with index.transaction() as connection:
        shown = connection.scalar(
            sa.select(sa.func.max(c.publications.c.seq)).where(c.publications.c.published_at <= cutoff)
        )
        old = sa.and_(c.files.c.retired_seq.is_not(None), c.files.c.retired_seq <= (shown or 0))
        retired = connection.execute(sa.select(c.files.c.path, c.files.c.n_bytes).where(old)).fetchall()
        known = {row.path: row.sha256 for row in connection.execute(sa.select(c.files.c.path, c.files.c.sha256))}
        connection.execute(c.files.delete().where(old))
        seq = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
        for table in index.tables:
            _purge(connection, table, seq)
        dead = connection.execute(
            c.dead.delete().where(c.dead.c.purged_seq.is_not(None), c.dead.c.purged_at <= cutoff)
        ).rowcount
        # The newest publication of those before the cutoff stays: readers within the grace period may still hold it.
        forgotten = connection.execute(c.publications.delete().where(c.publications.c.seq < (shown or 0))).rowcount
    orphans = {
        path: size for path, (modified, size) in stored.items() if path not in known and modified < cutoff.timestamp()
    }
    for path in [*(row.path for row in retired), *orphans]:
        remove_with_sidecar(index.root / path)
    mend_sidecars(index.root, known, cutoff.timestamp())
    n_bytes = sum(row.n_bytes for row in retired) + sum(orphans.values())
    n_bytes += remove_leftovers(index.root, cutoff.timestamp())
    return ExpiryResult(len(retired), len(orphans), n_bytes, int(dead), int(forgotten))


def _stored(root: Path) -> dict[str, tuple[float, int]]:
    """Time of change and size of every data file, by path relative to the root."""
    found = {}
    for path in (root / "data").glob("*/*/*.parquet"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found[path.relative_to(root).as_posix()] = (status.st_mtime, status.st_size)
    return found
