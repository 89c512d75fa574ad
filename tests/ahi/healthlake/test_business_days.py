"""Business days: weekends, holidays, zones, and what is late by them."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi.errors import PermanentError
from ahi.healthlake import audit
from ahi.healthlake.business_days import BusinessCalendar, load_calendar
from ahi.index.catalog_fhir import fhir_batches
from tests.ahi.healthlake.conftest import lines, patient

NEW_YORK = BusinessCalendar(ZoneInfo("America/New_York"))


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("day", "works"),
    [
        ("2026-01-01", False),
        ("2026-01-19", False),  # third Monday: Martin Luther King
        ("2026-02-16", False),
        ("2026-05-25", False),  # last Monday: Memorial Day
        ("2026-06-19", False),
        ("2020-06-19", True),  # Juneteenth became one in 2021
        ("2026-07-03", False),  # the fourth is a Saturday
        ("2026-07-06", True),
        ("2026-09-07", False),
        ("2026-10-12", False),
        ("2026-11-11", False),
        ("2026-11-26", False),  # fourth Thursday
        ("2026-11-27", True),
        ("2026-12-25", False),
        ("2021-12-31", False),  # New Year's day of 2022 is a Saturday
        ("2023-01-02", False),  # New Year's day is a Sunday
        ("2026-11-22", False),  # a Sunday
    ],
)
def test_federal_holidays(day, works):
    assert NEW_YORK.is_business_day(dt.date.fromisoformat(day)) is works


@pytest.mark.parametrize(
    ("received", "deadline"),
    [
        ("2026-11-18T15:00", "2026-11-20T05:00"),  # a Wednesday: to the end of Thursday
        ("2026-11-20T15:00", "2026-11-24T05:00"),  # a Friday: to the end of Monday
        ("2026-11-25T15:00", "2026-11-28T05:00"),  # before Thanksgiving: to the end of Friday
        ("2026-11-19T04:59", "2026-11-20T05:00"),  # still the 18th in New York
        ("2026-03-06T15:00", "2026-03-10T04:00"),  # the clock goes forward on the Sunday between
    ],
)
def test_deadlines(received, deadline):
    assert NEW_YORK.deadline(utc(received), 1) == utc(deadline)


@given(st.integers(946_684_800, 3_786_912_000), st.integers(1, 10))
def test_a_deadline_is_the_end_of_a_business_day_and_so_many_lie_between(moment, days):
    received = dt.datetime.fromtimestamp(moment, dt.UTC)
    deadline = NEW_YORK.deadline(received, days)
    last = deadline - dt.timedelta(seconds=1)
    assert NEW_YORK.is_business_day(last.astimezone(NEW_YORK.zone).date())
    assert NEW_YORK.business_days_between(received, last) == days


def test_a_calendar_of_ones_own(tmp_path):
    file = tmp_path / "days"
    file.write_text("2026-05-01  # Tag der Arbeit\n\n")
    calendar = load_calendar(str(file), "Europe/Berlin")
    assert [calendar.is_business_day(dt.date(2026, 5, day)) for day in (1, 4)] == [False, True]
    assert calendar.is_business_day(dt.date(2026, 11, 26))
    for name, zone in (("nowhere", "UTC"), ("us-federal", "Mars/Olympus")):
        with pytest.raises(PermanentError):
            load_calendar(name, zone)


def test_what_was_not_ingested_in_time_is_listed(chain):
    chain.put("history/1.ndjson", lines(patient("p1")))
    [batch_id] = chain.plan().batch_ids
    with chain.pipeline.index.transaction() as connection:
        connection.execute(fhir_batches.update().values(received_at=utc("2026-11-18T15:00")))
    assert audit.breaches(chain.pipeline, moment=utc("2026-11-20T04:59")) == []
    [late] = audit.breaches(chain.pipeline, moment=utc("2026-11-23T15:00"))
    assert (late.batch_id, late.ingested_at, late.business_days) == (batch_id, None, 3)
