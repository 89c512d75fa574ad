"""Questions to the published index. Belongs here: opening it so that a query can only read, and clear errors.

Does not belong here: printing (the command line) and the views themselves (`views`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING

from ahi.index.sql import literal_path, text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb


class IndexQueryError(Exception):
    """The query cannot be answered. The text is one paragraph for the person who asked."""


class IndexNotPublishedError(IndexQueryError):
    """There is no published index at a path yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"There is no published index at {path}. Start the pipeline (make up) and send data; lower tiers follow "
            "every ten minutes (asset published_tiers)."
        )


@dataclass(frozen=True)
class QueryResult:
    """An answer: names and DuckDB types of the columns, and the rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[object, ...]]

    def dicts(self) -> list[dict[str, object]]:
        """The rows by column name. What is named twice is numbered, as DuckDB numbers the columns of a subquery."""
        names = _distinct(self.columns)
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def _distinct(columns: Sequence[str]) -> list[str]:
    """Each name once: a second `x` is `x_1`, or the first of `x_2`, `x_3` that is free. Case tells nothing apart."""
    taken, named = set[str](), list[str]()
    for column in columns:
        free = (name for name in chain([column], (f"{column}_{n}" for n in count(1))) if name.lower() not in taken)
        named.append(next(free))
        taken.add(named[-1].lower())
    return named


def open_index(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the published index read-only. It shows one publication for good: open again to see a newer one.

    The connection reads the index and its Parquet files, and no other file of the machine.

    Raises:
        IndexNotPublishedError: Nothing has been published there.
    """
    import duckdb

    if not path.exists():
        raise IndexNotPublishedError(path)
    connection = duckdb.connect(str(path), read_only=True)
    folder = path.parent / "data"
    # DuckDB compares a path as the view has it, which is with its wildcards made literal.
    allowed = ", ".join(text(f"{name}/") for name in {str(folder), literal_path(folder)})
    connection.execute("SET TimeZone = 'UTC'")
    # The files never change, and reading about all of them again is most of what a lookup costs in a large index.
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute(f"SET allowed_directories = [{allowed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def query(path: Path, sql: str, parameters: Sequence[object] = ()) -> QueryResult:
    """Answer one SELECT (or DESCRIBE, SHOW, SUMMARIZE, EXPLAIN, PIVOT) from the published index.

    Args:
        path: The published `index.duckdb`.
        sql: One statement.
        parameters: Values for its `?`.

    Raises:
        IndexNotPublishedError: Nothing has been published.
        IndexQueryError: The statement is broken, would change something, or is not one statement.
    """
    import duckdb

    with open_index(path) as connection:
        try:
            statements = connection.extract_statements(sql)
            # PIVOT becomes several statements, of which DuckDB makes one when it runs the text.
            allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI)
            if len(statements) != 1:
                raise IndexQueryError(f"One statement at a time, please: this text has {len(statements)}.")
            if statements[0].type not in allowed:
                kind = statements[0].type.name
                raise IndexQueryError(f"The index is read-only: {kind} is not possible, SELECT, DESCRIBE and SHOW are.")
            cursor = connection.execute(sql, list(parameters) or None)
            description = cursor.description or []
            return QueryResult(
                columns=tuple(str(column[0]) for column in description),
                types=tuple(str(column[1]) for column in description),
                rows=cursor.fetchall(),
            )
        except duckdb.IOException as error:
            advice = "A file of the index is gone, so this publication is too old: ask again."
            raise IndexQueryError(f"{advice} ({own_words(error)})") from None
        except duckdb.CatalogException as error:
            shown = (str(row[0]) for row in connection.execute("SHOW TABLES").fetchall())
            names = ", ".join(name for name in shown if not name.endswith(("_all", "_history")))
            raise IndexQueryError(f"{own_words(error)} The index has: {names}; most also as ..._history.") from None
        except duckdb.Error as error:
            raise IndexQueryError(f"The query cannot be run. {own_words(error)}") from None


def own_words(error: Exception) -> str:
    """DuckDB's own words without the picture of the statement below them."""
    text = str(error).split("\nLINE ")[0]
    return " ".join(text.split())
