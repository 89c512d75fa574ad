"""Elements into typed values. Belongs here: bytes of an element to text and numbers, and on to the registry's columns.

Does not belong here: finding elements (`walker`), rules of types (`ahi.index.values`).
"""

from __future__ import annotations

from functools import lru_cache
from struct import calcsize, unpack
from typing import TYPE_CHECKING, Any, Literal

from ahi.dicom.charset import decode, encodings_of
from ahi.index.columns import SHAPES
from ahi.index.registry import HEADER_KEYWORDS
from ahi.index.values import CastFailure, cast, name_parts, parse_offset

if TYPE_CHECKING:
    import datetime as dt

    from ahi.dicom.walker import Elements
    from ahi.index.columns import Column
    from ahi.index.values import Item

CHARACTER_SET, OFFSET, PIXEL_REPRESENTATION = 0x00080005, 0x00080201, 0x00280103

_ASCII = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"))
_TEXT = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_NUMBERS = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q"}

# How the elements of each tag are usually typed, written out for speed; whatever is unusual takes the long way.
_LONG_WAY, _ONE_TEXT, _ONE_SHORT, _REPEATED = range(4)
_WAYS = {
    **dict.fromkeys(("CS", "LO", "SH", "UI", "AS"), _ONE_TEXT),
    "US": _ONE_SHORT,
    # Through a series most dates, times, numbers as text and code strings are the same, and casting them costs most.
    **dict.fromkeys(("AE", "DA", "TM", "DS", "IS"), _REPEATED),
}


def _way(column: Column) -> int:
    way = _WAYS.get(column.vr or "", _LONG_WAY)
    if column.vm != "1" and column.vr in {"CS", "UI"}:
        return _REPEATED
    return way if way == _REPEATED or column.vm == "1" else _LONG_WAY


_PLAN = {tag: (_way(column), column.name, (column.vr or "").encode()) for tag, column in HEADER_KEYWORDS.items()}
_SHORT_BYTES = 2
_REMEMBERED_BYTES = 64

# Tags wanted of a data set and of the items of its sequences; True marks a sequence.
WANTED: dict[int, bool] = {tag: column.vr == "SQ" for tag, column in HEADER_KEYWORDS.items()}
_ITEM_FIELDS = {
    tag: (keyword, field.vr)
    for fields in SHAPES.values()
    for field in fields
    for tag, keyword in zip(field.tags, field.keywords, strict=True)
}
WANTED_IN_ITEMS: dict[int, bool] = {tag: vr == "SQ" for tag, (_, vr) in _ITEM_FIELDS.items()} | {CHARACTER_SET: False}


def type_values(  # noqa: C901, PLR0912 (the hot loop: calls would double its cost)
    elements: Elements, *, big: bool
) -> tuple[dict[str, object], tuple[CastFailure, ...]]:
    """Typed values by keyword, empty ones left out, and what did not fit."""
    encodings = _encodings(elements) or encodings_of("")
    signed = _is_signed(elements, big=big)
    offset = _offset(elements)
    values: dict[str, object] = {}
    failures: list[CastFailure] = []
    is_plain = encodings[0] != "shift_jis"
    order: Literal["big", "little"] = "big" if big else "little"
    plan = _PLAN
    raw: Any  # Bytes; items only with the VR of a sequence, which has no short way.
    for tag, (vr, raw) in elements.items():
        if not raw:
            continue
        way, name, usual = plan[tag]
        if vr == usual or not vr:
            if way == _ONE_TEXT:
                if is_plain and raw.isascii() and b"\\" not in raw and b"\x1b" not in raw:
                    text = raw.decode("ascii").rstrip("\0 ")
                    if text:
                        values[name] = text
                    continue
            elif way == _ONE_SHORT:
                if len(raw) == _SHORT_BYTES:
                    values[name] = int.from_bytes(raw, order)
                    continue
            elif way == _REPEATED and len(raw) <= _REMEMBERED_BYTES:
                value, failed = _remembered(tag, raw)
                if value is not None:
                    values[name] = value.copy() if type(value) is list else value
                elif failed:
                    failures.extend(failed)
                continue
        value = _typed(HEADER_KEYWORDS[tag], vr, raw, encodings, failures, offset, big=big, signed=signed)
        if value is not None:
            values[name] = value
    parts = name_parts(values.get("PatientName"))
    if parts is not None:
        values["PatientName_parts"] = parts
    return values, tuple(failures)


