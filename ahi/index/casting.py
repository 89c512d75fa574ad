"""Typed values of one attribute of many objects at once. Belongs here: what makes `values.cast` quick over a column.

Does not belong here: rules of types. Whatever is not of the usual form goes through `values.cast`, value by value, and
the quick ways give what it gives; a test compares the two.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from ahi.index.values import LEADING_COUNTS, PADDING, RANGES, CastFailure, cast, has_allowed_number

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from ahi.index.columns import Column

Failures = dict[int, list[CastFailure]]
"""What did not fit, by position of the object."""

_DECIMAL_VRS = frozenset({"DS", "FD", "FL"})
_TEXT_VRS = frozenset({"UI", "LO", "SH", "ST", "LT", "UT", "UC", "UR"})
_DECIMAL_CHARACTERS = "0123456789.+-eE "
_INTEGER_CHARACTERS = "0123456789+- "
_TEXT, _WHOLE = {str}, {int}
# Values remembered of a column; through a series and a site most are the same.
_REMEMBERED = 8192


class Caster:
    """Casts of one column."""

    __slots__ = (
        "_integers",
        "_is_decimal",
        "_is_list",
        "_is_text",
        "_needs_offset",
        "_strip",
        "column",
        "name",
        "remembered",
    )

    def __init__(self, column: Column) -> None:
        vr = column.vr or ""
        self.column, self.name = column, column.name
        self._is_list = column.vm != "1"
        self._is_decimal = vr in _DECIMAL_VRS
        self._is_text = vr in _TEXT_VRS and not self._is_list
        self._strip = str.rstrip if vr in LEADING_COUNTS else str.strip
        self._integers = RANGES.get(vr)
        self._needs_offset = vr == "DT"
        self.remembered: dict[object, object] = {}
        """What was cast before: typed values, and what did not fit. Empty where a value depends on more than itself."""

    def one(self, value: object, failures: list[CastFailure], offset: dt.timezone | None = None) -> object:
        """What `values.cast` gives for this value; what it gave for the same text before is remembered."""
        kind, key = type(value), value
        if kind is int:
            # A 1 is also equal to 1.0 and True, which are cast in other ways.
            key = (int, value)
        elif kind is list and set(map(type, value)) == _TEXT:  # type: ignore[call-overload]
            key = tuple(value)  # type: ignore[arg-type]
        elif kind is not str:
            return None if value is None else cast(self.column, value, failures, offset)
        if self._needs_offset:
            return cast(self.column, value, failures, offset)
        typed = self.remembered.get(key, self)
        if typed is self:
            typed = self._learned(key, value)
        if type(typed) is CastFailure:
            failures.append(typed)
            return None
        return typed

    def all(
        self, values: Sequence[object], failures: Failures, offsets: Sequence[dt.timezone | None]
    ) -> tuple[bool, Any]:
        """Typed values of the attribute of several objects.

        Args:
            values: One for each object, as `values.cast` takes them; at least one.
            failures: Takes what does not fit, by position.
            offsets: Offset from UTC of each object.

        Returns:
            True and the one value that all have, or False and the list of values.
        """
        n_values = len(values)
        first: Any = values[0]
        if n_values == 1:
            only: list[CastFailure] = []
            typed = self.one(first, only, offsets[0])
            if only:
                failures.setdefault(0, []).extend(only)
            return True, typed
        kind = type(first)
        # Text is equal to text only; a 1 is also equal to 1.0 and True, which are cast in other ways.
        is_plain = kind is str or first is None or (kind is list and set(map(type, first)) == _TEXT)
        is_same = (is_plain or (kind is int and set(map(type, values)) == _WHOLE)) and values.count(first) == n_values
        if is_same and (not self._needs_offset or offsets.count(offsets[0]) == n_values):
            found: list[CastFailure] = []
            typed = self.one(first, found, offsets[0])
            if found:
                for position in range(n_values):
                    failures.setdefault(position, []).extend(found)
            return True, typed
        kinds = set(map(type, values))
        quick = self._quick(kind, values) if len(kinds) == 1 else None
        return False, self._each(values, failures, offsets) if quick is None else quick

    def _quick(self, kind: type, values: Sequence[Any]) -> list[object] | None:
        """Typed values where every value is of the usual form, else None."""
        found: list[Any] | None = None
        if self._is_list and kind is list:
            is_usual = self._is_decimal and has_allowed_number(self.column.vm or "", len(values[0]))
            found = _decimal_lists(values) if is_usual else None
        elif kind is str and self._is_text:
            strip = self._strip
            found = None if "\\" in "".join(values) else [strip(value, PADDING) or None for value in values]
        elif kind is str and self._is_decimal and not self._is_list:
            found = _decimals(values)
        elif kind is str and self._integers is not None and not self._is_list:
            found = _integers(values, *self._integers)
        elif kind is int and self._integers is not None and not self._is_list:
            low, high = self._integers
            found = list(values) if min(values) >= low and max(values) <= high else None
        elif kind is str and not self._needs_offset:
            found = self._recalled(values)
        return found

    def _recalled(self, values: Sequence[Any]) -> list[object] | None:
        """Typed values where each text was cast before and did fit, else None."""
        remembered = self.remembered
        try:
            found = [remembered[value] for value in values]
        except KeyError:
            return None
        return None if CastFailure in set(map(type, found)) else found

    def _each(
        self, values: Sequence[object], failures: Failures, offsets: Sequence[dt.timezone | None]
    ) -> list[object]:
        cells = []
        for position, value in enumerate(values):
            found: list[CastFailure] = []
            cells.append(self.one(value, found, offsets[position]))
            if found:
                failures.setdefault(position, []).extend(found)
        return cells

    def _learned(self, key: object, value: object) -> object:
        """The typed value, or what did not fit, for the next time too."""
        found: list[CastFailure] = []
        typed = cast(self.column, value, found)
        if len(self.remembered) >= _REMEMBERED:
            self.remembered.clear()
        self.remembered[key] = typed = found[0] if found else typed
        return typed


@cache
def caster(column: Column) -> Caster:
    """The casts of a column; one for the process, so that it remembers."""
    return Caster(column)


def _decimals(values: Sequence[Any]) -> list[float] | None:
    """Numbers of decimal strings; None when one of them is anything else, empty or not finite."""
    try:
        if "".join(values).strip(_DECIMAL_CHARACTERS):
            return None
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return numbers if numbers and math.isfinite(sum(numbers)) else None


def _decimal_lists(values: Sequence[list[Any]]) -> list[list[float]] | None:
    """Lists of the numbers of lists of decimal strings, like `_decimals`; None also for lists of several lengths."""
    length = len(values[0])
    if not length or set(map(len, values)) != {length}:
        return None
    numbers = _decimals([one for value in values for one in value])
    return None if numbers is None else [numbers[at : at + length] for at in range(0, len(numbers), length)]


def _integers(values: Sequence[str], low: int, high: int) -> list[int] | None:
    """Numbers of integer strings in range; None when one of them is anything else or empty."""
    if "".join(values).strip(_INTEGER_CHARACTERS):
        return None
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        return None
    return numbers if min(numbers) >= low and max(numbers) <= high else None
