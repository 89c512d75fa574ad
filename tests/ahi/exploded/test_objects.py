"""Segmentations, radiotherapy objects and enhanced frames, against the same file read with pydicom."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ahi.exploded import explode, explode_series
from ahi.index.tables_exploded import EXPLODED
from tests.ahi.exploded.conftest import as_bytes, exploded

SEGMENTATIONS = (
    "highdicom/seg_image_cr_binary.dcm",
    "highdicom/seg_image_ct_binary.dcm",
    "highdicom/seg_image_ct_binary_overlap.dcm",
    "highdicom/seg_image_ct_true_fractional.dcm",
    "highdicom/seg_image_sm_control_labelmap.dcm",
    "pydicom/liver_1frame.dcm",
)


def code(sequence) -> list[dict] | None:
    return [
        {"code": item.CodeValue, "scheme": item.CodingSchemeDesignator, "meaning": item.CodeMeaning}
        for item in sequence or ()
    ] or None


@pytest.mark.parametrize("file", SEGMENTATIONS)
def test_segments(sample, file):
    dataset, tables = sample(file)
    rows = tables["segments"]
    shown = Counter(
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for frame in dataset.get("PerFrameFunctionalGroupsSequence", ())
        if "SegmentIdentificationSequence" in frame
    )
    series = {one.SeriesInstanceUID for one in dataset.get("ReferencedSeriesSequence", ())}
    for row, item in zip(rows, dataset.SegmentSequence, strict=True):
        for name in ("SegmentNumber", "SegmentLabel", "SegmentAlgorithmType", "TrackingID", "TrackingUID"):
            assert row.get(name) == item.get(name), name
        for name in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"):
            assert row[name] == code(item[name].value)
        assert row["SegmentationType"] == dataset.SegmentationType
        assert row["referenced_series_uid"] == (series.pop() if len(series) == 1 else row["referenced_series_uid"])
        if dataset.SegmentationType != "LABELMAP":
            assert row["n_frames"] == shown[item.SegmentNumber]


def test_modifiers_come_from_inside_the_codes():
    left = [{"CodeValue": "7771000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Left"}]
    kidney = {"CodeValue": "64033007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Kidney"}
    segment = {
        "SegmentNumber": 1,
        "SegmentedPropertyTypeCodeSequence": [kidney | {"SegmentedPropertyTypeModifierCodeSequence": left}],
        "AnatomicRegionSequence": [kidney | {"AnatomicRegionModifierSequence": left}],
    }
    (row,) = explode("1.2", {"SegmentSequence": [segment]}, {})["segments"]
    for name in ("SegmentedPropertyTypeModifierCodeSequence", "AnatomicRegionModifierSequence"):
        assert [one["meaning"] for one in row[name]] == ["Left"]


def test_regions_of_a_structure_set(sample):
    dataset, tables = sample("pydicom/rtstruct.dcm")
    rows = {row["ROINumber"]: row for row in tables["rt_rois"]}
    assert rows.keys() == {item.ROINumber for item in dataset.StructureSetROISequence}
    for item in dataset.StructureSetROISequence:
        row = rows[item.ROINumber]
        assert (row["ROIName"], row["ROIGenerationAlgorithm"]) == (item.ROIName, item.ROIGenerationAlgorithm)
        assert row["ReferencedFrameOfReferenceUID"] == item.ReferencedFrameOfReferenceUID
    for item in dataset.RTROIObservationsSequence:
        assert rows[item.ReferencedROINumber]["RTROIInterpretedType"] == item.RTROIInterpretedType
    for item in dataset.ROIContourSequence:
        row, contours = rows[item.ReferencedROINumber], item.get("ContourSequence") or ()
        assert row["n_contours"] == len(contours)
        assert row["n_contour_points"] == sum(contour.NumberOfContourPoints for contour in contours)
        assert row["contour_types"] == sorted({contour.ContourGeometricType for contour in contours})
        assert row["ROIDisplayColor"] == list(item.ROIDisplayColor)
    assert len({row["referenced_series_uid"] for row in rows.values()}) == 1


def test_a_region_known_from_contours_only_is_there_and_one_without_number_is_said():
    contours = [{"ReferencedROINumber": "7", "ContourSequence": [{}, {}]}, {"ContourSequence": [{}]}]
    tables = explode("1.2", {"ROIContourSequence": contours}, {})
    assert [(row["ROINumber"], row["n_contours"]) for row in tables["rt_rois"]] == [(7, 2)]
    assert [row["reason"] for row in tables["skipped_content"]] == ["a region without a number"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_dose(sample):
    dataset, tables = sample("pydicom/rtdose.dcm")
    (row,) = tables["rt_doses"]
    for name in ("DoseUnits", "DoseType", "DoseSummationType"):
        assert row[name] == dataset.get(name)
    assert row["DoseGridScaling"] == float(dataset.DoseGridScaling)
    offsets = [float(one) for one in dataset.GridFrameOffsetVector]
    assert row["n_dose_planes"] == len(offsets)
    assert row["plane_spacing_mm"] == pytest.approx((offsets[-1] - offsets[0]) / (len(offsets) - 1))
    assert row["referenced_plan_uids"] == [one.ReferencedSOPInstanceUID for one in dataset.ReferencedRTPlanSequence]


def test_a_plan(sample):
    dataset, tables = sample("pydicom/rtplan.dcm")
    (row,) = tables["rt_plans"]
    for name in ("RTPlanLabel", "RTPlanName", "RTPlanGeometry", "ApprovalStatus"):
        assert row[name] == dataset.get(name)
    assert f"{row['RTPlanDate']:%Y%m%d}" == dataset.RTPlanDate
    group = dataset.FractionGroupSequence[0]
    assert row["n_fractions_planned"] == group.NumberOfFractionsPlanned
    assert row["beam_names"] == [beam.BeamName for beam in dataset.BeamSequence]
    for beam, item in zip(row["beams"], dataset.BeamSequence, strict=True):
        assert (beam["number"], beam["radiation"]) == (item.BeamNumber, item.RadiationType)
        assert beam["n_control_points"] == item.NumberOfControlPoints
        assert beam["energy"] == float(item.ControlPointSequence[0].NominalBeamEnergy)
        assert beam["meterset"] == float(group.ReferencedBeamSequence[0].BeamMeterset)
    doses = [
        float(one.TargetPrescriptionDose) for one in dataset.DoseReferenceSequence if "TargetPrescriptionDose" in one
    ]
    assert row["target_prescription_doses_gy"] == doses


def test_a_dose_and_a_plan_without_any_sequence_have_their_row():
    assert explode("1.2", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2", "DoseUnits": "GY"}, {})["rt_doses"]
    (row,) = explode("1.2", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.8", "RTPlanLabel": "x"}, {})["rt_plans"]
    assert (row["n_beams"], row["n_fractions_planned"], row["beams"]) == (0, None, None)


def test_frames_of_an_enhanced_ct(sample):
    dataset, tables = sample("cornerstoneWADOImageLoader/CT0012.fragmented_no_bot_jpeg_baseline.51.dcm")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = zip(tables["frames_functional"], dataset.PerFrameFunctionalGroupsSequence, strict=True)
    for number, (row, frame) in enumerate(frames, 1):
        assert row["frame_number"] == number
        for keyword, name in (
            ("PlanePositionSequence", "ImagePositionPatient"),
            ("PlaneOrientationSequence", "ImageOrientationPatient"),
            ("PixelMeasuresSequence", "PixelSpacing"),
        ):
            item = (frame.get(keyword) or shared.get(keyword))[0]
            assert row[name] == [float(one) for one in item[name].value]
        assert row["DimensionIndexValues"] == list(frame.FrameContentSequence[0].get("DimensionIndexValues"))


def enhanced_mr() -> Dataset:
    dataset = Dataset()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.1", "1.1.1"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([Dataset()]), Sequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [2, 2]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([])
    for time in (1, 2):
        for slice_ in range(3):
            frame, content, place, diffusion = Dataset(), Dataset(), Dataset(), Dataset()
            content.TemporalPositionIndex, content.InStackPositionNumber, content.StackID = time, slice_ + 1, "1"
            place.ImagePositionPatient = [0, 0, 2.5 * slice_]
            diffusion.DiffusionBValue = 1000.0 * (time - 1)
            gradient = Dataset()
            gradient.DiffusionGradientOrientation = [0.0, 0.6, 0.8]
            diffusion.DiffusionGradientDirectionSequence = Sequence([gradient])
            frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([place])
            frame.MRDiffusionSequence = Sequence([diffusion])
            dataset.PerFrameFunctionalGroupsSequence.append(frame)
    return dataset


def test_frames_of_an_enhanced_mr_have_b_value_and_time():
    rows = exploded(as_bytes(enhanced_mr(), "1.2.840.10008.5.1.4.1.1.4.1"))["frames_functional"]
    assert [row["DiffusionBValue"] for row in rows] == [0.0] * 3 + [1000.0] * 3
    assert [row["TemporalPositionIndex"] for row in rows] == [1, 1, 1, 2, 2, 2]
    assert [row["slice_position_mm"] for row in rows] == [0.0, 2.5, 5.0] * 2
    assert rows[0]["DiffusionGradientOrientation"] == [0.0, 0.6, 0.8]
    assert {tuple(row["PixelSpacing"]) for row in rows} == {(2.0, 2.0)}


def test_moments_of_frames_take_the_offset_of_their_object():
    moment = {"FrameContentSequence": [{"FrameAcquisitionDateTime": "20240102030405"}]}
    attributes = {"PerFrameFunctionalGroupsSequence": [moment]}
    offset = dt.timezone(dt.timedelta(hours=2))
    (row,) = explode_series(["1.2"], [attributes], [{}], attributes, [offset])["frames_functional"]
    assert row["FrameAcquisitionDateTime"] == dt.datetime(2024, 1, 2, 1, 4, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize("table", EXPLODED, ids=lambda table: table.name)
def test_columns_of_attributes_are_those_of_the_dictionary(table):
    from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

    for column in table.columns:
        if column.tag is not None:
            expected = (tag_for_keyword(column.name), dictionary_VR(column.tag), dictionary_VM(column.tag))
            assert (column.tag, column.vr, column.vm) == expected, column.name
        if column.vr in {"UI", "UT", "ST", "LT", "LO", "PN", "DA", "TM", "DT"} and column.name not in OPEN:
            assert column.tier != "deidentified", column.name


# Registered UIDs, and the unit of rescaled values.
OPEN = {"ReferencedSOPClassUID", "RescaleType"}
