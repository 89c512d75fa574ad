"""What a document says inside its sequences, as rows. Belongs here: exploded tables, and the geometry of a series.

Does not belong here: columns and their types (`ahi.index.tables_exploded`), ids and stamps (`ahi.documents`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Row = dict[str, object]


def explode(uid: str, attributes: Mapping[str, Any], vrs: Mapping[str, Any]) -> dict[str, list[Row]]:  # noqa: ARG001
    """Rows by table of one instance; own columns only."""
    return {}


def geometry(instances: Sequence[Row]) -> Row:  # noqa: ARG001
    """Row of `series_geometry` of the typed instance rows of a series; own columns only."""
    return {}
