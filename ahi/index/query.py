"""Questions to the published index. Belongs here: opening it so that a query can only read, and clear errors.

Does not belong here: printing (the command line) and the views themselves (`views`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, count
from typing import TYPE_CHECKING

from ahi.index.columns import Tier
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
    # Eight threads that wait for files on this disk cost a look at one study a sixth of what it takes.
    connection.execute("SET async_threads = 0")
    connection.execute(f"SET allowed_directories = [{allowed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def query(path: Path, sql: str, parameters: Sequence[object] = (), *, tier: Tier = Tier.IDENTIFIED) -> QueryResult:
    """Answer one SELECT (or DESCRIBE, SHOW, SUMMARIZE, EXPLAIN, PIVOT) from the published index.

    Args:
        path: The published `index.duckdb`.
        sql: One statement.
        parameters: Values for its `?`.
        tier: Whose index it is, for the words of an error.

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
            raise IndexQueryError(_without(connection, own_words(error), tier)) from None
        except duckdb.Error as error:
            words = own_words(error)
            higher = _column_above(connection, words, sql, tier)
            raise IndexQueryError(f"The query cannot be run. {words} {higher}".rstrip()) from None


_MISSING = re.compile(
    r'(?P<kind>[\w ]+) with name (?P<name>.+?) does not exist!(?P<hint> Did you mean "(?P<like>.+?)"\?)?'
)
_NO_COLUMN = re.compile(r'(?:column|column named) "(?P<name>[^"]+)"')


def _without(connection: duckdb.DuckDBPyConnection, words: str, tier: Tier) -> str:
    """What to say of a name that the index has not: whether another tier has it, what is like it, what there is."""
    found = _MISSING.search(words)
    if found is None or not found["kind"].endswith(("Table", "Table Function")):
        return words
    views = _views(connection)
    macros = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE NOT internal"
    is_table = found["kind"].endswith("Table")
    own = views if is_table else [str(row[0]) for row in connection.execute(macros).fetchall()]
    higher = _above(tier, found["name"])
    # DuckDB looks at its own tables and functions, too, such as pg_constraint and read_json.
    if found["hint"] and (higher or found["like"].split(".")[-1] not in own):
        like = get_close_matches(found["name"], sorted(own), 1)
        words = words.replace(found["hint"], f' Did you mean "{like[0]}"?' if like and not higher else "")
    names = ", ".join(name for name in views if not name.endswith(("_all", "_history")))
    more = "`ahi schema` lists all" if tier is Tier.IDENTIFIED else f"`ahi schema --tier {tier.value}` lists all"
    return f"{higher or words} The index has: {names}; {more}."


def _column_above(connection: duckdb.DuckDBPyConnection, words: str, sql: str, tier: Tier) -> str:
    """A sentence if a column that the tables of a statement have not is in those of a higher tier."""
    found = _NO_COLUMN.search(words)
    asked = {word.lower() for word in re.findall(r"\w+", sql)}
    used = [view for view in _views(connection) if view in asked] if found else []
    return _above(tier, found["name"], used) if found and used else ""


def _views(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [str(row[0]) for row in connection.execute("SHOW TABLES").fetchall()]


def _above(tier: Tier, name: str, columns_of: Sequence[str] = ()) -> str:
    if tier is Tier.IDENTIFIED:
        return ""
    from ahi.index.dictionary import only_above

    return only_above(tier, name, columns_of)


def own_words(error: Exception) -> str:
    """DuckDB's own words without the picture of the statement below them."""
    text = str(error).split("\nLINE ")[0]
    return " ".join(text.split())
