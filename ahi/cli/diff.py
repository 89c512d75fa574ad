"""`ahi diff`: what changed in the index between two moments. Belongs here: printing. The SQL is `ahi.index.history`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from ahi.index.query import QueryResult


def moment(text: str) -> dt.datetime:
    """A moment as typed: `now`, a day or an ISO 8601 time; UTC unless it has an offset."""
    if text == "now":
        return dt.datetime.now(dt.UTC)
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        common.fail(f"{text} is no moment: write 2026-11-21, 2026-11-21T14:30 or 2026-11-21T14:30+01:00, or now.")
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def diff(
    first: Annotated[str, typer.Argument(metavar="FROM", help="A day or an ISO 8601 time, in UTC unless it says so.")],
    last: Annotated[str, typer.Argument(metavar="TO", help="The same, or `now`.")] = "now",
    table: Annotated[
        str | None,
        typer.Option("--table", help="Rows of one table, studies and patients too; without it, counts of all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print as CSV.")] = False,
) -> None:
    """Say what was added, changed and deleted in the published index between two moments, by table.

    A row that was only written anew has not changed. Of image sets the primary ones count, as in the views; those that
    are not, too, for a table named with _all, as series_all. Rows shown by their header, before their document is
    indexed, count in headers alone. The same in SQL: `FROM diff(FROM, TO)`, `FROM series_diff(FROM, TO)`,
    `FROM series_diff(FROM, TO, all_sets := true)`; `FROM series_as_of(MOMENT)` is a table of documents as it was.

    Examples: `ahi diff 2026-11-01`, `ahi diff 2026-11-01T06:00 2026-11-02 --table studies`
    """
    from ahi.index.history import SUMMARY_KEYS, with_all_sets
    from ahi.index.query import IndexQueryError, query
    from ahi.index.registry import TABLES
    from ahi.index.sql import quoted

    common.refuse_two_forms(as_json=as_json, as_csv=as_csv)
    start, end = moment(first), moment(last)
    if start > end:
        common.fail("FROM is later than TO: give the earlier moment first.")
    every = with_all_sets(TABLES)
    if table is not None and table not in (*SUMMARY_KEYS, *TABLES, *every):
        common.fail(
            f"There is no table {table} with a history. There are: {', '.join([*SUMMARY_KEYS, *TABLES])}; with image "
            f"sets that are not primary: {', '.join(every)}."
        )
    path = common.open_settings().index_dir / "index.duckdb"
    try:
        if table is None:
            answer = _counts(path, start, end)
        else:
            name = quoted(f"{every.get(table, table)}_diff")
            more = ", all_sets := true" if table in every else ""
            answer = query(path, f"FROM {name}(?::TIMESTAMPTZ, ?::TIMESTAMPTZ{more}) ORDER BY ALL", [start, end])
    except IndexQueryError as error:
        common.fail(str(error))
    row = "row" if table else "table"
    common.print_answer(answer, as_json=as_json, as_csv=as_csv, row=row, for_eyes=_for_eyes)


def _counts(path: Path, start: dt.datetime, end: dt.datetime) -> QueryResult:
    """Counts of `diff(start, end)`, asked only of tables with something new: to plan the others is most of it."""
    from ahi.index.history import SUMMARY_KEYS, counted, touched
    from ahi.index.query import query
    from ahi.index.registry import TABLES

    found = query(path, touched(TABLES), [start, end]).rows
    if not found:
        return query(path, counted(list(TABLES)[-1:]), [start, start])
    # The file may be a newer one by now: up to the newest commit that was there it says the same.
    end = min([end, *(newest for _, newest in found if isinstance(newest, dt.datetime))])
    tables = [str(name) for name, _ in found]
    return query(path, counted([*tables, *(SUMMARY_KEYS if "series" in tables else ())]), [start, end])


def _for_eyes(row: tuple[object, ...]) -> tuple[object, ...]:
    """Changes as text; the last column of a table's rows has them."""
    if not isinstance(row[-1], list):
        return row
    return (*row[:-1], [f"{one['attribute']}: {one['before']} -> {one['after']}" for one in row[-1]])
