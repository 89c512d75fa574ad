"""One DICOM value in the form of HealthImaging's metadata document.

Belongs here: bytes to JSON by VR, character sets, the dictionary. Does not belong here: where a value stands
(`dicom.py`).
"""

from __future__ import annotations

import base64
import math
import struct
import threading
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUMERIC = {
    "US": ("H", 2),
    "SS": ("h", 2),
    "UL": ("I", 4),
    "SL": ("i", 4),
    "FL": ("f", 4),
    "FD": ("d", 8),
    "UV": ("Q", 8),
    "SV": ("q", 8),
}
BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
ENCODED = frozenset({"PN", "LO", "SH", "ST", "LT", "UC", "UT"})
# Text in which a backslash is an ordinary character.
UNSPLIT = frozenset({"LT", "ST", "UT", "UR"})
# Groups 50xx (curves) and 60xx (overlays).
REPEATING = frozenset({0x50, 0x60})
# HealthImaging stores private binary values above 1 MB apart from the metadata.
MAX_BINARY = 2**20
# Whole numbers below it are the same as integers and as floats.
EXACT = 2.0**53


_loading = threading.Lock()


def load_libraries() -> None:
    """Import pydicom and numpy, one thread at a time: two that import pydicom at once find it half made."""
    with _loading:
        import numpy as np  # noqa: F401
        import pydicom.charset
        import pydicom.datadict  # noqa: F401


@lru_cache(maxsize=65536)
def entry(tag: int) -> tuple[str, str, bool] | None:
    """VR, keyword and whether the dictionary allows several values; None for what it does not know."""
    if tag >> 16 & 1:
        return None
    load_libraries()
    from pydicom.datadict import get_entry

    try:
        vr, vm, _, _, keyword = get_entry(tag)
    except KeyError:
        return None
    # Repeating groups share one keyword among many tags, so they keep their number.
    return None if tag >> 24 in REPEATING or not keyword else (vr, keyword, vm != "1")


@lru_cache(maxsize=8192)
def vr_of(key: str) -> str:
    """VR of an attribute of a document; empty for what the dictionary does not know."""
    load_libraries()
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(key)
    known = None if tag is None else entry(tag)
    return known[0] if known else ""


def without_padding(key: str, value: Any) -> Any:
    """A value, items of a sequence included, of which numbers in text (DS, IS) have no padding."""
    if isinstance(value, list):
        return [without_padding(key, one) for one in value]
    if isinstance(value, dict):
        return {inner: without_padding(inner, one) for inner, one in value.items()}
    return value.strip(" ") or None if isinstance(value, str) and vr_of(key) in {"DS", "IS"} else value


def name(tag: int) -> str:
    """Key of an attribute in the document: its keyword, or eight hexadecimal digits."""
    known = entry(tag)
    return known[1] if known else f"{tag:08X}"


def is_creator(tag: int) -> bool:
    """Whether an element reserves a block of private elements; its VR is LO (PS3.5, 7.8.1)."""
    return bool(tag >> 16 & 1) and 0x10 <= (tag & 0xFFFF) <= 0xFF  # noqa: PLR2004


def vr_paths(items: Sequence[tuple[int, int]], tag: int) -> tuple[str, str]:
    """Where the VR of an element inside a sequence is noted: for all items alike, and for this one alone.

    Args:
        items: The sequences around it, outermost first: tag, and number of the item.
        tag: Its own tag.
    """
    (_, first), *inner = items
    alike = "".join(f"{sequence:08X}." for sequence, _ in inner)
    alone = "".join(f"{sequence:08X}.{number}." for sequence, number in inner)
    return f"{alike}{tag:08X}", f"{first}.{alone}{tag:08X}"


def note_vrs(noted: dict[str, str], items: Sequence[tuple[int, int]], vrs: Mapping[int, str]) -> None:
    """Note the VRs in one item that no dictionary knows.

    The items of a sequence rarely differ, so most have no note of their own.
    """
    for tag, vr in vrs.items():
        if entry(tag) is not None or is_creator(tag):
            continue
        alike, alone = vr_paths(items, tag)
        if noted.setdefault(alike, vr) != vr:
            noted[alone] = vr


def convert(vr: str, raw: bytes, order: str, encodings: list[str], *, many: bool | None) -> Any:
    """A value in the document's form.

    Args:
        vr: Value representation.
        raw: The value's bytes.
        order: `<` or `>`, the byte order.
        encodings: Python encodings of the object's character sets.
        many: Whether the dictionary allows several values; None when it does not know the attribute.

    Returns:
        None when empty; a list when the dictionary allows several values; a number, text or base64.
    """
    if vr in BINARY:
        return base64.b64encode(raw).decode() if raw or many is None else None
    if not raw:
        return None
    if vr in NUMERIC:
        return shape(_numbers(vr, raw, order), many)
    if vr == "AT":
        pairs = struct.iter_unpack(f"{order}HH", raw[: len(raw) // 4 * 4])
        return shape([f"{group:04X}{element:04X}" for group, element in pairs], many)
    text = _text(vr, raw, encodings)
    if not text or vr in UNSPLIT:
        return text or None
    return shape(text.split("\\"), many)


def _numbers(vr: str, raw: bytes, order: str) -> list[Any]:
    code, width = NUMERIC[vr]
    count = len(raw) // width
    numbers = struct.unpack(f"{order}{count}{code}", raw[: count * width])
    if vr in {"FL", "FD"}:
        return [_real(n) for n in numbers]
    return list(numbers)


def _real(number: float) -> float | int | None:
    """A number as the service writes it: a whole one has no point. The sign of a zero stays."""
    if not math.isfinite(number):
        return None
    whole = number.is_integer() and abs(number) < EXACT and (number or math.copysign(1, number) > 0)
    return int(number) if whole else number


def shape(values: list[Any], many: bool | None) -> Any:
    """A list by the dictionary's multiplicity; without one, by the count."""
    if not values:
        return None
    return values if many or len(values) > 1 else values[0]


def _text(vr: str, raw: bytes, encodings: list[str]) -> str:
    """Decode; DS and IS keep their padding, everything else loses it."""
    if raw.isascii() and b"\x1b" not in raw:
        text = raw.decode("ascii")
    elif vr in ENCODED:
        text = _decode(raw, encodings, vr)
    else:
        text = raw.decode("latin-1")
    return text.rstrip("\0") if vr in {"DS", "IS"} else text.rstrip(" \0")


@lru_cache(maxsize=64)
def encodings_of(raw: bytes) -> list[str]:
    """Python encodings of a SpecificCharacterSet value."""
    from pydicom.charset import convert_encodings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(convert_encodings([t.strip() for t in raw.decode("latin-1").strip(" \0").split("\\")]))
        except (LookupError, ValueError):
            return ["latin-1"]


def _decode(raw: bytes, encodings: list[str], vr: str) -> str:
    from pydicom.charset import decode_bytes

    delimiters = {0x5C, 0x5E, 0x3D} if vr == "PN" else {0x0A, 0x0C, 0x0D, 0x09, 0x5C}
    parts = raw.split(b"=") if vr == "PN" else [raw]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "=".join(decode_bytes(part, encodings, delimiters) for part in parts)
        except (LookupError, ValueError):
            return raw.decode("latin-1")
