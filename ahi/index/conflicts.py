"""Conflicts: what image sets say differently about one patient, study or series, with both sides.

Belongs here: that view. Does not belong here: deciding which side is right. HealthImaging makes the later image set
not primary, whichever is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.index.sql import quoted, text
from ahi.index.view import View

if TYPE_CHECKING:
    from ahi.index.columns import Table

# Entity, the column that names it, and the levels whose attributes must agree within it.
ENTITIES = (
    ("patient", "patient_key", ("Patient",)),
    ("study", "StudyInstanceUID", ("Patient", "Study")),
    ("series", "SeriesInstanceUID", ("Series",)),
)
SIDE = "STRUCT(value VARCHAR, is_primary BOOLEAN, image_set_ids VARCHAR[])"


def conflicts(series: Table) -> View:
    """The view `conflicts`: a row for each attribute that has two values or more where one was expected."""
    return View(
        "conflicts",
        " UNION ALL ".join(_of(series, *entity) for entity in ENTITIES),
        "One row for each attribute that differs between the current image sets, primary or not, of one patient, study "
        "or series. Nulls do not count as a difference.",
        {
            "datastore_id": "HealthImaging data store.",
            "entity": "patient, study or series.",
            "entity_id": "Its patient_key, StudyInstanceUID or SeriesInstanceUID.",
            "attribute": "Keyword of the attribute.",
            "sides": "Each value as text, whether a primary image set has it, and the image sets that have it.",
        },
    )


def _of(series: Table, entity: str, key: str, levels: tuple[str, ...]) -> str:
    own = [
        column.name
        for column in series.columns
        if column.level in levels and column.tag is not None and column.name not in {key, "StudyInstanceUID"}
    ]
    shown = ", ".join(f"{quoted(name)}::VARCHAR AS {quoted(name)}" for name in own)
    known = (
        f"SELECT datastore_id, {key}, image_set_id, is_primary, {shown} FROM internal.series_rows "
        f"WHERE {key} IS NOT NULL"
    )
    sides = (
        f"SELECT datastore_id, {key} AS entity_id, attribute, value, bool_or(is_primary) AS is_primary, "
        "list(image_set_id ORDER BY image_set_id) AS image_set_ids "
        f"FROM ({known}) UNPIVOT (value FOR attribute IN ({', '.join(map(quoted, own))})) GROUP BY ALL"
    )
    return (
        f"SELECT datastore_id, {text(entity)} AS entity, entity_id, attribute, "
        "list({'value': value, 'is_primary': is_primary, 'image_set_ids': image_set_ids} ORDER BY value) AS sides "
        f"FROM ({sides}) GROUP BY ALL HAVING count(*) > 1"
    )
