"""DICOM JSON metadata import: files of attributes that come with a job and enhance its objects.

Belongs here: `importConfiguration`, the DICOM JSON model (PS3.18, annex F) as values of a document. Does not belong
here: writing that model (the DICOMweb plane).

Documented is that a file is mapped to a study or to a series of it. Assumed: a file holds one data set or a list of
them; one that names a SOP instance or a series is for that only; UIDs, file meta information, pixels and what
describes them stay. A value that its VR does not allow makes the file unreadable.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.dicom import PIXELS, VRS
from local_aws.healthimaging.sources import JobFailedError
from local_aws.healthimaging.values import BINARY, NUMERIC, entry, name, note_vrs, shape
from local_aws.inprocess import CallError

if TYPE_CHECKING:
    from local_aws.healthimaging.dicom import Parsed
    from local_aws.healthimaging.sources import Source

STUDY_UID, SERIES_UID, SOP_UID, SOP_CLASS_UID = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016
# What the pixels are ("Image Pixel Module"): with other values they would be other pixels.
IMAGE_PIXEL = frozenset(
    0x00280000 | element for element in (0x02, 0x04, 0x06, 0x08, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103)
)
KEPT = IMAGE_PIXEL | PIXELS | {STUDY_UID, SERIES_UID, SOP_UID, SOP_CLASS_UID}
FILE_META = 2
_NO_JSON = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, struct.error)
_TAG = re.compile("[0-9A-Fa-f]{8}")
# The sequences around an element, outermost first: tag, and number of the item.
Path = tuple[tuple[int, int], ...]
# VR, value in the document's form, and the VRs inside it that no dictionary knows.
Element = tuple[str, Any, dict[str, str]]


class JsonMetadata:
    """The mapped files of one job."""

    def __init__(self, source: Source, configuration: dict[str, Any] | None, *, wins: bool) -> None:
        """Read them all.

        Args:
            source: The job's input.
            configuration: `importConfiguration` of the job; None when it has none.
            wins: Whether a value of a file replaces the object's, or only fills in what is absent or empty.

        Raises:
            JobFailedError: A file is not there, or is no DICOM JSON.
        """
        self._wins = wins
        self._sets: list[tuple[dict[int, str], dict[int, Element]]] = []
        self.keys: set[str] = set()
        member = (configuration or {}).get("dicomJsonMetadataImportConfiguration", {})
        for number, mapping in enumerate(member.get("dicomMetadataMappings", []), 1):
            key = source.prefix + mapping["metadataFilePath"].removeprefix("/")
            self.keys.add(key)
            try:
                self._add(mapping, json.loads(source.read(key), parse_constant=_refused, parse_float=_finite))
            except CallError as error:
                raise JobFailedError.because(f"Metadata file {number} could not be read: {error.code}") from error
            except _NO_JSON as error:
                raise JobFailedError.because(f"Metadata file {number} is not DICOM JSON") from error

    def _add(self, mapping: dict[str, Any], loaded: Any) -> None:
        for one in loaded if isinstance(loaded, list) else [loaded]:
            elements = {tag: _element(tag, element, {}, ()) for tag, element in _by_tag(one).items()}
            wanted = {STUDY_UID: mapping["studyInstanceUID"]}
            if mapping.get("seriesInstanceUID"):
                wanted[SERIES_UID] = mapping["seriesInstanceUID"]
            for tag in (SERIES_UID, SOP_UID):
                if tag in elements and elements[tag][1]:
                    wanted.setdefault(tag, str(elements[tag][1]))
            kept = {t: e for t, e in elements.items() if t not in KEPT and t >> 16 != FILE_META}
            self._sets.append((wanted, kept))

    def apply(self, parsed: Parsed) -> None:
        """Enhance an object by the files that are mapped to it, in their order."""
        for wanted, elements in self._sets:
            if any(parsed.text(tag) != uid for tag, uid in wanted.items()):
                continue
            for tag, (vr, value, nested) in elements.items():
                if self._wins or parsed.values.get(tag) in (None, "", []):
                    parsed.values[tag], parsed.vrs[tag] = value, vr
                    parsed.nested_vrs.pop(tag, None)
                    if nested:
                        parsed.nested_vrs[tag] = nested


def _element(tag: int, element: dict[str, Any], noted: dict[str, str], items: Path) -> Element:
    """An element of the DICOM JSON model; `noted` gets VRs of what is in it, `items` are those it is in."""
    vr = element["vr"]
    known = entry(tag)
    if vr not in VRS or (known and vr not in known[0].split(" or ")):
        raise TypeError(vr)
    values = element.get("Value", [])
    if not isinstance(values, list):
        raise TypeError(vr)
    if vr == "SQ":
        return vr, [_item(item, noted, (*items, (tag, number))) for number, item in enumerate(values)], noted
    if vr in BINARY:
        binary = element.get("InlineBinary")
        if not isinstance(binary, str | None):
            raise TypeError(vr)
        base64.b64decode(binary or "", validate=True)
        return vr, binary, noted
    return vr, shape([_value(vr, value) for value in values], known[2] if known else None), noted


def _item(item: dict[str, Any], noted: dict[str, str], items: Path) -> dict[str, Any]:
    given = _by_tag(item)
    note_vrs(noted, items, {tag: element["vr"] for tag, element in given.items()})
    return {name(tag): _element(tag, element, noted, items)[1] for tag, element in given.items()}


def _by_tag(data_set: dict[str, Any]) -> dict[int, dict[str, Any]]:
    if not all(_TAG.fullmatch(tag) for tag in data_set):
        raise ValueError(next(tag for tag in data_set if not _TAG.fullmatch(tag)))
    return {int(tag, 16): element for tag, element in data_set.items()}


def _value(vr: str, value: Any) -> Any:
    """One value in the document's form.

    Raises:
        TypeError: Its VR has others.
    """
    if vr == "PN":
        parts = [(value or {}).get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(parts).rstrip("=")
    if value is None:
        return None if vr in NUMERIC else ""
    allowed = str | int | float if vr in {"DS", "IS"} else int | float if vr in {"FL", "FD"} else int
    if isinstance(value, bool) or not isinstance(value, allowed if vr in NUMERIC or vr in {"DS", "IS"} else str):
        raise TypeError(vr)
    if vr not in NUMERIC:
        return str(value)
    struct.pack(f"<{NUMERIC[vr][0]}", value)
    return value


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
