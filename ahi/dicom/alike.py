"""Headers that are nearly those of objects read before. Belongs here: what objects of a kind have in common, in bytes.

Does not belong here: the walk over a header seen for the first time (`walker`), what values mean (`elements`).

Objects of a series share most of their header. A pattern holds the bytes that all objects of a kind had so far, and
between them the places of the elements that differed. An object that fits it byte by byte is known but for those; they
are found by their lengths, as the walk does. What does not fit is walked. So a pattern says what the walk would say.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ahi.dicom.elements import (
    CHARACTER_SET,
    OFFSET,
    PIXEL_REPRESENTATION,
    WANTED,
    WANTED_IN_ITEMS,
    Context,
    context_of,
    type_values,
)
from ahi.dicom.walker import EXPLICIT, IMPLICIT, LONG_VRS, MAYBE_SEQUENCE, UNDEFINED, VRS, Odd, Short, read_items
from ahi.index.registry import HEADER_KEYWORDS, LAST_HEADER_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.dicom.walker import Elements, Encoding
    from ahi.index.values import CastFailure

_META_CLASS, _META_SYNTAX = 0x00020002, 0x00020010
# What the reading of other elements depends on: part of the kind, never one of the places that differ.
_FIXED = frozenset({_META_CLASS, _META_SYNTAX, CHARACTER_SET, OFFSET, PIXEL_REPRESENTATION})
_MOST_PATTERNS, _MOST_SERIES = 16, 16
_EAGER = 8

_SKIP, _TAKE, _PASS_ITEMS, _TAKE_ITEMS = range(4)
_Step: TypeAlias = "tuple[bytes, int, int, int, bytes]"
"""Bytes before an element's length, bytes of that length, what to do with the value, tag and VR."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One element of an object: tag, VR, its bytes before the length, and those from there on."""

    tag: int
    vr: bytes
    head: bytes
    body: bytes
    width: int
    mode: int
    element: tuple[bytes, bytes | list[Elements]] | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """What objects of a kind have in common.

    Attributes:
        syntax: Transfer syntax.
        encoding: How the data set is written.
        values: Typed values of the common elements.
        names: Names that the values of the others may have.
        failures: Those of them that did not fit.
        context: What the reading of the others depends on.
        last_tag: Tag of the last element.
    """

    syntax: str
    encoding: Encoding
    values: dict[str, object]
    names: tuple[str, ...]
    failures: tuple[CastFailure, ...]
    context: Context
    last_tag: int
    _bodies: tuple[bytes | None, ...]
    _steps: tuple[_Step, ...]
    _tail: bytes

    def own(self, data: bytes, position: int) -> tuple[Elements, int] | None:
        """Wanted elements of an object that are not common, and where its header ends; None when it does not fit."""
        found: Elements = {}
        end = len(data)
        for block, width, mode, tag, vr in self._steps:
            if not data.startswith(block, position):
                return None
            position += len(block)
            start = position + width
            length = int.from_bytes(data[position:start], "little")
            position = start + length
            if mode == _TAKE:
                if position > end:
                    return None
                found[tag] = (vr, data[start:position])
            elif mode != _SKIP and (mode == _TAKE_ITEMS or length == UNDEFINED):
                inner = IMPLICIT if vr == b"UN" else self.encoding
                wanted = WANTED_IN_ITEMS if mode == _TAKE_ITEMS else None
                try:
                    position, items = read_items(data, start, length, inner, wanted, 1)
                except (Short, Odd):
                    return None
                if items is not None:
                    found[tag] = (b"SQ", items)
        if not data.startswith(self._tail, position):
            return None
        position += len(self._tail)
        return (found, position) if position + 8 <= end and _tag(data, position) > LAST_HEADER_TAG else None


_Kind: TypeAlias = "tuple[object, ...]"
_lock = threading.Lock()
_kinds: dict[_Kind, Pattern] = {}
_order: tuple[Pattern, ...] = ()
# How many objects of a series were walked.
_walked: dict[object, int] = {}


def find(data: bytes, start: int) -> tuple[Pattern, Elements, int] | None:
    """The pattern that the object with these first bytes fits, its own elements, and where its header ends."""
    global _order  # noqa: PLW0603 (replaced whole, so that other threads read it without the lock)
    order = _order
    for pattern in order:
        found = pattern.own(data, start)
        if found is not None:
            if pattern is not order[0]:
                _order = (pattern, *(other for other in order if other is not pattern))
            return pattern, *found
    return None


