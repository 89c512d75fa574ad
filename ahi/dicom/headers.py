"""The header of one object. Belongs here: telling DICOM from other files, and the way from bytes to typed values.

Does not belong here: S3, the ledger, and the parts: `walker`, `elements`, `fallback`, `pixels`, `source`.
The walker reads what keeps to the rules; pydicom reads the rest. An object is an instance when its four identity
values are there and valid, however damaged it is otherwise; `lenient` then names the rules that it breaks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ahi.dicom import alike, fallback, pixels
from ahi.dicom.elements import WANTED, WANTED_IN_ITEMS, type_values
from ahi.dicom.source import ByteSource, BytesSource, FileSource, InflatedSource, Window
from ahi.dicom.walker import BIG, EXPLICIT, IMPLICIT, VRS, Elements, Encoding, Outcome, Walk
from ahi.index.registry import LAST_HEADER_TAG
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.index.values import CastFailure

__all__ = [
    "IDENTITY",
    "PARSER_VERSION",
    "BytesSource",
    "FileSource",
    "Header",
    "HeaderFailure",
    "is_uid",
    "read_header",
]

# Rises when the same bytes may give other values. Its name tells rows of headers from those of documents.
PARSER_VERSION = "headers-4"

IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

NO_PREAMBLE = "NO_PREAMBLE"
NO_TRANSFER_SYNTAX = "NO_TRANSFER_SYNTAX"
WRONG_TRANSFER_SYNTAX = "WRONG_TRANSFER_SYNTAX"
TRUNCATED = "TRUNCATED"

_PREAMBLE = 128
_META_CLASS, _META_SYNTAX = 0x00020002, 0x00020010
_META = {tag: False for tag in WANTED if tag >> 16 == 2} | {_META_CLASS: False, _META_SYNTAX: False, 0x00020000: False}  # noqa: PLR2004
_DIRECTORY = "1.2.840.10008.1.3.10"
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95"})
_ENCODINGS = {"1.2.840.10008.1.2": IMPLICIT, "1.2.840.10008.1.2.2": BIG, "1.2.840.113619.5.2": IMPLICIT}
_NATIVE = frozenset({"", *_ENCODINGS, "1.2.840.10008.1.2.1", *_DEFLATED})
_MAX_PACKED = 16 * 1024 * 1024
_MAX_INFLATED = 256 * 1024 * 1024
# HealthImaging takes components with leading zeros, and archives hold such UIDs.
_UID = re.compile(r"\d+(\.\d+)+", re.ASCII)
_MAX_UID = 64


@dataclass(frozen=True)
class Header:
    """What an object's header says. `values` holds the registry's header keywords; empty ones are left out.

    `parser` is lean or pydicom; `pixel_complete` is None when the object has no pixels or it could not be told.
    """

    values: Mapping[str, object]
    cast_failures: tuple[CastFailure, ...]
    transfer_syntax: str | None
    bytes_read: int
    parser: str
    lenient: tuple[str, ...]
    pixel_complete: bool | None
    pattern: alike.Pattern | None = None
    """What the object has in common with others, if it was told by that."""


@dataclass(frozen=True)
class HeaderFailure:
    """Why an object is no instance that can be indexed. `text` holds no value of the object."""

    reason: Reason
    text: str
    bytes_read: int


def is_uid(value: object) -> bool:
    """Whether a value is a UID: digits in components joined by dots, at most 64 characters."""
    return isinstance(value, str) and len(value) <= _MAX_UID and _UID.fullmatch(value) is not None


def read_header(source: ByteSource) -> Header | HeaderFailure:
    """Read the header of an object with as few bytes as it takes.

    Never raises for what the bytes are; errors of the source itself pass through.
    """
    window = Window(source, source.size)
    if not window.size or not window.grow(0):
        return HeaderFailure(Reason.EMPTY, "The object has no bytes.", window.bytes_read)
    data = window.data
    if data[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return _read_alike(window, _PREAMBLE + 4) or _read_part10(window, _PREAMBLE + 4, ())
    if data[:2] == b"\x02\x00" and _sniff(data, 0, window.size) is EXPLICIT:
        return _read_part10(window, 0, (NO_PREAMBLE,))
    encoding = _sniff(data, 0, window.size)
    if encoding is None:
        return HeaderFailure(Reason.NOT_DICOM, "Neither a DICOM preamble nor a data set.", window.bytes_read)
    return _read_data_set(window, 0, encoding, {}, (NO_PREAMBLE, NO_TRANSFER_SYNTAX))


def _sniff(data: bytes, start: int, size: int) -> Encoding | None:
    """Encoding of a data set without file meta, judged by its first element; None when it does not look like one."""
    head = data[start : start + 8]
    if len(head) < 8:  # noqa: PLR2004
        return None
    if head[4:6] in VRS:
        if head[:2] in {b"\x02\x00", b"\x08\x00"}:
            return EXPLICIT
        return BIG if head[:2] == b"\x00\x08" else None
    if head[:2] == b"\x08\x00" and int.from_bytes(head[4:8], "little") <= size - start - 8:
        return IMPLICIT
    return None


def _read_alike(window: Window, start: int) -> Header | None:
    """The header of an object that fits the pattern of others, from its file meta on; None when it has to be walked."""
    found = alike.find(window.data, start)
    if found is None:
        return None
    pattern, own, position = found
    values, failures = type_values(own, big=False, context=pattern.context)
    values = {**pattern.values, **values}
    if failures or _missing(values):
        return None
    walk = Walk(pattern.encoding, {}, {}, LAST_HEADER_TAG, {}, position, pattern.last_tag)
    complete, is_cut = pixels.check(window, walk, values, encapsulated=pattern.syntax not in _NATIVE)
    lenient = (TRUNCATED,) if is_cut else ()
    return Header(values, pattern.failures, pattern.syntax, window.bytes_read, "lean", lenient, complete, pattern)


def _read_part10(window: Window, start: int, lenient: tuple[str, ...]) -> Header | HeaderFailure:
    """Read file meta at `start` and then the data set."""
    if start >= window.size:
        return HeaderFailure(Reason.BROKEN, "The object ends behind the preamble.", window.bytes_read)
    meta = Walk(EXPLICIT, _META, {}, 0x0002FFFF, {}, start)
    state = _run(window, meta)
    if not meta.found:
        return HeaderFailure(Reason.BROKEN, "No file meta information behind the preamble.", window.bytes_read)
    if _text(meta.found, _META_CLASS) == _DIRECTORY:
        return HeaderFailure(Reason.NOT_AN_INSTANCE, "A media directory (DICOMDIR).", window.bytes_read)
    if state in {_ENDED, _CUT}:
        return HeaderFailure(Reason.BROKEN, "The object ends inside or at the end of the file meta.", window.bytes_read)
    syntax = _text(meta.found, _META_SYNTAX)
    begin = window.base + meta.position
    if syntax in _DEFLATED:
        return _read_deflated(window, _deflated_start(window, meta, start, begin), meta.found, lenient)
    declared = _ENCODINGS.get(syntax, EXPLICIT)
    actual = _actual_encoding(window.fetch(begin, 8), declared if syntax else None)
    if not syntax:
        lenient = (*lenient, NO_TRANSFER_SYNTAX)
    elif actual is not declared:
        lenient = (*lenient, WRONG_TRANSFER_SYNTAX)
    first, base = window.data, window.base
    header = _read_data_set(window, begin, actual, meta.found, lenient)
    if isinstance(header, Header) and header.parser == "lean" and not (header.lenient or base or actual.big):
        alike.learn(header.values["SeriesInstanceUID"], first, start, begin, actual, syntax)
    return header


def _deflated_start(window: Window, meta: Walk, start: int, begin: int) -> int:
    """Start of the deflated bytes: by the group length of the meta, as deflated bytes may look like elements."""
    raw = meta.found.get(0x00020000, (b"", b""))[1]
    if isinstance(raw, bytes) and len(raw) == 4:  # noqa: PLR2004
        stated = start + 12 + int.from_bytes(raw, "little")
        if stated < window.size:
            return stated
    return begin


def _actual_encoding(head: bytes, declared: Encoding | None) -> Encoding:
    """Encoding that the first element shows; the declared one where that is possible."""
    if len(head) < 8:  # noqa: PLR2004
        return declared or EXPLICIT
    is_explicit = head[4:6] in VRS
    if not is_explicit:
        letters = head[4:6].isalpha() and head[4:6].isupper()
        return declared if declared is not None and (declared.implicit or letters) else IMPLICIT
    little, big = int.from_bytes(head[:2], "little"), int.from_bytes(head[:2], "big")
    return BIG if little > big else EXPLICIT


def _read_deflated(window: Window, start: int, meta: Elements, lenient: tuple[str, ...]) -> Header | HeaderFailure:
    inflated = InflatedSource(window, start)
    inner = Window(inflated, inflated.size)
    inner.grow(0)
    if inflated.broken:
        return HeaderFailure(Reason.BROKEN, "The deflated data set is damaged.", window.bytes_read)
    result = _read_data_set(inner, 0, EXPLICIT, meta, lenient, outer=window, check_pixels=False)
    if isinstance(result, HeaderFailure) and not inflated.broken:
        return result
    is_whole = inflated.runs_to_its_end(_MAX_PACKED, _MAX_INFLATED)
    if inflated.broken or isinstance(result, HeaderFailure):
        return HeaderFailure(Reason.BROKEN, "The deflated data set ends early.", window.bytes_read)
    complete = is_whole if "Rows" in result.values else None
    return Header(**{**result.__dict__, "pixel_complete": complete, "bytes_read": window.bytes_read})


_PASSED, _ENDED, _CUT, _ODD = "passed", "ended", "cut", "odd"


def _run(window: Window, walk: Walk) -> str:
    """Walk until past the last wanted tag, reading on as needed; how that ended."""
    while True:
        outcome = walk.run(window.data)
        if outcome is Outcome.DONE:
            return _PASSED
        if outcome is Outcome.ODD:
            return _ODD
        position = window.base + walk.position
        if position >= window.size:
            return _ENDED if position == window.size else _CUT
        if not window.grow(position):
            # Behind the end of what was inflated at most, or of the object.
            position = max(position, window.size - 7)
            return _CUT if window.at_end else _ODD
        walk.position = 0


def _read_data_set(
    window: Window,
    start: int,
    encoding: Encoding,
    meta: Elements,
    lenient: tuple[str, ...],
    *,
    outer: Window | None = None,
    check_pixels: bool = True,
) -> Header | HeaderFailure:
    """Read the data set at `start` of the object in its encoding."""
    origin = outer or window
    walk = Walk(encoding, WANTED, WANTED_IN_ITEMS, LAST_HEADER_TAG, {}, start - window.base)
    state = _run(window, walk)
    elements, parser = walk.found, "lean"
    values, failures = type_values({**_kept(meta), **elements}, big=encoding.big)
    again: Elements | None = None
    missing = _missing(values)
    if state is _ODD or (state is not _CUT and missing):
        again = fallback.read_elements(window, start, encoding)
        if again is not None:
            parser = "pydicom"
            values, failures = type_values({**_kept(meta), **again}, big=encoding.big)
            missing = _missing(values)
    if state is _CUT or (missing and again is None and state is _ODD):
        return HeaderFailure(Reason.BROKEN, "The header is damaged or ends early.", origin.bytes_read)
    if missing:
        text = f"Missing or not valid: {', '.join(missing)}."
        return HeaderFailure(Reason.NO_IDENTITY, text, origin.bytes_read)
    syntax = _text(meta, _META_SYNTAX)
    complete: bool | None = None
    is_cut = False
    if state is _PASSED and check_pixels:
        complete, is_cut = pixels.check(window, walk, values, encapsulated=syntax not in _NATIVE)
    if is_cut:
        lenient = (*lenient, TRUNCATED)
    return Header(values, failures, syntax or None, origin.bytes_read, parser, lenient, complete)


def _kept(meta: Elements) -> Elements:
    return {tag: element for tag, element in meta.items() if tag in WANTED}


def _missing(values: Mapping[str, object]) -> list[str]:
    return [keyword for keyword in IDENTITY if not is_uid(values.get(keyword))]


def _text(elements: Elements, tag: int) -> str:
    raw = elements.get(tag, (b"", b""))[1]
    return raw.decode("latin-1").rstrip("\0 ") if isinstance(raw, bytes) else ""
