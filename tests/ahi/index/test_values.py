from __future__ import annotations

import datetime as dt
import math
from calendar import isleap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi.index.columns import Tier, dicom
from ahi.index.registry import COLUMNS, TABLES
from ahi.index.values import age_years, allowed, cast, name_parts, parse_offset, start_utc


def one(vr: str, value: object, vm: str = "1", offset: dt.timezone | None = None) -> tuple[object, list[str]]:
    failures: list = []
    column = dicom("Instance", "Thing", 0x00280010, vr, vm, Tier.LIMITED, "A thing.")
    return cast(column, value, failures, offset), [failure.reason for failure in failures]


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("DA", "20240229", dt.date(2024, 2, 29)),
        ("DA", "1996.10.29", dt.date(1996, 10, 29)),
        ("DA", "20240229 ", dt.date(2024, 2, 29)),
        ("DA", " ", None),
        ("TM", "10", dt.time(10)),
        ("TM", "1015", dt.time(10, 15)),
        ("TM", "101530.5", dt.time(10, 15, 30, 500000)),
        ("TM", "101530.123456 ", dt.time(10, 15, 30, 123456)),
        ("TM", "10:15:30", dt.time(10, 15, 30)),
        ("TM", "235960", dt.time(23, 59, 59)),
        ("DT", "20240229101530.25+0100", dt.datetime(2024, 2, 29, 9, 15, 30, 250000, dt.UTC)),
        ("DT", "2024022910+0100", dt.datetime(2024, 2, 29, 9, tzinfo=dt.UTC)),
        ("DS", " 1.5e-3 ", 0.0015),
        ("DS", "-1000 ", -1000.0),
        ("DS", 7, 7.0),
        ("IS", "1 ", 1),
        ("IS", "+07", 7),
        ("IS", "12.0", 12),
        ("IS", 5, 5),
        ("US", 65535, 65535),
        ("US", "12", 12),
        ("SS", -5, -5),
        ("US or SS", -5, -5),
        ("AE", "  STORE ", "STORE"),
        ("LO", " a b \0", "a b"),
        ("SH", " a ", "a"),
        ("CS", " CT ", "CT"),
        ("LO", " a \\ b ", "a\\b"),
        ("ST", " a ", " a"),
        ("LT", " a ", " a"),
        ("UT", " a ", " a"),
        ("UC", " a ", " a"),
        ("UI", "1.2 \0", "1.2"),
        ("LO", "a\\b", "a\\b"),
        ("UT", "a\\b", "a\\b"),
        ("PN", "Doe^Jane==", "Doe^Jane"),
        ("PN", "Doe^Jane^^^ ", "Doe^Jane"),
        ("PN", "Yamada^Tarou^^=\u5c71\u7530^\u592a\u90ce^=^^^^", "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"),
        ("PN", "=\u5c71\u7530", "=\u5c71\u7530"),
        ("PN", "^Jane^^Dr", "^Jane^^Dr"),
        ("PN", "^^^^ ", "^^^^"),
        ("UI", "1.2.3\0", "1.2.3"),
        ("LO", None, None),
        ("LO", "", None),
        ("LO", 12, "12"),
        ("LO", "\\", None),
        ("LO", ["", None], None),
        ("UI", " \\\0", None),
        ("PN", "=", None),
        ("PN", ["=", ""], None),
        ("LO", ["a", None, 0], "a\\\\0"),
        ("SQ", [], None),
        ("SQ", " ", None),
        ("SQ", [{}, {"CodeValue": ["", None], "Foo": [{"SpecificCharacterSet": "ISO_IR 100"}]}], None),
    ],
)
def test_scalars(vr, value, expected):
    assert one(vr, value) == (expected, [])


