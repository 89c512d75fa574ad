"""Every version of every row. Belongs here: history tables, AS OF and differences between two moments, as SQL.

Does not belong here: moving rows that stopped to count into history files (`compaction`).

A row counts from the commit of its batch (`valid_from`) until the commit that replaced or deleted it (`valid_to`). Both
stand for rows in live files in what the catalog knows (`commits`, `dead`), and beside the row in history files, into
which compaction moves what no longer counts. No two commits have the same time, so a time names a commit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ahi.index.columns import Column, Table, Tier
from ahi.index.pending import ROW_SOURCE, SHOWN
from ahi.index.sql import quoted, text
from ahi.index.view import View, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUFFIX = "_history"
VALIDITY = (
    Column("valid_from", "TIMESTAMPTZ", "Commit from which the row counted.", Tier.DEIDENTIFIED),
    Column("valid_to", "TIMESTAMPTZ", "Commit that replaced or deleted it; null: it counts.", Tier.DEIDENTIFIED),
)
# What tells rows of a table apart within their image set, where that is less than what they are sorted by.
KEYS = {
    "headers": ("object_id",),
    "series": ("SeriesInstanceUID",),
    "instances": ("SeriesInstanceUID", "SOPInstanceUID"),
}
# Columns that say how a row was made: a row made anew with the same values has not changed.
STAMPS = ("batch_id", "indexed_at", "dagster_run_id", "schema_version", "parser_version", "image_set_version")
# Parameter of the macros: under which name the file is attached, where it is not in use.
DB = "db := 'main'"


def history_table(table: Table) -> Table:
    """The table of a table's rows that no longer count."""
    return replace(
        table,
        name=f"{table.name}{SUFFIX}",
        description=f"{table.description} Every one that was ever in the index, unless it was erased.",
        columns=(*table.columns, *VALIDITY),
        sort_by=(*table.sort_by, "valid_from"),
    )


def history_view(table: Table) -> View:
    """All rows of a table with their validity, replaced and deleted ones too."""
    history = history_table(table)
    described = {column.name: column.description for column in history.columns}
    sql = (
        f"SELECT r.*, f.committed_at AS valid_from, d.valid_to FROM internal.{quoted(table.name + '_files')} r "
        "JOIN internal.commits f ON f.batch_id = r.batch_id "
        f"LEFT JOIN internal.dead d ON d.table_name = {text(table.name)} "
        f"AND d.row_key = r.{quoted(table.row_key)} AND d.batch_id = r.batch_id "
        # A row whose own commit found it outdated never counted.
        "WHERE d.valid_to IS NULL OR d.valid_to > d.valid_from "
        f"UNION ALL SELECT * FROM internal.{quoted(table.name + '_past')}"
    )
    return View(history.name, sql, history.description, described, of=table.name)


def key_of(table: Table) -> tuple[str, ...]:
    """Columns that name a row of a table at one moment."""
    columns = {column.name for column in table.columns}
    above = tuple(name for name in ("datastore_id", "image_set_id") if name in columns)
    own = KEYS.get(table.name, table.sort_by)
    return (*above, *(name for name in own if name not in above))


def macros(tables: Mapping[str, Table], derived: Iterable[View]) -> list[tuple[str, str, str]]:
    """Table macros of the published file: name with parameters, SELECT, and what it shows.

    Args:
        tables: Parquet tables.
        derived: Views that stand on `main.series` and on nothing else.
    """
    found = [macro for table in tables.values() for macro in _as_of(table)]
    for view in derived:
        sql = view.sql.replace("FROM main.series ", f"FROM ({_as_of(tables['series'])[0][1]}) ")
        found.append((f"{view.name}_as_of(moment, {DB})", sql, f"The view {view.name} as it was at a moment."))
    found += [_diff(table) for table in tables.values()]
    counts = " UNION ALL ".join(
        f"SELECT {text(name)} AS table_name, change, count(*) AS n_rows "
        f"FROM main.{quoted(name + '_diff')}(from_moment, to_moment, db := db) GROUP BY change"
        for name in tables
    )
    comment = "Rows added, changed and deleted between two moments, counted by table."
    return [*found, (f"diff(from_moment, to_moment, {DB})", counts, comment)]


