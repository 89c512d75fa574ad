"""Every column has a fate in every tier, and without a rule it is to stay out."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace

import pyarrow as pa
import pytest

from ahi.index.columns import Column, Tier, dicom
from ahi.index.registry import TABLES, arrow_type
from ahi.index.tiers.rules import LOWER, Dates, How, Policy, Rule, crosses, places, rule_for, tier_table
from ahi.index.tiers.terms import TERMS
from ahi.index.tiers.transform import Keys, Projection

EVERY = [(table, column) for table in TABLES.values() for column in table.columns]
SERIES = TABLES["series"]
CODED = "STRUCT(code VARCHAR, scheme VARCHAR, meaning VARCHAR)[]"


def leaves(kind: str) -> set[str]:
    return {"text"} if "VARCHAR" in kind else {"time"} if kind.startswith(("DATE", "TIME")) else {"number"}


def test_no_column_crosses_into_a_tier_that_the_registry_keeps_it_from() -> None:
    for table, column in EVERY:
        limited, deidentified = (rule_for(table, column, tier) for tier in LOWER)
        assert rule_for(table, column, Tier.IDENTIFIED) is not None
        if column.tier is Tier.IDENTIFIED:
            assert (limited, deidentified) == (None, None), (table.name, column.name)
        if column.vr in ("PN", "LT", "ST", "UT", "UC", "UR"):
            assert (limited, deidentified) == (None, None), (table.name, column.name)
        if deidentified is None:
            continue
        kinds = leaves(column.duckdb_type)
        if kinds != {"number"}:
            assert deidentified.how is not How.KEEP, (table.name, column.name)
        if kinds == {"time"}:
            assert deidentified.how in (How.DATE, How.YEAR), (table.name, column.name)
        if column.vr == "UI":
            assert deidentified.how is (How.STANDARD if column.tier is Tier.DEIDENTIFIED else How.HASH), column.name
        if deidentified.how is How.TERMS:
            assert deidentified.terms


UNRULED = [
    Column("Something", "VARCHAR", "Text.", Tier.DEIDENTIFIED),
    Column("some_list", "VARCHAR[]", "Texts.", Tier.DEIDENTIFIED),
    Column("some_moment", "TIMESTAMPTZ", "A moment.", Tier.DEIDENTIFIED),
    Column("some_time", "TIME", "A time.", Tier.DEIDENTIFIED),
    Column("some_parts", "STRUCT(a VARCHAR, b DOUBLE)[]", "Parts.", Tier.DEIDENTIFIED),
    Column("some_number", "DOUBLE", "A number.", Tier.LIMITED),
    dicom("Series", "RequestedContrastAgent", 0x00321070, "LO", "1", Tier.DEIDENTIFIED, "Text."),
    dicom("Series", "ConversionType", 0x00080064, "CS", "1", Tier.DEIDENTIFIED, "A coded string without a list."),
    dicom("Series", "OriginalAttributesSequence", 0x04000561, "SQ", "1", Tier.LIMITED, "Codes."),
]


@pytest.mark.parametrize("column", UNRULED, ids=lambda column: column.name)
def test_a_column_without_a_rule_stays_out(column: Column) -> None:
    table = replace(SERIES, columns=(*SERIES.columns, column))
    names = {one.name for one in tier_table(table, Tier.DEIDENTIFIED).columns}
    assert column.name not in names
    assert {"Modality", "SeriesInstanceUID", "row_version"} <= names


def test_a_reviewed_value_crosses() -> None:
    (column,) = (one for one in SERIES.columns if one.name == "ManufacturerModelName")
    assert rule_for(SERIES, column, Tier.DEIDENTIFIED) is None
    policy = Policy(reviewed={"ManufacturerModelName": frozenset({"SIGNA"})})
    rule = rule_for(SERIES, column, Tier.DEIDENTIFIED, policy)
    assert rule is not None
    assert rule.terms == {"SIGNA"}


def applied(column: Column, values: list[object]) -> list[object]:
    table = replace(SERIES, columns=(*(c for c in SERIES.columns if c.name != column.name), column))
    projection = Projection(table, Tier.DEIDENTIFIED, Keys(b"s", Tier.DEIDENTIFIED), Policy(), lambda _: {}, 2026)
    kinds = {one.name: arrow_type(one.duckdb_type) for one in table.columns}
    batch = {name: pa.nulls(len(values), kinds[name]) for name in projection.sources()}
    batch |= {"image_set_id": pa.array(["a"] * len(values)), "batch_id": pa.array(["b"] * len(values))}
    batch[column.name] = pa.array(values, kinds[column.name])
    return projection.apply(batch, frozenset()).column(column.name).to_pylist()


NAMED = {column.name: column for _, column in EVERY}


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("Modality", ["CT", "DOE", None, "ct"], ["CT", None, None, None]),
        (
            "ImageType",
            [["ORIGINAL", "DOE"], None, [], [None, "AXIAL"]],
            [["ORIGINAL", None], None, [], [None, "AXIAL"]],
        ),
        ("Manufacturer", ["GE MEDICAL SYSTEMS", "Gerda Doe"], ["GE HealthCare", None]),
        (
            "sop_class_uids",
            [["1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.19200131.4711815"]],
            [["1.2.840.10008.5.1.4.1.1.2", None, None]],
        ),
        ("SeriesNumber", [7, 19200131, None, 99_999, -(2**31)], [7, None, None, 99_999, None]),
        ("DimensionIndexValues", [[1, 19200131], None], [[1, None], None]),
        ("EchoNumbers", [[4711815, 2], []], [[None, 2], []]),
        ("TemporalPositionIdentifier_max", [3, 4711815], [3, None]),
        ("FrameAcquisitionNumber", [3, 65_535], [3, 65_535]),
        ("creator", ["SIEMENS MR HEADER", "Jane Doe"], ["SIEMENS MR HEADER", None]),
        ("TemplateIdentifier", ["1500", "47118"], ["1500", None]),
        ("private_group", ["0029", "0028"], ["0029", None]),
        # Nobody knows when that was.
        ("patient_age_years", [45.9, None], [None, None]),
        ("mixed_attrs", [["Rows", "DOE", "TimezoneOffsetFromUTC"]], [["Rows", None, None]]),
        (
            "ProcedureCodeSequence",
            [[{"code": "113014", "scheme": "DCM", "meaning": "Jane Doe"}, {"code": "4711", "scheme": "99DOE"}], None],
            [
                [{"code": "113014", "scheme": "DCM", "meaning": "Study"}, dict.fromkeys(("code", "scheme", "meaning"))],
                None,
            ],
        ),
    ],
)
def test_what_becomes_of_values(name: str, values: list[object], shown: list[object]) -> None:
    assert applied(NAMED[name], values) == shown


def test_a_table_of_keys_alone_does_not_cross() -> None:
    assert [name for name, table in TABLES.items() if not crosses(table, Tier.DEIDENTIFIED)] == [
        "headers",
        "instance_metadata",
        "series_metadata",
    ]
    assert all(terms for terms in TERMS.values())


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="AHI_PATIENT_KEY_SECRET"):
        Keys(b"", Tier.LIMITED)


def test_no_fingerprint_of_a_file_and_no_private_number_crosses() -> None:
    out = {"value_num", "value_text", "n_bytes", "frame_size_bytes", "crc32", "tag", "source_etag"}
    shown = {
        c.name
        for t in TABLES.values()
        if crosses(t, Tier.DEIDENTIFIED)
        for c in tier_table(t, Tier.DEIDENTIFIED).columns
    }
    assert not out & shown
    assert rule_for(TABLES["private_elements"], NAMED["value_num"], Tier.LIMITED) is None


@pytest.mark.parametrize(
    "name", ["DateOfLastCalibration", "InstanceCreationDate", "DateOfManufacture", "DateOfInstallation"]
)
def test_of_a_date_that_is_not_the_patients_only_the_year_crosses(name: str) -> None:
    column = NAMED.get(name) or dicom("Series", name, 0x00181204, "DA", "1", Tier.DEIDENTIFIED, "A date of a device.")
    assert rule_for(SERIES, column, Tier.DEIDENTIFIED, Policy(Dates.SHIFT)) is None, "it would narrow the shift"
    day = dt.date(2020, 5, 6)
    assert applied(column, [[day] if column.is_list else day])[0] in ([dt.date(2020, 1, 1)], dt.date(2020, 1, 1))


def test_every_label_of_a_sender_has_the_limit_of_labels() -> None:
    """Numbers that name something, by their keyword. Those of frames are counted by the pipeline."""
    naming = re.compile(r"(?!NumberOf).*(Numbers?|Identifier|PositionIndex|IndexValues|_numbers?)(_min|_max)?")
    labels = [(t, c) for t, c in EVERY if naming.fullmatch(c.name) and "INT" in c.duckdb_type]
    assert len({c.name for _, c in labels}) >= 15
    rules = {c.name: rule_for(t, c, Tier.DEIDENTIFIED) for t, c in labels if c.name != "frame_number"}
    assert {name for name, rule in rules.items() if rule is None or rule.how is not How.LABEL} == set()


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("series", "StationName"),
        ("series", "PerformedProcedureStepID"),
        ("series", "DeviceSerialNumber"),
        ("series", "source_aet"),
        ("instances", "SourceApplicationEntityTitle"),
        ("dose_events", "device_uid"),
        ("sr_content", "uid_value"),
    ],
)
def test_what_names_a_device_or_a_step_is_a_hash_in_the_limited_tier(table: str, name: str) -> None:
    (column,) = (column for column in TABLES[table].columns if column.name == name)
    rule = rule_for(TABLES[table], column, Tier.LIMITED)
    assert rule is not None
    assert rule.how is How.HASH


@pytest.mark.parametrize("name", ["creator", "decoded_name"])
def test_lists_of_private_elements_open_no_column_that_the_registry_keeps_back(name: str) -> None:
    table, policy = TABLES["private_elements"], Policy(reviewed={name: frozenset({"OURS"})})
    assert rule_for(table, NAMED[name], Tier.DEIDENTIFIED, policy) is not None
    assert rule_for(table, replace(NAMED[name], tier=Tier.LIMITED), Tier.DEIDENTIFIED, policy) is None
    assert rule_for(table, replace(NAMED[name], tier=Tier.LIMITED), Tier.LIMITED, policy) is not None


def test_a_reviewed_value_crosses_besides_a_list_of_the_standard() -> None:
    policy = Policy(reviewed={"creator": frozenset({"OURS"}), "Modality": frozenset({"ZZ"})})
    table = TABLES["private_elements"]
    assert rule_for(table, NAMED["creator"], Tier.DEIDENTIFIED, policy) == Rule(How.CREATOR, frozenset({"OURS"}))
    modality = rule_for(SERIES, NAMED["Modality"], Tier.DEIDENTIFIED, policy)
    assert modality is not None
    assert {"CT", "ZZ"} <= modality.terms


@pytest.mark.parametrize("tier", LOWER)
@pytest.mark.parametrize(("name", "inner"), [("codes", "keyword"), ("object_references", "sequence")])
def test_what_stands_in_a_private_sequence_does_not_cross(tier: Tier, name: str, inner: str) -> None:
    """The meaning of a code there came into the limited tier, which has no value of a private element."""
    paths = {
        "ProcedureCodeSequence": True,
        "SharedFunctionalGroupsSequence.FrameAnatomySequence": True,
        # Of an even group: an attribute that is newer than the dictionary.
        "00189999.ConceptNameCodeSequence": True,
        "00291001": False,
        "00291001.ConceptNameCodeSequence": False,
        "0029100A.ConceptNameCodeSequence": False,
        "0029100a.ConceptNameCodeSequence": False,
        "RequestAttributesSequence.00411001": False,
        "RequestAttributesSequence.00411001.ConceptNameCodeSequence": False,
    }
    table, n_rows = TABLES[name], len(paths) + 2
    projection = Projection(table, tier, Keys(b"s", tier), Policy(), lambda _: {}, 2026)
    kinds = {one.name: arrow_type(one.duckdb_type) for one in table.columns}
    batch = {one: pa.nulls(n_rows, kinds[one]) for one in projection.sources()}
    batch |= {
        "image_set_id": pa.array(["a"] * n_rows),
        "batch_id": pa.array(["b"] * n_rows),
        "sequence_path": pa.array([*paths, None, "ProcedureCodeSequence"]),
        inner: pa.array([path.rpartition(".")[2] for path in paths] + [None, "00291001"]),
        "image_set_version": pa.array(range(n_rows), kinds["image_set_version"]),
    }
    shown = projection.apply(batch, frozenset())["image_set_version"].to_pylist()
    assert shown == [at for at, crosses_over in enumerate([*paths.values(), True, False]) if crosses_over]
    # With rows that do not count, too.
    assert projection.apply(batch, frozenset({("a", "b")})).num_rows == 0


def test_each_table_with_paths_says_what_becomes_of_private_ones() -> None:
    """Those that have no value of what stands there, or none below the identified tier, need not leave rows out."""
    pathed = {t.name for t in TABLES.values() if any(column.name == "sequence_path" for column in t.columns)}
    assert pathed == {"codes", "object_references", "private_elements", "skipped_content"}
    assert {name for name in pathed if places(TABLES[name])} == {"codes", "object_references"}