@pytest.mark.parametrize(
    ("vr", "value", "reason"),
    [
        ("DA", "20240230", "no such day"),
        ("DA", "soon", "not a date"),
        ("DA", "20240101\\20240102", "more than one value"),
        ("TM", "2561", "no such time"),
        ("TM", "noon", "not a time"),
        ("DT", "20240229101530", "no offset from UTC"),
        ("DT", "20240229101530+9900", "the offset from UTC is not valid"),
        ("DT", "2024+0000", "no time of day"),
        ("DT", "202402", "no time of day"),
        ("DT", "20240229-0500", "no time of day"),
        ("DT", "yesterday", "not a date and time"),
        ("DS", "1,5", "not a decimal number"),
        ("DS", "nan", "not a decimal number"),
        ("DS", float("inf"), "not a finite number"),
        ("DS", "1e999", "not a finite number"),
        ("IS", "1_000", "not a decimal number"),
        ("IS", "\uff11\uff12", "not a decimal number"),
        ("IS", "\u0661\u0662", "not a decimal number"),
        ("IS", "12\n", "not a decimal number"),
        ("IS", ["12", "1\u00a0"], "more than one value"),
        ("IS", "9" * 5000, "not a finite number"),
        ("IS", "1.5", "not a whole number"),
        ("IS", "2147483648", "out of range"),
        ("US", -1, "out of range"),
        ("US", [1, 2], "more than one value"),
        ("LO", {"a": 1}, "not text"),
        ("SQ", "text", "not a list of items"),
        ("SQ", ["text"], "not a list of items"),
        ("SQ", [{"Foo": "x"}], "no item has a field of the column"),
        ("SQ", [{}, {"Foo": [{"CodeValue": "2"}]}], "no item has a field of the column"),
    ],
)
def test_what_does_not_fit_is_null_with_a_reason(vr, value, reason):
    assert one(vr, value) == (None, [reason])


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("CS", "ORIGINAL\\PRIMARY \\\\0015", ["ORIGINAL", "PRIMARY", None, "0015"]),
        ("CS", ["ORIGINAL", ""], ["ORIGINAL", None]),
        ("CS", "ORIGINAL \\PRIMARY \\ LOCALIZER ", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ("SH", [" B30f", " "], ["B30f", None]),
        ("UC", " a\\ b ", [" a", " b"]),
        ("DS", ["0.25", "0.25 "], [0.25, 0.25]),
        ("DS", "0 ", [0.0]),
        ("DS", "\\", None),
        ("US", 3, [3]),
    ],
)
def test_lists(vr, value, expected):
    assert one(vr, value, vm="1-n") == (expected, [])


@pytest.mark.parametrize(
    ("vm", "value", "reason"),
    [
        ("3", "1\\2", "2 values, 3 allowed"),
        ("3", [1.0, 2.0, 3.0, 4.0], "4 values, 3 allowed"),
        ("2", "0.5", "1 value, 2 allowed"),
        ("2", 0.5, "1 value, 2 allowed"),
        ("6", "1\\2\\3", "3 values, 6 allowed"),
        ("1-2", "1\\2\\3", "3 values, 1-2 allowed"),
        ("2-n", "1", None),
        ("2-2n", "1\\2\\3", "3 values, 2-2n allowed"),
        ("3", "1\\2\\3", None),
        ("3", "1\\\\3", None),
        ("1-2", "1", None),
        ("1-2", "1\\2", None),
        ("2-n", "1\\2\\3", None),
        ("2-2n", "1\\2\\3\\4", None),
        ("1-n", "1", None),
        ("1-n", "1\\2\\3", None),
    ],
)
def test_a_number_of_values_that_the_attribute_cannot_have_does_not_fit(vm, value, reason):
    typed, reasons = one("DS", value, vm=vm)
    assert reasons == ([reason] if reason else [])
    assert (typed is None) == bool(reason)


@pytest.mark.parametrize("value", ["", " ", "\\", [None, ""], []])
def test_no_values_are_not_too_few(value):
    assert one("DS", value, vm="3") == (None, [])


def test_every_vm_of_the_registry_is_understood():
    vms = {column.vm for table in TABLES.values() for column in table.columns if column.vm}
    assert {vm: allowed(vm) for vm in vms} == {
        "1": (1, 1, 1),
        "2": (2, 2, 1),
        "3": (3, 3, 1),
        "4": (4, 4, 1),
        "6": (6, 6, 1),
        "1-2": (0, 2, 1),
        "1-3": (0, 3, 1),
        "4-5": (0, 5, 1),
        "1-n": (0, math.inf, 1),
        "2-n": (0, math.inf, 1),
    }


def test_a_day_without_a_time_is_no_moment_in_any_zone():
    assert one("DT", "2024", offset=parse_offset("+0530")) == (None, ["no time of day"])


def test_the_offset_of_the_object_counts_for_a_time_without_its_own():
    offset = parse_offset("+0200")
    assert one("DT", "20240101000000", offset=offset) == (dt.datetime(2023, 12, 31, 22, tzinfo=dt.UTC), [])


@pytest.mark.parametrize(
    ("text", "hours"),
    [("+0530", 5.5), ("-1200", -12), ("+1400", 14), ("-1201", None), ("+1401", None), ("+2300", None), ("+0160", None)],
)
def test_an_offset_is_one_that_the_earth_has(text: str, hours: float | None):
    assert parse_offset(text) == (None if hours is None else dt.timezone(dt.timedelta(hours=hours)))


def test_codes_take_the_long_forms_too():
    long = {"CodeValue": None, "LongCodeValue": "L", "CodingSchemeDesignator": "SRT "}
    items = [long, {"CodeMeaning": "x"}, {}, {"Foo": "y"}]
    assert one("SQ", items)[0] == [
        {"code": "L", "scheme": "SRT", "meaning": None},
        {"code": None, "scheme": None, "meaning": "x"},
    ]


