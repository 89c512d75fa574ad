"""Business days of a calendar, in a time zone: by when something received has to be ingested.

Belongs here: weekends, holidays, deadlines. Does not belong here: what is late (`ahi.healthlake.audit`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ahi.errors import PermanentError

US_FEDERAL = "us-federal"
_SATURDAY, _SUNDAY = 5, 6
_MONDAY, _THURSDAY = 0, 3
_JUNETEENTH_SINCE = 2021

# Fixed days, and those on the nth weekday of a month (-1: the last); 5 U.S.C. 6103(a).
_FIXED = ((1, 1), (6, 19), (7, 4), (11, 11), (12, 25))
_FLOATING = (
    *((1, _MONDAY, 3), (2, _MONDAY, 3), (5, _MONDAY, -1)),
    *((9, _MONDAY, 1), (10, _MONDAY, 2), (11, _THURSDAY, 4)),
)


@dataclass(frozen=True)
class BusinessCalendar:
    """Which days count, and where they begin.

    Attributes:
        zone: Time zone in which a day begins and ends.
        days_off: Holidays beyond those of the United States' federal government; weekends never count.
        is_federal: Whether the federal holidays do not count either.
    """

    zone: ZoneInfo
    days_off: frozenset[dt.date] = frozenset()
    is_federal: bool = True

    def is_business_day(self, day: dt.date) -> bool:
        """Whether a day counts."""
        if day.weekday() in (_SATURDAY, _SUNDAY) or day in self.days_off:
            return False
        return not (self.is_federal and day in _federal_holidays(day.year))

    def deadline(self, received: dt.datetime, business_days: int) -> dt.datetime:
        """The end of the nth business day after the day of receipt, in UTC.

        The day of receipt does not count, whatever the hour: "no later than one business day after" it is received
        (42 CFR 422.119(b)(1)).
        """
        day = received.astimezone(self.zone).date()
        left = business_days
        while left:
            day += dt.timedelta(days=1)
            left -= self.is_business_day(day)
        midnight = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), self.zone)
        return midnight.astimezone(dt.UTC)

    def business_days_between(self, start: dt.datetime, end: dt.datetime) -> int:
        """Business days after the day of `start` up to and with the day of `end`."""
        first, last = start.astimezone(self.zone).date(), end.astimezone(self.zone).date()
        return sum(self.is_business_day(first + dt.timedelta(days=n + 1)) for n in range(max(0, (last - first).days)))


def load_calendar(name: str, time_zone: str) -> BusinessCalendar:
    """The calendar of a deployment.

    Args:
        name: `us-federal`, or the path of a file with one holiday a line, `YYYY-MM-DD`, `#` before remarks.
        time_zone: Name in the tz database.

    Raises:
        PermanentError: There is no such zone or file, or a line is no day.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise PermanentError(f"AHI_BUSINESS_TIME_ZONE is no time zone: {time_zone}.") from None
    if name == US_FEDERAL:
        return BusinessCalendar(zone)
    try:
        lines = (line.partition("#")[0].strip() for line in Path(name).read_text(encoding="utf-8").splitlines())
        days = frozenset(dt.date.fromisoformat(line) for line in lines if line)
    except (OSError, ValueError):
        raise PermanentError(
            "AHI_BUSINESS_CALENDAR is neither us-federal nor a file of days written as 2026-12-25."
        ) from None
    return BusinessCalendar(zone, days, is_federal=False)


@cache
def _federal_holidays(year: int) -> frozenset[dt.date]:
    """Days off of a year. One on a Saturday is taken on the Friday before, on a Sunday on the Monday after."""
    days = {dt.date(year, month, day) for month, day in _FIXED if (month, day) != (6, 19) or year >= _JUNETEENTH_SINCE}
    # New Year's day of the next year may be taken in this one.
    days = {_observed(day) for day in {*days, dt.date(year + 1, 1, 1)}}
    days |= {_nth(year, *rule) for rule in _FLOATING}
    return frozenset(day for day in days if day.year == year)


def _observed(day: dt.date) -> dt.date:
    return day + dt.timedelta(days={_SATURDAY: -1, _SUNDAY: 1}.get(day.weekday(), 0))


def _nth(year: int, month: int, weekday: int, number: int) -> dt.date:
    if number > 0:
        first = dt.date(year, month, 1)
        return first + dt.timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))
    last = dt.date(year + month // 12, month % 12 + 1, 1) - dt.timedelta(days=1)
    return last - dt.timedelta(days=(last.weekday() - weekday) % 7)
