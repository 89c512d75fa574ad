"""Private elements. Belongs here: whose they are (PS3.5 section 7.8.1), and what can be said of their values.

Does not belong here: where in an object they stand (`walk`). Names come from pydicom's dictionary of private elements.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ahi.index.values import CastFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ahi.exploded.notes import Row

_TAG = re.compile(r"[0-9A-F]{8}")
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_DECIMAL = frozenset({"DS", "IS"})
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT", *_DECIMAL})
# Siemens and others keep whole protocols in one value.
MAX_TEXT = 4096
_RESERVED = 0x10
_MISSING = object()


@lru_cache(maxsize=65536)
def is_private(key: str) -> bool:
    """Whether a key of a document is the tag of a private element."""
    return len(key) == 8 and _TAG.fullmatch(key) is not None and int(key[3], 16) % 2 == 1  # noqa: PLR2004


@lru_cache(maxsize=65536)
def _parts(tag: str) -> tuple[str, str, str, str] | None:
    """Group, element in the block, key of the block's creator, and tag; None for a creator itself."""
    element = int(tag[4:], 16)
    if element < 0x1000:  # noqa: PLR2004
        # 0010-00FF reserve blocks; the rest of them may not be used.
        return None if _RESERVED <= element <= 0xFF else (tag[:4], tag[6:], "", tag)  # noqa: PLR2004
    return tag[:4], tag[6:], f"{tag[:4]}00{tag[4:6]}", tag


@lru_cache(maxsize=65536)
def _named(creator: str, group: str, element: str) -> tuple[str | None, str | None]:
    """Name and VR of a private element that pydicom's dictionary knows."""
    from pydicom.datadict import get_private_entry

    try:
        vr, _, name, _ = get_private_entry(int(f"{group}10{element}", 16), creator)
    except KeyError:
        return None, None
    return (name.strip("[]") or None, vr)


@lru_cache(maxsize=65536)
def _head(creator: str | None, tag: str, vr: str | None) -> tuple[Row, str | None]:
    """The columns that all values of an element share, and the VR to read them by."""
    group, element, _, _ = _parts(tag) or (tag[:4], tag[6:], "", tag)
    name, known = _named(creator, group, element) if creator else (None, None)
    row: Row = {
        "tag": tag,
        "creator": creator,
        "private_group": group,
        "private_element": element,
        "vr": vr,
        "decoded_name": name,
    }
    return row, known if vr in {None, "UN"} and known else vr


def private_rows(item: Mapping[str, Any], path: str) -> list[Row]:
    """Rows of `private_elements` of one item inside a sequence, where VRs are not told."""
    return [
        row | {"sequence_path": path}
        for key, value in item.items()
        if is_private(key) and (row := _row(key, value, None, item)) is not None
    ]


def private_of_series(
    attributes: Sequence[Mapping[str, Any]], vrs: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int | None, Row]]:
    """Rows of `private_elements` of the instances of a series, by number of the instance.

    An element that all of several instances have with the same value is one row, of None: a slice has a hundred of
    them, and few differ from those of its neighbours.
    """
    count = len(attributes)
    for key in dict.fromkeys(key for one in vrs for key in one if is_private(key)):
        if _parts(key) is None:
            continue
        values = [one.get(key, _MISSING) for one in attributes]
        if count > 1 and values.count(values[0]) == count and _same_block(key, attributes, vrs):
            row = None if values[0] is _MISSING else _row(key, values[0], vrs[0].get(key), attributes[0])
            if row is not None:
                yield None, row
            continue
        for number, value in enumerate(values):
            row = None if value is _MISSING else _row(key, value, vrs[number].get(key), attributes[number])
            if row is not None:
                yield number, row


def _same_block(key: str, attributes: Sequence[Mapping[str, Any]], vrs: Sequence[Mapping[str, Any]]) -> bool:
    parts = _parts(key)
    creator = parts[2] if parts else ""
    creators, kinds = [one.get(creator) for one in attributes], [one.get(key) for one in vrs]
    return creators.count(creators[0]) == len(creators) and kinds.count(kinds[0]) == len(kinds)


def _row(key: str, value: Any, vr: Any, around: Mapping[str, Any]) -> Row | None:
    parts = _parts(key)
    if parts is None:
        return None
    creator = around.get(parts[2])
    creator = creator.strip(" \0") or None if isinstance(creator, str) else None
    head, by = _head(creator, key, vr if isinstance(vr, str) else None)
    return {**head, **_value(key, value, head["vr"], by)}


def _value(tag: str, value: Any, told: object, by: str | None) -> Row:
    """Text, number and size of a value."""
    if value is None or value == "":
        return {"n_values": 0}
    if isinstance(value, str):
        if told in _BINARY or (told is None and by in _NUMBERS):
            return _from_bytes(tag, value, by)
        return _from_text(tag, value, by)
    if isinstance(value, list):
        if any(isinstance(one, dict | list) for one in value):
            return {"n_values": len(value)}
        text = "\\".join("" if one is None else str(one) for one in value)
        return {
            **_cut(tag, text, by),
            "n_values": len(value),
            "value_num": _number(value[0]) if len(value) == 1 else None,
        }
    return {"value_text": str(value)[:MAX_TEXT], "value_num": _number(value), "n_values": 1}


def _from_text(tag: str, value: str, by: str | None) -> Row:
    n_values = value.count("\\") + 1 if by not in {"LT", "ST", "UT", "UR"} else 1
    number = _number(value) if n_values == 1 and by in _DECIMAL else None
    return {**_cut(tag, value, by), "value_num": number, "n_values": n_values}


def _from_bytes(tag: str, value: str, by: str | None) -> Row:
    """A binary value; one that was sent as UN is read by the VR that the dictionary knows."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return {"n_values": 1, "cast_failures": [CastFailure(tag, by or "", value[:256], "not base64").as_row()]}
    size: Row = {"n_values": 1, "n_bytes": len(raw)}
    if by in _TEXT:
        text = raw.decode("latin-1").rstrip(" \0")
        return {**size, **(_from_text(tag, text, by) if text.isprintable() else {})}
    if by in _NUMBERS:
        width = struct.calcsize(_NUMBERS[by])
        if not raw or len(raw) % width:
            return size
        numbers = struct.unpack(f"<{len(raw) // width}{_NUMBERS[by]}", raw)
        return {**size, **_value(tag, list(numbers), by, by)}
    return size


def _cut(tag: str, text: str, by: str | None) -> Row:
    text = text.rstrip(" \0")
    if len(text) <= MAX_TEXT:
        return {"value_text": text or None}
    failure = CastFailure(tag, by or "", text[:256], f"cut to {MAX_TEXT} characters")
    return {"value_text": text[:MAX_TEXT], "cast_failures": [failure.as_row()]}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
