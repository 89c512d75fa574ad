"""What a document says inside its sequences, as rows. Belongs here: which module makes which table.

Does not belong here: columns and their types (`ahi.index.tables_exploded`), ids and stamps (`ahi.documents`).
No function of this package raises because of what a document holds: what cannot be taken is a row of
`skipped_content`, or a `cast_failures` entry when only a value did not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.exploded.notes import Notes, Row
from ahi.exploded.private import private_rows
from ahi.exploded.walk import Walk, is_plain, sequences_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def explode(uid: str, attributes: Mapping[str, Any], vrs: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows by table of one instance; own columns and SOPInstanceUID only.

    Args:
        uid: SOP Instance UID.
        attributes: The instance's own attributes. Those that it inherits belong to `explode_level`, or every instance
            of a series would repeat them.
        vrs: VRs of its private elements.
    """
    notes = None if is_plain(attributes) else Notes()
    if notes is None and not vrs:
        return {}
    tables = _walked("instance", attributes, vrs, notes or Notes())
    for rows in tables.values():
        for row in rows:
            row["SOPInstanceUID"] = uid
    return tables


def explode_level(level: str, attributes: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows by table of what a series, study or patient says for all of its instances; own columns only."""
    return {} if is_plain(attributes) else _walked(level, attributes, {}, Notes())


def _walked(level: str, attributes: Mapping[str, Any], vrs: Mapping[str, Any], notes: Notes) -> dict[str, list[Row]]:
    walk = Walk(level, notes)
    if isinstance(vrs, dict) and vrs:
        walk.take(walk.private, private_rows(attributes, vrs, None), "")
    for keyword in sequences_of(attributes, notes):
        walk.sequence(keyword, attributes[keyword])
    tables = walk.tables()
    if skipped := notes.rows():
        tables["skipped_content"] = [{"level": level, **row} for row in skipped]
    return tables


def geometry(instances: Sequence[Row]) -> Row:  # noqa: ARG001
    """Row of `series_geometry` of the typed instance rows of a series; own columns only."""
    return {}
