"""One DICOM object as an instance of an image set: its attributes by level, its frames, what is wrong with it.

Belongs here: what an import refuses and what it warns of. Does not belong here: reading the bytes (`dicom.py`), the
document that instances form (`document.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import frames, levels
from local_aws.healthimaging.dicom import PIXELS, DicomError
from local_aws.healthimaging.fragments import CutError
from local_aws.healthimaging.problems import warning
from local_aws.healthimaging.values import entry, name

if TYPE_CHECKING:
    from local_aws.healthimaging.dicom import Parsed
    from local_aws.healthimaging.fragments import Fetch
    from local_aws.healthimaging.pixel_store import PixelWriter

Attributes = dict[str, Any]
IDENTITY = {
    0x00080018: "SOPInstanceUID",
    0x00080016: "SOPClassUID",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
}
SHORT_PIXELS = "DICOM attribute PixelData is shorter than the image attributes say"
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
# Longest values that an import accepts (developer guide, "DICOM element constraints").
LIMITS = {
    "PatientName": 256, "PatientID": 256, "StudyInstanceUID": 256, "StudyID": 256, "StudyDescription": 256,
    "AccessionNumber": 256, "SOPInstanceUID": 256, "SeriesInstanceUID": 256, "PatientBirthDate": 18, "PatientSex": 16,
    "StudyDate": 18, "StudyTime": 28,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instance:
    """One object in document form, ready to be put into an image set.

    Attributes:
        sop_uid: SOP Instance UID.
        sop_class_uid: SOP Class UID.
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        patient: Attributes of Patient level by keyword.
        study: Attributes of Study level.
        series: Attributes of Series level.
        body: The instance's own part of the document as JSON text, in UTF-8 and on one line: an import holds thousands.
        frame_ids: Ids of its image frames.
        group: Values of the seven grouping elements.
        study_group: Those of the five that a study shares.
        warnings: Lines for warning.ndjson.
    """

    sop_uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    patient: Attributes
    study: Attributes
    series: Attributes
    body: bytes
    frame_ids: tuple[str, ...]
    group: tuple[str, ...]
    study_group: tuple[str, ...]
    warnings: tuple[dict[str, Any], ...]


def plain(value: Any) -> str:
    """A value as text without padding."""
    return "" if value is None else str(value).strip()


def to_json(value: Any) -> bytes:
    """JSON on one line, as documents hold it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


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
    by_level: tuple[Attributes, ...] = ({}, {}, {}, {})
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
        if len(plain(merged.get(keyword))) > limit:
            raise DicomError(f"DICOM attribute {keyword} is longer than {limit} characters")
    body: dict[str, Any] = {"DICOM": own, "DICOMVRs": private}
    try:
        images = frames.describe(parsed, seed, writer, fetch=fetch)
    except CutError as error:
        raise DicomError(SHORT_PIXELS) from error
    if images.frames:
        body["StoredTransferSyntaxUID"] = images.stored_syntax
        body["ChecksumType"] = "DECOMPRESSED"
    body["ImageFrames"] = images.frames
    problems = images.problems or (() if frames.is_supported(parsed) else ("UNSUPPORTED_TRANSFER_SYNTAX",))
    return Instance(
        sop_uid=parsed.text(0x00080018),
        sop_class_uid=parsed.text(0x00080016),
        study_uid=parsed.text(0x0020000D),
        series_uid=parsed.text(0x0020000E),
        patient=patient,
        study=study,
        series=series,
        body=to_json(body),
        frame_ids=tuple(image["ID"] for image in images.frames),
        group=tuple(plain(merged.get(k)) for k in levels.GROUPING),
        study_group=tuple(plain(merged.get(k)) for k in levels.STUDY_GROUPING),
        warnings=tuple(warning(kind) for kind in problems),
    )


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
        raise DicomError(SHORT_PIXELS)
