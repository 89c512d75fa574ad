"""Segmentations. Belongs here: rows of `segments` (PS3.3 C.8.20). Does not belong here: their frames (`frames`)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ahi.exploded.cells import Cells, attributes_of, only
from ahi.exploded.notes import MAX_ROWS, TOO_MANY_ROWS, text
from ahi.exploded.tiles import LABEL_MAP, tiles_of
from ahi.index.tables_objects import SEGMENTS

if TYPE_CHECKING:
    from ahi.exploded.notes import Item, Notes, Row

_COLUMNS = attributes_of(SEGMENTS)
_TYPE = "SegmentedPropertyTypeCodeSequence"
_REGION = "AnatomicRegionSequence"
# Modifiers stand inside the code that they modify.
_WITHIN = ((_TYPE, "SegmentedPropertyTypeModifierCodeSequence"), (_REGION, "AnatomicRegionModifierSequence"))
_BY_NAME = {column.name: column for column in _COLUMNS}


def segment_rows(attributes: Item, notes: Notes) -> list[Row]:
    """Rows of `segments`."""
    series = only(text(one, "SeriesInstanceUID") for one in notes.items(attributes, "ReferencedSeriesSequence"))
    segments = notes.items(attributes, "SegmentSequence")
    if len(segments) > MAX_ROWS:
        notes.skip("SegmentSequence", TOO_MANY_ROWS, len(segments) - MAX_ROWS)
    counted = tiles = None
    if text(attributes, "SegmentationType") != LABEL_MAP:
        counted = _frames(attributes, notes)
        tiles = tiles_of(attributes, len(segments)) if counted is None else None
    rows = []
    for position, item in enumerate(segments[:MAX_ROWS]):
        cells = Cells()
        cells.take(_COLUMNS, item)
        cells.take((_BY_NAME["SegmentationType"],), attributes)
        for outer, inner in _WITHIN:
            cells.take((_BY_NAME[inner],), notes.first(item, outer))
        cells.row["referenced_series_uid"] = series
        if counted is not None:
            cells.row["n_frames"] = counted[cells.row.get("SegmentNumber")]
        elif tiles is not None:
            cells.row["n_frames"] = tiles.n_frames_of(position)
        rows.append(cells.done())
    return rows


def _frames(attributes: Item, notes: Notes) -> Counter[object] | None:
    """How many frames each segment has; None when functional groups do not tell the segment of every frame.

    A segment that all frames show is named once for all.
    """
    frames = notes.items(attributes, "PerFrameFunctionalGroupsSequence")
    shared = _number(notes.first(attributes, "SharedFunctionalGroupsSequence"), notes)
    counted = Counter(_number(frame, notes) or shared for frame in frames)
    return counted if counted and None not in counted else None


def _number(group: Item, notes: Notes) -> object:
    number = notes.first(group, "SegmentIdentificationSequence").get("ReferencedSegmentNumber")
    number = number[0] if isinstance(number, list) and number else number
    return number if isinstance(number, int) else None
