"""Functional groups of enhanced objects. Belongs here: rows of `frames_functional` (PS3.3 C.7.6.16).

Does not belong here: HealthImaging's frames with their ids (`ahi.documents`), the shape of volumes (`volume`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.exploded.cells import Cells, attributes_of
from ahi.exploded.notes import MAX_ROWS, TOO_MANY_ROWS
from ahi.exploded.volume import position_along_normal
from ahi.index.tables_objects import FRAMES_FUNCTIONAL

if TYPE_CHECKING:
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
_GRADIENT = (_COLUMNS["DiffusionGradientOrientation"],)


def frame_rows(attributes: Item, notes: Notes, offset: timezone | None = None) -> list[Row]:
    """Rows of `frames_functional`."""
    shared = Cells(offset)
    _take(shared, notes.first(attributes, "SharedFunctionalGroupsSequence"), notes)
    same = {name: value for name, value in shared.done().items() if value is not None}
    frames: Any = attributes.get("PerFrameFunctionalGroupsSequence")
    rows: list[Row] = []
    # Numbers of frames must stay right, so an item that is none keeps its place.
    for number, frame in enumerate(frames[:MAX_ROWS] if isinstance(frames, list) else (), 1):
        cells = Cells(offset)
        if isinstance(frame, dict):
            _take(cells, frame, notes)
        row = same | {name: value for name, value in cells.done().items() if value is not None}
        row["frame_number"] = number
        row["slice_position_mm"] = position_along_normal(row)
        rows.append(row)
    if isinstance(frames, list) and len(frames) > MAX_ROWS:
        notes.skip("PerFrameFunctionalGroupsSequence", TOO_MANY_ROWS, len(frames) - MAX_ROWS)
    return rows


def _take(cells: Cells, group: Item, notes: Notes) -> None:
    for sequence in group:
        columns = _TAKEN.get(sequence)
        if columns is None:
            continue
        item = notes.first(group, sequence)
        cells.take(columns, item)
        if sequence == "MRDiffusionSequence":
            cells.take(_GRADIENT, notes.first(item, "DiffusionGradientDirectionSequence"))
