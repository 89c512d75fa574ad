"""Every version of every row. Belongs here: history tables, AS OF and differences between two moments, as SQL.

Does not belong here: moving rows that stopped to count into history files (`compaction`).

A row counts from the commit of its batch (`valid_from`) until the commit that replaced or deleted it (`valid_to`). Both
stand for rows in live files in what the catalog knows (`commits`, `dead`), and beside the row in history files, into
which compaction moves what no longer counts. No two commits have the same time, so a time names a commit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ahi.index.columns import Column, Table, Tier
from ahi.index.pending import N_PENDING, ROW_SOURCE, SHOWN
from ahi.index.sql import quoted, text
from ahi.index.view import STUDY_OF_UNKNOWN, View, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUFFIX = "_history"
COUNTS = "_diff_counts"
VALIDITY = (
    Column("valid_from", "TIMESTAMPTZ", "Commit from which the row counted.", Tier.DEIDENTIFIED),
    Column("valid_to", "TIMESTAMPTZ", "Commit that replaced or deleted it; null: it counts.", Tier.DEIDENTIFIED),
)
# What tells rows of a table apart within their image set, where that is not what they are sorted by. A place may hold
# several rows that are told apart by nothing but their values, such as private elements of the items of a sequence.
_PLACE = ("SeriesInstanceUID", "level", "SOPInstanceUID", "sequence_path")
_TARGET = ("referenced_study_uid", "referenced_series_uid", "ReferencedSOPInstanceUID")
KEYS = {
    "headers": ("object_id",),
    "series": ("SeriesInstanceUID",),
    "instances": ("SeriesInstanceUID", "SOPInstanceUID"),
    "object_references": (*_PLACE, *_TARGET, "purpose_scheme", "purpose_code"),
    "codes": (*_PLACE, "keyword", "scheme", "code"),
    "private_elements": (*_PLACE, "tag", "creator"),
    "skipped_content": (*_PLACE, "reason"),
}
# Columns that say how a row was made: a row made anew with the same values has not changed.
STAMPS = ("batch_id", "indexed_at", "dagster_run_id", "schema_version", "parser_version", "image_set_version")
# Views made of the series of a moment, with what names a row of them.
SUMMARY_KEYS = {
    "studies": ("datastore_id", "StudyInstanceUID"),
    # The study of an unknown patient, as the view tells them apart: else one who goes and one who comes are a change.
    "patients": ("datastore_id", "patient_key", "StudyInstanceUID"),
}
# Parameter of the macros: under which name the file is attached, where it is not in use.
DB = "db := 'main'"
# Parameter of differences of image sets: whether those that are not primary count too, as in the views `..._all`.
ALL_SETS = "all_sets := false"
_DOCUMENTS = "of indexed documents alone: objects that were still shown by their header then stand in headers_as_of"
_FIRST, _LAST = "from_moment::TIMESTAMPTZ", "to_moment::TIMESTAMPTZ"


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
    # An image set whose study is changed has changed, and is not another one.
    own = KEYS.get(table.name, tuple(name for name in table.sort_by if name != "StudyInstanceUID"))
    return (*above, *(name for name in own if name not in above))


def with_all_sets(tables: Mapping[str, Table]) -> dict[str, str]:
    """Tables whose rows are of image sets, by the name of the view that shows those of all: primary or not."""
    of_sets = (name for name, table in tables.items() if any(one.name == "is_primary" for one in table.columns))
    return {f"{name}_all": name for name in of_sets}


def macros(tables: Mapping[str, Table], derived: Iterable[View]) -> list[tuple[str, str, str]]:
    """Table macros of the published file: name with parameters, SELECT, and what it shows.

    Args:
        tables: Parquet tables.
        derived: Views that stand on `main.series` and on nothing else.
    """
    derived = list(derived)
    found = [macro for table in tables.values() for macro in _as_of(table)]
    for view in derived:
        sql = view.sql.replace("FROM main.series ", f"FROM ({_as_of(tables['series'])[0][1]}) ")
        found.append((f"{view.name}_as_of(moment, {DB})", sql, f"The view {view.name} as it was, {_DOCUMENTS}."))
    sources = [_of_table(table) for table in tables.values()] + [
        _of_summary(view, tables["series"]) for view in derived
    ]
    found += [macro for source in sources for macro in (_diff(source), _counts(source))]
    counts = _by_table([source.name for source in sources], "from_moment, to_moment, db := db")
    comment = "Rows added, changed and deleted between two moments, counted by table."
    return [*found, (f"diff(from_moment, to_moment, {DB})", counts, comment)]


def touched(tables: Iterable[str]) -> str:
    """SELECT of the tables of which rows came or went after a moment until another, and when the newest commit was.

    It names a table too many rather than one too few: a commit that did not note what it wrote may have written to all.
    Most tables are in no difference, and asking for the differences of one costs 30 ms whatever comes of it.

    Its parameters are the two moments. It stands on the published file, and opens no file but history's.
    """
    listed = f"[{', '.join(text(name) for name in tables)}]"
    past = (f"SELECT {text(name)} AS table_name, valid_to FROM internal.{quoted(name + '_past')}" for name in tables)
    went = "valid_to > $1::TIMESTAMPTZ AND valid_to <= $2::TIMESTAMPTZ"
    came = went.replace("valid_to", "committed_at")
    return (
        "SELECT DISTINCT table_name, (SELECT committed_at FROM main.index_info) AS newest FROM ("
        f"SELECT unnest(coalesce(tables, if(n_rows = 0, [], {listed}))) AS table_name "
        f"FROM main.index_versions WHERE {came} UNION ALL SELECT table_name FROM "
        f"(SELECT table_name, valid_to FROM internal.dead UNION ALL {' UNION ALL '.join(past)}) WHERE {went}) "
        f"WHERE table_name IN {listed} ORDER BY table_name"
    )


def counted(tables: Iterable[str]) -> str:
    """SELECT of `added`, `changed` and `deleted` of some tables of `diff`; its parameters are the two moments."""
    one = "coalesce(sum(n_rows) FILTER (change = '{0}'), 0)::BIGINT AS {0}"
    return (
        f"SELECT table_name, {', '.join(map(one.format, ('added', 'changed', 'deleted')))} "
        f"FROM ({_by_table(tables, '$1::TIMESTAMPTZ, $2::TIMESTAMPTZ')}) GROUP BY table_name ORDER BY table_name"
    )


def _by_table(tables: Iterable[str], arguments: str) -> str:
    parts = (f"SELECT {text(name)} AS table_name, * FROM main.{quoted(name + COUNTS)}({arguments})" for name in tables)
    return " UNION ALL ".join(parts)


def _history(table: Table) -> str:
    """The history of a table inside a macro. DuckDB finds what a macro names in the database in use only."""
    return f"query_table(db || {text(f'.{table.name}{SUFFIX}')})"


def _as_of(table: Table) -> list[tuple[str, str, str]]:
    columns = {column.name for column in table.columns}
    source = f", 'document' AS {ROW_SOURCE}" if table.name in SHOWN else ""
    source += f", NULL::BIGINT AS {N_PENDING}" if table.name == "series" else ""
    sql = (
        f"SELECT * EXCLUDE (valid_from, valid_to){source} FROM {_history(table)} "
        "WHERE valid_from <= moment::TIMESTAMPTZ AND (valid_to IS NULL OR valid_to > moment::TIMESTAMPTZ)"
    )
    of = f"as it was, {_DOCUMENTS}." if source else "as it was at a moment."
    if "is_primary" not in columns:
        return [(f"{table.name}_as_of(moment, {DB})", sql, f"The view {table.name} {of}")]
    return [
        (f"{table.name}_as_of(moment, {DB})", f"{sql} AND is_primary", f"The view {table.name} {of}"),
        (f"{table.name}_all_as_of(moment, {DB})", sql, f"The view {table.name}_all {of}"),
    ]


@dataclass(frozen=True)
class _Source:
    """What differences are asked of.

    Attributes:
        name: View whose rows they are.
        parameters: Of its macros, beyond the two moments.
        relation: Rows of which one moment has more than the other: key `k`, whether it `came`, and what is compared.
    """

    name: str
    parameters: str
    relation: str


def _of_table(table: Table) -> _Source:
    """Rows of a table that came or went; of image sets those that its view shows, so the primary ones."""
    keys, columns = key_of(table), {column.name for column in table.columns}
    hidden = names([*keys, *(name for name in STAMPS if name in columns), *(column.name for column in VALIDITY)])
    has_primary = "is_primary" in columns
    return _Source(
        table.name,
        f"{DB}, {ALL_SETS}" if has_primary else DB,
        f"SELECT {_packed(keys)} AS k, valid_from > {_FIRST} AS came, * EXCLUDE ({hidden}) FROM {_history(table)} "
        f"WHERE {_MOVED} AND came = (valid_to IS NULL OR valid_to > {_LAST})"
        + (" AND (is_primary OR all_sets)" if has_primary else ""),
    )


def _of_summary(view: View, series: Table) -> _Source:
    """Rows of a view of series at the two moments, of those alone of which a series came or went."""
    keys, history = SUMMARY_KEYS[view.name], _history(series)
    made = {name: STUDY_OF_UNKNOWN for name in keys if name not in view.columns}
    key = _packed(keys, made)
    both = (
        f"FROM (SELECT came, s.* FROM {history} s, (VALUES (false, {_FIRST}), (true, {_LAST})) m(came, seen) "
        f"WHERE valid_from <= seen AND (valid_to IS NULL OR valid_to > seen) AND is_primary AND {key} IN "
        f"(SELECT {key} FROM {history} WHERE {_MOVED} AND is_primary)) "
    )
    source = f", 'document' AS {ROW_SOURCE}, NULL::BIGINT AS {N_PENDING}"
    more = "".join(f"{how} AS {quoted(name)}, " for name, how in made.items())
    sql = view.sql.replace("SELECT ", f"SELECT came, {more}", 1).replace("GROUP BY ", "GROUP BY came, ")
    sql = sql.replace("FROM main.series ", both.replace("s.*", f"s.*{source}", 1))
    hidden = names([*keys, *(name for name in STAMPS if name in view.columns)])
    return _Source(view.name, DB, f"SELECT {_packed(keys)} AS k, * EXCLUDE ({hidden}) FROM ({sql})")


def _packed(keys: Iterable[str], made: Mapping[str, str] | None = None) -> str:
    return f"struct_pack({', '.join(f'{quoted(key)} := {(made or {}).get(key, quoted(key))}' for key in keys)})"


_MOVED = f"valid_from <= {_LAST} AND (valid_to IS NULL OR valid_to > {_FIRST})"


def _left(source: _Source) -> str:
    """CTEs of what only one of two moments has, for `_diff` and `_counts`.

    DuckDB 1.4.0 and 1.4.1 lose every CTE of a macro that they read from a file, and so refuse these two only.

    `t` has every key of which a row came or went: how many rows came (`a`) and went (`b`). Of keys that have both, `g`
    has the rows that are left when equal ones are struck out, as many on either side: their values as text, and how
    many more came than went (`d`). So a row that was made anew is in none, whatever order files and rows are read in.
    Rows of other keys are counted by their keys alone, since most of what a moment brings is new.

    Columns are named by what they are not: readers parse all macros when they open the file, so short ones matter.
    """
    return (
        # Not materialized: `t` then reads no column but the keys'.
        f"WITH r AS NOT MATERIALIZED ({source.relation}), "
        "t AS MATERIALIZED (SELECT k, count(*) FILTER (came) AS a, count(*) FILTER (NOT came) AS b FROM r GROUP BY k), "
        "g AS (SELECT * EXCLUDE (came), sum(CASE WHEN came THEN 1 ELSE -1 END)::BIGINT AS d FROM "
        "(SELECT k, came, COLUMNS(* EXCLUDE (k, came))::VARCHAR FROM r "
        "SEMI JOIN (FROM t WHERE a > 0 AND b > 0) USING (k)) GROUP BY ALL HAVING d <> 0)"
    )


def _counts(source: _Source) -> tuple[str, str, str]:
    """How many rows `_diff` has of each change; nothing is paired for it."""
    sql = (
        f"{_left(source)} SELECT change, n_rows FROM (SELECT unnest(['added', 'changed', 'deleted']) AS change, "
        "unnest([sum(greatest(a - b, 0)), sum(least(a, b)), sum(greatest(b - a, 0))])::BIGINT AS n_rows "
        "FROM (SELECT a, b FROM t WHERE a = 0 OR b = 0 UNION ALL "
        "SELECT sum(greatest(d, 0)), sum(greatest(-d, 0)) FROM g GROUP BY k)) WHERE n_rows > 0"
    )
    comment = f"Rows of {source.name} added, changed and deleted between two moments, counted."
    return f"{source.name}{COUNTS}(from_moment, to_moment, {source.parameters})", sql, comment


def _diff(source: _Source) -> tuple[str, str, str]:
    """Rows that counted at one of two moments only, the two states of a row side by side."""
    sql = (
        # Rows of equal keys are paired in the order of all their values.
        f"{_left(source)}, p AS (SELECT * EXCLUDE (d, o, i), d > 0 AS came, "
        "row_number() OVER (PARTITION BY k, d > 0 ORDER BY o) AS n FROM "
        "(SELECT *, g AS o, unnest(range(abs(d))) AS i FROM g)), "
        "c AS (SELECT k, n, list({'attribute': attribute, 'before': before, 'after': after} ORDER BY attribute) "
        "AS changes FROM (SELECT k, n, attribute, min(v) FILTER (NOT came) AS before, min(v) FILTER (came) AS after "
        "FROM (FROM p UNPIVOT (v FOR attribute IN (* EXCLUDE (k, n, came)))) GROUP BY ALL) "
        "WHERE before IS DISTINCT FROM after GROUP BY k, n), "
        "w AS (SELECT k, n, CASE WHEN bool_and(came) THEN 'added' WHEN bool_or(came) THEN 'changed' ELSE 'deleted' END "
        "AS change FROM p GROUP BY k, n) "
        "SELECT change, unnest(k), changes FROM (SELECT change, k, "
        "CASE WHEN change = 'changed' THEN changes END AS changes FROM w LEFT JOIN c USING (k, n) "
        "UNION ALL SELECT change, k, NULL FROM (SELECT k, "
        "CASE WHEN b = 0 THEN 'added' ELSE 'deleted' END AS change, unnest(range(a + b)) FROM t WHERE a = 0 OR b = 0))"
    )
    comment = f"Rows of {source.name} added, changed (with what changed) and deleted between two moments."
    return f"{source.name}_diff(from_moment, to_moment, {source.parameters})", sql, comment