def test_a_request_holds_its_code():
    item = {"AccessionNumber": "A1", "RequestedProcedureCodeSequence": [{"CodeValue": "C"}]}
    value = cast(COLUMNS["RequestAttributesSequence"], [item], [])
    assert value[0]["accession"] == "A1"
    assert value[0]["requested_procedure"] == {"code": "C", "scheme": None, "meaning": None}


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ([{"CodeValue": "C"}, {"CodeValue": "D"}], "more than one item of RequestedProcedureCodeSequence"),
        ([{"Foo": "x"}], "no item has a field of the column"),
        ([{"CodeValue": "C"}, {}], None),
        ([{}], None),
    ],
)
def test_a_request_with_codes_that_have_no_place_does_not_fit(codes, reason):
    item = {"AccessionNumber": "A1", "RequestedProcedureCodeSequence": codes}
    failures: list = []
    value = cast(COLUMNS["RequestAttributesSequence"], [item], failures)
    assert [failure.reason for failure in failures] == ([reason] if reason else [])
    assert (value is None) == bool(reason)
    assert all(failure.raw == "AccessionNumber\\RequestedProcedureCodeSequence" for failure in failures)


def test_name_parts():
    assert name_parts("Yamada^Tarou=山田^太郎=やまだ^たろう") == {
        "family": "Yamada",
        "given": "Tarou",
        "middle": None,
        "prefix": None,
        "suffix": None,
        "ideographic": "山田^太郎",
        "phonetic": "やまだ^たろう",
    }
    assert name_parts("a^b^c^d^e^f=1=2=3")["suffix"] == "e"
    assert name_parts(None) is None
    assert name_parts("Doe^Jane\\Roe^Ann") is None


@pytest.mark.parametrize(
    ("age", "expected"), [("045Y", 45.0), ("006M", 0.5), ("010D", 10 / 365.25), ("old", None), (None, None)]
)
def test_age(age, expected):
    assert age_years(age, None, None) == expected


def test_age_from_dates():
    assert age_years(None, dt.date(2000, 1, 1), dt.date(2020, 1, 1)) == 20
    assert age_years(None, dt.date(1933, 3, 1), dt.date(2023, 3, 1)) == 90
    assert age_years(None, dt.date(1933, 3, 1), dt.date(2023, 2, 28)) == 89 + 364 / 365
    assert age_years(None, dt.date(2000, 2, 29), dt.date(2018, 2, 28)) == 17 + 364 / 365
    assert age_years(None, dt.date(2000, 2, 29), dt.date(2018, 3, 1)) == 18
    assert age_years(None, dt.date(2000, 2, 29), dt.date(2020, 2, 29)) == 20
    assert age_years(None, dt.date(9999, 1, 1), dt.date(9999, 12, 31)) == 364 / 365
    assert age_years(None, dt.date(2000, 1, 2), dt.date(2000, 1, 1)) is None


@given(st.dates(), st.integers(0, 120))
def test_age_is_whole_on_birthdays_and_below_before_them(birth, years):
    year = birth.year + years
    if year > dt.MAXYEAR:
        return
    is_leap_day = (birth.month, birth.day) == (2, 29)
    day = dt.date(year, 3, 1) if is_leap_day and not isleap(year) else birth.replace(year=year)
    assert age_years(None, birth, day) == years
    if years:
        assert years - 1 < age_years(None, birth, day - dt.timedelta(days=1)) < years


@given(st.dates(), st.dates(), st.integers(1, 800))
def test_age_grows_from_day_to_day(birth, study, days):
    study = max(birth, study)
    if study.toordinal() + days <= dt.date.max.toordinal():
        assert age_years(None, birth, study) < age_years(None, birth, study + dt.timedelta(days=days))


def test_start_of_a_study_needs_the_offset():
    values = {"StudyDate": dt.date(2024, 1, 1), "StudyTime": dt.time(1)}
    assert start_utc(values, "StudyDate", "StudyTime") is None
    values["TimezoneOffsetFromUTC"] = "-0500"
    assert start_utc(values, "StudyDate", "StudyTime") == dt.datetime(2024, 1, 1, 6, tzinfo=dt.UTC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["CodeValue", "CodeMeaning", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def leaves(value: object) -> list[object]:
    if isinstance(value, dict | list):
        return [leaf for one in (value.values() if isinstance(value, dict) else value) for leaf in leaves(one)]
    return [value]


def says_nothing(value: object, padding: str) -> bool:
    return all(leaf is None or (isinstance(leaf, str) and not leaf.strip(padding)) for leaf in leaves(value))


@given(st.sampled_from(sorted(COLUMNS)), JSON)
def test_any_value_is_typed_or_failed_or_empty(name, value):
    failures: list = []
    found = cast(COLUMNS[name], value, failures)
    assert not failures or found is None
    assert all(len(failure.raw) <= 256 for failure in failures)
    if found is None and not failures:
        # Some types have more padding: line ends of an AE, the equal signs of a name, the backslash of most.
        assert says_nothing(value, "\0 \\=\t\r\n")
    else:
        assert found != ""
        assert not (COLUMNS[name].shape and says_nothing(value, "\0 "))
