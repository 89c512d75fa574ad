"""The metadata document as DICOM data elements: tag, value representation, values.

Belongs here: what the document leaves out because its keys are keywords. Does not belong here: a wire form
(`json_model.py`, `part10.py`).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from local_aws.healthimaging.dicom import PIXELS
from local_aws.healthimaging.values import BINARY, NUMERIC, is_creator, load_libraries, name, vr_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Path = tuple[tuple[int, int], ...]

Document = dict[str, Any]
# File meta information belongs to a file, not to a data set.
FILE_META = 0x0002
WHOLE_NUMBERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV"})


class Vrs(NamedTuple):
    """Value representations of what the dictionary does not know.

    Attributes:
        own: Of attributes, by their key (`DICOMVRs`).
        nested: Of elements inside sequences, by key of the outermost sequence, by path in it (`NestedVRs`).
    """

    own: Mapping[str, str]
    nested: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, instance: Mapping[str, Any]) -> Vrs:
        """Those of an instance of a document."""
        return cls(instance.get("DICOMVRs") or {}, instance.get("NestedVRs") or {})


@dataclass(frozen=True)
class Element:
    """One data element.

    Attributes:
        tag: Group << 16 | element.
        vr: Value representation, two letters.
        values: Values: text, numbers, one `bytes` for a binary one, lists of elements for items of a sequence.
            Empty when the element is.
    """

    tag: int
    vr: str
    values: list[Any]


@lru_cache(maxsize=16384)
def tag_of(key: str) -> int | None:
    """Tag of a keyword or of eight hexadecimal digits; None for anything else."""
    load_libraries()
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(key)
    if tag is not None:
        return int(tag)
    if len(key) != 8:  # noqa: PLR2004 -- GGGGEEEE
        return None
    try:
        return int(key, 16)
    except ValueError:
        return None


def in_data_set(tag: int) -> bool:
    """Whether an element belongs to a data set without pixels: file meta information does not."""
    return tag >> 16 != FILE_META and tag not in PIXELS


@lru_cache(maxsize=16384)
def dictionary_vr(tag: int) -> str:
    """VR of the dictionary, such as `US or SS`; empty for what it does not know."""
    load_libraries()
    from pydicom.datadict import dictionary_VR

    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""


@lru_cache(maxsize=16384)
def keyword_of(tag: int) -> str:
    """Key of an attribute in the document: its keyword, or eight hexadecimal digits."""
    return name(tag)


def merged(document: Document, series_uid: str, sop_uid: str) -> dict[str, Any]:
    """All attributes of one instance, those of its patient, study and series included."""
    series = document["Study"]["Series"][series_uid]
    out: dict[str, Any] = {}
    for level in (document["Patient"], document["Study"], series, series["Instances"][sop_uid]):
        out.update(level.get("DICOM") or {})
    return out


def elements(values: Mapping[str, Any], vrs: Vrs) -> list[Element]:
    """Data elements in tag order, without file meta information and without pixels.

    Args:
        values: Attributes by keyword or tag, as the document has them.
        vrs: Those that the dictionary does not know.
    """
    signed = values.get("PixelRepresentation") == 1
    out = []
    for key, value in values.items():
        tag = tag_of(key)
        if tag is not None and in_data_set(tag):
            out.append(element(tag, vrs.own.get(key, ""), value, vrs.nested.get(key, {}), signed=signed))
    out.sort(key=lambda e: e.tag)
    return out


def element(tag: int, declared: str, value: Any, noted: Mapping[str, str], *, signed: bool) -> Element:
    """One data element.

    Args:
        tag: Its tag.
        declared: Its VR where the document says it, else empty.
        value: Its value in the document's form.
        noted: VRs of what is in it, if it is a sequence, by path.
        signed: Whether pixel values are, which decides between US and SS.
    """
    return _element(tag, declared, value, noted, (), signed=signed)


def _element(tag: int, declared: str, value: Any, noted: Mapping[str, str], items: Path, *, signed: bool) -> Element:
    given = [] if value is None else value if isinstance(value, list) else [value]
    vr = _vr(tag, declared, given, signed=signed)
    if vr == "SQ":
        inner = [
            _item(item, noted, (*items, (tag, number)), signed=signed)
            for number, item in enumerate(given)
            if isinstance(item, dict)
        ]
        return Element(tag, vr, inner)
    if vr in BINARY:
        raw = _binary(given)
        return Element(tag, vr, [raw] if raw else [])
    return Element(tag, *_fitting(vr, given))


def _item(values: Mapping[str, Any], noted: Mapping[str, str], items: Path, *, signed: bool) -> list[Element]:
    """The data set of one item; an icon in it keeps its pixels."""
    if "PixelRepresentation" in values:
        signed = values["PixelRepresentation"] == 1
    out = []
    for key, value in values.items():
        tag = tag_of(key)
        if tag is None:
            continue
        declared = ""
        if noted and not dictionary_vr(tag):
            alike, alone = vr_paths(items, tag)
            declared = noted.get(alone) or noted.get(alike, "")
        out.append(_element(tag, declared, value, noted, items, signed=signed))
    out.sort(key=lambda e: e.tag)
    return out


def _vr(tag: int, declared: str, given: list[Any], *, signed: bool) -> str:
    """The dictionary's VR; where it leaves a choice, or knows nothing, the values decide."""
    if any(isinstance(v, dict) for v in given):
        return "SQ"
    known = dictionary_vr(tag)
    if not known and is_creator(tag):
        return "LO"
    vr = declared or known or _guess(given)
    if " or " not in vr:
        return vr
    if given and isinstance(given[0], str):
        return "OW"
    if "SS" in vr and (signed or any(isinstance(v, int) and v < 0 for v in given)):
        return "SS"
    return "US" if "US" in vr else "OW"


