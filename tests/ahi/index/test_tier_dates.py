"""What is shown of dates says what the date rule says, however the columns are put beside each other."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from ahi.index.columns import Tier
from ahi.index.registry import TABLES, arrow_type
from ahi.index.tiers.rules import ROW_VERSION, Dates, How, Policy, crosses, rule_for
from ahi.index.tiers.transform import Keys, Projection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ahi.index.columns import Column

TIER = Tier.DEIDENTIFIED
SETS = {name: table for name, table in TABLES.items() if crosses(table, TIER)}
OFFSETS = ("-1200", "-0800", "-0330", "+0000", "+0100", "+0545", "+1400")
DAYS = [dt.date(2023, 12, 31), dt.date(2024, 1, 1), dt.date(2024, 6, 30), dt.date(2024, 12, 31), dt.date(2025, 1, 1)]
CLOCKS = [dt.time(0, 0), dt.time(0, 30), dt.time(9, 15), dt.time(13, 59, 59), dt.time(23, 59, 59, 999_999)]
MOMENTS = [(day, clock, offset) for day in DAYS for clock in CLOCKS for offset in OFFSETS]
Moment = tuple[dt.date, dt.time, str]


def in_utc(day: dt.date, clock: dt.time, offset: str) -> dt.datetime:
    ahead = dt.timedelta(hours=int(offset[1:3]), minutes=int(offset[3:])) * (-1 if offset[0] == "-" else 1)
    return dt.datetime.combine(day, clock, dt.UTC) - ahead


def sent(column: Column, moment: Moment) -> object:
    """What a column has of an object that was made at a local date and time."""
    day, clock, offset = moment
    kind = column.duckdb_type.removesuffix("[]")
    values = {"DATE": day, "TIME": clock, "TIMESTAMPTZ": in_utc(*moment)}
    value = offset if column.name == "TimezoneOffsetFromUTC" else values.get(kind)
    if column.name == "started_at":
        value = f"{day:%Y%m%d}{clock:%H%M%S}{offset}"
    return [value] if column.is_list and value is not None else value


def shown(name: str, policy: Policy, moments: Sequence[Moment], patient: str | None = "p") -> list[tuple[object, ...]]:
    """Rows of a table as the tier has them, one for each moment."""
    table = SETS[name]
    keys = Keys(b"s", TIER)
    projection = Projection(table, TIER, keys, policy, lambda sets: dict.fromkeys(sets, patient or "p"), 2026)
    kinds = {column.name: arrow_type(column.duckdb_type) for column in table.columns}
    columns = {column.name: column for column in table.columns}
    batch = {
        one: pa.array([sent(columns[one], moment) for moment in moments], kinds[one]) for one in projection.sources()
    }
    same = {"image_set_id": "a", "batch_id": "b", "patient_key": patient}
    batch |= {one: pa.array([value] * len(moments), pa.string()) for one, value in same.items() if one in batch}
    rows = projection.apply(batch, frozenset()).drop_columns([ROW_VERSION])
    return [tuple(str(cell) for cell in row.values()) for row in rows.to_pylist()]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    ("dates", "claimed"), [(Dates.YEAR, lambda day: day.year), (Dates.SHIFT, lambda day: day)], ids=("year", "shift")
)
def test_a_row_tells_of_a_moment_what_the_rule_claims(
    name: str, dates: Dates, claimed: Callable[[dt.date], object]
) -> None:
    """A local date beside a moment in UTC told the hour of some studies, and the day of those of New Year's night."""
    found: dict[object, set[tuple[object, ...]]] = {}
    for moment, row in zip(MOMENTS, shown(name, Policy(dates), MOMENTS), strict=True):
        found.setdefault(claimed(moment[0]), set()).add(row)
    assert {key: len(rows) for key, rows in found.items()} == dict.fromkeys(found, 1)


@pytest.mark.parametrize("name", SETS)
def test_a_moved_date_stands_beside_no_real_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real year of the object's creation once stood beside a moved StudyDate, and narrowed the shift."""
    rows = []
    for day, shift in ((dt.date(2024, 1, 5), 10), (dt.date(2023, 12, 28), 2), (dt.date(2024, 12, 20), 360)):
        monkeypatch.setattr(Keys, "days", lambda _keys, _patient, shift=shift: shift)
        rows += shown(name, Policy(Dates.SHIFT), [(day, dt.time(12), "+0000")])
    assert len(set(rows)) == 1


def test_without_its_patient_a_row_has_no_date_under_a_shift() -> None:
    moments = [(day, dt.time(12), "+0000") for day in DAYS]
    assert len(set(shown("series", Policy(Dates.SHIFT), moments, patient=None))) == 1
    assert len(set(shown("series", Policy(Dates.YEAR), moments, patient=None))) == 3


@pytest.mark.parametrize("dates", Dates)
def test_only_dates_of_dicom_have_a_date_rule(dates: Dates) -> None:
    for table in SETS.values():
        for column in table.columns:
            rule = rule_for(table, column, TIER, Policy(dates, {"TimezoneOffsetFromUTC": frozenset({"+0100"})}))
            timed = column.duckdb_type.startswith("TIME") or column.name in ("TimezoneOffsetFromUTC", "started_at")
            assert not (timed and rule), column.name
            if rule is not None and rule.how in (How.DATE, How.YEAR):
                assert (column.vr, column.duckdb_type.removesuffix("[]")) == ("DA", "DATE")


def test_a_moment_with_a_date_rule_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ahi.index.tiers.rules._DEIDENTIFIED", {"study_datetime_utc": rule_for(SETS["series"], *_study_date(), TIER)}
    )
    with pytest.raises(NotImplementedError, match="timestamp"):
        shown("series", Policy(), MOMENTS[:1])


def _study_date() -> list[Column]:
    return [column for column in SETS["series"].columns if column.name == "StudyDate"]
