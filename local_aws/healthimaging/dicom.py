"""Read DICOM Part 10 bytes into the keyword and value form of HealthImaging's metadata.

Belongs here: the data set walk, values by VR. Does not belong here: levels, image sets (`document.py`), pixels
(`frames.py`).

A walk of our own, because pydicom's values cost several milliseconds an object and an import job is judged by the
thousand; the dictionary and the character sets are pydicom's.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
NUMERIC = {
    "US": ("H", 2), "SS": ("h", 2), "UL": ("I", 4), "SL": ("i", 4), "FL": ("f", 4), "FD": ("d", 8), "UV": ("Q", 8),
    "SV": ("q", 8),
}  # fmt: skip
BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
VRS = frozenset(
    "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
# Text in which a backslash is an ordinary character.
UNSPLIT = frozenset({"LT", "ST", "UT", "UR"})
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
MAX_DEPTH = 64
# HealthImaging stores private binary values above 1 MB apart from the metadata.
MAX_BINARY = 2**20
# A deflated data set may not grow beyond this, or one small object would fill the memory.
MAX_INFLATED = 2**30


class DicomError(Exception):
    """The bytes are no importable DICOM object; the text is what HealthImaging writes into failure.ndjson."""


@dataclass
class Parsed:
    """One object: values by tag at the root, and where the pixels are."""

    values: dict[int, Any] = field(default_factory=dict)
    vrs: dict[int, str] = field(default_factory=dict)
    pixel_vr: str = ""
    pixel_start: int = -1
    pixel_length: int = 0
    pixels: bytes | memoryview = b""
    fragments: int = 0
    truncated: bool = False

    def text(self, tag: int) -> str:
        """A string value without padding, or an empty string."""
        value = self.values.get(tag)
        if isinstance(value, list):
            value = value[0] if value else ""
        return str(value).strip() if value is not None else ""

    def number(self, tag: int, default: int = 0) -> int:
        """An integer value, whatever its form."""
        try:
            return int(self.text(tag) or default)
        except ValueError:
            return default


@lru_cache(maxsize=16384)
def entry(tag: int) -> tuple[str, str, bool] | None:
    """VR, keyword and whether the dictionary allows several values; None for what it does not know."""
    from pydicom.datadict import get_entry  # noqa: PLC0415

    try:
        vr, vm, _, _, keyword = get_entry(tag)
    except KeyError:
        return None
    # Repeating groups (curves, overlays) share one keyword among many tags, so they keep their number.
    repeating = 0x50 <= (tag >> 24) <= 0x60 and (tag >> 24) in {0x50, 0x60}
    return None if repeating or not keyword else (vr, keyword, vm != "1")


class _Reader:
    def __init__(self, data: bytes, *, implicit: bool, big: bool, total: int = 0) -> None:
        self.data = data
        # Size of the whole object; more than `data` when only its beginning was read.
        self.total = max(total, len(data))
        self.implicit = implicit
        self.order = ">" if big else "<"
        self.encodings = ["latin-1"]
        self.pixel_representation = 0
        self._element = struct.Struct(f"{self.order}HH")
        self._u16 = struct.Struct(f"{self.order}H")
        self._u32 = struct.Struct(f"{self.order}I")

    def header(self, position: int) -> tuple[int, str, int, int]:
        """Tag, VR, length and start of the value."""
        data = self.data
        try:
            group, element = self._element.unpack_from(data, position)
            tag = group << 16 | element
            if group == 0xFFFE:  # noqa: PLR2004
                return tag, "", self._u32.unpack_from(data, position + 4)[0], position + 8
            if self.implicit:
                return tag, self._implied(tag), self._u32.unpack_from(data, position + 4)[0], position + 8
            vr = data[position + 4 : position + 6].decode("latin-1")
            if vr in LONG:
                return tag, vr, self._u32.unpack_from(data, position + 8)[0], position + 12
            if vr not in VRS:
                # Implicit encoding in spite of what the file says.
                return tag, self._implied(tag), self._u32.unpack_from(data, position + 4)[0], position + 8
            return tag, vr, self._u16.unpack_from(data, position + 6)[0], position + 8
        except struct.error as error:
            raise DicomError("DICOM attributes does not exist") from error

    def _implied(self, tag: int) -> str:
        known = entry(tag)
        if known is None:
            group, element = tag >> 16, tag & 0xFFFF
            if element == 0:
                return "UL"
            return "LO" if group & 1 and 0x10 <= element <= 0xFF else "UN"  # noqa: PLR2004
        vr = known[0]
        if " or " in vr:
            if "OW" in vr:
                return "OW"
            return "SS" if "SS" in vr and self.pixel_representation else "US"
        return vr

    def items(self, start: int, end: int, depth: int) -> tuple[list[dict[str, Any]], int]:
        """Items of a sequence that ends at `end`, or at its delimiter when `end` is negative."""
        if depth > MAX_DEPTH:
            raise DicomError("DICOM attributes are nested too deeply")
        out: list[dict[str, Any]] = []
        position = start
        while end < 0 or position < end:
            tag, _, length, position = self.header(position)
            if tag == SEQUENCE_END:
                return out, position
            if tag != ITEM:
                raise DicomError("DICOM attributes does not exist")
            stop = -1 if length == UNDEFINED else position + length
            values, _, position = self.walk(position, stop, depth + 1, None)
            out.append({name(tag): value for tag, value in values.items()})
        return out, position

    def walk(self, start: int, end: int, depth: int, root: Parsed | None) -> tuple[dict[int, Any], dict[int, str], int]:
        """Elements from `start` to `end`, or to an item delimiter when `end` is negative."""
        data, size = self.data, len(self.data)
        values: dict[int, Any] = {}
        vrs: dict[int, str] = {}
        encodings, implicit = self.encodings, self.implicit
        position = start
        while position < (size if end < 0 else end):
            if root is not None and position + 8 > size:
                root.truncated = True
                if (max(values, default=0) >> 16) < 0x28:  # noqa: PLR2004 -- cut before the image was described
                    raise DicomError("DICOM attributes does not exist")
                break
            tag, vr, length, value_start = self.header(position)
            if tag == ITEM_END:
                position = value_start
                break
            if depth == 0 and tag in PIXELS and root is not None:
                position = self._pixels(root, vr, length, value_start)
                continue
            inner_implicit = vr == "UN"
            if vr == "UN" and length != UNDEFINED and not tag >> 16 & 1:
                # A public attribute behind UN: somebody re-encoded it without a dictionary.
                vr = self._implied(tag)
            if vr == "SQ" or (length == UNDEFINED and vr == "UN"):
                # UN of undefined length is a sequence in implicit encoding (PS3.5, 6.2.2 note 4).
                self.implicit = implicit or inner_implicit
                stop = -1 if length == UNDEFINED else value_start + length
                if stop > size:
                    raise DicomError("DICOM attributes does not exist")
                values[tag], position = self.items(value_start, stop, depth + 1)
                vrs[tag] = "SQ"
                self.implicit = implicit
                continue
            if length == UNDEFINED:
                raise DicomError("DICOM attributes does not exist")
            position = value_start + length
            if position > size:
                if root is None or tag < 0x00280000:  # noqa: PLR2004
                    raise DicomError("DICOM attributes does not exist")
                root.truncated = True
                break
            if tag & 0xFFFF == 0 and tag >> 16 != 2:  # noqa: PLR2004 -- group lengths carry nothing
                continue
            raw = data[value_start:position]
            values[tag] = self.value(tag, vr, raw)
            vrs[tag] = vr
            if tag == 0x00080005:  # noqa: PLR2004
                self.encodings = _encodings(raw)
            elif tag == 0x00280103 and length >= 2:  # noqa: PLR2004
                self.pixel_representation = self._u16.unpack_from(raw)[0]
        self.encodings = encodings if depth else self.encodings
        if depth and end < 0 and position >= size:
            raise DicomError("DICOM attributes does not exist")
        return values, vrs, position

    def _pixels(self, root: Parsed, vr: str, length: int, start: int) -> int:
        size = len(self.data)
        root.pixel_start, root.pixel_vr = start, vr
        if length != UNDEFINED:
            root.pixel_length = length
            root.truncated = start + length > self.total
            root.pixels = memoryview(self.data)[start : start + length]
            return min(start + length, size)
        position, total = start, 0
        first = True
        while position + 8 <= size:
            tag, _, item_length, position = self.header(position)
            if tag == SEQUENCE_END:
                root.pixel_length = total
                return position
            if tag != ITEM or position + item_length > size:
                break
            total += 0 if first else item_length
            root.fragments += 0 if first else 1
            first = False
            position += item_length
        root.pixel_length, root.truncated = total, self.total == size
        root.fragments = 0 if self.total > size else root.fragments
        return size

    def value(self, tag: int, vr: str, raw: bytes) -> Any:
        """A value in the document's form: null when empty, a list when the dictionary allows several."""
        known = entry(tag)
        many = known[2] if known else None
        if vr in BINARY:
            if known is None:
                return None if len(raw) > MAX_BINARY else base64.b64encode(raw).decode()
            return base64.b64encode(raw).decode() if raw else None
        if not raw:
            return None
        if vr in NUMERIC:
            code, width = NUMERIC[vr]
            numbers = list(struct.unpack(f"{self.order}{len(raw) // width}{code}", raw[: len(raw) // width * width]))
            if vr in {"FL", "FD"}:
                numbers = [n if math.isfinite(n) else None for n in numbers]
            return _shape(numbers, many)
        if vr == "AT":
            pairs = [self._element.unpack_from(raw, i) for i in range(0, len(raw) // 4 * 4, 4)]
            return _shape([f"{g:04X}{e:04X}" for g, e in pairs], many)
        text = self.text(vr, raw)
        if not text:
            return None
        if vr in UNSPLIT:
            return text
        return _shape(text.split("\\"), many)

    def text(self, vr: str, raw: bytes) -> str:
        """Decode; DS and IS keep their padding, everything else loses it."""
        if raw.isascii() and b"\x1b" not in raw:
            text = raw.decode("ascii")
        elif vr in {"PN", "LO", "SH", "ST", "LT", "UC", "UT"}:
            text = _decode(raw, self.encodings, vr)
        else:
            text = raw.decode("latin-1")
        return text.rstrip("\0") if vr in {"DS", "IS"} else text.rstrip(" \0")


def _shape(values: list[Any], many: bool | None) -> Any:
    """A list by the dictionary's multiplicity; without one, by the count."""
    if not values:
        return None
    return values if many or len(values) > 1 else values[0]


@lru_cache(maxsize=64)
def _encodings(raw: bytes) -> list[str]:
    import warnings  # noqa: PLC0415

    from pydicom.charset import convert_encodings  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(convert_encodings([t.strip() for t in raw.decode("latin-1").strip(" \0").split("\\")]))
        except (LookupError, ValueError):
            return ["latin-1"]


def _decode(raw: bytes, encodings: list[str], vr: str) -> str:
    import warnings  # noqa: PLC0415

    from pydicom.charset import decode_bytes  # noqa: PLC0415

    delimiters = {0x5C, 0x5E, 0x3D} if vr == "PN" else {0x0A, 0x0C, 0x0D, 0x09, 0x5C}
    parts = raw.split(b"=") if vr == "PN" else [raw]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "=".join(decode_bytes(part, encodings, delimiters) for part in parts)
        except (LookupError, ValueError):
            return raw.decode("latin-1")


def name(tag: int) -> str:
    """Key of an attribute in the document: its keyword, or eight hexadecimal digits."""
    known = entry(tag)
    return known[1] if known else f"{tag:08X}"


def read(data: bytes, total: int = 0) -> Parsed:
    """Read one object.

    Args:
        data: The whole object, or so much of it as contains everything before the pixels.
        total: Size of the whole object in bytes, when `data` is only its beginning.

    Returns:
        Values by tag, file meta information included.

    Raises:
        DicomError: It is no DICOM Part 10 object.
    """
    if len(data) < 132 or data[128:132] != b"DICM":  # noqa: PLR2004
        raise DicomError("DICOM attributes does not exist")
    parsed = Parsed()
    meta = _Reader(data, implicit=False, big=False)
    position = 132
    while position + 8 <= len(data) and data[position : position + 2] == b"\x02\x00":
        tag, vr, length, start = meta.header(position)
        position = start + length
        if position > len(data):
            raise DicomError("DICOM attributes does not exist")
        parsed.values[tag] = meta.value(tag, vr, data[start:position])
        parsed.vrs[tag] = vr
    syntax = parsed.text(0x00020010)
    if not syntax:
        raise DicomError("DICOM attribute TransferSyntaxUID does not exist")
    if syntax == DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = data[:position] + inflate.decompress(data[position:], MAX_INFLATED)
        except zlib.error as error:
            raise DicomError("DICOM attributes does not exist") from error
        if not inflate.eof:
            raise DicomError("DICOM attributes does not exist")
    implicit = syntax == IMPLICIT
    big = syntax == BIG_ENDIAN
    if not big and len(data) >= position + 6:
        # The declared syntax is sometimes wrong; two letters where a VR belongs decide.
        implicit = data[position + 4 : position + 6].decode("latin-1") not in VRS
    body = _Reader(data, implicit=implicit, big=big, total=total)
    values, vrs, _ = body.walk(position, len(data), 0, parsed)
    if not values:
        raise DicomError("DICOM attributes does not exist")
    parsed.values.update(values)
    parsed.vrs.update(vrs)
    return parsed
