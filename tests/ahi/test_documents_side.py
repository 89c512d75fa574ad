"""Side tables of the modalities: constant, varying by design, varying by error, and enhanced objects."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from ahi.documents import flatten, patient_key_function
from ahi.index.registry import TABLES, arrow_schema


def side(table, *instances, **series):
    """The one row of a side table of a series with these instances."""
    instances = {
        f"1.2.{n}": {"DICOM": {"SOPInstanceUID": f"1.2.{n}", **own}, "DICOMVRs": {}, "ImageFrames": []}
        for n, own in enumerate(instances)
    }
    document = {
        "DatastoreID": "d",
        "ImageSetID": "e",
        "Patient": {"DICOM": {}},
        "Study": {"DICOM": {"StudyInstanceUID": "1.2"}, "Series": {"1.3": {"DICOM": series, "Instances": instances}}},
    }
    rows = flatten(document, version=1, is_primary=True, patient_key=patient_key_function(b"k"), stamp={})
    tables = [name for name in rows.tables if name.startswith("series_") and name not in COMMON]
    assert tables == [table]
    (row,) = rows.rows(table)
    assert pa.Table.from_pylist([row], schema=arrow_schema(TABLES[table])).num_rows == 1
    return row


COMMON = {"series_metadata", "series_geometry"}


def test_what_is_the_same_is_one_value_and_what_varies_by_design_has_ends():
    row = side(
        "series_ct",
        {"KVP": "120", "XRayTubeCurrent": "210 ", "ConvolutionKernel": ["B30f"]},
        {"KVP": "120", "XRayTubeCurrent": "190", "ConvolutionKernel": ["B30f"]},
        {"XRayTubeCurrent": None},
        Modality="CT",
    )
    assert (row["KVP"], row["ConvolutionKernel"], row["mixed_attrs"]) == (120.0, ["B30f"], None)
    assert (row["XRayTubeCurrent_min"], row["XRayTubeCurrent_max"]) == (190, 210)


def test_what_differs_by_error_is_null_and_named():
    row = side("series_ct", {"KVP": "120"}, {"KVP": "80", "GantryDetectorTilt": "x"}, Modality="CT")
    assert (row.get("KVP"), row["mixed_attrs"]) == (None, ["KVP"])
    assert row["cast_failures"] == [
        {"keyword": "GantryDetectorTilt", "vr": "DS", "raw": "x", "reason": "not a decimal number"}
    ]


@pytest.mark.parametrize(
    ("sent", "value", "mixed"),
    [
        (("120", "NaN", "abc", "x140"), None, ["KVP"]),
        (("NaN", "120"), None, ["KVP"]),
        (("NaN", "abc"), None, ["KVP"]),
        (("NaN", "NaN"), None, None),
        (("120\\100",), None, None),
        (("NaN", None, ""), None, None),
        (("120", None, ""), 120.0, None),
    ],
)
def test_a_value_that_does_not_fit_differs_from_one_that_does(sent, value, mixed):
    row = side("series_ct", *({"KVP": one, "Exposure": "7"} for one in sent), {"Exposure": "x"}, Modality="CT")
    assert (row.get("KVP"), row["mixed_attrs"]) == (value, mixed)
    # The ends are those of what could be read.
    assert (row["Exposure_min"], row["Exposure_max"]) == (7, 7)
    bad = {one for one in sent if one and one != "120"}
    assert {one["raw"] for one in row["cast_failures"]} == bad | {"x"}


def test_a_dose_with_its_unit_differs_from_a_dose():
    items = [{"RadiopharmaceuticalInformationSequence": [{"RadionuclideTotalDose": n}]} for n in ("370 MBq", "5")]
    row = side("series_pt", *items, Modality="PT")
    assert (row.get("RadionuclideTotalDose"), row["mixed_attrs"]) == (None, ["RadionuclideTotalDose"])


def test_echo_times_and_directions_are_distinct_and_in_order():
    row = side(
        "series_mr",
        {"EchoTime": "30", "EchoNumbers": ["2"], "DiffusionGradientOrientation": [0.0, 1.0, 0.0]},
        {"EchoTime": "4.5 ", "EchoNumbers": ["1"], "DiffusionGradientOrientation": [0.0, 0.0, 1.0]},
        {"EchoTime": "30", "EchoNumbers": ["1", "2"]},
        Modality="MR",
    )
    assert (row["EchoTime"], row["EchoNumbers"]) == ([4.5, 30.0], [1, 2])
    assert row["DiffusionGradientOrientation"] == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_enhanced_objects_have_them_in_their_functional_groups():
    shared = [{"MRTimingAndRelatedParametersSequence": [{"RepetitionTime": "500", "FlipAngle": "90"}]}]
    frames = [
        {
            "MREchoSequence": [{"EffectiveEchoTime": 10.5 * n}],
            "MRDiffusionSequence": [
                {
                    "DiffusionBValue": 1000.0 * n,
                    "DiffusionGradientDirectionSequence": [{"DiffusionGradientOrientation": [1, 0, 0]}],
                }
            ],
        }
        for n in (2, 1)
    ]
    own = {"SharedFunctionalGroupsSequence": shared, "PerFrameFunctionalGroupsSequence": frames}
    row = side("series_mr", own, Modality="MR")
    assert (row["RepetitionTime"], row["FlipAngle"], row["EchoTime"]) == ([500.0], [90.0], [10.5, 21.0])
    assert (row["DiffusionBValue"], row["DiffusionGradientOrientation"]) == ([1000.0, 2000.0], [[1.0, 0.0, 0.0]])
    row = side(
        "series_ct",
        {
            "SharedFunctionalGroupsSequence": [{"CTXRayDetailsSequence": [{"KVP": "100"}]}],
            "PerFrameFunctionalGroupsSequence": [
                {"CTExposureSequence": [{"XRayTubeCurrentInmA": 80.5}]},
                {"CTExposureSequence": [{"XRayTubeCurrentInmA": 95.0}]},
            ],
        },
        Modality="CT",
    )
    assert (row["KVP"], row["XRayTubeCurrentInmA_min"], row["XRayTubeCurrentInmA_max"]) == (100.0, 80.5, 95.0)


def test_the_tracer_comes_from_its_sequence():
    tracer = {
        "Radiopharmaceutical": "FDG ",
        "RadionuclideTotalDose": "370000000",
        "RadiopharmaceuticalStartTime": "101500",
        "RadionuclideCodeSequence": [{"CodeValue": "C-111A1", "CodingSchemeDesignator": "SRT", "CodeMeaning": "F-18"}],
    }
    slices = [
        {"RadiopharmaceuticalInformationSequence": [tracer], "ActualFrameDuration": duration}
        for duration in ("120000", "60000")
    ]
    row = side("series_pt", *slices, Modality="PT", Units="BQML", SeriesType=["WHOLE BODY", "IMAGE"])
    assert (row["Units"], row["SeriesType"], row["Radiopharmaceutical"]) == ("BQML", ["WHOLE BODY", "IMAGE"], "FDG")
    assert (row["RadionuclideTotalDose"], row["ActualFrameDuration"]) == (3.7e8, [60000, 120000])
    assert row["RadiopharmaceuticalStartTime"] == dt.time(10, 15)
    assert row["RadionuclideCodeSequence"] == [{"code": "C-111A1", "scheme": "SRT", "meaning": "F-18"}]


@pytest.mark.parametrize(
    ("modality", "table"),
    [("DX", "projection"), ("MG", "projection"), ("CR", "projection"), ("US", "us"), ("RF", "xa"), ("SM", "sm")],
)
def test_each_modality_has_its_table(modality, table):
    assert side(f"series_{table}", {}, Modality=modality)["mixed_attrs"] is None


def test_lists_out_of_containers_that_are_none():
    own = {"SharedFunctionalGroupsSequence": "x", "PerFrameFunctionalGroupsSequence": [None, {"KVP": [{"KVP": "1"}]}]}
    assert side("series_ct", own, Modality="CT").get("KVP") is None
