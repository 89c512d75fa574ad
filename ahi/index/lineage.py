"""Where the columns of the index come from. Belongs here: reading it off the registry and off the views' own SQL.

Does not belong here: how a catalog of data shows it (`ahi_assets.columns`).
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ahi.index.columns import Table
    from ahi.index.view import View

OF_THE_COMMIT = frozenset(("batch_id", "indexed_at", "schema_version", "parser_version", "dagster_run_id"))
"""Columns that say which code wrote the row and when; they come from no data."""


def document_columns(table: Table, kept: Mapping[str, str], document: str) -> dict[str, tuple[str, ...]]:
    """Sources of a table's columns among those of the kept documents.

    Args:
        table: A table whose rows are made from documents.
        kept: Columns that stand beside each document, by the name that they have in the table.
        document: Column that holds the document itself; whatever stands in no other comes from it.
    """
    names = [column.name for column in table.columns if column.name not in OF_THE_COMMIT]
    return {name: (kept.get(name, document),) for name in names}


@cache
def _select_list(sql: str) -> list[dict[str, Any]]:
    import duckdb

    with duckdb.connect() as connection:
        (tree,) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone() or ("{}",)
    items: list[dict[str, Any]] = json.loads(tree)["statements"][0]["node"]["select_list"]
    return items


def _references(node: object) -> Iterator[str]:
    """Names of columns in an expression. A lambda's parameters are among them; they are no column of any table."""
    if isinstance(node, list):
        for one in node:
            yield from _references(one)
    elif isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            yield node["column_names"][-1]
        for one in node.values():
            yield from _references(one)


def view_columns(view: View, source: Table) -> dict[str, tuple[str, ...]]:
    """Sources of a view's columns among those of the one table that it selects from, as DuckDB's parser sees them."""
    known = {column.name for column in source.columns}
    found = (
        (item["alias"] or item["column_names"][-1], tuple(sorted(known.intersection(_references(item)))))
        for item in _select_list(view.sql)
    )
    return {name: sources for name, sources in found if sources}