def _history(table: Table) -> str:
    """The history of a table inside a macro. DuckDB finds what a macro names in the database in use only."""
    return f"query_table(db || {text(f'.{table.name}{SUFFIX}')})"


def _as_of(table: Table) -> list[tuple[str, str, str]]:
    columns = {column.name for column in table.columns}
    source = f", 'document' AS {ROW_SOURCE}" if table.name in SHOWN else ""
    sql = (
        f"SELECT * EXCLUDE (valid_from, valid_to){source} FROM {_history(table)} "
        "WHERE valid_from <= moment::TIMESTAMPTZ AND (valid_to IS NULL OR valid_to > moment::TIMESTAMPTZ)"
    )
    of = "as it was at a moment; rows of headers stand in headers_as_of only." if source else "as it was at a moment."
    if "is_primary" not in columns:
        return [(f"{table.name}_as_of(moment, {DB})", sql, f"The view {table.name} {of}")]
    return [
        (f"{table.name}_as_of(moment, {DB})", f"{sql} AND is_primary", f"The view {table.name} {of}"),
        (f"{table.name}_all_as_of(moment, {DB})", sql, f"The view {table.name}_all {of}"),
    ]


def _diff(table: Table) -> tuple[str, str, str]:
    """Rows that counted at one of two moments only, the two states of a row side by side.

    Columns are named by what they are not: readers parse all macros when they open the file, so short ones matter.
    """
    keys, columns = key_of(table), {column.name for column in table.columns}
    packed = ", ".join(f"{quoted(key)} := {quoted(key)}" for key in keys)
    # Where a key is not unique, rows of equal keys are paired in their order.
    number = f"row_number() OVER (PARTITION BY {names(list(keys))} ORDER BY {names(list(table.sort_by))})"
    hidden = names([*keys, *(name for name in STAMPS if name in columns), *(column.name for column in VALIDITY)])
    states = f"SELECT struct_pack({packed}) AS k, {number} AS n, * EXCLUDE ({hidden}) FROM {_history(table)}"
    first, last = "from_moment::TIMESTAMPTZ", "to_moment::TIMESTAMPTZ"
    before = f"valid_from <= {first} AND valid_to > {first} AND valid_to <= {last}"
    after = f"valid_from > {first} AND valid_from <= {last} AND (valid_to IS NULL OR valid_to > {last})"
    values = (
        "FROM (SELECT k, n, COLUMNS(* EXCLUDE (k, n))::VARCHAR FROM {0} SEMI JOIN {1} USING (k, n)) "
        "UNPIVOT ({2} FOR attribute IN (* EXCLUDE (k, n)))"
    )
    sql = (
        f"WITH x AS ({states} WHERE {before}), y AS ({states} WHERE {after}), "
        "c AS (SELECT k, n, list({'attribute': attribute, 'before': before, 'after': after} ORDER BY attribute) "
        f"AS changes FROM ({values.format('x', 'y', 'before')}) FULL JOIN ({values.format('y', 'x', 'after')}) "
        "USING (k, n, attribute) WHERE before IS DISTINCT FROM after GROUP BY k, n) "
        "SELECT change, unnest(k), changes FROM (SELECT k, n, CASE WHEN y.k IS NULL THEN 'deleted' "
        "WHEN x.k IS NULL THEN 'added' ELSE 'changed' END AS change FROM x FULL JOIN y USING (k, n)) "
        "LEFT JOIN c USING (k, n) WHERE change <> 'changed' OR changes IS NOT NULL"
    )
    comment = f"Rows of {table.name} added, changed (with what changed) and deleted between two moments."
    return f"{table.name}_diff(from_moment, to_moment, {DB})", sql, comment
