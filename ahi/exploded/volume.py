"""Shape of a series in space. Belongs here: is it a regularly spaced volume, and if not, why (`series_geometry`).

Does not belong here: reading positions (`ahi.documents`, `frames`).

Tolerances, chosen above what rounding to decimal strings does and below what a resampler would notice:
direction cosines 1e-4 from those of the first slice, and 1e-3 from unit length and right angles; pixel spacing 1e-4 of
itself; places in the plane 0.05 mm or 5 % of a pixel, the larger; places along the normal 0.01 mm or 1 % of the
spacing, the larger, from the grid that fits best. Positions nearer than 0.005 mm are one. A gap is a distance of 1.5
times the median or more. Sums are exact (`math.fsum`) and taken from the first position, so that large coordinates,
as tables far from the isocentre have, cost no digits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import chain, pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ahi.exploded.notes import Row
    from ahi.index.columnar import Rows

Vector = tuple[float, float, float]

COSINES, UNIT, SPACING = 1e-4, 1e-3, 1e-4
IN_PLANE_MM, IN_PLANE_PIXELS = 0.05, 0.05
ALONG_MM, ALONG = 0.01, 0.01
SAME_PLACE_MM = 0.005
GAP = 1.5
# No scanner is larger; squares of larger numbers may leave what a float can hold.
FARTHEST_MM = 1e6
CHECKS = (
    "has_positions",
    "one_frame_of_reference",
    "one_orientation",
    "orthonormal",
    "one_matrix",
    "one_pixel_spacing",
    "enough_slices",
    "unique_positions",
    "aligned_positions",
    "no_gaps",
    "equal_spacing",
)
_OF_OBJECT = ("SOPInstanceUID", "Rows", "Columns", "FrameOfReferenceUID")
_OF_FRAME = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
NEEDED = (*_OF_OBJECT, *_OF_FRAME)
_PLANES = ("sagittal", "coronal", "axial")


def normal_of(orientation: Sequence[float]) -> Vector:
    """Rows x columns of direction cosines."""
    a, b, c, d, e, f = orientation
    return (b * f - c * e, c * d - a * f, a * e - b * d)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _vector(value: object, size: int) -> list[float] | None:
    """A cell of so many numbers; None when it has another number of them, or one is missing or out of this world."""
    if not isinstance(value, list) or len(value) != size or None in value:
        return None
    # The smallest and the largest of a NaN and something are any of the two; the sum shows it.
    near = max(value) <= FARTHEST_MM and min(value) >= -FARTHEST_MM and math.isfinite(sum(value))
    return value if near else None


def _vectors(cells: Sequence[Any], size: int) -> list[list[float] | None]:
    """The cells of all slices; where all are the same or as they should be, they are not looked at one by one."""
    if cells.count(cells[0]) == len(cells):
        return [_vector(cells[0], size)] * len(cells)
    if set(map(type, cells)) == {list} and set(map(len, cells)) == {size}:
        flat = list(chain.from_iterable(cells))
        # The sum shows a NaN, which is neither large nor small.
        if None not in flat and max(flat) <= FARTHEST_MM and min(flat) >= -FARTHEST_MM and math.isfinite(sum(flat)):
            return list(cells)
    return [_vector(one, size) for one in cells]


def position_along_normal(row: Mapping[str, Any]) -> float | None:
    """ImagePositionPatient along the normal of ImageOrientationPatient, in mm."""
    plane, point = _vector(row.get("ImageOrientationPatient"), 6), _vector(row.get("ImagePositionPatient"), 3)
    if plane is None or point is None:
        return None
    along = _dot(normal_of(plane), point)
    return along if math.isfinite(along) else None


def geometry(instances: Rows, frames: Sequence[Row] = (), frame_of_reference: object = None) -> Row:
    """Row of `series_geometry`; own columns only, and empty for a series without pixels.

    Args:
        instances: Typed rows of the series' instances.
        frames: Rows of `frames_functional`; each is a slice, instead of the instance that it belongs to.
        frame_of_reference: FrameOfReferenceUID of the series; an instance's own counts more.
    """
    slices = _slices(instances, frames)
    return geometry_of(slices, frame_of_reference) if len(slices["Rows"]) else {}


def geometry_of(slices: Mapping[str, Sequence[Any]], frame_of_reference: object = None) -> Row:
    """Row of `series_geometry`, as `geometry` makes it, of at least one slice: `NEEDED` by column."""
    row: Row = dict.fromkeys(CHECKS)
    row |= {"n_slices": len(slices["Rows"])}
    shapes = set(zip(slices["Rows"], slices["Columns"], strict=True))
    row["one_matrix"] = len(shapes) == 1 and None not in next(iter(shapes))
    # A document may have anything in its place.
    of_series = frame_of_reference if isinstance(frame_of_reference, str) else None
    references = {one or of_series for one in set(slices["FrameOfReferenceUID"])}
    row["one_frame_of_reference"] = len(references) == 1 and None not in references
    _spacing(row, slices["PixelSpacing"])
    planes = _vectors(slices["ImageOrientationPatient"], 6)
    points = _vectors(slices["ImagePositionPatient"], 3)
    row["has_positions"] = all(planes) and all(points)
    if row["has_positions"]:
        _place(row, cast("list[list[float]]", planes), cast("list[list[float]]", points))
        if row["one_matrix"] and row.get("n_positions"):
            row["matrix_ijk"] = [slices["Columns"][0], slices["Rows"][0], row["n_positions"]]
    failed = next((check for check in CHECKS if not row[check]), None)
    row["is_regular"], row["reason_not_regular"] = failed is None, failed
    return row


def _slices(instances: Rows, frames: Sequence[Row]) -> dict[str, Sequence[Any]]:
    """What has a place, by column: frames of enhanced objects, and other instances with pixels."""
    cells = {name: instances.values(name) for name in NEEDED}
    uids, rows = cells["SOPInstanceUID"], cells["Rows"]
    enhanced = {frame.get("SOPInstanceUID") for frame in frames}
    if not frames and None not in rows:
        return cells
    whole = [n for n, height in enumerate(rows) if height is not None and uids[n] not in enhanced]
    by_uid = {uid: n for n, uid in enumerate(uids)}
    # A frame has its place in its functional groups, and its matrix from the object.
    placed = [(n, frame) for frame in frames if (n := by_uid.get(frame.get("SOPInstanceUID"), -1)) >= 0]
    found = {name: [cells[name][n] for n in (*whole, *(n for n, _ in placed))] for name in _OF_OBJECT}
    return found | {
        name: [*(cells[name][n] for n in whole), *(frame.get(name) for _, frame in placed)] for name in _OF_FRAME
    }


def _spacing(row: Row, cells: Sequence[Any]) -> None:
    spacings = _vectors(cells, 2)
    first = spacings[0]
    if first is None or not all(value > 0 for value in first):
        row["one_pixel_spacing"] = False
        return
    same = _all_near(spacings, first, lambda value: SPACING * abs(value))
    row["one_pixel_spacing"] = same
    row["pixel_spacing_mm"] = list(first) if same else None


def _all_near(vectors: Sequence[list[float] | None], first: list[float], allowed: Callable[[float], float]) -> bool:
    # Most slices have the very values of the first.
    return vectors.count(first) == len(vectors) or all(
        one == first or (one is not None and all(abs(a - b) <= allowed(b) for a, b in zip(one, first, strict=True)))
        for one in vectors
    )


def _place(row: Row, planes: Sequence[list[float]], points: Sequence[list[float]]) -> None:
    """Everything that positions and orientations say."""
    plane = planes[0]
    row["orientation"] = list(plane)
    row["one_orientation"] = _all_near(planes, plane, lambda _: COSINES)
    normal = _unit_normal(tuple(plane))
    row["orthonormal"] = normal is not None
    if normal is None:
        return
    row["slice_normal"] = list(normal)
    nearest = max(range(3), key=lambda axis: abs(normal[axis]))
    row["plane"] = _PLANES[nearest]
    row["obliqueness_degrees"] = math.degrees(math.acos(min(1.0, abs(normal[nearest]))))
    if row["one_orientation"]:
        _along(row, normal, points)


# Most series of an archive lie in one of a few planes.
@lru_cache(1024)
def _unit_normal(plane: tuple[float, ...]) -> Vector | None:
    """Normal of unit length; None where the direction cosines are not of unit length and at right angles."""
    rows, columns = plane[:3], plane[3:]
    lengths = (_dot(rows, rows), _dot(columns, columns))
    if abs(_dot(rows, columns)) > UNIT or any(abs(math.sqrt(length) - 1) > UNIT for length in lengths):
        return None
    normal = normal_of(plane)
    length = math.sqrt(_dot(normal, normal))
    # Without a negative zero: the cache takes both zeros of a plane for one, and answers would hang on what came first.
    return (normal[0] / length + 0.0, normal[1] / length + 0.0, normal[2] / length + 0.0)


def _along(row: Row, normal: Vector, points: Sequence[list[float]]) -> None:
    """Places along the normal: how many, how often, how far apart, how far beside the line."""
    if len(points) == 1:
        # Alone it is at one place, once, and beside no line.
        row |= {"origin": list(points[0]), "n_positions": 1, "n_per_position": 1, "unique_positions": True}
        row |= {"is_4d": False, "enough_slices": False, "aligned_positions": True}
        return
    start = points[0]
    # Written out, as most of the time of this module was here.
    (sx, sy, sz), (nx, ny, nz) = start, normal
    offsets = [(x - sx, y - sy, z - sz) for x, y, z in points]
    placed = sorted([(nx * x + ny * y + nz * z, at) for at, (x, y, z) in enumerate(offsets)])
    base = placed[0][0]
    places: list[float] = []
    counts: list[int] = []
    afar = [along - base for along, _ in placed]
    for far in afar:
        if places and far - places[-1] <= SAME_PLACE_MM:
            counts[-1] += 1
        else:
            places.append(far)
            counts.append(1)
    fx, fy, fz = offsets[placed[0][1]]
    row["origin"] = list(points[placed[0][1]])
    row["n_positions"] = len(places)
    even = len(set(counts)) == 1
    row["n_per_position"] = counts[0] if even else None
    row["unique_positions"], row["is_4d"] = even, even and counts[0] > 1 and len(places) > 1
    row["enough_slices"] = len(places) > 1
    squares = [
        (x - fx - far * nx) ** 2 + (y - fy - far * ny) ** 2 + (z - fz - far * nz) ** 2
        for far, (x, y, z) in zip(afar, [offsets[at] for _, at in placed], strict=True)
    ]
    beside = math.sqrt(max(squares))
    spacing = row.get("pixel_spacing_mm")
    pixel = min(spacing) if isinstance(spacing, list) else 0.0
    row["aligned_positions"] = beside <= max(IN_PLANE_MM, IN_PLANE_PIXELS * pixel)
    if len(places) > 1:
        _grid(row, places)


def _grid(row: Row, places: Sequence[float]) -> None:
    """The equally spaced grid that fits best, and where it is left."""
    steps = [b - a for a, b in pairwise(places)]
    usual = median(steps)
    gaps = [place for place, step in zip(places, steps, strict=False) if step >= GAP * usual]
    row["no_gaps"], row["gap_positions"] = not gaps, gaps or None
    count = len(places)
    middle, mean = (count - 1) / 2, math.fsum(places) / count
    squares = count * (count * count - 1) / 12
    fitted = math.fsum((number - middle) * (place - mean) for number, place in enumerate(places)) / squares
    errors = [abs(place - mean - (number - middle) * fitted) for number, place in enumerate(places)]
    row["slice_spacing_mm"] = usual if gaps else fitted
    row["max_spacing_error_mm"] = max(errors)
    row["equal_spacing"] = max(errors) <= max(ALONG_MM, ALONG * fitted)
