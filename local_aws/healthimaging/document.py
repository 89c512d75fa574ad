"""The metadata document of an image set: built from objects, merged, changed.

Belongs here: `SchemaVersion` 1.1 as the real samples show it. Does not belong here: when a new version comes about
(`imports.py`, `updates.py`).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import frames, levels
from local_aws.healthimaging.dicom import PIXELS, DicomError, Parsed
from local_aws.healthimaging.fragments import CutError
from local_aws.healthimaging.values import entry, name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.healthimaging.fragments import Fetch
    from local_aws.healthimaging.pixel_store import PixelWriter

Document = dict[str, Any]
IDENTITY = {
    0x00080018: "SOPInstanceUID",
    0x00080016: "SOPClassUID",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
}
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_TEXT = 256
# Longest values that an import accepts ("DICOM element constraints").
LIMITS = {
    "PatientName": 256, "PatientID": 256, "StudyInstanceUID": 256, "StudyID": 256, "StudyDescription": 256,
    "AccessionNumber": 256, "SOPInstanceUID": 256, "SeriesInstanceUID": 256, "PatientBirthDate": 18, "PatientSex": 16,
    "StudyDate": 18, "StudyTime": 28,
}  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """One object in document form, ready to be put into an image set."""

    sop_uid: str
    study_uid: str
    series_uid: str
    patient: dict[str, Any]
    study: dict[str, Any]
    series: dict[str, Any]
    body: dict[str, Any]
    group: tuple[str, ...]
    study_group: tuple[str, ...]
    warnings: tuple[dict[str, Any], ...]


def _plain(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _check(parsed: Parsed) -> None:
    """Refuse what HealthImaging would not import.

    Raises:
        DicomError: With the text for failure.ndjson.
    """
    for tag, keyword in IDENTITY.items():
        if not parsed.text(tag):
            raise DicomError(f"DICOM attribute {keyword} does not exist")
        if not _UID.fullmatch(parsed.text(tag)):
            raise DicomError(f"DICOM attribute {keyword} is not a valid UID")
    if frames.missing_pixels(parsed):
        raise DicomError("DICOM attribute PixelData is shorter than the image attributes say")


def instance(parsed: Parsed, seed: str, writer: PixelWriter, fetch: Fetch | None = None) -> Instance:
    """Turn a parsed object into an instance, its pixels into the pixel store.

    Args:
        parsed: The object.
        seed: What makes its frame ids unique.
        writer: Where its frames go.
        fetch: Reads a range of the object when `parsed` was read from its beginning only.

    Raises:
        DicomError: It cannot be imported; the text goes into failure.ndjson.
    """
    _check(parsed)
    by_level: tuple[dict[str, Any], ...] = ({}, {}, {}, {})
    private: dict[str, str] = {}
    for tag, value in parsed.values.items():
        if tag in PIXELS:
            continue
        level = 0 if tag in levels.PATIENT else 1 if tag in levels.STUDY else 2 if tag in levels.SERIES else 3
        key = name(tag)
        by_level[level][key] = value
        if entry(tag) is None:
            private[key] = parsed.vrs.get(tag, "UN")
    patient, study, series, own = by_level
    merged = {**patient, **study, **series, **own}
    for keyword, limit in LIMITS.items():
        if len(_plain(merged.get(keyword))) > limit:
            raise DicomError(f"DICOM attribute {keyword} is longer than {limit} characters")
    body: dict[str, Any] = {"DICOM": own, "DICOMVRs": private}
    try:
        images = frames.describe(parsed, seed, writer, fetch=fetch)
    except CutError as error:
        raise DicomError("DICOM attribute PixelData is shorter than the image attributes say") from error
    if images.frames:
        body["StoredTransferSyntaxUID"] = images.stored_syntax
        body["ChecksumType"] = "DECOMPRESSED"
    body["ImageFrames"] = images.frames
    problems = images.problems or (() if frames.is_supported(parsed) else ("UNSUPPORTED_TRANSFER_SYNTAX",))
    return Instance(
        parsed.text(0x00080018),
        parsed.text(0x0020000D),
        parsed.text(0x0020000E),
        patient,
        study,
        series,
        body,
        tuple(_plain(merged.get(k)) for k in levels.GROUPING),
        tuple(_plain(merged.get(k)) for k in levels.STUDY_GROUPING),
        tuple(_WARNINGS[p] for p in problems),
    )


def _warning(code: int, kind: str, text: str) -> dict[str, Any]:
    return {"warning_reason_code": code, "type": kind, "message": f"The file was imported but {text}"}


# What a client sees of a problem with the pixels ("HealthImaging warning codes").
_WARNINGS = {
    "TRANSCODING_EXCEPTION": _warning(
        45312, "TranscodingException", "its pixel data could not be transcoded and is kept as it is"
    ),
    "FRAMES_EXTRACTION_FAILURE": _warning(
        45328, "FramesExtractionFailure", "its frames could not be made out in its pixel data"
    ),
    "FRAME_NUMBER_MISMATCH": _warning(
        45329, "FrameNumberMismatch", "its number of frames is not that of its fragments"
    ),
    "INVALID_OFFSET_TABLE": _warning(
        45330, "InvalidOffsetTable", "contains an invalid offset table, which could result in malformed frames"
    ),
    "UNSUPPORTED_TRANSFER_SYNTAX": _warning(
        45344, "UnsupportedTransferSyntax", "its transfer syntax is not supported, its pixel data is kept as it is"
    ),
}


def new(datastore_id: str, image_set_id: str, first: Instance) -> Document:
    """A document without instances, with the levels of its first one."""
    return {
        "SchemaVersion": "1.1",
        "DatastoreID": datastore_id,
        "ImageSetID": image_set_id,
        "Patient": {"DICOM": dict(first.patient)},
        "Study": {
            "DICOM": dict(first.study),
            "Series": {first.series_uid: {"DICOM": dict(first.series), "Instances": {}}},
        },
    }


def put(document: Document, item: Instance) -> None:
    """Add an instance, or replace the one of the same UID: the latest wins."""
    for level, values in ((document["Patient"], item.patient), (document["Study"], item.study)):
        for key, value in values.items():
            level["DICOM"].setdefault(key, value)
    series = document["Study"]["Series"][item.series_uid]
    for key, value in item.series.items():
        series["DICOM"].setdefault(key, value)
    series["Instances"][item.sop_uid] = item.body


def instances(document: Document) -> dict[str, Any]:
    """All instances by SOP Instance UID."""
    return {uid: body for s in document["Study"].get("Series", {}).values() for uid, body in s["Instances"].items()}


def search_tags(document: Document) -> dict[str, Any]:
    """The `DICOMTags` of a search result."""
    patient, study = document["Patient"]["DICOM"], document["Study"]["DICOM"]
    all_series = document["Study"].get("Series", {})
    series: dict[str, Any] = next(iter(all_series.values()), {"DICOM": {}})["DICOM"]
    out: dict[str, Any] = {
        "DICOMPatientId": patient.get("PatientID"),
        "DICOMPatientName": patient.get("PatientName"),
        "DICOMPatientBirthDate": patient.get("PatientBirthDate"),
        "DICOMPatientSex": patient.get("PatientSex"),
        "DICOMStudyInstanceUID": study.get("StudyInstanceUID"),
        "DICOMStudyId": study.get("StudyID"),
        "DICOMStudyDescription": study.get("StudyDescription"),
        "DICOMAccessionNumber": study.get("AccessionNumber"),
        "DICOMStudyDate": study.get("StudyDate"),
        "DICOMStudyTime": study.get("StudyTime"),
        "DICOMSeriesInstanceUID": series.get("SeriesInstanceUID"),
        "DICOMSeriesModality": series.get("Modality"),
        "DICOMSeriesBodyPart": series.get("BodyPartExamined"),
        "DICOMNumberOfStudyRelatedSeries": len(all_series),
        "DICOMNumberOfStudyRelatedInstances": len(instances(document)),
    }
    with contextlib.suppress(ValueError):
        out["DICOMSeriesNumber"] = int(_plain(series.get("SeriesNumber")))
    return {k: _plain(v)[:MAX_TEXT] if isinstance(v, str) else v for k, v in out.items() if v not in (None, "")}


def groups(document: Document) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The grouping values of an image set: all seven, and the five of its study."""
    series: dict[str, Any] = next(iter(document["Study"].get("Series", {}).values()), {"DICOM": {}})["DICOM"]
    merged = {**document["Patient"]["DICOM"], **document["Study"]["DICOM"], **series}
    return (
        tuple(_plain(merged.get(k)) for k in levels.GROUPING),
        tuple(_plain(merged.get(k)) for k in levels.STUDY_GROUPING),
    )


def pack(document: Mapping[str, Any]) -> bytes:
    """Compressed JSON, as GetImageSetMetadata sends it."""
    return gzip.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), 1, mtime=0)


def unpack(packed: bytes) -> Document:
    """The document behind `pack`."""
    loaded: Document = json.loads(gzip.decompress(packed))
    return loaded
