"""Typed values of DICOM attributes. Belongs here: text, numbers and items into the Python values of a column.

Does not belong here: reading bytes and character sets (`ahi.dicom`), the shape of documents (`ahi.documents`).
Takes what both sources give: text of a header, several values joined by a backslash; and values of a HealthImaging
document, padded strings, numbers, nulls, scalars or lists. A value that does not fit is None and a `CastFailure`.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from ahi.index.columns import SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ahi.index.columns import Column, Field, Shape

Item = dict[str, object]
"""Attributes of a sequence item by keyword; values as a HealthImaging document has them."""

_RAW_LIMIT = 256
PADDING = "\0 "
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Python's int takes more: digits of other scripts, and a line's end. Of more digits than it takes, a float is made.
_WHOLE = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DATE = re.compile(r"(\d{4})([.\-/]?)(\d{2})\2(\d{2})", re.ASCII)
_TIME = re.compile(r"(\d{2})(?:(:?)(\d{2})(?:\2(\d{2})(?:\.(\d{1,6})\d*)?)?)?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})", re.ASCII)
_DATETIME = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:\.(\d{1,6})\d*)?([+-]\d{4})?", re.ASCII)
_VM = re.compile(r"(\d+)(?:-(?:(\d+)|(\d*)n))?", re.ASCII)
_WEST, _EAST, _HOUR = dt.timedelta(hours=-12), dt.timedelta(hours=14), 60
_AGE = re.compile(r"(\d{1,3})([DWMY])", re.ASCII)
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
RANGES = {
    "IS": (-(2**31), 2**31 - 1),
    "SL": (-(2**31), 2**31 - 1),
    "US": (0, 2**16 - 1),
    "UL": (0, 2**32 - 1),
    "SS": (-(2**15), 2**15 - 1),
    "US or SS": (-(2**15), 2**16 - 1),
}
# Free text in which a backslash is a character like any other (PS3.5 table 6.2-1).
_UNSPLIT = frozenset({"ST", "LT", "UT", "UR"})
# Text whose leading spaces may mean something; around all other text they are padding (PS3.5 table 6.2-1).
LEADING_COUNTS = frozenset({"ST", "LT", "UT", "UC", "UR", "UI", "PN"})


@dataclass(frozen=True)
class CastFailure:
    """A value that did not fit its column: keyword, VR, the value as sent (cut to 256 characters), and why."""

    keyword: str
    vr: str
    raw: str
    reason: str

    def as_row(self) -> dict[str, str]:
        """The failure as an entry of the column `cast_failures`."""
        return {"keyword": self.keyword, "vr": self.vr, "raw": self.raw, "reason": self.reason}


class CastError(ValueError):
    """A value does not fit; the text says why and never holds the value."""


def _date(text: str) -> dt.date:
    match = _DATE.fullmatch(text)
    if match is None:
        raise CastError("not a date")
    year, _, month, day = match.groups()
    try:
        return dt.date(int(year), int(month), int(day))
    except ValueError:
        raise CastError("no such day") from None


def _time(text: str) -> dt.time:
    match = _TIME.fullmatch(text)
    if match is None:
        raise CastError("not a time")
    hour, _, minute, second, fraction = match.groups()
    try:
        # A leap second has no place in a TIME; it counts as the second before.
        return dt.time(
            int(hour), int(minute or 0), min(int(second or 0), 59 if second == "60" else 99), _micros(fraction)
        )
    except ValueError:
        raise CastError("no such time") from None


def _micros(fraction: str | None) -> int:
    return int(fraction.ljust(6, "0")) if fraction else 0


def parse_offset(text: object) -> dt.timezone | None:
    """Offset from UTC of `+HHMM` or `-HHMM`, from -1200 to +1400 (PS3.5 table 6.2-1); None for anything else."""
    return _offset(text) if isinstance(text, str) else None


@lru_cache(256)
def _offset(text: str) -> dt.timezone | None:
    match = _OFFSET.fullmatch(text.strip(PADDING))
    if match is None:
        return None
    sign, hours, minutes = match.groups()
    delta = dt.timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    return dt.timezone(delta) if _WEST <= delta <= _EAST and int(minutes) < _HOUR else None


def _datetime(text: str, offset: dt.timezone | None) -> dt.datetime:
    match = _DATETIME.fullmatch(text)
    if match is None:
        raise CastError("not a date and time")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if hour is None:
        # A day or a year is no moment; its first one is nothing that anybody sent.
        raise CastError("no time of day")
    tzinfo = parse_offset(zone) if zone else offset
    if tzinfo is None:
        raise CastError("the offset from UTC is not valid" if zone else "no offset from UTC")
    try:
        seconds = min(int(second or 0), 59 if second == "60" else 99)
        local = (
            int(year),
            int(month),
            int(day),
            int(hour),
            int(minute or 0),
            seconds,
            _micros(fraction),
        )
        return dt.datetime(*local, tzinfo=tzinfo).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise CastError("no such date and time") from None


def _float(value: str | float) -> float:
    if isinstance(value, str):
        if _DECIMAL.fullmatch(value) is None:
            raise CastError("not a decimal number")
        value = float(value)
    try:
        number = float(value)
    except OverflowError:
        raise CastError("not a finite number") from None
    if not math.isfinite(number):
        raise CastError("not a finite number")
    return number


def _integer(value: str | float, low: int, high: int) -> int:
    if isinstance(value, int) or (isinstance(value, str) and _WHOLE.fullmatch(value)):
        number = int(value)
    else:
        whole = _float(value)
        if not whole.is_integer():
            raise CastError("not a whole number")
        number = int(whole)
    if not low <= number <= high:
        raise CastError("out of range")
    return number


def _text(value: object, vr: str) -> str:
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CastError("not text")
        value = str(value)
    if vr == "PN":
        # Carets at the end of a group mean nothing (PS3.5 6.2.1); a name of nothing else stays as sent.
        named = "=".join(one.rstrip(PADDING + "^") for one in value.split("=")).rstrip("=")
        return named or value.rstrip(PADDING).rstrip("=")
    if vr == "AE":
        return value.strip(PADDING + "\t\r\n")
    return value.rstrip(PADDING) if vr in LEADING_COUNTS else value.strip(PADDING)


def _number_or_text(value: object) -> str | int | float:
    if isinstance(value, str):
        return value.strip(PADDING)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CastError("neither text nor a number")
    return value


@cache
def allowed(vm: str) -> tuple[int, float, int]:
    """Fewest and most values of a VM such as `3`, `1-2`, `2-n` or `2-2n` (PS3.5 6.4), and what their number divides by.

    Of a list without a fixed length fewer than its least are taken: many files have one value in ImageType, and it
    means what it says. A VM of another form allows any number.
    """
    match = _VM.fullmatch(vm)
    if match is None:
        return 0, math.inf, 1
    low, high, step = match.groups()
    if high is None and step is None:
        return int(low), int(low), 1
    return 0, int(high) if high else math.inf, int(step or 1)


def has_allowed_number(vm: str, n_values: int) -> bool:
    """Whether an attribute of this VM may have so many values."""
    low, most, step = allowed(vm)
    return low <= n_values <= most and n_values % step == 0


@cache
def _scalar(vr: str) -> Callable[[object, dt.timezone | None], object]:
    """Function of one non-empty value and the object's offset from UTC to the typed value of a VR."""
    if vr in {"DS", "FD", "FL"}:
        return lambda value, _: _float(_number_or_text(value))
    if vr in RANGES:
        low, high = RANGES[vr]
        return lambda value, _: _integer(_number_or_text(value), low, high)
    if vr in {"DA", "TM"}:
        # Dates and times repeat through a series.
        parse: Callable[[str], object] = lru_cache(4096)(_date if vr == "DA" else _time)
        return lambda value, _: parse(str(value).strip(PADDING))
    if vr == "DT":
        return lambda value, offset: _datetime(str(value).strip(PADDING), offset)
    return lambda value, _: _text(value, vr) or None


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip(PADDING))


