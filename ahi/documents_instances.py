"""Rows of instances and frames from a metadata document. Belongs here: what a document says of them, column by column.

Does not belong here: the series above them (`ahi.documents_series`), types of values (`ahi.index.values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ahi.documents_form import (
    DocumentError,
    all_as_json,
    as_json,
    floats,
    items,
    mapping,
    texts,
    transposed,
    wholes,
    width,
)
from ahi.exploded.volume import normal_of
from ahi.index.casting import caster
from ahi.index.columnar import Rows
from ahi.index.keywords_instance import INSTANCE
from ahi.index.sop_classes import SOP_CLASSES
from ahi.index.values import parse_offset

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from ahi.index.casting import Caster, Failures

Row = dict[str, object]

OFFSET = "TimezoneOffsetFromUTC"
_PLANE, _POINT = 6, 3
# Of a digest; 128 bits tell the instances of any archive apart.
_DIGITS = 32
_WIDTH = itemgetter("Width")
_LEVELS = "PixelDataChecksumFromBaseToFullResolution"
_REFERENCES = {
    "referenced_sop_instance_uids": "ReferencedSOPInstanceUID",
    "referenced_series_uids": "referenced_series_uid",
}
_OWN = [column for column in INSTANCE if column.name != "SOPInstanceUID"]
_CASTERS = list(map(caster, _OWN))


@dataclass(frozen=True)
class Source:
    """One series of a document, taken apart.

    Attributes:
        base: Columns that every row of it gets.
        inherited: Attributes of patient, study and series.
        uids: SOPInstanceUID of each instance.
        entries: What the document has of each instance.
        attributes: DICOM attributes of each instance.
        keys: Attributes that at least one instance has.
        offsets: Offset from UTC of each instance.
        columns: Values of each attribute, where all instances have the same attributes in the same order.
        told: The same of what the document has of each instance.
        vrs: VRs of the private attributes of each instance; empty when none has any.
    """

    base: Row
    inherited: Mapping[str, Any]
    uids: Sequence[str]
    entries: Sequence[Mapping[str, Any]]
    attributes: Sequence[Mapping[str, Any]]
    keys: frozenset[str]
    offsets: Sequence[dt.timezone | None]
    columns: Mapping[str, Sequence[Any]]
    told: Mapping[str, Sequence[Any]]
    vrs: Sequence[Mapping[str, Any]]

    def entry(self, key: str) -> Sequence[Any]:
        """What the document has of each instance under a key; None where it has not got it."""
        return self.told.get(key) or [entry.get(key) for entry in self.entries]

    def own(self, name: str) -> Sequence[Any]:
        """Values of an attribute of the instances themselves, one for each; None for one that has not got it."""
        return self.columns.get(name) or [one.get(name) for one in self.attributes]

    def raw(self, name: str) -> list[Any] | None:
        """Values of an attribute as sent, one for each instance; None when neither instances nor levels above have it.

        An instance's own value counts before that of the levels above, also when it is null.
        """
        above = self.inherited.get(name)
        if name in self.columns:
            return list(self.columns[name])
        if name in self.keys:
            return [one.get(name, above) for one in self.attributes]
        return None if above is None else [above] * len(self.uids)

    def typed(self, one: Caster, failures: Failures) -> tuple[bool, Any] | None:
        """Typed values of an attribute, as `Caster.all` gives them; None when nobody has it."""
        values: Sequence[Any] | None = self.columns.get(one.name)
        if values is None and one.name in self.keys:
            values = self.raw(one.name)
        if values is None:
            above = self.inherited.get(one.name)
            if above is None or not self.uids:
                return None
            values = [above] * len(self.uids)
        return one.all(values, failures, self.offsets)


def take_apart(base: Row, inherited: Mapping[str, Any], series: Mapping[str, Any]) -> Source:
    """The instances of a series, checked for their form."""
    instances = mapping(series, "Instances")
    entries = list(instances.values())
    if not set(map(type, entries)) <= {dict}:
        raise DocumentError("an instance is missing or not an object.")
    told = transposed(entries)[1]
    attributes: Sequence[Mapping[str, Any]] = told.get("DICOM", ())
    if set(map(type, attributes)) != {dict}:
        attributes = [mapping(entry, "DICOM") for entry in entries]
    offset = parse_offset(inherited.get(OFFSET))
    offsets: list[dt.timezone | None] = [offset] * len(entries)
    keys, columns = transposed(attributes)
    if OFFSET in columns:
        offsets = list(map(parse_offset, columns[OFFSET]))
    elif OFFSET in keys:
        offsets = [parse_offset(one[OFFSET]) if OFFSET in one else offset for one in attributes]
    vrs = vrs_of(told, entries)
    return Source(base, inherited, list(instances), entries, attributes, keys, offsets, columns, told, vrs)


def vrs_of(told: Mapping[str, Sequence[Any]], entries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """VRs of the private attributes of each instance; empty when none has any."""
    vrs: Sequence[Any] = told.get("DICOMVRs") or [entry.get("DICOMVRs") for entry in entries]
    return [one if isinstance(one, dict) else {} for one in vrs] if any(vrs) else []


def _instance_rows(source: Source, frames: Sequence[Sequence[Any]]) -> Rows:
    """Rows of `instances`; `frames` are the frames of each."""
    rows = Rows(len(source.uids), dict(source.base))
    failures: Failures = {}
    present = source.keys | source.inherited.keys()
    for one in _CASTERS:
        if one.name in present and (cells := source.typed(one, failures)) is not None:
            rows.put(one.name, cells)
    rows.columns |= {
        "SOPInstanceUID": list(source.uids),
        "has_pixel_data": [bool(one) for one in frames],
        "n_frames": [len(one) for one in frames],
        "slice_position_mm": _slice_positions(rows),
    }
    rows.put("n_elements", same(list(map(len, source.attributes))))
    rows.put("n_private_elements", same(list(map(len, source.vrs))) if source.vrs else (True, 0))
    rows.put("cast_failures", failed(failures, rows.n_rows))
    rows.put("stored_transfer_syntax_uid", same(texts(source.entry("StoredTransferSyntaxUID"))))
    rows.put("checksum_type", same(texts(source.entry("ChecksumType"))))
    classes = rows.columns.get("SOPClassUID") or [rows.constants.get("SOPClassUID")]
    rows.put("sop_class_name", same([SOP_CLASSES.get(uid) for uid in classes]))
    return rows


def instance_tables(source: Source) -> dict[str, Rows]:
    """Rows of `instances`, `instance_metadata` and `frames`."""
    frames = _frames_of(source)
    instances, metadata = _instance_rows(source, frames), _metadata_rows(source)
    _add_hashes(instances, metadata)
    return {"instances": instances, "instance_metadata": metadata, "frames": _frame_rows(source, frames)}


def failed(failures: Failures, n_rows: int) -> tuple[bool, Any]:
    """Column `cast_failures`, as `Rows.put` takes it."""
    if not failures:
        return True, None
    return False, [[failure.as_row() for failure in failures[n]] if n in failures else None for n in range(n_rows)]


def _frames_of(source: Source) -> list[list[Any]]:
    """The frames of each instance, checked for their form."""
    frames = list(source.entry("ImageFrames"))
    if set(map(type, frames)) != {list}:
        frames = [items(entry, "ImageFrames") for entry in source.entries]
    if not set(map(type, chain.from_iterable(frames))) <= {dict}:
        raise DocumentError("An entry of ImageFrames is not an object.")
    return frames


def _frame_rows(source: Source, frames: Sequence[Sequence[Mapping[str, Any]]]) -> Rows:
    """Rows of `frames`."""
    every = list(chain.from_iterable(frames))
    told = transposed(every)[1]

    def each(key: str) -> Sequence[Any]:
        return told.get(key) or [frame.get(key) for frame in every]

    levels = list(each(_LEVELS))
    if set(map(type, levels)) != {list}:
        levels = [items(frame, _LEVELS) for frame in every]
    if not set(map(type, chain.from_iterable(levels))) <= {dict}:
        raise DocumentError("A checksum of a frame is not an object.")
    try:
        full: list[Mapping[str, Any]] = [max(one, key=_WIDTH, default={}) for one in levels]
    except (KeyError, TypeError):
        full = [max(one, key=width, default={}) for one in levels]
    return Rows(
        len(every),
        dict(source.base),
        {
            "SOPInstanceUID": [uid for uid, one in zip(source.uids, frames, strict=True) for _ in one],
            "frame_number": [number for one in frames for number in range(1, len(one) + 1)],
            "frame_id": texts(each("ID")),
            "width": wholes([level.get("Width") for level in full], "Width", 2**31),
            "height": wholes([level.get("Height") for level in full], "Height", 2**31),
            "crc32": wholes([level.get("Checksum") for level in full], "Checksum", 2**32),
            "n_resolutions": list(map(len, levels)),
            "min_pixel_value": floats(each("MinPixelValue"), "MinPixelValue"),
            "max_pixel_value": floats(each("MaxPixelValue"), "MaxPixelValue"),
            "frame_size_bytes": wholes(each("FrameSizeInBytes"), "FrameSizeInBytes", 2**63),
        },
    )


def _metadata_rows(source: Source) -> Rows:
    """Rows of `instance_metadata`."""
    rows = Rows(
        len(source.uids),
        dict(source.base),
        {"SOPInstanceUID": list(source.uids), "metadata_json": all_as_json(source.attributes)},
    )
    if source.vrs:
        rows.columns["vrs_json"] = [as_json(vrs) if vrs else None for vrs in source.vrs]
    return rows


def _add_hashes(instances: Rows, metadata: Rows) -> None:
    """Add `dataset_hash`: the document holds no file meta and no pixels, so its text of an instance is what counts."""
    own, vrs = metadata.columns["metadata_json"], metadata.columns.get("vrs_json")
    if vrs:
        own = [one + (more or b"") for one, more in zip(own, vrs, strict=True)]
    instances.columns["dataset_hash"] = [sha256(one).hexdigest()[:_DIGITS] for one in own]


def add_references(instances: Rows, references: Sequence[Row]) -> None:
    """Add what each instance refers to."""
    uids = instances.columns["SOPInstanceUID"]
    for name, target in _REFERENCES.items():
        found: dict[object, set[Any]] = {}
        for one in references:
            if one.get(target) is not None:
                found.setdefault(one.get("SOPInstanceUID"), set()).add(one[target])
        if found:
            instances.columns[name] = [sorted(found[uid]) if uid in found else None for uid in uids]


def same(values: Sequence[Any]) -> tuple[bool, Any]:
    """The values as `Rows.put` takes them: the one that all are, or a list."""
    if values and values.count(values[0]) == len(values):
        return True, values[0]
    return False, list(values)


def _slice_positions(rows: Rows) -> list[float | None]:
    """ImagePositionPatient along the normal of ImageOrientationPatient, in mm."""
    planes, points = rows.values("ImageOrientationPatient"), rows.values("ImagePositionPatient")
    if "ImageOrientationPatient" in rows.columns or not _are_vectors(planes[:1], _PLANE):
        return [_slice_position(plane, point) for plane, point in zip(planes, points, strict=True)]
    if not _are_vectors(points, _POINT):
        return [_slice_position(planes[0], point) for point in points]
    nx, ny, nz = normal_of(planes[0])
    return [float(nx * x + ny * y + nz * z) for x, y, z in points]


def _are_vectors(cells: Sequence[Any], size: int) -> bool:
    return all(cell is not None and len(cell) == size and None not in cell for cell in cells) and bool(cells)


def _slice_position(plane: list[Any] | None, point: list[Any] | None) -> float | None:
    if plane is None or point is None or len(plane) != _PLANE or len(point) != _POINT:
        return None
    if None in plane or None in point:
        return None
    (nx, ny, nz), (x, y, z) = normal_of(plane), point
    return float(nx * x + ny * y + nz * z)
