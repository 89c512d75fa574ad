"""One DICOM object as an instance of an image set: its attributes by level, its frames, what is wrong with it.

Belongs here: what an import refuses and what it warns of. Does not belong here: reading the bytes (`dicom.py`), the
document that instances form (`document.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import frames, levels
from local_aws.healthimaging.dicom import PIXELS, DicomError
from local_aws.healthimaging.fragments import CutError
from local_aws.healthimaging.pixel_store import Form
from local_aws.healthimaging.problems import CODES, warning
from local_aws.healthimaging.syntaxes import EXPLICIT
from local_aws.healthimaging.values import entry, name, without_padding

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
# Members of an instance that the documented form has no place for; they lie beside the document: ids of large private
# values, and VRs of private elements inside sequences.
BESIDE = ("BulkData", "NestedVRs")
# HealthImaging's own warnings stand in it, so that an object's own ones would be taken for them.
WARNING_REASON = 0x00081196
SHORT_PIXELS = "DICOM attribute PixelData is shorter than the image attributes say"
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_LIKE_A_UID = re.compile(r"[0-9.]+")
# Longest values that an import accepts (developer guide, "DICOM element constraints").
LIMITS = {
    "PatientName": 256, "PatientID": 256, "StudyInstanceUID": 256, "StudyID": 256, "StudyDescription": 256,
    "AccessionNumber": 256, "SOPInstanceUID": 256, "SeriesInstanceUID": 256, "PatientBirthDate": 18, "PatientSex": 16,
    "StudyDate": 18, "StudyTime": 28,
}  # fmt: skip


# Longest values by DICOM itself (PS3.5, table 6.2-1), in characters; DA, DT and TM as in a range of them.
LENGTHS = {
    "AE": 16, "AS": 4, "CS": 16, "DA": 18, "DS": 16, "DT": 54, "IS": 12, "LO": 64, "LT": 10240, "PN": 64, "SH": 16,
    "ST": 1024, "TM": 28, "UI": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """What an import forgives (imported with a warning instead of refused), what it warns of, what it says."""

    long_values: bool = False
    invalid_uids: bool = True
    discard_warnings: bool = True
    other_warnings: bool = True
    null_pixels: bool = False
    checksum_type: bool = True
    store_syntax: bool = True
    strip_numbers: bool = False


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
        beside: What lies beside it (`BESIDE`), likewise; empty when there is nothing.
        frame_ids: Ids of its image frames, and of what else of it lies beside the pixels.
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
    beside: bytes
    frame_ids: tuple[str, ...]
    group: tuple[str, ...]
    study_group: tuple[str, ...]
    warnings: tuple[dict[str, Any], ...]


def plain(value: Any) -> str:
    """A value as text without padding; several with the backslash that DICOM puts between them."""
    if isinstance(value, list):
        return "\\".join(plain(one) for one in value)
    return "" if value is None else str(value).strip()


def to_json(value: Any) -> bytes:
    """JSON on one line, as documents hold it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def instance(
    parsed: Parsed, seed: str, writer: PixelWriter, fetch: Fetch | None = None, rules: Rules | None = None
) -> Instance:
    """Turn a parsed object into an instance, its pixels into the pixel store.

    Args:
        parsed: The object.
        seed: What makes its frame ids unique.
        writer: Where its frames go.
        fetch: Reads a range of the object when `parsed` was read from its beginning only.
        rules: What is refused; None for the defaults.

    Raises:
        DicomError: It cannot be imported; the text goes into failure.ndjson.
    """
    rules = rules or Rules()
    problems = _check(parsed, rules)
    by_level: tuple[Attributes, ...] = ({}, {}, {}, {})
    private: dict[str, str] = {}
    for tag, value in parsed.values.items():
        if tag in PIXELS or tag == WARNING_REASON:
            continue
        level = 0 if tag in levels.PATIENT else 1 if tag in levels.STUDY else 2 if tag in levels.SERIES else 3
        key = name(tag)
        by_level[level][key] = without_padding(key, value) if rules.strip_numbers else value
        if entry(tag) is None:
            private[key] = parsed.vrs.get(tag, "UN")
    patient, study, series, own = by_level
    merged = {**patient, **study, **series, **own}
    for keyword, limit in () if rules.long_values else LIMITS.items():
        if len(plain(merged.get(keyword))) > limit:
            raise DicomError(f"DICOM attribute {keyword} is longer than {limit} characters")
    body: dict[str, Any] = {"DICOM": own, "DICOMVRs": private}
    try:
        images = frames.describe(parsed, seed, writer, fetch=fetch)
    except CutError as error:
        raise DicomError(SHORT_PIXELS) from error
    if images.frames:
        if rules.store_syntax or images.stored_syntax != writer.lossless:
            body["StoredTransferSyntaxUID"] = images.stored_syntax
        body.update({"ChecksumType": "DECOMPRESSED"} if rules.checksum_type else {})
        own.update({"PixelData": None} if rules.null_pixels else {})
    body["ImageFrames"] = images.frames
    apart = {name(tag): _keep_apart(f"{seed}/{tag:08X}", raw, writer) for tag, raw in parsed.bulk.items()}
    nested = {name(tag): vrs for tag, vrs in parsed.nested_vrs.items()}
    beside = {member: kept for member, kept in zip(BESIDE, (apart, nested), strict=True) if kept}
    problems |= set(images.problems or (() if frames.is_supported(parsed) else ("UNSUPPORTED_TRANSFER_SYNTAX",)))
    if problems:
        _persist(own, [CODES[kind][0] for kind in CODES if kind in problems])
    return Instance(
        sop_uid=parsed.text(0x00080018),
        sop_class_uid=parsed.text(0x00080016),
        study_uid=parsed.text(0x0020000D),
        series_uid=parsed.text(0x0020000E),
        patient=patient,
        study=study,
        series=series,
        body=to_json(body),
        beside=to_json(beside) if beside else b"",
        frame_ids=(*(image["ID"] for image in images.frames), *apart.values()),
        group=tuple(plain(merged.get(k)) for k in levels.GROUPING),
        study_group=tuple(plain(merged.get(k)) for k in levels.STUDY_GROUPING),
        warnings=tuple(warning(kind) for kind in CODES if kind in problems),
    )


