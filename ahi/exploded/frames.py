"""Functional groups of enhanced objects. Belongs here: rows of `frames_functional` (PS3.3 C.7.6.16).

Does not belong here: HealthImaging's frames with their ids (`ahi.documents`), the shape of volumes (`volume`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.exploded.cells import Cells, attributes_of
from ahi.exploded.notes import MAX_ROWS, TOO_MANY_ROWS
from ahi.exploded.tiles import channels_of, is_full, tiles_of, whole
from ahi.exploded.volume import position_along_normal
from ahi.index.tables_objects import FRAMES_FUNCTIONAL

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timezone

    from ahi.exploded.notes import Item, Notes, Row

_COLUMNS = {column.name: column for column in attributes_of(FRAMES_FUNCTIONAL)}
# Macros by sequence: what is read of the first item of each (PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3, C.8.12.6).
_CONTENT = (
    "DimensionIndexValues", "StackID", "InStackPositionNumber", "TemporalPositionIndex", "TemporalPositionTimeOffset",
    "FrameAcquisitionNumber", "FrameAcquisitionDateTime", "FrameReferenceDateTime", "FrameAcquisitionDuration",
)  # fmt: skip
_MACROS: dict[str, tuple[str, ...]] = {
    "FrameContentSequence": _CONTENT,
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
    "MRImageFrameTypeSequence": ("FrameType",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "PETFrameTypeSequence": ("FrameType",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime", "FlipAngle"),
    "MRModifierSequence": ("InversionTimes",),
    "CTXRayDetailsSequence": ("KVP",),
    "CTExposureSequence": ("XRayTubeCurrentInmA", "ExposureTimeInms", "ExposureInmAs", "CTDIvol"),
    "FrameAnatomySequence": ("FrameLaterality",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "SegmentIdentificationSequence": ("ReferencedSegmentNumber",),
    "PlanePositionSlideSequence": (
        "ColumnPositionInTotalImagePixelMatrix", "RowPositionInTotalImagePixelMatrix", "XOffsetInSlideCoordinateSystem",
        "YOffsetInSlideCoordinateSystem",
    ),
    "OpticalPathIdentificationSequence": ("OpticalPathIdentifier",),
}  # fmt: skip
_TAKEN = {sequence: tuple(_COLUMNS[name] for name in names) for sequence, names in _MACROS.items()}
_SHARED = "SharedFunctionalGroupsSequence"
_GRADIENT = (_COLUMNS["DiffusionGradientOrientation"],)


def frame_rows(attributes: Item, notes: Notes, offset: timezone | None = None) -> list[Row]:
    """Rows of `frames_functional`. What a frame says itself counts before what its place among the tiles says."""
    frames: Any = attributes.get("PerFrameFunctionalGroupsSequence")
    frames = frames if isinstance(frames, list) else []
    groups = notes.items(attributes, "SharedFunctionalGroupsSequence")
    shared = Cells(offset)
    _take(shared, groups[0] if groups else {}, notes)
    same = {name: value for name, value in shared.done().items() if value is not None}
    tiles = _tiles(attributes, notes)
    n_frames = len(frames) or (_n_frames(attributes, notes) if groups else 0)
    rows: list[Row] = []
    # Numbers of frames must stay right, so an item that is none keeps its place.
    for number in range(1, min(n_frames, MAX_ROWS) + 1):
        cells = Cells(offset)
        if frames and isinstance(frame := frames[number - 1], dict):
            _take(cells, frame, notes)
        row = same | tiles(number) | {name: value for name, value in cells.done().items() if value is not None}
        row["frame_number"] = number
        row["slice_position_mm"] = position_along_normal(row)
        rows.append(row)
    if n_frames > MAX_ROWS:
        place = "PerFrameFunctionalGroupsSequence" if frames else _SHARED
        notes.skip(place, TOO_MANY_ROWS, n_frames - MAX_ROWS)
    return rows


def _n_frames(attributes: Item, notes: Notes) -> int:
    """Frames of an object that has what they share only."""
    n_frames = whole(attributes, "NumberOfFrames")
    if not n_frames:
        notes.skip(_SHARED, "no number of frames")
    return n_frames


def _tiles(attributes: Item, notes: Notes) -> Callable[[int], Row]:
    """Function of the number of a frame to what the order of frames says of it; nothing unless it is a tile's."""
    if not is_full(attributes):
        return lambda _: {}
    channels = channels_of(attributes, notes)
    tiles = tiles_of(attributes, len(channels))
    if tiles is None:
        notes.skip(_SHARED, "the frames are not as many as the tiles")
        return lambda _: {}
    named = [_channel(item) for item in channels]

    def tile(number: int) -> Row:
        # An item of the frames may be there for no tile.
        if number > tiles.n_frames:
            return {}
        channel, column, row = tiles.place(number)
        place: Row = {"ColumnPositionInTotalImagePixelMatrix": column, "RowPositionInTotalImagePixelMatrix": row}
        return place | named[channel]

    return tile


def _channel(item: Item) -> Row:
    """The segment or the optical path of a tile. What does not fit is said by `segments`."""
    cells = Cells()
    found = {
        "ReferencedSegmentNumber": item.get("SegmentNumber"),
        "OpticalPathIdentifier": item.get("OpticalPathIdentifier"),
    }
    return {name: value for name, raw in found.items() if (value := cells.cast(_COLUMNS[name], raw)) is not None}


def _take(cells: Cells, group: Item, notes: Notes) -> None:
    for sequence in group:
        columns = _TAKEN.get(sequence)
        if columns is None:
            continue
        item = notes.first(group, sequence)
        cells.take(columns, item)
        if sequence == "MRDiffusionSequence":
            cells.take(_GRADIENT, notes.first(item, "DiffusionGradientDirectionSequence"))
