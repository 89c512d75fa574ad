from __future__ import annotations

import copy
import datetime as dt
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahi.documents import flatten, patient_key_function
from ahi.documents_form import DocumentError
from ahi.index.registry import TABLES, arrow_schema

DATA = Path(__file__).parents[1] / "data" / "healthimaging"
KEY = patient_key_function(b"secret")
STAMP = {"dagster_run_id": "run", "indexed_at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}


def rows_of(document):
    return flatten(document, version=3, is_primary=True, patient_key=KEY, stamp=STAMP)


def instance(number: int, **dicom) -> dict:
    return {
        "DICOM": {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
            "SOPInstanceUID": f"1.2.3.{number}",
            "TransferSyntaxUID": "1.2.840.10008.1.2.1",
            "InstanceNumber": f"{number} ",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "Rows": 512,
            "SliceThickness": "2.5 ",
            "PixelSpacing": ["0.5", "0.5 "],
            "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
            "ImagePositionPatient": ["0", "0", f"{number}.5"],
            **dicom,
        },
        "DICOMVRs": {},
        "StoredTransferSyntaxUID": "1.2.840.10008.1.2.4.202",
        "ChecksumType": "DECOMPRESSED",
        "ImageFrames": [
            {
                "ID": f"{number:032x}",
                "PixelDataChecksumFromBaseToFullResolution": [
                    {"Width": 512, "Height": 256, "Checksum": 4294967295},
                    {"Width": 128, "Height": 64, "Checksum": 1},
                ],
                "MinPixelValue": None,
                "MaxPixelValue": 4095,
                "FrameSizeInBytes": 168371,
            }
        ],
    }


def document(*instances: dict, **series) -> dict:
    """A document of the form of 2025, with one series."""
    return {
        "SchemaVersion": "1.1",
        "DatastoreID": "d" * 32,
        "ImageSetID": "e" * 32,
        "Patient": {"DICOM": {"PatientID": "P1 ", "PatientName": "Doe^Jane", "IssuerOfPatientID": None}},
        "Study": {
            "DICOM": {"StudyInstanceUID": "1.2.3", "StudyDate": "20240229", "StudyTime": "1015", "PatientAge": "045Y"},
            "Series": {
                "1.2.4": {
                    "DICOM": {"SeriesInstanceUID": "1.2.4", "Modality": "CT", "SeriesNumber": "2 ", **series},
                    "Instances": {one["DICOM"]["SOPInstanceUID"]: one for one in instances},
                }
            },
        },
    }


def test_a_series_of_two():
    rows = rows_of(document(instance(1), instance(4), TimezoneOffsetFromUTC="+0100"))
    (series,) = rows.rows("series")
    assert (rows.study_uid, rows.series_uid, rows.n_instances) == ("1.2.3", "1.2.4", 2)
    assert [row["SOPInstanceUID"] for row in rows.rows("instances")] == ["1.2.3.1", "1.2.3.4"]
    assert (series["Modality"], series["SeriesNumber"], series["PatientID"]) == ("CT", 2, "P1")
    assert (series["Rows"], series["SliceThickness"], series["pixel_spacing_col_mm"]) == (512, 2.5, 0.5)
    assert (series["n_instances"], series["n_frames"], series["instance_number_gaps"]) == (2, 2, 2)
    assert series["study_datetime_utc"] == dt.datetime(2024, 2, 29, 9, 15, tzinfo=dt.UTC)
    assert (series["patient_age_years"], series["patient_key"]) == (45.0, KEY(None, "P1"))
    assert (series["is_original"], series["is_localizer"], series["mixed_attrs"]) == (True, False, None)
    assert [row["slice_position_mm"] for row in rows.rows("instances")] == [1.5, 4.5]
    frame = rows.rows("frames")[0]
    assert (frame["width"], frame["height"], frame["crc32"], frame["n_resolutions"]) == (512, 256, 4294967295, 2)
    assert (frame["min_pixel_value"], frame["frame_id"]) == (None, f"{1:032x}")
    for row in (row for table in rows.tables for row in rows.rows(table)):
        assert (row["image_set_version"], row["is_primary"], row["dagster_run_id"]) == (3, True, "run")


def test_padding_around_a_value_makes_no_other_value():
    kind = ["ORIGINAL ", " PRIMARY", " LOCALIZER "]
    sent = document(instance(1, ImageType=kind), Modality=" CT ", BodyPartExamined=" CHEST ")
    sent["Patient"]["DICOM"] |= {"PatientID": " ODD007 ", "IssuerOfPatientID": " A "}
    rows = rows_of(sent)
    (series,) = rows.rows("series")
    assert (series["PatientID"], series["patient_key"]) == ("ODD007", KEY("A", "ODD007"))
    assert (series["Modality"], len(rows.rows("series_ct"))) == ("CT", 1)
    assert (series["BodyPartExamined"], series["body_part_normalised"]) == ("CHEST", "Chest")
    assert (series["ImageType"], series["is_localizer"]) == (["ORIGINAL", "PRIMARY", "LOCALIZER"], True)
    # What came stays as it came.
    assert json.loads(rows.rows("series_metadata")[0]["patient_json"])["PatientID"] == " ODD007 "


def test_padding_makes_no_other_patient_key():
    assert KEY(" A\0", " ODD007 ") == KEY("A", "ODD007")
    assert KEY(" ", "ODD007") == KEY(None, "ODD007")
    assert KEY("A", "ODD 007") != KEY("A", "ODD007")


def test_what_differs_by_error_is_null_and_named():
    other = instance(2, Rows=256, ImageType=["DERIVED", "SECONDARY", "LOCALIZER"], PixelSpacing=["1", "1"])
    third = instance(3)
    del third["DICOM"]["SliceThickness"]
    (series,) = rows_of(document(other, instance(1), third)).rows("series")
    assert (series["Rows"], series.get("pixel_spacing_row_mm")) == (
        None,
        None,
    )
    assert series["mixed_attrs"] == ["PixelSpacing", "Rows"]
    assert series["SliceThickness"] == 2.5, "an instance that does not say counts neither way"
    assert series["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL"], "that of the first instance"
    assert series["image_types_all"] == ["DERIVED\\SECONDARY\\LOCALIZER", "ORIGINAL\\PRIMARY\\AXIAL"]
    assert series["is_localizer"] is True


@pytest.mark.parametrize(
    ("thickness", "spacing", "mixed"),
    [("5", (0.4, 0.5), None), ("7", (0.4, 0.5), ["SliceThickness"]), (None, (0.4, 0.5), None)],
)
def test_a_series_of_enhanced_objects_has_what_its_frames_agree_on(thickness, spacing, mixed):
    def frame(number: int, thick: str | None) -> dict:
        measures = {"PixelSpacing": ["0.4", "0.5"], **({"SliceThickness": thick} if thick else {})}
        place = {"ImagePositionPatient": ["0", "0", f"{number}"]}
        return {"PixelMeasuresSequence": [measures], "PlanePositionSequence": [place]}

    enhanced = instance(1, PerFrameFunctionalGroupsSequence=[frame(1, "5"), frame(2, thickness)])
    for name in ("SliceThickness", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        del enhanced["DICOM"][name]
    (series,) = rows_of(document(enhanced)).rows("series")
    assert (series["pixel_spacing_row_mm"], series["pixel_spacing_col_mm"]) == spacing
    assert (series["SliceThickness"], series["mixed_attrs"]) == (None if mixed else 5.0, mixed)


def test_frames_that_contradict_other_instances_make_a_series_mixed():
    place = {"PixelMeasuresSequence": [{"SliceThickness": "3", "PixelSpacing": ["1", "1"]}]}
    enhanced = instance(1, PerFrameFunctionalGroupsSequence=[place])
    for name in ("SliceThickness", "PixelSpacing"):
        del enhanced["DICOM"][name]
    (series,) = rows_of(document(enhanced, instance(2))).rows("series")
    assert (series["SliceThickness"], series["pixel_spacing_row_mm"], series["pixel_spacing_col_mm"]) == (None,) * 3
    assert series["mixed_attrs"] == ["PixelSpacing", "SliceThickness"]


def test_series_attributes_kept_with_the_instances_are_found():
    rows = rows_of(document(instance(1, PatientPosition="HFS"), instance(2, PatientPosition="HFS")))
    assert rows.rows("series")[0]["PatientPosition"] == "HFS"
    rows = rows_of(document(instance(1, PatientPosition="HFS"), instance(2, PatientPosition="FFS")))
    assert (rows.rows("series")[0]["PatientPosition"], rows.rows("series")[0]["mixed_attrs"]) == (
        None,
        ["PatientPosition"],
    )


def test_cast_failures_stand_on_the_row_they_belong_to():
    rows = rows_of(document(instance(1, ContentDate="soon"), SeriesDate="later"))
    assert rows.rows("instances")[0]["cast_failures"] == [
        {"keyword": "ContentDate", "vr": "DA", "raw": "soon", "reason": "not a date"}
    ]
    assert [failure["keyword"] for failure in rows.rows("series")[0]["cast_failures"]] == ["SeriesDate"]


def test_a_real_document_fits_the_tables():
    import pyarrow as pa

    rows = rows_of((DATA / "usdoppler.json").read_bytes())
    (series,) = rows.rows("series")
    assert (rows.n_instances, len(rows.rows("frames")), series["Modality"]) == (9, 22, "US")
    assert series["mixed_attrs"] == [
        "Columns",
        "LossyImageCompression",
        "PhotometricInterpretation",
        "Rows",
    ]
    for name in rows.tables:
        found = rows.rows(name)
        schema = arrow_schema(TABLES[name])
        assert set(found[0]) <= set(schema.names)
        assert pa.Table.from_pylist(found, schema=schema).num_rows == len(found)


@pytest.mark.skipif(not os.environ.get("AHI_DICOM_CORPUS"), reason="needs the development corpus")
def test_every_saved_document_can_be_read():
    folder = Path(os.environ["AHI_DICOM_CORPUS"]).parent / "healthimaging"
    for path in folder.glob("ahi-metadata-*.json"):
        assert rows_of(path.read_bytes()).n_instances


def test_gzip_plain_and_parsed_are_the_same():
    content = document(instance(1))
    text = json.dumps(content).encode()
    assert rows_of(text) == rows_of(gzip.compress(text)) == rows_of(content)


def test_a_document_without_frames_or_instances():
    bare = instance(1)
    bare["ImageFrames"] = None
    rows = rows_of(document(bare))
    assert (rows.rows("instances")[0]["has_pixel_data"], rows.rows("frames")) == (False, [])
    assert rows_of(document()).n_instances == 0


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda d: d.pop("DatastoreID"), "DatastoreID"),
        (lambda d: d.update(Patient="Doe^Jane"), "Patient is missing"),
        (lambda d: d["Study"]["DICOM"].pop("StudyInstanceUID"), "StudyInstanceUID"),
        (lambda d: d["Study"].update(Series={}), "no series"),
        (lambda d: d["Study"]["Series"].update({"1.2.4": "Doe"}), "a series is missing"),
        (lambda d: d["Study"]["Series"]["1.2.4"]["Instances"].update({"1.2.3.1": []}), "an instance is missing"),
        (lambda d: d["Study"]["Series"]["1.2.4"]["Instances"]["1.2.3.1"].update(ImageFrames="Doe"), "not a list"),
        (lambda d: d["Study"]["Series"]["1.2.4"]["Instances"]["1.2.3.1"].update(ImageFrames=["Doe"]), "ImageFrames"),
    ],
)
def test_unknown_forms_are_refused_without_values(damage, text):
    content = document(instance(1))
    damage(content)
    with pytest.raises(DocumentError, match=text) as error:
        rows_of(content)
    assert "Doe" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\x1f\x8b\x08\x00", b"\xff\xfe", b"[" * 100_000])
def test_bytes_that_are_no_document(content):
    with pytest.raises(DocumentError):
        rows_of(content)


@st.composite
def damaged(draw):
    content = copy.deepcopy(document(instance(1), instance(2)))
    for _ in range(draw(st.integers(1, 3))):
        node = content
        while isinstance(node, dict | list) and node and draw(st.integers(0, 9)):
            key = draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
            if not isinstance(node[key], dict | list) or not node[key] or not draw(st.integers(0, 4)):
                node[key] = draw(st.sampled_from([None, "", "x", 1, -1, 1.5, True, [], {}, ["x"], [[]], {"x": 1}]))
                break
            node = node[key]
    return content


@settings(max_examples=300, derandomize=True)
@given(damaged())
def test_damaged_documents_give_rows_or_a_reason(content):
    import pyarrow as pa

    try:
        rows = rows_of(content)
    except DocumentError:
        return
    for name in rows.tables:
        pa.Table.from_pylist(rows.rows(name), schema=arrow_schema(TABLES[name]))


def test_without_patient_id_there_is_no_patient_key():
    assert {KEY(issuer, name) for issuer in (None, "A") for name in (None, "", "  ", "\\", " \\\0")} == {None}


@pytest.mark.parametrize("empty", ["\\", ["", ""], [None, " "]])
def test_a_patient_id_of_empty_values_is_none(empty):
    sent = document(instance(1))
    sent["Patient"]["DICOM"]["PatientID"] = empty
    (series,) = rows_of(sent).rows("series")
    assert (series["PatientID"], series["patient_key"], series["cast_failures"]) == (None, None, None)


def test_the_patient_key_is_keyed_and_unambiguous():
    assert KEY("A", "BC") != KEY("AB", "C")
    assert KEY("A", "B") == KEY("A", "B") != patient_key_function(b"other")("A", "B")
    assert len(KEY(None, "B")) == 64
    with pytest.raises(ValueError, match="AHI_PATIENT_KEY_SECRET"):
        patient_key_function(b"")


def test_an_instance_names_what_it_refers_to_and_digests_its_own_content():
    item = {"ReferencedSOPInstanceUID": "1.2.9"}
    series = [{"SeriesInstanceUID": "1.5", "ReferencedSOPSequence": [item, {"ReferencedSOPInstanceUID": "1.2.8"}]}]
    one = instance(1, ReferencedSeriesSequence=series)
    first, second = rows_of(document(one, instance(2))).rows("instances")
    assert first["referenced_sop_instance_uids"] == ["1.2.8", "1.2.9"]
    assert first["referenced_series_uids"] == ["1.5"]
    assert second["referenced_series_uids"] is second["referenced_sop_instance_uids"] is None
    again, changed = rows_of(document(one, instance(2, ContentDate="20260101"))).rows("instances")
    assert again["dataset_hash"] == first["dataset_hash"] != second["dataset_hash"] != changed["dataset_hash"]
