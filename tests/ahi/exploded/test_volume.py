"""Is a series a regularly spaced volume, and if not, why."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahi.exploded import explode
from ahi.exploded.volume import CHECKS, _unit_normal, geometry
from ahi.index.columnar import Rows
from ahi.index.tables_exploded import SERIES_GEOMETRY
from tests.ahi.exploded.conftest import SAMPLES, attributes_of
from tests.ahi.exploded.test_objects import enhanced_mr

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def slice_(z: float, **cells) -> dict:
    return {
        "SOPInstanceUID": f"1.{z}",
        "Rows": 256,
        "Columns": 192,
        "PixelSpacing": [0.5, 0.5],
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [-100.0, -120.0, z],
        **cells,
    }


def shape(slices: list[dict], frames=(), frame_of_reference: str | None = "1.2.3") -> dict:
    row = geometry(Rows.of(slices, {}), frames, frame_of_reference)
    assert row.keys() <= {column.name for column in SERIES_GEOMETRY.columns}
    return row


def test_a_regular_volume():
    slices = [slice_(z) for z in (10.0, 2.5, 7.5, 5.0)]
    row = shape(slices)
    assert (row["is_regular"], row["reason_not_regular"]) == (True, None)
    assert all(row[check] is True for check in CHECKS)
    assert (row["slice_spacing_mm"], row["matrix_ijk"], row["pixel_spacing_mm"]) == (2.5, [192, 256, 4], [0.5, 0.5])
    assert (row["origin"], row["slice_normal"], row["plane"]) == ([-100.0, -120.0, 2.5], [0.0, 0.0, 1.0], "axial")
    assert (row["is_4d"], row["n_per_position"], row["gap_positions"]) == (False, 1, None)
    assert row["obliqueness_degrees"] == 0.0


def test_a_negative_zero_of_a_plane_changes_nothing_whatever_came_before():
    signed = [1.0, -0.0, -0.0, -0.0, 1.0, -0.0]
    for planes in ((signed, AXIAL), (AXIAL, signed)):
        _unit_normal.cache_clear()
        found = [shape([slice_(z, ImageOrientationPatient=plane) for z in (1.0, 2.0)]) for plane in planes]
        assert [str(row["slice_normal"]) for row in found] == ["[0.0, 0.0, 1.0]"] * 2


@pytest.mark.parametrize(
    ("reason", "slices"),
    [
        ("has_positions", [slice_(0), slice_(1, ImagePositionPatient=None)]),
        ("has_positions", [slice_(0), slice_(1, ImagePositionPatient=[0.0, 1e300, 0.0])]),
        ("one_orientation", [slice_(0), slice_(1, ImageOrientationPatient=[0.0, 1.0, 0.0, 0.0, 0.0, -1.0])]),
        ("orthonormal", [slice_(z, ImageOrientationPatient=[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]) for z in (0, 1)]),
        ("orthonormal", [slice_(z, ImageOrientationPatient=[0.0] * 6) for z in (0, 1)]),
        ("one_matrix", [slice_(0), slice_(1, Rows=128)]),
        ("one_pixel_spacing", [slice_(0), slice_(1, PixelSpacing=[0.5, 0.6])]),
        ("one_pixel_spacing", [slice_(z, PixelSpacing=None) for z in (0, 1)]),
        ("enough_slices", [slice_(0)]),
        ("unique_positions", [slice_(0), slice_(1), slice_(1), slice_(2)]),
        ("aligned_positions", [slice_(z, ImagePositionPatient=[0.0, 0.3 * z, z]) for z in (0.0, 1.0, 2.0)]),
        ("no_gaps", [slice_(z) for z in (0, 1, 2, 4, 5)]),
        ("equal_spacing", [slice_(z) for z in (0, 1, 2.2, 3.2, 4)]),
    ],
)
def test_reasons(reason, slices):
    row = shape(slices)
    assert (row["is_regular"], row["reason_not_regular"]) == (False, reason)


def test_frames_of_reference():
    slices = [slice_(0), slice_(1)]
    assert shape(slices, frame_of_reference=None)["reason_not_regular"] == "one_frame_of_reference"
    assert shape([slice_(0, FrameOfReferenceUID="1.9"), slice_(1)])["reason_not_regular"] == "one_frame_of_reference"
    assert shape([slice_(z, FrameOfReferenceUID="1.9") for z in (0, 1)], frame_of_reference=None)["is_regular"]
    odd: Any = ["1.9"]
    assert shape([slice_(0), slice_(1)], frame_of_reference=odd)["reason_not_regular"] == "one_frame_of_reference"


def test_where_gaps_begin():
    row = shape([slice_(z) for z in (-3, -2, -1, 2, 3)])
    assert (row["gap_positions"], row["slice_spacing_mm"], row["n_positions"]) == ([2.0], 1.0, 5)


def test_time_points_at_the_same_places_are_a_regular_volume_of_four_dimensions():
    row = shape([slice_(z) for _ in range(5) for z in (0, 2, 4)])
    assert (row["is_regular"], row["is_4d"], row["n_per_position"], row["matrix_ijk"]) == (True, True, 5, [192, 256, 3])


def test_without_pixels_there_is_no_row():
    assert shape([slice_(0, Rows=None)]) == {}


def test_an_oblique_plane_is_named_after_the_nearest():
    turned = [1.0, 0.0, 0.0, 0.0, math.cos(math.radians(10)), math.sin(math.radians(10))]
    normal = (0.0, -turned[5], turned[4])
    slices = [
        slice_(n, ImageOrientationPatient=turned, ImagePositionPatient=[3 * n * one for one in normal])
        for n in range(4)
    ]
    row = shape(slices)
    assert (row["is_regular"], row["plane"]) == (True, "axial")
    assert row["obliqueness_degrees"] == pytest.approx(10)
    assert row["slice_spacing_mm"] == pytest.approx(3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.3, 10), st.integers(3, 60), st.floats(-2000, 2000), st.integers(4, 8))
def test_rounding_to_decimal_strings_breaks_no_volume(seed, spacing, count, far, digits):
    """Any orientation, far from the isocentre, with as many decimals as senders write."""
    source = random.Random(seed)
    a, b = [[source.gauss(0, 1) for _ in range(3)] for _ in range(2)]
    length = math.hypot(*a)
    rows = [one / length for one in a]
    along = sum(x * y for x, y in zip(rows, b, strict=True))
    rest = [y - along * x for x, y in zip(rows, b, strict=True)]
    columns = [one / math.hypot(*rest) for one in rest]
    normal = (
        rows[1] * columns[2] - rows[2] * columns[1],
        rows[2] * columns[0] - rows[0] * columns[2],
        rows[0] * columns[1] - rows[1] * columns[0],
    )
    plane = [round(one, 6) for one in (*rows, *columns)]
    slices = [
        slice_(
            n,
            ImageOrientationPatient=plane,
            ImagePositionPatient=[round(far + n * spacing * one, digits) for one in normal],
        )
        for n in range(count)
    ]
    source.shuffle(slices)
    row = shape(slices)
    assert row["is_regular"], row["reason_not_regular"]
    assert row["slice_spacing_mm"] == pytest.approx(spacing, rel=1e-3)


def real(folder: str) -> list[dict]:
    def cells(one: dict) -> dict:
        names = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
        numbers = {name: [float(value) for value in one[name]] for name in names}
        return {name: one[name] for name in ("SOPInstanceUID", "Rows", "Columns")} | numbers

    return [cells(attributes_of(path.read_bytes())[0]) for path in sorted((SAMPLES / folder).iterdir())]


@pytest.mark.parametrize(
    ("folder", "reason", "spacing"),
    [
        ("pydicom/CT5N", None, 2.5),
        ("pydicom/CT2", "no_gaps", 1.25),
        ("pydicom/CT2N", "one_orientation", None),
        ("pydicom/MR700", "one_orientation", None),
        ("dcm_qa_nih/mr_0004", "unique_positions", None),
    ],
)
def test_real_series(folder, reason, spacing):
    """Slices of a chest, two stacks far apart, scouts in two planes, radial scouts, an incomplete time series."""
    row = shape(real(folder))
    assert row["reason_not_regular"] == reason
    if spacing:
        assert row["slice_spacing_mm"] == pytest.approx(spacing, abs=1e-6)
        assert row["matrix_ijk"] == [16, 16, len(real(folder))]
        assert row["plane"] == "axial"


def test_frames_of_an_enhanced_object_are_its_slices():
    from tests.ahi.exploded.conftest import as_bytes

    attributes, _ = attributes_of(as_bytes(enhanced_mr(), "1.2.840.10008.5.1.4.1.1.4.1"))
    frames = explode("1.2.3", attributes, {})["frames_functional"]
    row = shape([{"SOPInstanceUID": "1.2.3", "Rows": 64, "Columns": 32}], frames)
    assert (row["is_regular"], row["is_4d"], row["slice_spacing_mm"], row["n_slices"]) == (True, True, 2.5, 6)
    assert (row["matrix_ijk"], row["n_per_position"], row["pixel_spacing_mm"]) == ([32, 64, 3], 2, [2.0, 2.0])
