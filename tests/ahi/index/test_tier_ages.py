"""No age of whoever is 90 or more comes back by putting rows beside each other."""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from ahi.index.columns import Tier
from ahi.index.registry import TABLES
from ahi.index.tiers.build import build_tier, tier_root
from ahi.index.tiers.rules import Dates, How, Policy, crosses, rule_for
from ahi.index.tiers.transform import ages
from tests.ahi.index.test_tiers import SECRET, ask

if TYPE_CHECKING:
    from ahi.index.store import Index

YEAR = 2026
LAST = dt.date(YEAR, 12, 31)


def age_at(birth: dt.date, day: dt.date) -> float:
    """Years with a fraction that never makes a birthday early."""
    years = day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))
    return years + 0.5


def shown(birth: dt.date, days: list[dt.date], *, whole: bool) -> list[float | None]:
    exact = [age_at(birth, day) for day in days]
    sent = pa.array([float(int(age)) for age in exact] if whole else exact, pa.float64())
    return ages(sent, pa.array(days, pa.date32()), YEAR).to_pylist()


@pytest.mark.parametrize("whole", [False, True])
def test_of_whoever_reaches_90_no_study_gives_an_age(whole: bool) -> None:
    """85 in 2015 and 90 for 90 and more in 2025 were 95."""
    draw = random.Random(4)
    n_shown = 0
    for _ in range(3_000):
        birth = dt.date(1915, 1, 1) + dt.timedelta(days=draw.randrange(40 * 365))
        days = sorted(dt.date(1995, 1, 1) + dt.timedelta(days=draw.randrange(32 * 365)) for _ in range(5))
        found = shown(birth, [day for day in days if day <= LAST], whole=whole)
        if age_at(birth, LAST) >= 90:
            assert set(found) <= {None}
        if age_at(birth, LAST) < 88:
            assert found == [float(int(age_at(birth, day))) for day in days if day <= LAST]
            n_shown += 1
    assert n_shown > 500


@pytest.mark.parametrize(
    ("age", "day", "expected"),
    [
        (0.4, dt.date(2026, 5, 6), 0.0),
        (45.9, dt.date(2026, 5, 6), 45.0),
        (88.9, dt.date(2026, 5, 6), 88.0),
        (89.0, dt.date(2026, 5, 6), None),
        (90.0, dt.date(2026, 5, 6), None),
        (103.0, dt.date(2016, 5, 6), None),
        (78.9, dt.date(2016, 5, 6), 78.0),
        (79.0, dt.date(2016, 5, 6), None),
        # A clock that is wrong makes nobody younger.
        (95.0, dt.date(2099, 5, 6), None),
        (45.0, dt.date(2099, 5, 6), 45.0),
        (45.0, None, None),
        (-1.0, dt.date(2026, 5, 6), None),
        (float("nan"), dt.date(2026, 5, 6), None),
    ],
)
def test_an_age(age: float, day: dt.date | None, expected: float | None) -> None:
    assert ages(pa.array([age]), pa.array([day], pa.date32()), YEAR).to_pylist() == [expected]


@pytest.mark.parametrize("dates", Dates)
def test_no_table_gives_an_age_besides(dates: Dates) -> None:
    named = {
        (table.name, column.name, rule.how, rule.code)
        for table in TABLES.values()
        if crosses(table, Tier.DEIDENTIFIED)
        for column in table.columns
        if {"age", "ages"} & set(column.name.split("_")) or column.vr == "AS"
        if (rule := rule_for(table, column, Tier.DEIDENTIFIED, Policy(dates)))
    }
    assert named == {("series", "patient_age_years", How.AGE, ("StudyDate",))}


def test_at_the_turn_of_the_year_who_comes_to_90_loses_their_ages(
    index: Index, put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("one", {"a": 1}, patient_key="p", StudyDate=dt.date(2015, 3, 4), patient_age_years=77.2)
    put("two", {"b": 1}, patient_key="q", StudyDate=dt.date(2015, 3, 4), patient_age_years=60.2)
    ages_of = "SELECT patient_age_years FROM series ORDER BY 1 NULLS LAST"
    made = []
    for day, expected in ((dt.date(2026, 12, 30), [60, 77]), (dt.date(2026, 12, 31), [60, None])):
        moment = dt.datetime.combine(day, dt.time(12), dt.UTC)
        monkeypatch.setattr("ahi.index.tiers.build.now", lambda moment=moment: moment)
        made.append(build_tier(index, Tier.DEIDENTIFIED, SECRET).made)
        assert [row[0] for row in ask(index, Tier.DEIDENTIFIED, ages_of)] == expected
    assert made == [4, 2], "of files without ages none is made anew"
    assert list(tier_root(index.root, Tier.DEIDENTIFIED).glob("data/instances/*.parquet"))