def _persist(own: Attributes, codes: list[int]) -> None:
    """Write its warning codes into an instance.

    "HealthImaging uses the DICOM element (0008,1196) to persist import warning codes" (Searching for instances).
    """
    own["WarningReason"] = codes if len(codes) > 1 else codes[0]


def with_warnings(body: bytes, codes: list[int]) -> bytes:
    """An instance's part of the document with these warnings in it."""
    loaded = json.loads(body)
    _persist(loaded["DICOM"], codes)
    return to_json(loaded)


def _check(parsed: Parsed, rules: Rules) -> set[str]:
    """Refuse what HealthImaging would not import.

    Returns:
        What it would warn of, by its type.

    Raises:
        DicomError: With the text for failure.ndjson.
    """
    problems = _encoding(parsed, rules)
    for tag, keyword in IDENTITY.items():
        uid = parsed.text(tag)
        if not uid:
            raise DicomError(f"DICOM attribute {keyword} does not exist")
        if not _UID.fullmatch(uid):
            if not (rules.invalid_uids and _LIKE_A_UID.fullmatch(uid)):
                raise DicomError(f"DICOM attribute {keyword} is not a valid UID")
            problems.add("INVALID_UID_FORMAT")
    for tag, vr in parsed.vrs.items():
        most, value = LENGTHS.get(vr), parsed.values[tag]
        # Nearly every value is one short text; only UIDs are looked at more closely then.
        if most is None or not value or (vr != "UI" and isinstance(value, str) and len(value) <= most):
            continue
        if _is_wrong(vr, value):
            problems.add("INVALID_UID_FORMAT" if vr == "UI" else "INVALID_DICOM_VALUE_LENGTH")
    if parsed.text(0x00020002) not in {"", parsed.text(0x00080016)}:
        problems.add("SOP_CLASS_DATA_MISMATCH")
    if frames.missing_pixels(parsed):
        raise DicomError(SHORT_PIXELS)
    return problems


def _encoding(parsed: Parsed, rules: Rules) -> set[str]:
    """What is wrong with the way in which the object is written down."""
    return {
        kind
        for kind, found in (
            ("ELEMENTS_DISCARDED", parsed.discarded and rules.discard_warnings),
            ("OTHER", parsed.misencoded and rules.other_warnings),
        )
        if found
    }


def _is_wrong(vr: str, value: Any) -> bool:
    """Whether a value, or one of several, is longer than its VR allows, or is no UID where one should be."""
    values = value if isinstance(value, list) else [value]
    if vr == "UI":
        return not all(_UID.fullmatch(one) and len(one) <= LENGTHS["UI"] for one in values if one)
    return any(is_too_long(vr, one) for one in values)


def is_too_long(vr: str, value: str) -> bool:
    """Whether a value is longer than its VR allows, padding aside; in a name each of its groups counts by itself."""
    most = LENGTHS.get(vr)
    if most is None or len(value) <= most:
        return False
    return any(len(part.strip()) > most for part in (value.split("=") if vr == "PN" else [value]))


def _keep_apart(seed: str, raw: bytes, writer: PixelWriter) -> str:
    """Put a large private value beside the pixels; returns its id there."""
    identity = hashlib.blake2b(seed.encode(), digest_size=16).hexdigest()
    form = Form(EXPLICIT, EXPLICIT, 0, 0, 0, 0, 0, signed=False, planar=0, photometric="", blob=True)
    writer.frame(identity, writer.write(raw), len(raw), form)
    return identity
