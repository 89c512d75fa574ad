"""Values of FHIR's primitive types. Belongs here: for each type a quick test, and the words when it fails.

Does not belong here: elements and objects (`structure`).

The rules are those of R4's data types (https://hl7.org/fhir/R4/datatypes.html). Where the definitions give a regex and
a test here is written by hand for speed, a unit test holds the two together.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ahi.fhir.findings import Code, Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from ahi.fhir.definitions import Definitions


class Check(NamedTuple):
    """Two views of one rule.

    Attributes:
        good: Quick test of a value in a resource that has no empty text. Something false, or the TypeError or
            AttributeError of a value of another type, only means that `explain` must decide.
        explain: What is wrong, with paths from here on; None when nothing is.
    """

    good: Callable[[Any], object]
    explain: Callable[[Any], list[Finding] | None]


# Systems, codes and profiles are few and come in every resource. When so many are known, they are forgotten.
REMEMBERED = 4096
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_INT32 = 2**31
_LAST_DAY_OF_EVERY_MONTH = "28"
_DATED = frozenset({"date", "dateTime", "instant"})
_REPEATED = frozenset({"uri", "url", "canonical", "code"})
_LEAST = {"integer": -_INT32, "unsignedInt": 0, "positiveInt": 1}
_NOT_BASE64 = {code: None for code in range(128) if not (chr(code).isalnum() or chr(code) in "+/=")}
_EXPECTED = {
    "boolean": "true or false",
    "integer": "a whole number of 32 bits",
    "unsignedInt": "a whole number from 0 to 2147483647",
    "positiveInt": "a whole number from 1 to 2147483647",
    "decimal": "a number",
    "string": "a text without control characters",
    "markdown": "a text without control characters",
    "xhtml": "an XHTML <div>",
    "uri": "a URI: no white space",
    "url": "a URL: no white space",
    "canonical": "a canonical URL: no white space",
    "code": "a code: no white space but single blanks inside",
    "id": "an id: 1 to 64 letters, digits, '-' and '.'",
    "date": "a date: YYYY, YYYY-MM or YYYY-MM-DD",
    "dateTime": "a date, or a date and time with an offset from UTC",
    "instant": "a date and time with an offset from UTC",
    "time": "a time: hh:mm:ss",
    "base64Binary": "base64",
}


def primitive_checks(definitions: Definitions) -> dict[str, Check]:
    """The check of each primitive type."""
    return {name: _check_of(name, regex) for name, regex in definitions.primitives.items()}


def code_check(codes: frozenset[str]) -> Check:
    """Check of a code that must be one of a value set."""
    wrong = [Finding(Code.BINDING, "", f"must be one of: {_some(codes)}")]
    mistyped = [Finding(Code.TYPE, "", "must be a text")]

    def explain(value: Any) -> list[Finding] | None:
        if type(value) is not str:
            return mistyped
        return None if value in codes else wrong

    return Check(codes.__contains__, explain)


def _some(codes: frozenset[str], most: int = 12) -> str:
    listed = sorted(codes)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _check_of(name: str, regex: str) -> Check:
    if name in _LEAST:
        return _explained(name, _whole(_LEAST[name]), _whole(_LEAST[name]), int)
    if name in _DATED:
        # Quick without a look at the calendar: leap days, which are rare, are left to the other.
        quick = re.compile(f"(?!....-02-29|....-0[2469]-3[01](?<!0[469]-30)|....-11-31)(?:{regex})", re.ASCII)
        return _explained(name, quick.fullmatch, _dated(regex), str)
    if name in _BY_HAND:
        quick_test, full, kind = _BY_HAND[name]
        return _explained(name, quick_test, full, kind)
    matches = re.compile(regex, re.ASCII).fullmatch
    quick_match: Callable[[Any], object] = Known(matches).__getitem__ if name in _REPEATED else matches
    return _explained(name, quick_match, matches, str)


def _explained(name: str, quick: Callable[[Any], object], good: Callable[[Any], object], kind: type[object]) -> Check:
    expected = f"must be {_EXPECTED.get(name, f'of the type {name}')}"
    kinds = (float, int) if kind is float else (kind,)

    def explain(value: Any) -> list[Finding] | None:
        if type(value) not in kinds:
            return [Finding(Code.TYPE, "", expected)]
        if value == "":
            return [Finding(Code.EMPTY, "", "must not be empty")]
        return None if good(value) else [Finding(Code.VALUE, "", expected)]

    return Check(quick, explain)


class Known(dict[Any, bool]):
    """Values that a test has found good, looked up instead of tested again."""

    def __init__(self, good: Callable[[Any], object]) -> None:
        super().__init__()
        self._good = good

    def __missing__(self, value: Any) -> bool:
        if not self._good(value):
            return False
        if len(self) >= REMEMBERED:
            self.clear()
        self[value] = True
        return True


def _dated(regex: str) -> Callable[[Any], bool]:
    matches = re.compile(regex, re.ASCII).fullmatch

    def good(value: Any) -> bool:
        if not matches(value):
            return False
        if value[8:10] > _LAST_DAY_OF_EVERY_MONTH:
            try:
                dt.date.fromisoformat(value[:10])
            except ValueError:
                return False
        return True

    return good


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value < _INT32


def _boolean(value: Any) -> bool:
    return value is True or value is False


def _decimal(value: Any) -> bool:
    return type(value) is float or type(value) is int


def _string(value: Any) -> bool:
    return type(value) is str and value != "" and (value.isprintable() or not _CONTROL.search(value))


def _xhtml(value: Any) -> bool:
    return type(value) is str and value.lstrip().startswith("<div") and value.rstrip().endswith(">")


def _base64(value: Any) -> bool:
    if type(value) is not str:
        return False
    groups = value.split()  # R4 has white space between groups of four, not within one
    digits = "".join(groups)
    whole = digits != "" and all(len(group) % 4 == 0 for group in groups)
    return whole and digits.isascii() and digits.translate(_NOT_BASE64) == digits


# Quick test, full test and type.
_BY_HAND: dict[str, tuple[Callable[[Any], bool], Callable[[Any], bool], type]] = {
    "boolean": (_boolean, _boolean, bool),
    "decimal": (_decimal, _decimal, float),
    "string": (str.isprintable, _string, str),
    "markdown": (_string, _string, str),
    "xhtml": (_xhtml, _xhtml, str),
    "base64Binary": (_base64, _base64, str),
}