def _guess(given: list[Any]) -> str:
    """For elements whose VR nobody says, such as those of a private sequence that an update brought."""
    if any(isinstance(v, float) for v in given):
        return "FD"
    if any(isinstance(v, int) for v in given):
        return "SL" if any(isinstance(v, int) and v < 0 for v in given) else "UL"
    # Text may look like base64 by chance, as HEAD does.
    return "LO" if all(len(str(v)) <= 64 for v in given) else "UT"  # noqa: PLR2004 -- longest LO


def _binary(given: list[Any]) -> bytes:
    """Bytes of a binary value, which the document has as base64. Other text, from an update, is kept as it is."""
    if not given or not isinstance(given[0], str):
        return b""
    try:
        return base64.b64decode(given[0], validate=True)
    except (binascii.Error, ValueError):
        return given[0].encode("utf-8", "replace")


def _fitting(vr: str, given: list[Any]) -> tuple[str, list[Any]]:
    """Values in the type of their VR. An object may disagree with the dictionary; then its text is kept as it is."""
    if vr in NUMERIC:
        kind = int if vr in WHOLE_NUMBERS else float
        try:
            return vr, [None if v is None else kind(v) for v in given]
        except (TypeError, ValueError):
            vr = "UN" if any(isinstance(v, dict) for v in given) else "UC"
    return vr, ["" if v is None else str(v) for v in given]


def large(instance: Mapping[str, Any]) -> dict[int, str]:
    """Private values that are kept beside the pixels for their size: ids there, by tag."""
    return {tag: str(i) for key, i in (instance.get("BulkData") or {}).items() if (tag := tag_of(key)) is not None}


def walk(items: list[Element], path: str = "") -> Iterator[tuple[str, Element]]:
    """Every element with its path, such as `00081140[0].00081155`; sequences before their items."""
    for one in items:
        here = f"{path}{one.tag:08X}"
        yield here, one
        if one.vr == "SQ":
            for index, item in enumerate(one.values):
                yield from walk(item, f"{here}[{index}].")
