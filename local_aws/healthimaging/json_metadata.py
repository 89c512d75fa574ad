"""DICOM JSON metadata import: files of attributes that come with a job and enhance its objects.

Belongs here: `importConfiguration`, the DICOM JSON model (PS3.18, annex F) as values of a document. Does not belong
here: writing that model (the DICOMweb plane).

Documented is that a file is mapped to a study or to a series of it. Assumed: a file holds one data set or a list of
them; one that names a SOP instance or a series is for that only; UIDs, file meta information and pixels stay.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.dicom import PIXELS
from local_aws.healthimaging.sources import JobFailedError
from local_aws.healthimaging.values import BINARY, NUMERIC, entry, name, note_vrs, shape
from local_aws.inprocess import CallError

if TYPE_CHECKING:
    from local_aws.healthimaging.dicom import Parsed
    from local_aws.healthimaging.sources import Source

STUDY_UID, SERIES_UID, SOP_UID, SOP_CLASS_UID = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016
KEPT = PIXELS | {STUDY_UID, SERIES_UID, SOP_UID, SOP_CLASS_UID}
FILE_META = 2
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
                self._add(mapping, json.loads(source.read(key)))
            except CallError as error:
                raise JobFailedError.because(f"Metadata file {number} could not be read: {error.code}") from error
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise JobFailedError.because(f"Metadata file {number} is not DICOM JSON") from error

    def _add(self, mapping: dict[str, Any], loaded: Any) -> None:
        for one in loaded if isinstance(loaded, list) else [loaded]:
            elements = {int(tag, 16): _element(int(tag, 16), element, {}, ()) for tag, element in one.items()}
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
    many = known[2] if known else None
    values = element.get("Value", [])
    if not isinstance(values, list):
        raise TypeError(vr)
    if vr == "SQ":
        return vr, [_item(item, noted, (*items, (tag, number))) for number, item in enumerate(values)], noted
    if vr in BINARY:
        return vr, element.get("InlineBinary"), noted
    if vr == "PN":
        groups = ("Alphabetic", "Ideographic", "Phonetic")
        values = ["=".join(v.get(g, "") for g in groups).rstrip("=") if v else "" for v in values]
    elif vr not in NUMERIC:
        values = ["" if v is None else str(v) for v in values]
    return vr, shape(values, many), noted


def _item(item: dict[str, Any], noted: dict[str, str], items: Path) -> dict[str, Any]:
    given = {int(tag, 16): element for tag, element in item.items()}
    note_vrs(noted, items, {tag: element["vr"] for tag, element in given.items()})
    return {name(tag): _element(tag, element, noted, items)[1] for tag, element in given.items()}