def learn(series: object, data: bytes, start: int, begin: int, encoding: Encoding, syntax: str) -> None:
    """Take in an object that was walked; the first one of a series only counts, as there may be no other.

    Args:
        series: Its series.
        data: Its first bytes.
        start: Where the file meta begins.
        begin: Where the data set begins.
        encoding: How that is written.
        syntax: Its transfer syntax.
    """
    global _order  # noqa: PLW0603
    with _lock:
        count = _walked.pop(series, 0) + 1
        _walked[series] = count
        if len(_walked) > _MOST_SERIES:
            del _walked[next(iter(_walked))]
        if count == 1 or (count > _EAGER and count & (count - 1)):
            return
        parts = _parts(data, start, begin, encoding)
        if parts is None:
            return
        kind = _kind(parts, syntax)
        old = _kinds.pop(kind, None)
        bodies: tuple[bytes | None, ...] = tuple(part.body for part in parts)
        if old is not None:
            # _bodies of a pattern are for this module only.
            bodies = tuple(a if a == b else None for a, b in zip(old._bodies, bodies, strict=True))  # noqa: SLF001
        new = _kinds[kind] = old if old and bodies == old._bodies else _pattern(parts, bodies, encoding, syntax)  # noqa: SLF001
        if len(_kinds) > _MOST_PATTERNS:
            del _kinds[next(iter(_kinds))]
        left = set(map(id, _kinds.values())) - {id(new)}
        _order = (new, *(pattern for pattern in _order if id(pattern) in left))


def forget() -> None:
    """Drop everything learnt, so that a test begins anew."""
    global _order  # noqa: PLW0603
    with _lock:
        _kinds.clear()
        _walked.clear()
        _order = ()


def _kind(parts: Sequence[_Part], syntax: str) -> _Kind:
    fixed = [part.body for part in parts if part.tag in _FIXED]
    # The first length of an implicit data set is looked at to tell its encoding.
    first = next((part.body for part in parts if part.tag >> 16 > 2 and not part.vr), b"")  # noqa: PLR2004
    return (syntax, first, *(part.head for part in parts), *fixed)


def _pattern(parts: Sequence[_Part], bodies: Sequence[bytes | None], encoding: Encoding, syntax: str) -> Pattern:
    steps: list[_Step] = []
    block = b""
    common: Elements = {}
    for part, body in zip(parts, bodies, strict=True):
        block += part.head
        if body is None:
            steps.append((block, part.width, part.mode, part.tag, part.vr))
            block = b""
            continue
        block += body
        if part.element is not None:
            common[part.tag] = part.element
    values, failures = type_values(common, big=False)
    context = context_of(common, big=False)
    last = parts[-1].tag
    names = [HEADER_KEYWORDS[tag].name for _, _, _, tag, _ in steps if tag in HEADER_KEYWORDS]
    # What is made of a name is made of the object's own or of the common one.
    names += ["PatientName_parts"] if "PatientName" in names else []
    return Pattern(syntax, encoding, values, tuple(names), failures, context, last, tuple(bodies), tuple(steps), block)


def _parts(data: bytes, start: int, begin: int, encoding: Encoding) -> list[_Part] | None:
    """The elements of file meta and header; None when something is odd, or the header goes on behind the bytes."""
    parts: list[_Part] = []
    position, previous = start, -1
    try:
        while position + 8 <= len(data):
            tag = _tag(data, position)
            if tag > LAST_HEADER_TAG:
                return parts
            part = _part(data, position, tag, EXPLICIT if position < begin else encoding)
            if part is None or tag <= previous:
                return None
            parts.append(part)
            previous = tag
            position += len(part.head) + len(part.body)
    except (Short, Odd):
        pass
    return None


def _part(data: bytes, position: int, tag: int, encoding: Encoding) -> _Part | None:
    vr, head, width = b"", 4, 4
    if not encoding.implicit:
        vr = data[position + 4 : position + 6]
        if vr not in VRS:
            return None
        head, width = (8, 4) if vr in LONG_VRS else (6, 2)
    at = position + head
    start = at + width
    length = int.from_bytes(data[at:start], "little")
    kind = WANTED.get(tag)
    if kind is not None and (vr == b"SQ" or (kind and vr in MAYBE_SEQUENCE)):
        mode = _TAKE_ITEMS
    elif length == UNDEFINED or vr == b"SQ":
        mode = _PASS_ITEMS
    else:
        mode = _SKIP if kind is None else _TAKE
    if mode == _PASS_ITEMS and kind is not None:
        return None
    element: tuple[bytes, bytes | list[Elements]] | None = None
    stop = start + length
    if mode == _TAKE_ITEMS or length == UNDEFINED:
        wanted = WANTED_IN_ITEMS if mode == _TAKE_ITEMS else None
        stop, items = read_items(data, start, length, IMPLICIT if vr == b"UN" else encoding, wanted, 1)
        element = None if items is None else (b"SQ", items)
    elif stop > len(data):
        return None
    elif mode == _TAKE:
        element = (vr, data[start:stop])
    return _Part(tag, vr, data[position:at], data[at:stop], width, mode, element)


def _tag(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 2], "little") << 16 | int.from_bytes(
        data[position + 2 : position + 4], "little"
    )