def _holds_nothing(value: object) -> bool:
    """Whether there is no value anywhere inside. The character set of an item says nothing without text."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list | tuple):
            left.extend(one)
        elif isinstance(one, dict):
            left.extend(inner for keyword, inner in one.items() if keyword != "SpecificCharacterSet")
        elif not _is_empty(one.strip("\\" + PADDING) if isinstance(one, str) else one):
            return False
    return True


def cast(column: Column, value: object, failures: list[CastFailure], offset: dt.timezone | None = None) -> object:
    """Typed value of an attribute for its column, or None.

    Args:
        column: Column of a DICOM attribute.
        value: Text (several values joined by a backslash), a number, a list of those, items of a sequence, or None.
        failures: Takes an entry when the value does not fit.
        offset: Offset from UTC of the object, for a date and time without its own.
    """
    if value is None or value == "":
        return None
    vr = column.vr or ""
    try:
        if column.shape is not None:
            return _items(column.shape, value)
        if isinstance(value, str) and "\\" in value and vr not in _UNSPLIT:
            value = value.split("\\")
        scalar = _scalar(vr)
        if column.vm != "1":
            return _several(column.vm or "", value if isinstance(value, list | tuple) else (value,), scalar, offset)
        if isinstance(value, list | tuple):
            return _only(vr, value, scalar, offset)
        return None if _is_empty(value) else scalar(value, offset)
    except CastError as error:
        failures.append(CastFailure(column.name, vr, _raw(value), str(error)))
    return None


def _several(
    vm: str,
    values: Sequence[object],
    scalar: Callable[[object, dt.timezone | None], object],
    offset: dt.timezone | None,
) -> list[object] | None:
    """The values of a list; a number of them that the VM has no place for fits no column."""
    cells = [None if _is_empty(one) else scalar(one, offset) for one in values]
    if all(cell is None for cell in cells):
        return None
    if not has_allowed_number(vm, len(cells)):
        message = f"{len(cells)} value{'s' if len(cells) > 1 else ''}, {vm} allowed"
        raise CastError(message)
    return cells


def _only(
    vr: str,
    values: Sequence[object],
    scalar: Callable[[object, dt.timezone | None], object],
    offset: dt.timezone | None,
) -> object:
    """The value of a list that should hold one. Text is kept as sent, a second number or date fits no column."""
    if len(values) <= 1:
        return None if not values or _is_empty(values[0]) else scalar(values[0], offset)
    if RANGES.keys() | {"DA", "TM", "DT", "DS", "FD", "FL"} >= {vr} and not all(map(_is_empty, values)):
        raise CastError("more than one value")
    texts = [_text("" if one is None else one, vr) for one in values]
    return "\\".join(texts) if any(texts) else None


def _raw(value: object) -> str:
    """The value as sent; of items only the keywords, as the whole would hold more than an attribute's value."""
    several = value if isinstance(value, list | tuple) else [value]
    parts = [part for one in several for part in (one if isinstance(one, dict) else (one,))]
    return "\\".join(map(str, parts))[:_RAW_LIMIT]


