"""Differences between the two sources of a row: what an object's header said, and what HealthImaging says of it.

Belongs here: that view. Does not belong here: which of them is shown; that is always HealthImaging's document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.index.sql import quoted, text
from ahi.index.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.index.columns import Column, Table

# Both sources have the UIDs by which they are joined.
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
SIDES = "STRUCT(attribute VARCHAR, header_value VARCHAR, document_value VARCHAR)"


def differences(tables: Mapping[str, Table]) -> View:
    """The view `differences`: a row for each attribute that the two sources give differently.

    Conditions on study or series reach all four tables, since they are joined by both UIDs.
    """
    own = {column.name: column for column in tables["headers"].columns if column.tag is not None}
    found = [
        _differs(column, alias)
        for alias, name in (("i", "instances"), ("s", "series"))
        for column in tables[name].columns
        # The series has some attributes of its instances too; one look at each is enough.
        if column.name in own and column.name not in UIDS and (column.level == "Instance") == (name == "instances")
    ]
    series = " AND ".join(f"{{0}}.{uid} = h.{uid}" for uid in UIDS[:2])
    sql = (
        f"SELECT i.datastore_id, h.object_id, {', '.join(f'h.{uid}' for uid in UIDS)}, i.image_set_id, "
        f"unnest(list_filter([{', '.join(found)}], lambda one: one IS NOT NULL), recursive := true) "
        "FROM internal.headers_rows h "
        f"JOIN internal.objects o ON o.object_id = h.object_id AND {series.format('o')} "
        f"JOIN internal.instances_rows i ON i.image_set_id = o.image_set_id AND {series.format('i')} "
        "AND i.SOPInstanceUID = h.SOPInstanceUID "
        f"JOIN internal.series_rows s ON s.image_set_id = i.image_set_id AND {series.format('s')}"
    )
    comments = {name: own[name].description for name in UIDS}
    return View(
        "differences",
        sql,
        "One row for each attribute that an object's header and HealthImaging's current document of it give "
        "differently. Spaces at the ends of text are padding and do not count; nor does a series attribute in which "
        "the instances differ (mixed_attrs). Ask by study or series: then few files are read.",
        {
            "datastore_id": "HealthImaging data store.",
            "object_id": "Object of the ledger whose header it is.",
            **comments,
            "image_set_id": "HealthImaging image set that the object is in.",
            "attribute": "Keyword of the attribute.",
            "header_value": "What the header says, as text.",
            "document_value": "What the document says, as text.",
        },
    )


def _differs(column: Column, alias: str) -> str:
    name = quoted(column.name)
    ours, theirs = f"h.{name}", f"{alias}.{name}"
    differs = f"{_bare(column, ours)} IS DISTINCT FROM {_bare(column, theirs)}"
    if alias == "s":
        differs += f" AND NOT coalesce(list_contains(s.mixed_attrs, {text(column.name)}), false)"
    sides = (
        f"{{'attribute': {text(column.name)}, 'header_value': {ours}::VARCHAR, 'document_value': {theirs}::VARCHAR}}"
    )
    # Few values differ at all, and only for those the padding is looked at.
    return f"CASE WHEN {ours} IS DISTINCT FROM {theirs} THEN CASE WHEN {differs} THEN {sides}::{SIDES} END END"


def _bare(column: Column, value: str) -> str:
    """SQL of a value without padding: trailing spaces or NUL (PS3.5, 6.2); nothing but padding is no value."""
    if column.duckdb_type == "VARCHAR":
        return f"nullif(trim({value}::VARCHAR, ' ' || chr(0)), '')"
    if column.duckdb_type == "VARCHAR[]":
        return f"nullif(list_transform({value}::VARCHAR[], lambda one: coalesce(trim(one, ' ' || chr(0)), '')), [''])"
    return value
