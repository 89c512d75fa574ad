"""Differences between the two sources of a row: what an object's header said, and what HealthImaging says of it.

Belongs here: that view, and the relation it stands on. Does not belong here: which of them is shown; that is always
HealthImaging's document.
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
COMPARED = "internal.compared"
# Lists of that relation: name, alias and table of the document's side, levels of the attributes in it.
COMPARED_LISTS = (
    ("of_instance", "i", "instances", ("Instance",)),
    ("of_study", "s", "series", ("Patient", "Study")),
    ("of_series", "s", "series", ("Series",)),
)
SIDES = "STRUCT(attribute VARCHAR, header_value VARCHAR, document_value VARCHAR)"


def differences(tables: Mapping[str, Table]) -> View:
    """The view `differences`: a row for each attribute that the two sources give differently.

    Conditions on study or series reach all four tables, since they are joined by both UIDs.
    """
    own = {column.name: column for column in tables["headers"].columns}
    agreed = "coalesce(list_contains(mixed_attrs, one.attribute), false)"
    above = f"list_filter(list_concat(of_study, of_series), lambda one: NOT {agreed})"
    sql = (
        f"SELECT datastore_id, object_id, {', '.join(UIDS)}, image_set_id, "
        f"unnest(list_concat(of_instance, {above}), recursive := true) FROM {COMPARED}"
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


# Values without padding: trailing spaces or NUL (PS3.5, 6.2); nothing but padding is no value.
_BARE = {
    "differs": "{0}",
    "text_differs": "nullif(trim({0}::VARCHAR, ' ' || chr(0)), '')",
    "texts_differ": (
        "nullif(list_transform({0}::VARCHAR[], lambda one: coalesce(trim(one, ' ' || chr(0)), '')), [''])"
    ),
}


def _macro(column: Column) -> str:
    return {"VARCHAR": "text_differs", "VARCHAR[]": "texts_differ"}.get(column.duckdb_type, "differs")


def comparisons(tables: Mapping[str, Table]) -> list[str]:
    """Statements that make what the view stands on: headers beside their documents, with what both sides say.

    Macros tell that of an attribute, null where they agree: the view names some hundred attributes, and with the whole
    comparison for each it was a third of `index.duckdb`. `conflicts` asks the same relation.
    """
    sides = f"{{'attribute': name, 'header_value': ours::VARCHAR, 'document_value': theirs::VARCHAR}}::{SIDES}"
    macros = [
        f"CREATE MACRO internal.{macro}(name, ours, theirs) AS CASE WHEN ours IS DISTINCT FROM theirs THEN "
        # Few values differ at all, and only for those the padding is looked at.
        f"CASE WHEN {bare.format('ours')} IS DISTINCT FROM {bare.format('theirs')} THEN {sides} END END"
        for macro, bare in _BARE.items()
    ]
    return [*macros, f"CREATE VIEW {COMPARED} AS {_compared(tables)}"]


def _compared(tables: Mapping[str, Table]) -> str:
    """SELECT of every header whose instance a document has, and in what they differ: a list for each level."""
    own = {column.name for column in tables["headers"].columns if column.tag is not None} - set(UIDS)
    lists = ", ".join(
        f"list_filter([{', '.join(differing)}], lambda one: one IS NOT NULL) AS {found}"
        for found, alias, table, levels in COMPARED_LISTS
        for differing in [
            [
                f"internal.{_macro(column)}({text(column.name)}, h.{name}, {alias}.{name})"
                # The series has some attributes of its instances too; one look at each is enough.
                for column in tables[table].columns
                if column.name in own and column.level in levels
                for name in [quoted(column.name)]
            ]
        ]
    )
    series = " AND ".join(f"{{0}}.{uid} = h.{uid}" for uid in UIDS[:2])
    return (
        f"SELECT i.datastore_id, h.object_id, {', '.join(f'h.{uid}' for uid in UIDS)}, i.image_set_id, s.is_primary, "
        f"s.mixed_attrs, {lists} FROM internal.headers_rows h "
        f"JOIN internal.objects o ON o.object_id = h.object_id AND {series.format('o')} "
        f"JOIN internal.instances_rows i ON i.image_set_id = o.image_set_id AND {series.format('i')} "
        "AND i.SOPInstanceUID = h.SOPInstanceUID "
        f"JOIN internal.series_rows s ON s.image_set_id = i.image_set_id AND {series.format('s')}"
    )