@lru_cache(8192)
def _remembered(tag: int, raw: bytes) -> tuple[object, tuple[CastFailure, ...]]:
    """Typed value of an element that is usually the same through a series, and what did not fit."""
    failures: list[CastFailure] = []
    return cast(HEADER_KEYWORDS[tag], raw.decode("latin-1"), failures), tuple(failures)


def _offset(elements: Elements) -> dt.timezone | None:
    raw = elements.get(OFFSET, (b"", b""))[1]
    return parse_offset(raw.decode("latin-1")) if isinstance(raw, bytes) else None


def _typed(
    column: Column,
    vr: bytes,
    raw: bytes | list[Elements],
    encodings: tuple[str, ...],
    failures: list[CastFailure],
    offset: dt.timezone | None,
    *,
    big: bool,
    signed: bool,
) -> object:
    if isinstance(raw, list):
        plain: object = [_item(item, encodings, big=big) for item in raw]
    else:
        plain = _plain(raw, vr.decode("latin-1"), column, encodings, big=big, signed=signed, failures=failures)
    return cast(column, plain, failures, offset)


def _encodings(elements: Elements) -> tuple[str, ...] | None:
    raw = elements.get(CHARACTER_SET, (b"", b""))[1]
    return encodings_of(raw.decode("latin-1")) if raw and isinstance(raw, bytes) else None


def _is_signed(elements: Elements, *, big: bool) -> bool:
    raw = elements.get(PIXEL_REPRESENTATION, (b"", b""))[1]
    return raw == (b"\x00\x01" if big else b"\x01\x00")


def _plain(
    raw: bytes,
    vr: str,
    column: Column,
    encodings: tuple[str, ...],
    *,
    big: bool,
    signed: bool,
    failures: list[CastFailure],
) -> object:
    """Text or numbers of an element's bytes, by its own VR where it has one."""
    if vr in {"", "UN"}:
        # An UN is little endian, whatever the data set is (PS3.5 6.2.2 note 2).
        big = big and vr == ""
        vr = column.vr or "UN"
    if vr in _ASCII:
        return raw.decode("latin-1")
    if vr in _TEXT:
        return decode(raw, encodings, is_name=vr == "PN")
    if vr == "US or SS":
        vr = "SS" if signed else "US"
    code = _NUMBERS.get(vr)
    if code is None:
        failures.append(CastFailure(column.name, vr, raw[:64].hex(), "unexpected VR"))
        return None
    size = calcsize(f"<{code}")
    if len(raw) % size:
        failures.append(CastFailure(column.name, vr, raw[:64].hex(), "length does not fit the VR"))
        return None
    numbers = unpack(f"{'>' if big else '<'}{len(raw) // size}{code}", raw)
    return numbers[0] if len(numbers) == 1 else list(numbers)


def _item(item: Elements, outer: tuple[str, ...], *, big: bool) -> Item:
    """A sequence item by keyword; it inherits the character sets unless it has its own (PS3.5 7.5.3)."""
    encodings = _encodings(item) or outer
    found: Item = {}
    for tag, (_, raw) in item.items():
        if tag == CHARACTER_SET:
            continue
        keyword = _ITEM_FIELDS[tag][0]
        if isinstance(raw, list):
            found[keyword] = [_item(inner, encodings, big=big) for inner in raw]
        else:
            found[keyword] = decode(raw, encodings)
    return found
