"""Frames whose order says which tile they are (TILED_FULL), against the order as PS3.3 C.7.6.17.3 writes it."""

from __future__ import annotations

import os
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi.exploded import explode
from ahi.exploded.notes import MAX_ROWS
from tests.ahi.exploded.conftest import exploded

CORPUS = os.environ.get("AHI_DICOM_CORPUS", "")
PLACE = ("ColumnPositionInTotalImagePixelMatrix", "RowPositionInTotalImagePixelMatrix")


def slide(columns: int, rows: int, planes: int, channels: int, *, edge: int = 0, **more: object) -> dict:
    """A slide of so many tiles of 10 columns and 20 rows; an edge cuts pixels off the last ones."""
    return {
        "DimensionOrganizationType": "TILED_FULL",
        "Columns": 10,
        "Rows": 20,
        "TotalPixelMatrixColumns": 10 * columns - edge,
        "TotalPixelMatrixRows": 20 * rows - edge,
        "TotalPixelMatrixFocalPlanes": planes,
        "NumberOfFrames": str(columns * rows * planes * channels),
        "SharedFunctionalGroupsSequence": [{"PixelMeasuresSequence": [{"PixelSpacing": ["0.5", "0.25"]}]}],
    } | more


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.integers(1, 3), st.integers(0, 9))
def test_frames_run_along_rows_then_columns_then_planes_then_optical_paths(columns, rows, planes, paths, edge):
    named = [{"OpticalPathIdentifier": str(path)} for path in range(paths)]
    tables = explode("1.2", slide(columns, rows, planes, paths, edge=edge, OpticalPathSequence=named), {})
    assert "skipped_content" not in tables
    expected = [
        (str(path), 1 + 10 * column, 1 + 20 * row)
        for path in range(paths)
        for _ in range(planes)
        for row in range(rows)
        for column in range(columns)
    ]
    frames = tables["frames_functional"]
    assert [(row["OpticalPathIdentifier"], *(row[name] for name in PLACE)) for row in frames] == expected
    assert [row["frame_number"] for row in frames] == list(range(1, len(expected) + 1))
    assert {tuple(row["PixelSpacing"]) for row in frames} == {(0.5, 0.25)}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_each_segment_has_the_frames_that_follow_from_the_order(columns, rows, segments, data):
    total = columns * rows * segments
    before = data.draw(st.integers(0, total - 1))
    n_frames = data.draw(st.integers(1, total - before))
    numbers = [{"SegmentNumber": number} for number in range(1, segments + 1)]
    part = {"ConcatenationUID": "1.9", "ConcatenationFrameOffsetNumber": before, "NumberOfFrames": n_frames}
    tables = explode("1.2", slide(columns, rows, 1, segments, SegmentSequence=numbers) | part, {})
    shown = [row["ReferencedSegmentNumber"] for row in tables["frames_functional"]]
    assert len(shown) == n_frames
    assert shown == [[1 + number // (columns * rows)] for number in range(before, before + n_frames)]
    for row in tables["segments"]:
        assert row["n_frames"] == shown.count([row["SegmentNumber"]])


@pytest.mark.parametrize(
    "change",
    [
        {"NumberOfFrames": 11},
        {"NumberOfFrames": 13},
        {"TotalPixelMatrixColumns": None},
        {"Rows": 0},
        {"DimensionOrganizationType": None},
    ],
)
def test_frames_that_cannot_be_told_are_null_and_never_zero(change):
    attributes = slide(3, 2, 1, 2, SegmentSequence=[{"SegmentNumber": 1}, {"SegmentNumber": 2}]) | change
    tables = explode("1.2", attributes, {})
    assert [row.get("n_frames") for row in tables["segments"]] == [None, None]
    frames = tables["frames_functional"]
    assert len(frames) == int(attributes["NumberOfFrames"])
    assert not any(name in row for row in frames for name in (*PLACE, "ReferencedSegmentNumber"))
    reasons = [row["reason"] for row in tables.get("skipped_content", ())]
    assert reasons == (["the frames are not as many as the tiles"] if attributes["DimensionOrganizationType"] else [])


def test_frames_of_which_one_names_no_segment_cannot_be_counted():
    named = {"SegmentIdentificationSequence": [{"ReferencedSegmentNumber": 1}]}
    attributes = {"SegmentSequence": [{"SegmentNumber": 1}], "PerFrameFunctionalGroupsSequence": [named, {}]}
    (row,) = explode("1.2", attributes, {})["segments"]
    assert row.get("n_frames") is None


def test_what_a_frame_says_itself_counts_before_its_place_in_the_order():
    own = {"PlanePositionSlideSequence": [{PLACE[0]: 7}]}
    attributes = slide(2, 1, 1, 1, PerFrameFunctionalGroupsSequence=[{}, own])
    rows = explode("1.2", attributes, {})["frames_functional"]
    assert [[row[name] for name in PLACE] for row in rows] == [[1, 1], [7, 1]]


@pytest.mark.parametrize("number", [MAX_ROWS + 5, None, "many", -1])
def test_more_frames_than_rows_and_no_number_of_frames_are_said(number):
    attributes = {"SharedFunctionalGroupsSequence": [{}], "NumberOfFrames": number}
    tables = explode("1.2", attributes, {})
    is_large = number == MAX_ROWS + 5
    assert len(tables.get("frames_functional", ())) == (MAX_ROWS if is_large else 0)
    (row,) = tables["skipped_content"]
    assert (row["reason"], row["n_skipped"]) == (
        (f"more than {MAX_ROWS} rows", 5) if is_large else ("no number of frames", 1)
    )


def test_tiles_of_a_real_slide(sample):
    dataset, tables = sample("highdicom/sm_image.dcm")
    rows = tables["frames_functional"]
    assert len(rows) == dataset.NumberOfFrames
    assert [row[PLACE[0]] for row in rows] == [1, 11, 21, 31, 41] * 5
    assert {row["OpticalPathIdentifier"] for row in rows} == {dataset.OpticalPathSequence[0].OpticalPathIdentifier}


@pytest.mark.skipif(not CORPUS, reason="AHI_DICOM_CORPUS names no folder")
def test_segments_of_a_real_tiled_segmentation():
    (path,) = Path(CORPUS).rglob("seg_image_sm_dots_tiled_full.dcm")
    tables = exploded(path.read_bytes())
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    assert len(tables["frames_functional"]) == dataset.NumberOfFrames == 1250
    assert [row["n_frames"] for row in tables["segments"]] == [25] * len(dataset.SegmentSequence)
