"""Read DICOM Part 10 bytes into the keyword and value form of HealthImaging's metadata.

Belongs here: the data set walk. Does not belong here: values (`values.py`), levels, image sets (`document.py`), pixels
(`frames.py`).

A walk of our own, because pydicom's values cost several milliseconds an object and an import job is judged by the
thousand; the dictionary and the character sets are pydicom's.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from local_aws.healthimaging.syntaxes import BIG_ENDIAN, DEFLATED, IMPLICIT
from local_aws.healthimaging.values import (
    BINARY,
    MAX_BINARY,
    NUMERIC,
    convert,
    encodings_of,
    entry,
    is_creator,
    name,
    note_vrs,
)

LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
VRS = frozenset(
    [
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FD",
        "FL",
        "IS",
        "LO",
        "LT",
        "OB",
        "OD",
        "OF",
        "OL",
        "OV",
        "OW",
        "PN",
        "SH",
        "SL",
        "SQ",
        "SS",
        "ST",
        "SV",
        "TM",
        "UC",
        "UI",
        "UL",
        "UN",
        "UR",
        "US",
        "UT",
        "UV",
    ]
)
UNDEFINED = 0xFFFFFFFF
CHARACTER_SET, PIXEL_REPRESENTATION, IMAGE_GROUP = 0x00080005, 0x00280103, 0x00280000
# The documented text for an object that cannot be read at all.
NOTHING = "DICOM attributes does not exist"
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
PIXELS = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
MAX_DEPTH = 64
# A deflated data set may not grow beyond the first, nor beyond the second and so many times its size, or one small
# object would fill the memory.
MAX_INFLATED, ALWAYS_INFLATED, MAX_RATIO = 2**28, 2**25, 100
INFLATE_BYTES = 2**20
# An object has room for about so many bytes of metadata: those of its values, and what an element, an item and one of
# several values cost beside them. It is what no document of 50 MB could hold.
ROOM, ELEMENT_ROOM, ITEM_ROOM, VALUE_ROOM = 80 * 10**6, 80, 200, 8
# Shorter values are not looked at: an element of them costs more than they do.
LONG_VALUE = 16
TOO_MUCH = "ImageSetMetadata of the image set would be larger than the limit"


class DicomError(Exception):
    """The bytes are no importable DICOM object; the text is what HealthImaging writes into failure.ndjson."""


@dataclass
class Parsed:
    """One object: values by tag at the root, and where in `data` the pixels are."""

    values: dict[int, Any] = field(default_factory=dict)
    vrs: dict[int, str] = field(default_factory=dict)
    # Private binary values that are too large for the metadata.
    bulk: dict[int, bytes] = field(default_factory=dict)
    # VRs of what the dictionary does not know inside sequences: by tag of the outermost sequence, by path in it.
    nested_vrs: dict[int, dict[str, str]] = field(default_factory=dict)
    data: bytes = b""
    pixel_tag: int = 0
    pixel_vr: str = ""
    pixel_start: int = -1
    pixel_length: int = 0
    encapsulated: bool = False
    truncated: bool = False
    # Elements that could not be kept: of a tag that comes twice the first, and what the end of the object cuts off.
    discarded: bool = False
    # The data set is not encoded as its transfer syntax says, or has a VR that there is not.
    misencoded: bool = False

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


class _Reader:
    def __init__(self, data: bytes, *, implicit: bool, big: bool, total: int = 0) -> None:
        self.data = data
        # Size of the whole object; more than `data` when only its beginning was read.
        self.total = max(total, len(data))
        self.implicit = implicit
        self.order = ">" if big else "<"
        self.encodings = ["latin-1"]
        self.pixel_representation = 0
        self._room = ROOM
        self.discarded = self.misencoded = False
        self.nested_vrs: dict[int, dict[str, str]] = {}
        # The open sequences, outermost first: tag, and number of the item that is read.
        self._open: list[tuple[int, int]] = []
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
                self.misencoded = True
                return tag, self._implied(tag), self._u32.unpack_from(data, position + 4)[0], position + 8
            return tag, vr, self._u16.unpack_from(data, position + 6)[0], position + 8
        except struct.error as error:
            raise DicomError(NOTHING) from error

    def _implied(self, tag: int) -> str:
        known = entry(tag)
        if known is None:
            if tag & 0xFFFF == 0:
                return "UL"
            return "LO" if is_creator(tag) else "UN"
        vr = known[0]
        if " or " in vr:
            if "OW" in vr:
                return "OW"
            return "SS" if "SS" in vr and self.pixel_representation else "US"
        return vr

    def items(self, sequence: int, start: int, end: int, depth: int) -> tuple[list[dict[str, Any]], int]:
        """Items of the sequence of that tag. It ends at `end`, or at its delimiter when `end` is negative."""
        if depth > MAX_DEPTH:
            raise DicomError("DICOM attributes are nested too deeply")
        out: list[dict[str, Any]] = []
        position = start
        while end < 0 or position < end:
            tag, _, length, position = self.header(position)
            if tag == SEQUENCE_END:
                return out, position
            if tag != ITEM:
                raise DicomError(NOTHING)
            self._take(ITEM_ROOM)
            stop = -1 if length == UNDEFINED else position + length
            self._open.append((sequence, len(out)))
            values, vrs, position = self.walk(position, stop, depth + 1, None)
            note_vrs(self.nested_vrs.setdefault(self._open[0][0], {}), self._open, vrs)
            self._open.pop()
            out.append({name(tag): value for tag, value in values.items()})
        return out, position

    def walk(self, start: int, end: int, depth: int, root: Parsed | None) -> tuple[dict[int, Any], dict[int, str], int]:
        """Elements from `start` to `end`, or to an item delimiter when `end` is negative."""
        data, size = self.data, len(self.data)
        values: dict[int, Any] = {}
        vrs: dict[int, str] = {}
        encodings = self.encodings
        position = start
        while position < (size if end < 0 else end):
            if root is not None and self._ends_before(position):
                self._cut(root, max(values, default=0))
                break
            tag, vr, length, value_start = self.header(position)
            self._take(ELEMENT_ROOM)
            self.discarded |= tag in values
            if tag == ITEM_END:
                position = value_start
                break
            if root is not None and tag in PIXELS:
                self.discarded |= root.pixel_tag != 0
                root.pixel_tag = tag
                position = self._pixels(root, vr, length, value_start)
                continue
            real = self._implied(tag) if vr == "UN" and length != UNDEFINED and not tag >> 16 & 1 else vr
            if real == "SQ" or (length == UNDEFINED and vr == "UN"):
                values[tag], position = self._sequence(tag, value_start, length, depth, un=vr == "UN")
                vrs[tag] = "SQ"
                continue
            position = value_start + length
            if position > size:
                self._cut(root, tag)
                break
            if tag & 0xFFFF:  # group lengths carry nothing
                raw = data[value_start:position]
                values[tag], vrs[tag] = self._value(tag, real, raw, root), real
                self._remember(tag, raw)
        if depth:
            self.encodings = encodings
            if end < 0 and position >= size:
                raise DicomError(NOTHING)
        return values, vrs, position

    def _take(self, size: int) -> None:
        """Give room for metadata away.

        Raises:
            DicomError: There is none left.
        """
        self._room -= size
        if self._room < 0:
            raise DicomError(TOO_MUCH)

    def _ends_before(self, position: int) -> bool:
        """Whether the bytes end before the value of an element: its header has 8 of them, or 12."""
        left = len(self.data) - position
        vr = self.data[position + 4 : position + 6]
        return left < 8 or (left < 12 and not self.implicit and vr.decode("latin-1") in LONG)  # noqa: PLR2004

    def _cut(self, root: Parsed | None, tag: int) -> None:
        """The bytes end in `tag`: before the image was described it is no object, later the rest is lost.

        Raises:
            DicomError: It is no object, or only the beginning of one was read.
        """
        if root is None or tag < IMAGE_GROUP or self.total > len(self.data):
            raise DicomError(NOTHING)
        self.discarded = True

    def _remember(self, tag: int, raw: bytes) -> None:
        """Keep what decides how later values are read."""
        if tag == CHARACTER_SET:
            self.encodings = encodings_of(raw)
        elif tag == PIXEL_REPRESENTATION and len(raw) >= 2:  # noqa: PLR2004
            self.pixel_representation = self._u16.unpack_from(raw)[0]

    def _sequence(self, tag: int, start: int, length: int, depth: int, *, un: bool) -> tuple[list[dict[str, Any]], int]:
        """A sequence. Behind UN its items are in implicit encoding (PS3.5, 6.2.2 note 4)."""
        stop = -1 if length == UNDEFINED else start + length
        if stop > len(self.data):
            raise DicomError(NOTHING)
        implicit = self.implicit
        self.implicit = implicit or un
        out = self.items(tag, start, stop, depth + 1)
        self.implicit = implicit
        return out

    def _pixels(self, root: Parsed, vr: str, length: int, start: int) -> int:
        size = len(self.data)
        root.data, root.pixel_start, root.pixel_vr = self.data, start, vr
        root.encapsulated = length == UNDEFINED
        if length != UNDEFINED:
            root.pixel_length = length
            root.truncated = start + length > self.total
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
            first = False
            position += item_length
        root.pixel_length, root.truncated = total, self.total == size
        return size

    def _value(self, tag: int, vr: str, raw: bytes, root: Parsed | None) -> Any:
        """A value; a large private one stays beside the others."""
        if root is not None and len(raw) > MAX_BINARY and vr in BINARY and entry(tag) is None:
            root.bulk[tag] = raw
            return None
        if len(raw) > LONG_VALUE:
            width = NUMERIC[vr][1] if vr in NUMERIC else 4 if vr == "AT" else 0
            several = len(raw) // width if width else raw.count(b"\\") if vr not in BINARY else 0
            self._take(several * VALUE_ROOM + (0 if width else len(raw)))
        return self.value(tag, vr, raw)

    def value(self, tag: int, vr: str, raw: bytes) -> Any:
        """A value in the document's form."""
        known = entry(tag)
        return convert(vr, raw, self.order, self.encodings, many=known[2] if known else None)


