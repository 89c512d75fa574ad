"""Text of DICOM values. Belongs here: character sets by name, code extensions of ISO 2022.

Does not belong here: what a value means. Decodes as pydicom does, replacement characters included; never raises.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

_DEFAULT = "iso8859-1"

# Names without `ISO_IR ` and `ISO 2022 IR `, which share one registration number (PS3.3 table C.12-2 to C.12-5).
_REGISTERED = {
    "6": _DEFAULT,
    "13": "shift_jis",
    "58": "gb2312",
    "87": "iso2022_jp",
    "100": "latin_1",
    "101": "iso8859_2",
    "109": "iso8859_3",
    "110": "iso8859_4",
    "126": "iso8859_7",
    "127": "iso8859_6",
    "138": "iso8859_8",
    "144": "iso8859_5",
    "148": "iso8859_9",
    "149": "euc_kr",
    "159": "iso2022_jp_2",
    "166": "iso8859_11",
    "192": "utf_8",
    "203": "iso8859_15",
}
_NAMED = {"": _DEFAULT, "GB18030": "gb18030", "GBK": "gbk", "ISO 2022 GBK": "gbk", "ISO 2022 58": "gb2312"}
_STAND_ALONE = {"utf_8", "gb18030", "gbk"}

# Escape sequences of PS3.3 tables C.12-3 and C.12-4.
_ESCAPES = {
    b"\x1b(B": _DEFAULT,
    b"\x1b(J": "shift_jis",
    b"\x1b)I": "shift_jis",
    b"\x1b-A": "latin_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-F": "iso8859_7",
    b"\x1b-G": "iso8859_6",
    b"\x1b-H": "iso8859_8",
    b"\x1b-L": "iso8859_5",
    b"\x1b-M": "iso8859_9",
    b"\x1b-T": "iso8859_11",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
    b"\x1b$)A": "gb2312",
    b"\x1b$)C": "euc_kr",
}
# Python's codecs of these read the escape sequence themselves.
_SELF_ESCAPED = {"iso2022_jp", "iso2022_jp_2"}
_FRAGMENT = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_NAME = re.compile(r"ISO.?(?:2022.?)?IR.?(\d+)")
# These end the reach of an escape sequence (PS3.5 6.1.2.5.3): line ends and the backslash; in a name also ^ and =.
_TEXT_ENDS = re.compile(rb"[\n\f\r\t\\]")
_NAME_ENDS = re.compile(rb"[\n\f\r\t\\^=]")


@lru_cache(256)
def encodings_of(names: str) -> tuple[str, ...]:
    """Python codecs of a Specific Character Set, several joined by a backslash; an unknown one reads as Latin-1."""
    found = [_encoding_of(name.strip("\0 ")) for name in names.split("\\")]
    if found[0] in _STAND_ALONE:
        return (found[0],)
    return (found[0], *(one for one in found[1:] if one not in _STAND_ALONE))


def _encoding_of(name: str) -> str:
    if name in _NAMED:
        return _NAMED[name]
    match = _NAME.fullmatch(name)
    if match is not None:
        return _REGISTERED.get(match[1], _DEFAULT)
    try:
        # Some senders put a Python-like name such as `latin1` here; only text codecs count.
        return name if codecs.lookup(name)._is_text_encoding else _DEFAULT  # noqa: SLF001
    except (LookupError, ValueError):
        return _DEFAULT


def decode(value: bytes, encodings: tuple[str, ...], *, is_name: bool = False) -> str:
    """Text of a value; what a codec cannot read becomes the replacement character."""
    if value.isascii() and b"\x1b" not in value and encodings[0] != "shift_jis":
        return value.decode("ascii")
    if b"\x1b" not in value:
        return _decode(value, encodings[0])
    ends = _NAME_ENDS if is_name else _TEXT_ENDS
    return "".join(_fragment(part, encodings, ends) for part in _FRAGMENT.findall(value))


def _decode(value: bytes, encoding: str) -> str:
    try:
        return value.decode(encoding)
    except UnicodeError:
        return value.decode(encoding, errors="replace")


def _fragment(part: bytes, encodings: tuple[str, ...], ends: re.Pattern[bytes]) -> str:
    if not part.startswith(b"\x1b"):
        return _decode(part, encodings[0])
    length = 4 if part[:3] in {b"\x1b$(", b"\x1b$)"} else 3
    encoding = _ESCAPES.get(part[:length])
    if encoding is None or (encoding not in encodings and encoding != _DEFAULT):
        return part.decode(encodings[0], errors="replace")
    if encoding in _SELF_ESCAPED:
        return _decode(part, encoding)
    rest = part[length:]
    end = ends.search(rest)
    cut = end.start() if end else len(rest)
    return _decode(rest[:cut], encoding) + _decode(rest[cut:], encodings[0])
