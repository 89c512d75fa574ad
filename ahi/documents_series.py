"""The row of a series from a metadata document. Belongs here: what a series shows of its levels and its instances.

Does not belong here: the rows of instances (`ahi.documents_instances`), the side tables (`ahi.documents_side`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.documents_form import as_json, text
from ahi.documents_instances import OFFSET
from ahi.index.casting import caster
from ahi.index.keywords_patient import PATIENT
from ahi.index.keywords_series import SERIES
from ahi.index.keywords_study import STUDY
from ahi.index.normalise import body_part, manufacturer
from ahi.index.registry import SERIES_SUMMARY
from ahi.index.sop_classes import SOP_CLASSES
from ahi.index.values import CastFailure, age_years, name_parts, parse_offset, start_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ahi.documents_instances import Source
    from ahi.index.columnar import Rows

    PatientKey = Callable[[str | None, str | None], str | None]

Row = dict[str, object]

# The series shows the first instance's, and `image_types_all` the rest: it differs by design.
_FIRST_INSTANCE = "ImageType"
# Every row of a document has these two from its place in it.
_KEYS = ("StudyInstanceUID", "SeriesInstanceUID")
_LEVELS = [column for column in (*PATIENT, *STUDY, *SERIES) if column.name not in _KEYS]
CASTERS = [caster(column) for column in _LEVELS]
_NAMES = frozenset(column.name for column in _LEVELS)
EMPTY: Row = dict.fromkeys((*_KEYS, *(column.name for column in _LEVELS)))
AGREED = [name for name in SERIES_SUMMARY if name != _FIRST_INSTANCE]
# What `derived` and `counted` need.
DERIVED_FROM = (
    *("IssuerOfPatientID", "PatientID", "PatientName", "StudyDate", "StudyTime", "TimezoneOffsetFromUTC"),
    *("PatientAge", "PatientBirthDate", "BodyPartExamined", "Manufacturer"),
)
FROM_INSTANCES = ("ImageType", "InstanceNumber", "SOPClassUID", "TransferSyntaxUID", "stored_transfer_syntax_uid")
LEVELS_JSON = ("patient_json", "study_json", "series_json")
_PAIR = 2
_OF_FRAMES = ("SliceThickness", "SpacingBetweenSlices")


def series_row(source: Source, instances: Rows, patient_key: PatientKey) -> Row:
    """The series: attributes of its levels, those on which its instances agree, and what is counted from them."""
    row = EMPTY | source.base
    failures: list[CastFailure] = []
    mixed: list[str] = []
    offset = parse_offset(source.inherited.get(OFFSET))
    above = _above(source, mixed)
    row |= {one.name: one.one(above[one.name], failures, offset) for one in CASTERS if one.name in above}
    for name in AGREED:
        row[name] = _agreed_value(name, instances, mixed)
    row |= derived(row, patient_key)
    row["source_aet"] = _agreed_value("SourceApplicationEntityTitle", instances, [])
    row |= counted(instances)
    spacing = _agreed_value("PixelSpacing", instances, mixed)
    if spacing is None and "PixelSpacing" not in mixed:
        spacing = _agreed_value("ImagerPixelSpacing", instances, mixed)
    row["pixel_spacing_row_mm"], row["pixel_spacing_col_mm"] = pair(spacing)
    row["mixed_attrs"] = sorted(mixed) or None
    row["cast_failures"] = [failure.as_row() for failure in sorted(failures, key=lambda one: one.keyword)] or None
    return row


def derived(row: Mapping[str, object], patient_key: PatientKey) -> Row:
    """Columns of a series that come from its typed attributes, `DERIVED_FROM`."""
    return {
        "patient_key": patient_key(text(row["IssuerOfPatientID"]), text(row["PatientID"])),
        "PatientName_parts": name_parts(row["PatientName"]),
        "study_datetime_utc": start_utc(row, "StudyDate", "StudyTime"),
        "patient_age_years": age_years(row["PatientAge"], row["PatientBirthDate"], row["StudyDate"]),
        "body_part_normalised": body_part(row["BodyPartExamined"]),
        "manufacturer_normalised": manufacturer(row["Manufacturer"]),
    }


def pair(spacing: object) -> tuple[object, object]:
    """Spacing of rows and of columns; None for both when there are not two of them."""
    return (spacing[0], spacing[1]) if isinstance(spacing, list) and len(spacing) == _PAIR else (None, None)


def _above(source: Source, mixed: list[str]) -> Mapping[str, object]:
    """Attributes of patient, study and series: those that the levels have, else those that the instances agree on."""
    found = dict(source.inherited)
    for name in _NAMES & source.keys:
        if found.get(name) is None:
            found[name] = _agreed(name, source.own(name), mixed)
    return found


def add_of_frames(row: Row, frames: Sequence[Row]) -> None:
    """Add what enhanced objects say in their functional groups only: spacings and thickness.

    A series shows what its frames and its other instances agree on.
    """
    mixed: list[str] = [*(row["mixed_attrs"] or ())]  # type: ignore[misc]
    for name in _OF_FRAMES:
        if name not in mixed:
            row[name] = _agreed(name, [row[name], *(frame.get(name) for frame in frames)], mixed)
    if "PixelSpacing" not in mixed:
        known = [row.get("pixel_spacing_row_mm"), row.get("pixel_spacing_col_mm")]
        own = [frame.get("PixelSpacing") for frame in frames]
        spacing = _agreed("PixelSpacing", [None if None in known else known, *own], mixed)
        if spacing is not None or "PixelSpacing" in mixed:
            row["pixel_spacing_row_mm"], row["pixel_spacing_col_mm"] = pair(spacing)
    row["mixed_attrs"] = sorted(mixed) or None


def metadata_row(source: Source, levels: Sequence[Mapping[str, Any]]) -> Row:
    """The row of `series_metadata`; `levels` are the attributes of patient, study and series."""
    return {**source.base, **{name: as_json(level) for name, level in zip(LEVELS_JSON, levels, strict=True)}}


def _agreed(name: str, values: Sequence[object], mixed: list[str]) -> object:
    """The one value that the instances have; None, with the name in `mixed`, when they differ.

    An instance without the attribute does not count: it says nothing against the value.
    """
    first: object = None
    if values and values[0] is not None and values.count(values[0]) == len(values):
        return values[0]
    for value in values:
        if value is None or value == first:
            continue
        if first is not None:
            mixed.append(name)
            return None
        first = value
    return first


def _agreed_value(name: str, instances: Rows, mixed: list[str]) -> object:
    """Like `_agreed`, of typed values."""
    if name in instances.columns:
        return _agreed(name, instances.columns[name], mixed)
    return instances.constants.get(name)


def _first_type(instances: Rows) -> list[Any] | None:
    """ImageType of the first instance by InstanceNumber that has one."""
    if "ImageType" not in instances.columns:
        return instances.constants.get("ImageType")  # type: ignore[return-value]
    numbers, uids = instances.values("InstanceNumber"), instances.columns["SOPInstanceUID"]
    order = [
        (number if number is not None else 2**31, uid, kind)
        for number, uid, kind in zip(numbers, uids, instances.columns["ImageType"], strict=True)
        if kind is not None
    ]
    return min(order, key=lambda one: one[:2])[2] if order else None


def counted(instances: Rows) -> Row:
    """Columns of a series that are counted or gathered from its instances, in order of InstanceNumber."""
    types = instances.columns.get("ImageType") or [instances.constants.get("ImageType")]
    types = [kind for kind in types if kind] if instances.n_rows else []
    first = _first_type(instances) if types else None
    numbers = {value for value in instances.values("InstanceNumber") if value is not None}
    classes = _distinct(instances, "SOPClassUID")
    return {
        "ImageType": first,
        "n_instances": instances.n_rows,
        "n_frames": sum(instances.columns["n_frames"]),
        "sop_class_uids": classes,
        "sop_class_name": SOP_CLASSES.get(classes[0]) if classes and len(classes) == 1 else None,
        "transfer_syntax_uids": _distinct(instances, "TransferSyntaxUID"),
        "stored_transfer_syntax_uids": _distinct(instances, "stored_transfer_syntax_uid"),
        "image_types_all": sorted({"\\".join(one or "" for one in kind) for kind in types}) or None,
        "is_original": first[0] == "ORIGINAL" if first else None,
        "is_localizer": any("LOCALIZER" in kind for kind in types) if types else None,
        "instance_number_gaps": max(numbers) - min(numbers) + 1 - len(numbers) if numbers else None,
    }


def _distinct(instances: Rows, name: str) -> list[str] | None:
    values = instances.columns.get(name)
    if values is None:
        only = instances.constants.get(name)
        return [only] if isinstance(only, str) and instances.n_rows else None
    return sorted({value for value in values if isinstance(value, str)}) or None