def _items(shape: Shape, value: object) -> list[dict[str, object]] | None:
    """Items of a sequence as structs; items without any field of the shape are left out, but not all of them."""
    if _holds_nothing(value):
        return None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise CastError("not a list of items")
    cells = [{field.name: _field(field, item) for field in SHAPES[shape]} for item in value]
    known = [cell for cell in cells if any(one is not None for one in cell.values())]
    if not known:
        raise CastError("no item has a field of the column")
    return known


def _field(field: Field, item: Item) -> object:
    """Value of a field: of the first of its attributes that has one."""
    for keyword in field.keywords:
        value = item.get(keyword)
        if field.shape is not None:
            nested = _items(field.shape, value) or []
            if len(nested) > 1:
                message = f"more than one item of {keyword}"
                raise CastError(message)
            return nested[0] if nested else None
        several = value.split("\\") if isinstance(value, str) and field.vr not in _UNSPLIT else value
        several = several if isinstance(several, list) else [several]
        if (text := _only(field.vr, several, _scalar(field.vr), None)) is not None:
            return text
    return None


_NAME_COMPONENTS = ("family", "given", "middle", "prefix", "suffix")


def name_parts(name: object) -> dict[str, str | None] | None:
    """Components of a person's name: five of the alphabetic group, and the other two groups whole (PS3.5 6.2.1).

    Several names, with a backslash between them, have none: parts of two people would be taken for those of one.
    """
    if not isinstance(name, str) or not name or "\\" in name:
        return None
    groups = [group.strip(PADDING) for group in name.split("=")[:3]]
    groups += [""] * (3 - len(groups))
    components = [component.strip(PADDING) for component in groups[0].split("^")]
    parts: dict[str, str | None] = dict.fromkeys(_NAME_COMPONENTS)
    parts.update({key: component or None for key, component in zip(_NAME_COMPONENTS, components, strict=False)})
    return {**parts, "ideographic": groups[1] or None, "phonetic": groups[2] or None}


def age_years(age: object, birth: object, study: object) -> float | None:
    """Age in years, from PatientAge (`045Y`, `006M`, `010D`) or else from the dates of birth and study.

    By dates: the years completed, and the part of the year of life that has gone by. So it is whole on birthdays.
    """
    match = _AGE.fullmatch(age.strip()) if isinstance(age, str) else None
    if match is not None:
        return int(match[1]) * _YEARS[match[2]]
    if isinstance(birth, dt.date) and isinstance(study, dt.date) and study >= birth:
        year = study.year if study >= _birthday(birth, study.year) else study.year - 1
        # Calendars repeat after 400 years, and there is no year 10000.
        like = year if year < dt.MAXYEAR else year - 400
        length = _birthday(birth, like + 1) - _birthday(birth, like)
        return year - birth.year + (study - _birthday(birth, year)) / length
    return None


def _birthday(birth: dt.date, year: int) -> dt.date:
    """The birthday in a year; that of 29 February is 1 March where there is none."""
    try:
        return birth.replace(year=year)
    except ValueError:
        return dt.date(year, 3, 1)


def start_utc(values: Mapping[str, object], date: str, time: str) -> dt.datetime | None:
    """Moment of a local date and time, in UTC; None when one of them or TimezoneOffsetFromUTC is missing."""
    day, clock, offset = values.get(date), values.get(time), parse_offset(values.get("TimezoneOffsetFromUTC"))
    if not isinstance(day, dt.date) or not isinstance(clock, dt.time) or offset is None:
        return None
    try:
        return dt.datetime.combine(day, clock, tzinfo=offset).astimezone(dt.UTC)
    except OverflowError:
        return None
