"""Numbers and times of reports cross only under a concept that names nobody, and into the lowest tier no moment."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from ahi.index.columns import Tier
from ahi.index.registry import TABLES, arrow_type
from ahi.index.tiers.reports import reads_as_day
from ahi.index.tiers.rules import Policy
from ahi.index.tiers.terms import is_identifying, meanings
from ahi.index.tiers.transform import Keys, Projection

NUMBERS = pytest.mark.parametrize(
    ("table", "value", "concept"), [("sr_content", "numeric_value", "concept"), ("measurements", "value", "quantity")]
)


def projected(table: str, tier: Tier, column: str, cells: dict[str, list[object]]) -> list[object]:
    """A column of a tier, made of some cells; the others are null."""
    source = TABLES[table]
    projection = Projection(source, tier, Keys(b"s", tier), Policy(), lambda _: {}, 2026)
    kinds = {one.name: arrow_type(one.duckdb_type) for one in source.columns}
    n_rows = len(cells[column])
    batch = {name: pa.nulls(n_rows, kinds[name]) for name in projection.sources()}
    batch |= {"image_set_id": pa.array(["a"] * n_rows), "batch_id": pa.array(["b"] * n_rows)}
    batch |= {name: pa.array(found, kinds[name]) for name, found in cells.items() if name in batch}
    return projection.apply(batch, frozenset()).column(column).to_pylist()


@NUMBERS
def test_a_measured_number_crosses_under_a_concept_that_names_nobody(table: str, value: str, concept: str) -> None:
    cases: list[tuple[str, str, str, float, float | None]] = [
        # Beside a later study it would be 90 or more.
        ("DCM", "121033", "a", 45.7, None),
        ("DCM", "121033", "d", 16_000.0, None),
        ("DCM", "121033", "1", 45.0, None),
        ("DCM", "121031", "1", 19200131.0, None),
        ("DCM", "121030", "1", 4711815.0, None),
        ("DCM", "121022", "1", 4711815.0, None),
        ("99X", "MRN", "1", 4711815.0, None),
        ("SCT", "410668003", "mm", 12.5, 12.5),
        ("SCT", "410668003", "mm", 19200131.0, None),
        ("LN", "18185-9", "d", 140.0, 140.0),
        ("LN", "11885-1", "d", 140.0, 140.0),
        ("LN", "11778-8", "1", 260101.0, None),
        ("LN", "8665-2", "1", 260101.0, None),
        ("DCM", "121025", "1", 4711815.0, None),
        ("DCM", "113014", "1", 4711815.0, None),
        ("DCM", "121122", "1", 4711815.0, None),
        ("DCM", "111038", "1", 3.0, 3.0),
        # Moments: of death, of a procedure, of a start, "Time"; by minutes, by seconds, as a time of day.
        ("DCM", "122165", "1", 202403011530.0, None),
        ("DCM", "122146", "1", 20240301153000.0, None),
        ("DCM", "111526", "1", 240301.0, None),
        ("DCM", "110858", "s", 153000.0, None),
        # A duration stays, unless the number tells a day.
        ("LN", "20168-1", "ms", 97.0, 97.0),
        ("LN", "20168-1", "ms", 20240301153000.5, None),
    ]
    cells: dict[str, list[object]] = {
        f"{concept}_scheme": [case[0] for case in cases],
        f"{concept}_code": [case[1] for case in cases],
        "unit_scheme": ["UCUM"] * len(cases),
        "unit_code": [case[2] for case in cases],
        value: [case[3] for case in cases],
    }
    assert projected(table, Tier.DEIDENTIFIED, value, cells) == [case[4] for case in cases]


def test_no_meaning_of_the_standard_that_says_date_is_a_measured_number() -> None:
    named = {meaning for meaning in meanings().values() if re.search(r"\bdate(time)?s?\b", meaning, re.IGNORECASE)}
    assert len(named) > 35
    # By a date, but a duration.
    assert {meaning for meaning in named if not is_identifying(meaning)} == {"Gestational Age by ovulation date"}


def test_moments_stay_out_and_durations_cross() -> None:
    timed = {meaning for meaning in meanings().values() if re.search(r"\btime(code)?\b", meaning, re.IGNORECASE)}
    assert {meaning for meaning in timed if is_identifying(meaning) and "Date" not in meaning} == {
        *("Time", "Study Time", "Content Time", "Acquisition Time", "Start time (qualifier value)"),
        *("Stop time (qualifier value)", "Anesthesia start time (observable entity)", "Procedure time base"),
        *("Anesthesia finish time (observable entity)", "Glucose Measurement Time", "Lights on time of day"),
        *("Beginning of Time Period", "Middle of Time Period", "End of Time Period", "Signal Increase Start Time"),
        *("Digital timecode (NOS)", "IRIG-B timecode", "Protocol Time Point Identifier"),
        "Subject Time Point Identifier",
    }
    assert {"Acceleration Time", "Isovolumic Relaxation Time", "Exposure Time", "Total Acquisition Time"} <= timed
    assert not is_identifying("Echo Time")


@pytest.mark.parametrize(
    ("value", "is_day"),
    [
        (20240301.0, True),
        (2024030115.0, True),
        (202403011530.0, True),
        (20240301153000.0, True),
        (20240301153000.25, True),
        (-20240301.5, True),
        (20241301.0, False),
        (202403.0, False),
        (1234567.0, False),
        (20.240301, False),
        (float("nan"), False),
        (float("inf"), False),
    ],
)
def test_a_number_that_begins_with_a_day_is_one(value: float, is_day: bool) -> None:
    assert reads_as_day(value) is is_day


@NUMBERS
def test_a_number_of_a_report_names_nobody_in_the_limited_tier(table: str, value: str, concept: str) -> None:
    cases: list[tuple[str | None, str | None, str | None, float | None]] = [
        ("SCT", "410668003", "Length", 12.5),
        ("99X", "L", "Laenge", 12.5),
        ("DCM", "121031", "Subject Birth Date", None),
        ("DCM", "121030", "Subject ID", None),
        ("99X", "1", "PatientID", None),
        ("99X", "1", "medical_record", None),
        ("99X", "1", "MRN", None),
        ("99X", "1", "Birthdate", None),
        # The standard's meaning counts beside the sender's, and the sender's beside the standard's.
        ("DCM", "121030", "Length", None),
        ("SCT", "410668003", "Patient ID", None),
        ("99X", "1", None, None),
        (None, None, None, None),
        # A day is no secret of this tier.
        ("DCM", "111060", "Study Date", 12.5),
    ]
    cells: dict[str, list[object]] = {
        f"{concept}_scheme": [case[0] for case in cases],
        f"{concept}_code": [case[1] for case in cases],
        f"{concept}_meaning": [case[2] for case in cases],
        value: [12.5] * len(cases),
    }
    assert projected(table, Tier.LIMITED, value, cells) == [case[3] for case in cases]


def test_a_time_of_a_report_is_a_time_and_no_birth_in_the_limited_tier() -> None:
    cases: list[tuple[str, str, str, str, bool]] = [
        ("DATE", "111060", "Study Date", "20240301", True),
        ("TIME", "111061", "Study Time", "153000.25", True),
        ("DATETIME", "111526", "DateTime Started", "20240301153000", True),
        ("DATETIME", "111526", "DateTime Started", "20240301153000.5+0100", True),
        ("DATE", "121031", "Subject Birth Date", "19310203", False),
        ("DATE", "4711", "Date of birth", "19310203", False),
        ("DATE", "4711", "Patient ID", "19310203", False),
        ("DATE", "111060", "Study Date", "Doe, Jane", False),
        ("DATE", "111060", "Study Date", "47110203", False),
        ("DATETIME", "111526", "DateTime Started", "4711", False),
        ("DATE", "111060", "Study Date", "153000", False),
        ("NUM", "111060", "Study Date", "20240301", False),
    ]
    cells: dict[str, list[object]] = {
        "ValueType": [case[0] for case in cases],
        "concept_scheme": ["DCM"] * len(cases),
        "concept_code": [case[1] for case in cases],
        "concept_meaning": [case[2] for case in cases],
        "datetime_value": [case[3] for case in cases],
    }
    shown = projected("sr_content", Tier.LIMITED, "datetime_value", cells)
    assert shown == [case[3] if case[4] else None for case in cases]


def test_the_start_of_an_irradiation_is_a_time_in_the_limited_tier() -> None:
    cells: dict[str, list[object]] = {"started_at": ["20240102030405", "Jane Doe", None]}
    assert projected("dose_events", Tier.LIMITED, "started_at", cells) == ["20240102030405", None, None]
