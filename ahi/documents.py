"""HealthImaging's metadata document into rows. Belongs here: the form of the document, and what a series shows of it.

Does not belong here: fetching and keeping documents, and types of values (`ahi.index.values`).
Source of the form: "GetImageSetMetadata" and "Understanding metadata normalization" of the developer guide, and the two
documents in tests/data/healthimaging.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import sys
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ahi.exploded import explode, explode_level, geometry
from ahi.index.keywords_instance import INSTANCE
from ahi.index.keywords_patient import PATIENT
from ahi.index.keywords_series import SERIES
from ahi.index.keywords_study import STUDY
from ahi.index.registry import SCHEMA_VERSION, SERIES_SUMMARY
from ahi.index.values import CastFailure, age_years, cast, name_parts, parse_offset, start_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ahi.index.columns import Column

    PatientKey = Callable[[str | None, str | None], str]

Row = dict[str, object]

# Rises when the same document may give other rows.
PARSER_VERSION = "documents-2"

_GZIP = b"\x1f\x8b"
# The series shows the first instance's, and `image_types_all` the rest: it differs by design.
_FIRST_INSTANCE = "ImageType"
_PLANE, _POINT = 6, 3
_MAX_DOUBLE = sys.float_info.max


class DocumentError(ValueError):
    """A document has another form than this module knows. The text holds no value of the document."""


@dataclass(frozen=True)
class DocumentRows:
    """Rows of one version of an image set, and what its head needs."""

    datastore_id: str
    image_set_id: str
    study_uid: str
    series_uid: str
    n_instances: int
    patient_key: str
    sop_instance_uids: frozenset[str]
    tables: dict[str, list[Row]]
    """Rows by table of the registry; tables without rows may be left out."""

    @property
    def series(self) -> list[Row]:
        """Rows of the table `series`."""
        return self.tables["series"]

    @property
    def instances(self) -> list[Row]:
        """Rows of the table `instances`."""
        return self.tables["instances"]

    @property
    def frames(self) -> list[Row]:
        """Rows of the table `frames`."""
        return self.tables["frames"]


def patient_key_function(secret: bytes) -> PatientKey:
    """Function of issuer and PatientID to `patient_key`: HMAC-SHA256, as a plain hash of an id can be guessed back.

    Raises ValueError for an empty secret.
    """
    if not secret:
        raise ValueError("The secret of the patient key is empty: set AHI_PATIENT_KEY_SECRET.")
    keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def patient_key(issuer: str | None, patient_id: str | None) -> str:
        one = keyed.copy()
        # The length keeps ("A", "BC") and ("AB", "C") apart.
        one.update(f"{len(issuer or '')}:{issuer or ''}{patient_id or ''}".encode("utf-8", "surrogatepass"))
        return one.hexdigest()

    return patient_key


def flatten(
    document: bytes | Mapping[str, Any],
    *,
    version: int,
    is_primary: bool,
    patient_key: PatientKey,
    stamp: Mapping[str, object],
) -> DocumentRows:
    """Rows of the tables series, instances and frames from a metadata document.

    Args:
        document: The document, as JSON (gzip or plain) or parsed.
        version: Version of the image set that the document is of.
        is_primary: Whether HealthImaging holds the image set as primary.
        patient_key: See `patient_key_function`.
        stamp: Columns that every row gets, such as `indexed_at`.

    Raises:
        DocumentError: The document is not JSON or has an unknown form.
    """
    top = _parsed(document)
    datastore_id, image_set_id = _string(top, "DatastoreID"), _string(top, "ImageSetID")
    patient = _mapping(_mapping(top, "Patient"), "DICOM")
    study_level = _mapping(top, "Study")
    study = _mapping(study_level, "DICOM")
    study_uid = _string(study, "StudyInstanceUID")
    base: Row = {
        **stamp,
        "datastore_id": datastore_id,
        "image_set_id": image_set_id,
        "image_set_version": version,
        "is_primary": is_primary,
        "schema_version": SCHEMA_VERSION,
        "parser_version": PARSER_VERSION,
        "StudyInstanceUID": study_uid,
    }
    rows: dict[str, list[Row]] = {"series": [], "instances": [], "frames": []}
    series_map = _mapping(study_level, "Series")
    for series_uid in series_map:
        series = _mapping(series_map, series_uid, "a series")
        _add_series(rows, {**base, "SeriesInstanceUID": series_uid}, (patient, study), series, patient_key)
    if not rows["series"]:
        raise DocumentError("The document has no series.")
    return DocumentRows(
        datastore_id=datastore_id,
        image_set_id=image_set_id,
        study_uid=study_uid,
        series_uid=str(rows["series"][0]["SeriesInstanceUID"]),
        n_instances=len(rows["instances"]),
        patient_key=str(rows["series"][0]["patient_key"]),
        sop_instance_uids=frozenset(str(row["SOPInstanceUID"]) for row in rows["instances"]),
        tables=rows,
    )


def _add_series(
    rows: dict[str, list[Row]],
    base: Row,
    above: tuple[Mapping[str, Any], Mapping[str, Any]],
    series: Mapping[str, Any],
    patient_key: PatientKey,
) -> None:
    """Add the rows of one series, its instances and their frames."""
    dicom = _mapping(series, "DICOM")
    instances = _mapping(series, "Instances")
    offset = parse_offset(dicom.get("TimezoneOffsetFromUTC"))
    inherited = {**above[0], **above[1], **dicom}
    instance_rows, attributes = [], []
    for uid in instances:
        instance = _mapping(instances, uid, "an instance")
        attributes.append(_mapping(instance, "DICOM"))
        row = _instance_row(base, uid, instance, attributes[-1], inherited, offset)
        instance_rows.append(row)
        rows["frames"].extend(_frame_rows(base, uid, instance))
        for table, found in explode(uid, attributes[-1], instance.get("DICOMVRs") or {}).items():
            rows.setdefault(table, []).extend({**base, **one} for one in found)
    for level, own in (("patient", above[0]), ("study", above[1]), ("series", dicom)):
        for table, found in explode_level(level, own).items():
            rows.setdefault(table, []).extend({**base, **one} for one in found)
    rows["instances"].extend(instance_rows)
    rows["series"].append(_series_row(base, inherited, attributes, instance_rows, patient_key))
    if shape := geometry(instance_rows):
        rows.setdefault("series_geometry", []).append({**base, **shape})


def _instance_row(
    base: Row,
    uid: str,
    instance: Mapping[str, Any],
    dicom: Mapping[str, Any],
    inherited: Mapping[str, Any],
    offset: Any,
) -> Row:
    row = dict(base)
    failures: list[CastFailure] = []
    if "TimezoneOffsetFromUTC" in dicom:
        offset = parse_offset(dicom["TimezoneOffsetFromUTC"])
    for column in INSTANCE:
        name = column.name
        value = dicom[name] if name in dicom else inherited.get(name)
        if value is not None:
            row[name] = cast(column, value, failures, offset)
    frames = _list(instance, "ImageFrames")
    row["SOPInstanceUID"] = uid
    row["has_pixel_data"] = bool(frames)
    row["n_frames"] = len(frames)
    row["slice_position_mm"] = _slice_position(row)
    row["stored_transfer_syntax_uid"] = _text(instance.get("StoredTransferSyntaxUID"))
    row["checksum_type"] = _text(instance.get("ChecksumType"))
    row["n_elements"] = len(dicom)
    row["n_private_elements"] = len(instance.get("DICOMVRs") or ())
    row["cast_failures"] = [failure.as_row() for failure in failures] or None
    return row


def _frame_rows(base: Row, uid: str, instance: Mapping[str, Any]) -> list[Row]:
    found = []
    for number, frame in enumerate(_list(instance, "ImageFrames"), 1):
        if not isinstance(frame, dict):
            raise DocumentError("An entry of ImageFrames is not an object.")
        levels = _list(frame, "PixelDataChecksumFromBaseToFullResolution")
        if not all(isinstance(level, dict) for level in levels):
            raise DocumentError("A checksum of a frame is not an object.")
        full: dict[str, Any] = max(levels, key=lambda level: _number(level, "Width") or 0, default={})
        found.append(
            {
                **base,
                "SOPInstanceUID": uid,
                "frame_number": number,
                "frame_id": _text(frame.get("ID")),
                "width": _whole(full, "Width", 2**31),
                "height": _whole(full, "Height", 2**31),
                "crc32": _whole(full, "Checksum", 2**32),
                "n_resolutions": len(levels),
                "min_pixel_value": _float(frame, "MinPixelValue"),
                "max_pixel_value": _float(frame, "MaxPixelValue"),
                "frame_size_bytes": _whole(frame, "FrameSizeInBytes", 2**63),
            }
        )
    return found


def _series_row(
    base: Row,
    inherited: Mapping[str, Any],
    attributes: Sequence[Mapping[str, Any]],
    instances: Sequence[Row],
    patient_key: PatientKey,
) -> Row:
    """The series: attributes of its levels, those on which its instances agree, and what is counted from them."""
    row = dict(base)
    failures: list[CastFailure] = []
    mixed: list[str] = []
    offset = parse_offset(inherited.get("TimezoneOffsetFromUTC"))
    for column in (*PATIENT, *STUDY, *SERIES):
        if column.name not in base:
            value = inherited.get(column.name)
            if value is None:
                value = _agreed(column, (one.get(column.name) for one in attributes), mixed)
            row[column.name] = cast(column, value, failures, offset)
    ordered = sorted(instances, key=_order)
    for name in SERIES_SUMMARY:
        row[name] = _agreed_value(name, ordered, mixed)
    row["patient_key"] = patient_key(_text(row["IssuerOfPatientID"]), _text(row["PatientID"]))
    row["PatientName_parts"] = name_parts(row["PatientName"])
    row["study_datetime_utc"] = start_utc(row, "StudyDate", "StudyTime")
    row["patient_age_years"] = age_years(row["PatientAge"], row["PatientBirthDate"], row["StudyDate"])
    row.update(_counted(ordered))
    spacing = _agreed_value("PixelSpacing", ordered, mixed)
    if spacing is None and "PixelSpacing" not in mixed:
        spacing = _agreed_value("ImagerPixelSpacing", ordered, mixed)
    if isinstance(spacing, list) and len(spacing) == 2:  # noqa: PLR2004
        row["pixel_spacing_row_mm"], row["pixel_spacing_col_mm"] = spacing
    row["mixed_attrs"] = sorted(mixed) or None
    row["cast_failures"] = [failure.as_row() for failure in failures] or None
    return row


def _agreed(column: Column, values: Iterable[object], mixed: list[str]) -> object:
    """The one value that the instances have as sent; None, with the name in `mixed`, when they differ.

    An instance without the attribute does not count: it says nothing against the value.
    """
    first: object = None
    for value in values:
        if value is None or value == first:
            continue
        if first is not None:
            mixed.append(column.name)
            return None
        first = value
    return first


def _agreed_value(name: str, instances: Sequence[Row], mixed: list[str]) -> object:
    """Like `_agreed`, of typed values. ImageType is that of the first instance."""
    first: object = None
    for row in instances:
        value = row.get(name)
        if value is None or value == first:
            continue
        if first is not None:
            mixed.append(name)
            return None
        first = value
        if name == _FIRST_INSTANCE:
            return first
    return first


def _order(row: Row) -> tuple[int, str]:
    number = row.get("InstanceNumber")
    return (number if isinstance(number, int) else 2**31, str(row["SOPInstanceUID"]))


def _counted(instances: Sequence[Row]) -> Row:
    """Columns of a series that are counted or gathered from its instances, in order of InstanceNumber."""
    types = [value for row in instances if isinstance(value := row.get("ImageType"), list)]
    numbers = {value for row in instances if isinstance(value := row.get("InstanceNumber"), int)}
    return {
        "n_instances": len(instances),
        "n_frames": sum(value for row in instances if isinstance(value := row["n_frames"], int)),
        "sop_class_uids": _distinct(instances, "SOPClassUID"),
        "transfer_syntax_uids": _distinct(instances, "TransferSyntaxUID"),
        "stored_transfer_syntax_uids": _distinct(instances, "stored_transfer_syntax_uid"),
        "image_types_all": sorted({"\\".join(one or "" for one in value) for value in types}) or None,
        "is_original": types[0][0] == "ORIGINAL" if types else None,
        "is_localizer": any("LOCALIZER" in value for value in types) if types else None,
        "instance_number_gaps": max(numbers) - min(numbers) + 1 - len(numbers) if numbers else None,
    }


def _distinct(rows: Sequence[Row], name: str) -> list[str] | None:
    return sorted({value for row in rows if isinstance(value := row.get(name), str)}) or None


def _slice_position(row: Row) -> float | None:
    """ImagePositionPatient along the normal of ImageOrientationPatient, in mm."""
    plane, point = row.get("ImageOrientationPatient"), row.get("ImagePositionPatient")
    if not isinstance(plane, list) or not isinstance(point, list) or len(plane) != _PLANE or len(point) != _POINT:
        return None
    if None in plane or None in point:
        return None
    a, b, c, d, e, f = plane
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return float(sum(n * p for n, p in zip(normal, point, strict=True)))


def _parsed(document: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(document, bytes):
        try:
            text = gzip.decompress(document) if document.startswith(_GZIP) else document
            document = json.loads(text)
        except (OSError, EOFError, zlib.error):
            raise DocumentError("The document is a damaged gzip stream.") from None
        except (ValueError, RecursionError):
            raise DocumentError("The document is not JSON.") from None
    if not isinstance(document, dict):
        raise DocumentError("The document is not a JSON object.")
    return document


def _mapping(parent: Mapping[str, Any], key: str, name: str = "") -> Mapping[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        message = f"{name or key} is missing or not an object."
        raise DocumentError(message)
    return value


def _list(parent: Mapping[str, Any], key: str) -> list[Any]:
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        message = f"{key} is not a list."
        raise DocumentError(message)
    return value


def _string(parent: Mapping[str, Any], key: str) -> str:
    value = parent.get(key)
    if not isinstance(value, str) or not value:
        message = f"{key} is missing or not text."
        raise DocumentError(message)
    return value


def _number(parent: Mapping[str, Any], key: str) -> int | float | None:
    value = parent.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{key} is not a number."
        raise DocumentError(message)
    return value


def _float(parent: Mapping[str, Any], key: str) -> float | None:
    value = _number(parent, key)
    return None if value is None else float(value) if abs(value) <= _MAX_DOUBLE else None


def _whole(parent: Mapping[str, Any], key: str, limit: int) -> int | None:
    value = _number(parent, key)
    if value is not None and not (isinstance(value, int) and 0 <= value < limit):
        message = f"{key} is not a whole number in range."
        raise DocumentError(message)
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