def _inflated(data: bytes, position: int) -> bytes:
    """An object whose data set, from a position on, was deflated."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, size = [data[:position]], 0
    most = min(MAX_INFLATED, max(ALWAYS_INFLATED, MAX_RATIO * (len(data) - position)))
    try:
        for start in range(position, len(data), INFLATE_BYTES):
            rest = data[start : start + INFLATE_BYTES]
            while rest and not inflate.eof:
                pieces.append(inflate.decompress(rest, INFLATE_BYTES))
                rest = inflate.unconsumed_tail
                size += len(pieces[-1])
                if size > most:
                    raise DicomError(NOTHING)
    except zlib.error as error:
        raise DicomError(NOTHING) from error
    if not inflate.eof:
        raise DicomError(NOTHING)
    return b"".join(pieces)


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
        raise DicomError(NOTHING)
    parsed = Parsed()
    meta = _Reader(data, implicit=False, big=False)
    position = 132
    while position + 8 <= len(data) and data[position : position + 2] == b"\x02\x00":
        tag, vr, length, start = meta.header(position)
        position = start + length
        if position > len(data):
            raise DicomError(NOTHING)
        parsed.values[tag] = meta.value(tag, vr, data[start:position])
        parsed.vrs[tag] = vr
    syntax = parsed.text(0x00020010)
    if not syntax:
        raise DicomError("DICOM attribute TransferSyntaxUID does not exist")
    if syntax == DEFLATED:
        data = _inflated(data, position)
    declared = implicit = syntax == IMPLICIT
    big = syntax == BIG_ENDIAN
    if not big and len(data) >= position + 6:
        # The declared syntax is sometimes wrong; two letters where a VR belongs decide.
        implicit = data[position + 4 : position + 6].decode("latin-1") not in VRS
    body = _Reader(data, implicit=implicit, big=big, total=total)
    values, vrs, _ = body.walk(position, len(data), 0, parsed)
    if not values:
        raise DicomError(NOTHING)
    parsed.values.update(values)
    parsed.vrs.update(vrs)
    parsed.discarded, parsed.misencoded = body.discarded, body.misencoded or implicit != declared
    parsed.nested_vrs = {tag: noted for tag, noted in body.nested_vrs.items() if noted}
    return parsed
