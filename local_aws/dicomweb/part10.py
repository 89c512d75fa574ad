"""Write a DICOM file (PS3.10) from data elements and pixel data.

Belongs here: bytes in Explicit VR Little Endian. Does not belong here: which pixel data (`retrieve.py`).

An encoder of our own: the elements come from a document whose values were accepted once, and must leave
unchanged, odd ones included; a library would check and reformat them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from local_aws.dicomweb.elements import Element
from local_aws.healthimaging.dicom import CHARACTER_SET, LONG, PIXEL_DATA, UNDEFINED
from local_aws.healthimaging.values import BINARY, ENCODED, NUMERIC, encodings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IMPLEMENTATION_UID = "2.25.301187446398236108914405083171640563087"
IMPLEMENTATION_NAME = "LOCAL_AWS"
MAX_SHORT = 0xFFFE
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_ITEM_DELIMITER = _ITEM_END + bytes(4)
_SEQUENCE_DELIMITER = _SEQUENCE_END + bytes(4)
_NUL_PADDED = frozenset({"UI", *BINARY})


def file(items: Sequence[Element], pixels: bytes, syntax: str) -> bytes:
    """A whole file.

    Args:
        items: The data set in tag order, without pixel data.
        pixels: The pixel data element as `native_pixels` or `encapsulated_pixels` made it, or nothing.
        syntax: Transfer syntax to write into the file meta information.
    """
    text = _encoding(items)
    if text == "utf-8":
        items = _with_utf8(items)
    before = b"".join(_element(e, text) for e in items if e.tag < PIXEL_DATA)
    after = b"".join(_element(e, text) for e in items if e.tag > PIXEL_DATA)
    return b"".join((_preamble(items, syntax), before, pixels, after))


def _preamble(items: Sequence[Element], syntax: str) -> bytes:
    uids = {e.tag: str(e.values[0]) for e in items if e.tag in {0x00080016, 0x00080018} and e.values}
    meta = [
        Element(0x00020001, "OB", [b"\0\1"]),
        Element(0x00020002, "UI", [uids.get(0x00080016, "")]),
        Element(0x00020003, "UI", [uids.get(0x00080018, "")]),
        Element(0x00020010, "UI", [syntax]),
        Element(0x00020012, "UI", [IMPLEMENTATION_UID]),
        Element(0x00020013, "SH", [IMPLEMENTATION_NAME]),
    ]
    body = b"".join(_element(e, "ascii") for e in meta)
    return bytes(128) + b"DICM" + _element(Element(0x00020000, "UL", [len(body)]), "ascii") + body


def native_pixels(vr: str, data: bytes, tag: int = PIXEL_DATA) -> bytes:
    """The pixel data element of an uncompressed file."""
    return _header(tag, vr, len(data) + len(data) % 2) + data + b"\0" * (len(data) % 2)


def encapsulated_pixels(frames: Iterable[bytes]) -> bytes:
    """The pixel data element of a compressed file: one fragment a frame, with an offset table (PS3.5, A.4)."""
    padded = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    offsets, position = [], 0
    for frame in padded:
        offsets.append(position)
        position += len(frame) + 8
    # An offset is 32 bits wide; without a table a reader counts fragments, which are frames here.
    table = struct.pack(f"<{len(offsets)}I", *offsets) if position < UNDEFINED else b""
    parts = [_header(PIXEL_DATA, "OB", UNDEFINED), _ITEM, struct.pack("<I", len(table)), table]
    for frame in padded:
        parts += (_ITEM, struct.pack("<I", len(frame)), frame)
    return b"".join((*parts, _SEQUENCE_DELIMITER))


def whole_pixels(data: bytes) -> bytes:
    """The pixel data element around a sequence of fragments that was kept as it is."""
    end = b"" if data.endswith(_SEQUENCE_DELIMITER) else _SEQUENCE_DELIMITER
    return _header(PIXEL_DATA, "OB", UNDEFINED) + data + end


def is_fragments(data: bytes) -> bool:
    """Whether a pixel data value consists of items."""
    return data.startswith(_ITEM)


def _header(tag: int, vr: str, length: int) -> bytes:
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode("ascii")
    return start + (struct.pack("<HI", 0, length) if vr in LONG else struct.pack("<H", length))


def _element(element: Element, text: str) -> bytes:
    if element.vr == "SQ":
        parts = [_header(element.tag, "SQ", UNDEFINED if element.values else 0)]
        for item in element.values:
            parts += (_ITEM, struct.pack("<I", UNDEFINED), *(_element(e, text) for e in item), _ITEM_DELIMITER)
        return b"".join((*parts, _SEQUENCE_DELIMITER)) if element.values else parts[0]
    vr = element.vr
    try:
        raw = _bytes(element, text)
    except (struct.error, ValueError, OverflowError):
        # An update may have put in what its VR cannot hold; it leaves as the text that it is.
        vr, raw = "UN", _padded("\\".join(str(v) for v in element.values).encode("utf-8", "replace"), "UN")
    if vr not in LONG and len(raw) > MAX_SHORT:
        vr = "UN"  # longer than the length field of its VR (PS3.5, 6.2.2 note 6)
    return _header(element.tag, vr, len(raw)) + raw


def _bytes(element: Element, text: str) -> bytes:
    values, vr = [v for v in element.values if v is not None], element.vr
    if vr in BINARY:
        raw = b"".join(values)
    elif vr in NUMERIC:
        raw = struct.pack(f"<{len(values)}{NUMERIC[vr][0]}", *values)
    elif vr == "AT":
        raw = b"".join(struct.pack("<HH", int(v[:4], 16), int(v[4:], 16)) for v in values)
    else:
        encoding = text if vr in ENCODED else "latin-1"
        raw = "\\".join(element.values).encode(encoding, errors="replace")
    return _padded(raw, vr)


def _padded(raw: bytes, vr: str) -> bytes:
    return raw + (b"\0" if vr in _NUL_PADDED else b" ") if len(raw) % 2 else raw


def _texts(items: Iterable[Element]) -> Iterable[str]:
    for element in items:
        if element.vr == "SQ":
            for item in element.values:
                yield from _texts(item)
        elif element.vr in ENCODED:
            yield from (v for v in element.values if isinstance(v, str))


def _encoding(items: Sequence[Element]) -> str:
    """Python encoding for the text: the object's own character set where it is one plain one and can say it all."""
    text = [t for t in _texts(items) if not t.isascii()]
    if not text:
        return "ascii"
    declared = next((e.values for e in items if e.tag == CHARACTER_SET), [])
    known = encodings_of("\\".join(declared).encode("latin-1", errors="replace")) if len(declared) == 1 else []
    for encoding in known:
        try:
            "".join(text).encode(encoding)
        except (UnicodeError, LookupError):
            continue
        if "2022" not in encoding:
            return "utf-8" if encoding == "utf8" else encoding
    return "utf-8"


def _with_utf8(items: Sequence[Element]) -> list[Element]:
    """The elements under ISO_IR 192."""

    def changed(inner: Iterable[Element]) -> list[Element]:
        out: list[Element] = []
        for element in inner:
            values: list[Any] = element.values
            if element.tag == CHARACTER_SET:
                values = ["ISO_IR 192"]
            elif element.vr == "SQ":
                values = [changed(item) for item in values]
            out.append(Element(element.tag, element.vr, values))
        return out

    out = changed(items)
    if all(e.tag != CHARACTER_SET for e in out):
        out.insert(0, Element(CHARACTER_SET, "CS", ["ISO_IR 192"]))
    return sorted(out, key=lambda e: e.tag)
