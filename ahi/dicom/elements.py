"""Elements into typed values. Belongs here: bytes of an element to text and numbers, and on to the registry's columns.

Does not belong here: finding elements (`walker`), rules of types (`ahi.index.values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import calcsize, unpack
from typing import TYPE_CHECKING, Any, TypeAlias

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

# What elements of each tag were typed as before, by their bytes: through a series and a site most are the same. UIDs of
# one object only are not worth remembering; a date and time may depend on the object's offset from UTC.
_NUMBER_VRS = frozenset(code.encode() for code in _NUMBERS)
_ALWAYS_NEW = frozenset({"SOPInstanceUID", "MediaStorageSOPInstanceUID"})
_REMEMBERED, _REMEMBERED_BYTES = 4096, 64
_UNSEEN = object()
_Memo: TypeAlias = "dict[bytes, object]"


def _memo(column: Column) -> _Memo | None:
    return None if column.name in _ALWAYS_NEW or column.vr in {"DT", "US or SS"} else {}


_PLAN: dict[int, tuple[str, bytes, _Memo | None]] = {
    tag: (column.name, (column.vr or "").encode(), _memo(column)) for tag, column in HEADER_KEYWORDS.items()
}

# Tags wanted of a data set and of the items of its sequences; True marks a sequence.
WANTED: dict[int, bool] = {tag: column.vr == "SQ" for tag, column in HEADER_KEYWORDS.items()}
_ITEM_FIELDS = {
    tag: (keyword, field.vr)
    for fields in SHAPES.values()
    for field in fields
    for tag, keyword in zip(field.tags, field.keywords, strict=True)
}
WANTED_IN_ITEMS: dict[int, bool] = {tag: vr == "SQ" for tag, (_, vr) in _ITEM_FIELDS.items()} | {CHARACTER_SET: False}


@dataclass(frozen=True, slots=True)
class Context:
    """What the reading of an object's elements depends on."""

    encodings: tuple[str, ...]
    offset: dt.timezone | None
    big: bool
    signed: bool


def context_of(elements: Elements, *, big: bool) -> Context:
    """What elements say of how the others are read."""
    return Context(
        _encodings(elements) or encodings_of(""), _offset(elements), big=big, signed=_is_signed(elements, big=big)
    )


def type_values(
    elements: Elements, *, big: bool, context: Context | None = None
) -> tuple[dict[str, object], tuple[CastFailure, ...]]:
    """Typed values by keyword, empty ones left out, and what did not fit. Lists may be shared between objects.

    Args:
        elements: By tag.
        big: Whether they are big endian.
        context: What the object says of how to read them, unless they say so themselves.
    """
    context = context or context_of(elements, big=big)
    values: dict[str, object] = {}
    failures: list[CastFailure] = []
    # Bytes of ASCII mean the same in every character set but this one; numbers depend on the byte order.
    is_usual = context.encodings[0] != "shift_jis" and not big
    plan = _PLAN
    raw: Any  # Bytes; items only with the VR of a sequence, which is never remembered.
    for tag, (vr, raw) in elements.items():
        if not raw:
            continue
        name, usual, memo = plan[tag]
        may_be_known = memo is not None and is_usual and (vr == usual or not vr) and vr != b"SQ"
        if may_be_known:
            value = memo.get(raw, _UNSEEN)  # type: ignore[union-attr]
            if value is not _UNSEEN:
                if value is not None:
                    values[name] = value
                continue
        if memo is None and vr == b"UI" and is_usual and b"\\" not in raw and raw.isascii() and raw.strip(b"\0 "):
            values[name] = raw.decode("ascii").rstrip("\0 ")
            continue
        n_failures = len(failures)
        value = _typed(HEADER_KEYWORDS[tag], vr, raw, context, failures)
        if value is not None:
            values[name] = value
        if may_be_known and len(failures) == n_failures:
            _remember(memo, raw, value, is_text=usual not in _NUMBER_VRS)  # type: ignore[arg-type]
    parts = _parts(values.get("PatientName"))
    if parts is not None:
        values["PatientName_parts"] = parts
    return values, tuple(failures)


def _remember(memo: _Memo, raw: Any, value: object, *, is_text: bool) -> None:
    if is_text and (b"\x1b" in raw or not raw.isascii()):
        return
    if len(raw) <= _REMEMBERED_BYTES:
        if len(memo) >= _REMEMBERED:
            memo.clear()
        memo[raw] = value


@lru_cache(4096)
def _parts(name: object) -> dict[str, str | None] | None:
    return name_parts(name)


def _offset(elements: Elements) -> dt.timezone | None:
    raw = elements.get(OFFSET, (b"", b""))[1]
    return parse_offset(raw.decode("latin-1")) if isinstance(raw, bytes) else None


def _typed(
    column: Column, vr: bytes, raw: bytes | list[Elements], context: Context, failures: list[CastFailure]
) -> object:
    if isinstance(raw, list):
        plain: object = [_item(item, context.encodings, big=context.big) for item in raw]
    else:
        plain = _plain(raw, vr.decode("latin-1"), column, context, failures)
    return cast(column, plain, failures, context.offset)


def _encodings(elements: Elements) -> tuple[str, ...] | None:
    raw = elements.get(CHARACTER_SET, (b"", b""))[1]
    return encodings_of(raw.decode("latin-1")) if raw and isinstance(raw, bytes) else None


def _is_signed(elements: Elements, *, big: bool) -> bool:
    raw = elements.get(PIXEL_REPRESENTATION, (b"", b""))[1]
    return raw == (b"\x00\x01" if big else b"\x01\x00")


def _plain(raw: bytes, vr: str, column: Column, context: Context, failures: list[CastFailure]) -> object:
    """Text or numbers of an element's bytes, by its own VR where it has one."""
    big = context.big
    if vr in {"", "UN"}:
        # An UN is little endian, whatever the data set is (PS3.5 6.2.2 note 2).
        big = big and vr == ""
        vr = column.vr or "UN"
    if vr in _ASCII:
        return raw.decode("latin-1")
    if vr in _TEXT:
        return decode(raw, context.encodings, is_name=vr == "PN")
    if vr == "US or SS":
        vr = "SS" if context.signed else "US"
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
    """A sequence item by keyword; it inherits the character sets unless it has its own (PS3.5 7.5.3).

    Elements that no column has a field for are there by tag.
    """
    encodings = _encodings(item) or outer
    found: Item = {}
    for tag, (_, raw) in item.items():
        if tag == CHARACTER_SET:
            continue
        keyword = _ITEM_FIELDS[tag][0] if tag in _ITEM_FIELDS else f"{tag:08X}"
        if isinstance(raw, list):
            found[keyword] = [_item(inner, encodings, big=big) for inner in raw]
        else:
            found[keyword] = decode(raw, encodings)
    return found
