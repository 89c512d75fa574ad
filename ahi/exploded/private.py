"""Private elements. Belongs here: whose they are (PS3.5 section 7.8.1), and what can be said of their values.

Does not belong here: where in an object they stand (`walk`). Names come from pydicom's dictionary of private elements.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from contextlib import suppress
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ahi.exploded.notes import alike
from ahi.index.values import CastFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ahi.exploded.notes import Row

_TAG = re.compile(r"[0-9A-F]{8}")
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
# Values of these hold no items, whatever their form.
_PLAIN_VRS = frozenset(
    ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OD", "OF", "OL", "OV", "OW", "PN")
) | frozenset(("SH", "SL", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UR", "US", "UT", "UV"))
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


def plain_keys(vrs: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Keys that all instances tell to be no sequence."""
    if not alike(vrs):
        return frozenset()
    return frozenset(key for key, vr in vrs[0].items() if isinstance(vr, str) and vr in _PLAIN_VRS)


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
    keys = [key for key in item if is_private(key) and _parts(key)]
    return [_row(key, item[key], None, _creator(item, key, {})) | {"sequence_path": path} for key in keys]


def private_of_series(
    attributes: Sequence[Mapping[str, Any]], vrs: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[int | None, Row]]:
    """Rows of `private_elements` of the instances of a series, by number of the instance.

    An element that all of several instances have with the same value is one row, of None: a slice has a hundred of
    them, and few differ from those of its neighbours.
    """
    several = len(attributes) > 1
    told_alike = alike(vrs)
    blocks: dict[str, bool] = {}
    for key in vrs[0] if told_alike else dict.fromkeys(key for one in vrs for key in one):
        parts = _parts(key) if is_private(key) else None
        if parts is None:
            continue
        values = columns.get(key) or _all(key, attributes)
        if several and told_alike and alike(values):
            block = parts[2]
            if block not in blocks:
                creators = columns.get(block) or _all(block, attributes)
                blocks[block] = alike(creators)
            if blocks[block]:
                if values[0] is not _MISSING:
                    yield None, _row(key, values[0], vrs[0][key], _creator(attributes[0], key, vrs[0]))
                continue
        for number, value in enumerate(values):
            if value is not _MISSING:
                yield number, _row(key, value, vrs[number].get(key), _creator(attributes[number], key, vrs[number]))


def _all(key: str, attributes: Sequence[Mapping[str, Any]]) -> list[Any]:
    try:
        return list(map(itemgetter(key), attributes))
    except KeyError:
        return [one.get(key, _MISSING) for one in attributes]


def _creator(around: Mapping[str, Any], key: str, vrs: Mapping[str, Any]) -> str | None:
    parts = _parts(key)
    creator = around.get(parts[2]) if parts else None
    if not isinstance(creator, str):
        return None
    if parts and vrs.get(parts[2]) == "UN":
        # Some senders do not know that the VR of a creator is LO.
        with suppress(ValueError):
            creator = base64.b64decode(creator, validate=True).decode("latin-1")
    return creator.strip(" \0") or None


def _row(key: str, value: Any, vr: Any, creator: str | None) -> Row:
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
