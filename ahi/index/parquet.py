"""Parquet files as DuckDB reads them. Belongs here: SELECTs over live files, and connections with bounded memory.

Does not belong here: writing files (`writer`) and the views that analysts see (`views`).
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ahi.index.leftovers import SPILL
from ahi.index.sql import literal_path, quoted, text
from ahi.index.writer import schema_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import duckdb

# What DuckDB holds beyond this spills to disk; no process of the pipeline may pass 1 GiB. At half of this, sorting a
# million series of 120 columns in one merge ran out of it: blocks that are pinned cannot spill.
MEMORY = "512MB"
_SPARE: list[duckdb.DuckDBPyConnection] = []


@contextmanager
def spilling(root: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection of one thread whose memory is bounded, with room on the index's disk for the rest."""
    folder = f"SET temp_directory = {text(str(root / SPILL))}"
    spare = _SPARE.pop() if _SPARE else None
    if spare is not None and _takes(spare, folder):
        connection = spare
    else:
        if spare is not None:
            spare.close()
        connection = _connect()
        connection.execute(folder)
    try:
        yield connection
    except BaseException:
        connection.close()  # something may still be attached
        raise
    if spare is None:
        connection.close()
    else:
        _SPARE.append(connection)


def _takes(spare: duckdb.DuckDBPyConnection, folder: str) -> bool:
    """Whether a connection can be given a folder: one that has spilled once can be given none, not even the same."""
    import duckdb

    try:
        spare.execute(folder)
    except duckdb.NotImplementedException:
        return False
    return True


def keep_spare() -> None:
    """Make a connection now for the first `spilling` of this process or of each fork of it: it costs 25 ms of CPU."""
    if not _SPARE:
        _SPARE.append(_connect())


def _connect() -> duckdb.DuckDBPyConnection:
    import duckdb

    # Without any thread of its own: starting those for remote files costs more than a publication's SQL, and a process
    # that has some cannot be forked.
    config: dict[str, str | bool | int | float | list[str]] = {"threads": 1, "async_threads": 0}
    return duckdb.connect(config=config | {"memory_limit": MEMORY, "preserve_insertion_order": False})


def empty_select(columns: Sequence[tuple[str, str]]) -> str:
    """A SELECT without rows whose columns have names and types."""
    return f"SELECT {', '.join(f'NULL::{kind} AS {quoted(name)}' for name, kind in columns)} WHERE false"


def select_list(columns: Sequence[tuple[str, str]], empty: frozenset[str]) -> str:
    """Columns for a SELECT, those that are null in all rows as constants: a Parquet file is not asked for these.

    A look at one of a million series then costs half: each column costs it the same, filled or not, a nested one
    several times that.

    Args:
        columns: Names and DuckDB types.
        empty: Names of those that are null in all rows.
    """
    return ", ".join(f"NULL::{kind} AS {quoted(name)}" if name in empty else quoted(name) for name, kind in columns)


def files_relation(
    root: Path, name: str, columns: Sequence[tuple[str, str]], digest: str, files: Sequence[tuple[str, str]]
) -> str:
    """Relation of a table's columns as they are now in files, some of which may have been written with others.

    Args:
        root: Folder of the index.
        name: Table.
        columns: Names and DuckDB types now.
        digest: Their digest.
        files: Path of each file, and the digest of its columns.
    """
    if not files:
        return f"({empty_select(columns)})"
    paths = [path for path, _ in files]
    if all(written == digest for _, written in files):
        return f"read_parquet([{_paths(root, paths)}])"
    # By name costs 1.9 times the CPU on many files, so only where columns differ. An empty file with today's columns
    # stands first: a column that no file has yet would be an error otherwise.
    picked = ", ".join(f"TRY_CAST({quoted(column)} AS {kind}) AS {quoted(column)}" for column, kind in columns)
    paths = [_empty_file(root, name, columns), *paths]
    return f"(SELECT {picked} FROM read_parquet([{_paths(root, paths)}], union_by_name = true))"


def _paths(root: Path, paths: Sequence[str]) -> str:
    return ", ".join(text(literal_path(root / path)) for path in paths)


def _empty_file(root: Path, name: str, columns: Sequence[tuple[str, str]]) -> str:
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
