"""Radiotherapy objects. Belongs here: rows of `rt_rois`, `rt_doses` and `rt_plans` (PS3.3 C.8.8).

Does not belong here: what they refer to in general (`walk`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ahi.exploded.cells import Cells, attributes_of, distinct, only
from ahi.exploded.notes import MAX_ROWS, TOO_MANY_ROWS, text
from ahi.index.columns import Column, Tier
from ahi.index.tables_objects import RT_DOSES, RT_PLANS, RT_ROIS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ahi.exploded.notes import Item, Notes, Row

DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
PLANS = frozenset({"1.2.840.10008.5.1.4.1.1.481.5", "1.2.840.10008.5.1.4.1.1.481.8"})

_ROI, _DOSE, _PLAN = attributes_of(RT_ROIS), attributes_of(RT_DOSES), attributes_of(RT_PLANS)
_REFERENCED_SOP = "ReferencedSOPInstanceUID"
# Planes of one spacing may be rounded to hundredths of a millimetre.
_PLANE_TOLERANCE = 0.01


def _number(keyword: str, vr: str, vm: str = "1") -> Column:
    kind = {"IS": "INTEGER", "DS": "DOUBLE"}[vr]
    return Column(keyword, kind if vm == "1" else f"{kind}[]", "", Tier.DEIDENTIFIED, 1, vr, vm)


_NUMBER, _REFERENCED_NUMBER = _number("ROINumber", "IS"), _number("ReferencedROINumber", "IS")
_POINTS, _OFFSETS = _number("NumberOfContourPoints", "IS"), _number("GridFrameOffsetVector", "DS", "2-n")
_FRACTIONS, _SETUPS = _number("NumberOfFractionsPlanned", "IS"), _number("NumberOfBrachyApplicationSetups", "IS")
_TARGET = _number("TargetPrescriptionDose", "DS")
_BEAM_NUMBER, _CONTROL_POINTS = _number("BeamNumber", "IS"), _number("NumberOfControlPoints", "IS")
_ENERGY, _METERSET = _number("NominalBeamEnergy", "DS"), _number("BeamMeterset", "DS")
_REFERENCED_BEAM = _number("ReferencedBeamNumber", "IS")


def roi_rows(attributes: Item, notes: Notes) -> list[Row]:
    """Rows of `rt_rois`: one for each number that is defined, observed or contoured."""
    rois: dict[object, Cells] = {}
    series = only(_series(attributes, notes))

    def cells(item: Item, number: Column, sequence: str) -> Cells | None:
        made = Cells()
        key = made.cast(number, item.get(number.name))
        if key is None or (key not in rois and len(rois) >= MAX_ROWS):
            notes.skip(sequence, "a region without a number" if key is None else TOO_MANY_ROWS)
            return None
        found = rois.setdefault(key, made)
        found.row["ROINumber"] = key
        return found

    for sequence, number in (("StructureSetROISequence", _NUMBER), ("RTROIObservationsSequence", _REFERENCED_NUMBER)):
        for item in notes.items(attributes, sequence):
            if (one := cells(item, number, sequence)) is not None:
                one.take(_ROI, item)
    for item in notes.items(attributes, "ROIContourSequence"):
        if (one := cells(item, _REFERENCED_NUMBER, "ROIContourSequence")) is not None:
            one.take(_ROI, item)
            _contours(one, notes.items(item, "ContourSequence"))
    for one in rois.values():
        one.take(_ROI, {"StructureSetLabel": attributes.get("StructureSetLabel")})
        one.row["referenced_series_uid"] = series
        one.row.setdefault("n_contours", 0)
    return [one.done() for one in rois.values()]


def _contours(cells: Cells, contours: list[Item]) -> None:
    cells.row["n_contours"] = len(contours)
    points = (cells.cast(_POINTS, contour.get("NumberOfContourPoints")) for contour in contours)
    cells.row["n_contour_points"] = _int32(point for point in points if isinstance(point, int))
    cells.row["contour_types"] = distinct(text(contour, "ContourGeometricType") for contour in contours)


def _int32(numbers: Iterable[int]) -> int | None:
    """Their sum, as far as a column holds it."""
    total = sum(numbers)
    return total if abs(total) < 2**31 else None


def _series(attributes: Item, notes: Notes) -> list[str | None]:
    """Series that a structure set was drawn on."""
    return [
        text(series, "SeriesInstanceUID")
        for frame in notes.items(attributes, "ReferencedFrameOfReferenceSequence")
        for study in notes.items(frame, "RTReferencedStudySequence")
        for series in notes.items(study, "RTReferencedSeriesSequence")
    ]


def dose_rows(attributes: Item, notes: Notes) -> list[Row]:
    """The row of `rt_doses`."""
    cells = Cells()
    cells.take(_DOSE, attributes)
    histograms = notes.items(attributes, "DVHSequence")
    cells.row |= {
        "n_dvhs": len(histograms),
        "referenced_plan_uids": _uids(attributes, "ReferencedRTPlanSequence", notes),
        "referenced_structure_set_uids": _uids(attributes, "ReferencedStructureSetSequence", notes),
    }
    offsets = cells.cast(_OFFSETS, attributes.get("GridFrameOffsetVector"))
    if isinstance(offsets, list):
        cells.row["n_dose_planes"] = len(offsets)
        steps = [b - a for a, b in pairwise(offsets)] if None not in offsets else []
        if steps and max(steps) - min(steps) <= _PLANE_TOLERANCE:
            cells.row["plane_spacing_mm"] = abs(offsets[-1] - offsets[0]) / len(steps)
    return [cells.done()]


def plan_rows(attributes: Item, notes: Notes) -> list[Row]:
    """The row of `rt_plans`."""
    cells = Cells()
    cells.take(_PLAN, attributes)
    groups = notes.items(attributes, "FractionGroupSequence")
    fractions = [cells.cast(_FRACTIONS, group.get("NumberOfFractionsPlanned")) for group in groups]
    setups = [cells.cast(_SETUPS, group.get("NumberOfBrachyApplicationSetups")) for group in groups]
    sequence = "BeamSequence" if attributes.get("BeamSequence") else "IonBeamSequence"
    beams = notes.items(attributes, sequence)[:MAX_ROWS]
    targets = [
        cells.cast(_TARGET, item.get("TargetPrescriptionDose"))
        for item in notes.items(attributes, "DoseReferenceSequence")
    ]
    cells.row |= {
        "n_fraction_groups": len(groups),
        "n_fractions_planned": _int32(one for one in fractions if isinstance(one, int)) if any(fractions) else None,
        "n_beams": len(beams),
        "n_brachy_setups": _int32(one for one in setups if isinstance(one, int)),
        "beams": _beams(cells, beams, groups, notes),
        "beam_names": [text(beam, "BeamName") for beam in beams] or None,
        "treatment_machines": distinct(text(beam, "TreatmentMachineName") for beam in beams),
        "target_prescription_doses_gy": [one for one in targets if one is not None] or None,
        "referenced_structure_set_uids": _uids(attributes, "ReferencedStructureSetSequence", notes),
        "referenced_dose_uids": _uids(attributes, "ReferencedDoseSequence", notes),
        "referenced_plan_uids": _uids(attributes, "ReferencedRTPlanSequence", notes),
    }
    return [cells.done()]


def _beams(cells: Cells, beams: list[Item], groups: list[Item], notes: Notes) -> list[Row] | None:
    metersets: dict[object, object] = {}
    for group in groups:
        for item in notes.items(group, "ReferencedBeamSequence"):
            number = cells.cast(_REFERENCED_BEAM, item.get("ReferencedBeamNumber"))
            metersets.setdefault(number, cells.cast(_METERSET, item.get("BeamMeterset")))
    found = []
    for beam in beams:
        number = cells.cast(_BEAM_NUMBER, beam.get("BeamNumber"))
        points = "ControlPointSequence" if beam.get("ControlPointSequence") else "IonControlPointSequence"
        energy = notes.first(beam, points).get("NominalBeamEnergy")
        one: Row = {
            "number": number,
            "beam_type": text(beam, "BeamType"),
            "radiation": text(beam, "RadiationType"),
            "delivery": text(beam, "TreatmentDeliveryType"),
            "n_control_points": cells.cast(_CONTROL_POINTS, beam.get("NumberOfControlPoints")),
            "energy": cells.cast(_ENERGY, energy),
            "meterset": metersets.get(number),
        }
        found.append(one)
    return found or None


def _uids(attributes: Item, sequence: str, notes: Notes) -> list[str] | None:
    return distinct(text(item, _REFERENCED_SOP) for item in notes.items(attributes, sequence))
