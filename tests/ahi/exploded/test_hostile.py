"""Whatever stands where items belong: rows of the right types come out, and nothing is raised."""

from __future__ import annotations

import json
from contextlib import suppress

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ahi.exploded import explode, explode_level, explode_series
from ahi.exploded.volume import geometry
from ahi.index.columnar import Rows
from ahi.index.registry import TABLES, arrow_schema
from ahi.index.tables_exploded import EXPLODED

KEYWORDS = [
    *("ContentSequence", "ConceptNameCodeSequence", "ConceptCodeSequence", "MeasuredValueSequence", "ValueType", "UID"),
    *("CodeValue", "CodingSchemeDesignator", "CodeMeaning", "NumericValue", "FloatingPointValue", "TextValue"),
    *("MeasurementUnitsCodeSequence", "ReferencedSOPSequence", "ReferencedSOPInstanceUID", "ReferencedFrameNumber"),
    *("SegmentSequence", "SegmentNumber", "SegmentedPropertyTypeCodeSequence", "ReferencedSegmentNumber"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "PlanePositionSequence"),
    *("ImagePositionPatient", "PlaneOrientationSequence", "ImageOrientationPatient", "FrameContentSequence"),
    *("SegmentIdentificationSequence", "MRDiffusionSequence", "DiffusionBValue", "DimensionIndexValues"),
    *("StructureSetROISequence", "ROIContourSequence", "ContourSequence", "ROINumber", "ReferencedROINumber"),
    *("NumberOfContourPoints", "FractionGroupSequence", "BeamSequence", "BeamNumber", "NumberOfFractionsPlanned"),
    *("ControlPointSequence", "ReferencedBeamSequence", "GridFrameOffsetVector", "DoseReferenceSequence"),
    *("ReferencedContentItemIdentifier", "GraphicData", "ContentTemplateSequence", "RelationshipType"),
    *("00091001", "00090010", "0009100A", "SteadyStatePulseSequence", "SOPClassUID", "Rows", "PixelSpacing"),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([10**400, -(2**70), 1e300, -1e308, float("nan"), float("inf"), 2**16, 2**31]),
    st.sampled_from(
        ["", "1", "1\\2", "nan", "1e999", "NUM", "CODE", "CONTAINER", "SCOORD", "113819", "125007", "=", "mGy"]
    ),
    st.sampled_from(["1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.5.1.4.1.1.481.5", "\ud800", "9" * 5000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=8)),
    max_leaves=15,
)
ITEMS = st.recursive(
    st.dictionaries(st.sampled_from(KEYWORDS), SCALARS, max_size=6),
    lambda inner: st.dictionaries(
        st.sampled_from(KEYWORDS), st.one_of(SCALARS, st.lists(st.one_of(inner, SCALARS), max_size=4)), max_size=10
    ),
    max_leaves=15,
)
SCHEMAS = {table.name: arrow_schema(TABLES[table.name]) for table in EXPLODED}


def check(tables: dict) -> None:
    """Every value has its column's type."""
    import pyarrow as pa

    for table, rows in tables.items():
        schema = SCHEMAS[table]
        names = {name for row in rows for name in row}
        assert names <= set(schema.names), table
        for name in names:
            cells = [None if isinstance(value := row.get(name), str) else value for row in rows]
            if any(cell is not None for cell in cells):
                # Half a surrogate pair comes out as it went in. A document with one is refused before it comes here.
                with suppress(UnicodeEncodeError):
                    pa.array(cells, type=schema.field(name).type)
        assert not any(str(row.get("reason")).startswith("not understood") for row in rows), rows


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=12), ITEMS)
@example({}, {"ContentSequence": None, "00091001": "\ud800"})
def test_nothing_is_raised(odd, items):
    for attributes in (odd, items):
        tables = explode("1.2", attributes, {"00091001": "UN", "0009100A": 7, "Rows": None})
        check(tables)
        check(explode_level("study", attributes))
    keys = odd.keys() | items.keys()
    check(explode_series(["1", "2"], [odd, items], [{}, {"00091001": "DS"}], keys))


NUMBERS = st.one_of(st.none(), st.floats(), st.integers(-3, 3).map(float))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"Rows": st.sampled_from([None, 1, 2])},
            optional={
                "Columns": st.just(3),
                "PixelSpacing": st.lists(NUMBERS, max_size=3),
                "ImagePositionPatient": st.lists(NUMBERS, min_size=2, max_size=3),
                "ImageOrientationPatient": st.one_of(
                    st.just([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), st.lists(NUMBERS, min_size=6, max_size=6)
                ),
            },
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_numbers_have_a_geometry(slices):
    row = geometry(Rows.of(slices, {}), (), "1.2")
    check({"series_geometry": [row]})
    json.dumps(row, allow_nan=False)
    if row:
        assert row["is_regular"] is (row["reason_not_regular"] is None)


def test_a_report_of_ten_thousand_items():
    item = {"ValueType": "TEXT", "TextValue": "x", "ConceptNameCodeSequence": [{"CodeValue": "1"}]}
    tables = explode("1.2", {"ContentSequence": [item] * 10_000}, {})
    assert len(tables["sr_content"]) == 10_001
    assert [row["n_items"] for row in tables["codes"]] == [10_000]


def test_depths_that_cannot_be_compared():
    """As deep as a JSON parser goes, in two instances of a series."""

    def deep(key: str) -> object:
        item: object = [{"CodeValue": "1"}]
        for _ in range(2000):
            item = [{key: item}]
        return item

    keys = ("ContentSequence", "SegmentSequence", "00091001")
    objects = [{key: deep(key) for key in keys} for _ in range(2)]
    tables = explode_series(["1", "2"], objects, [{"00091001": "SQ"}, {"00091001": "SQ"}], keys)
    check(tables)
    assert {row["sequence_path"] for row in tables["skipped_content"]} >= {"ContentSequence", "00091001"}
    assert len(tables["sr_content"]) == 2 * 49
