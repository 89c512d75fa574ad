"""Rows of instances and frames from a metadata document. Belongs here: what a document says of them, column by column.

Does not belong here: the series above them (`ahi.documents_series`), types of values (`ahi.index.values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ahi.documents_form import DocumentError, as_json, floats, items, mapping, text, wholes, width
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
_REFERENCES = {
    "referenced_sop_instance_uids": "ReferencedSOPInstanceUID",
    "referenced_series_uids": "referenced_series_uid",
}
_CASTERS = [caster(column) for column in INSTANCE if column.name != "SOPInstanceUID"]


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
    """

    base: Row
    inherited: Mapping[str, Any]
    uids: Sequence[str]
    entries: Sequence[Mapping[str, Any]]
    attributes: Sequence[Mapping[str, Any]]
    keys: frozenset[str]
    offsets: Sequence[dt.timezone | None]
    columns: Mapping[str, Sequence[Any]]
    """Values of each attribute, where all instances have the same attributes in the same order."""

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
    attributes = [mapping(entry, "DICOM") for entry in entries]
    offset = parse_offset(inherited.get(OFFSET))
    offsets: list[dt.timezone | None] = [offset] * len(entries)
    keys, columns = _transposed(attributes)
    if OFFSET in keys:
        offsets = [parse_offset(one[OFFSET]) if OFFSET in one else offset for one in attributes]
    return Source(base, inherited, list(instances), entries, attributes, keys, offsets, columns)


def _transposed(attributes: Sequence[Mapping[str, Any]]) -> tuple[frozenset[str], dict[str, Sequence[Any]]]:
    """Attributes that at least one instance has; their values, if all have the same in the same order, as most do."""
    first = list(attributes[0]) if attributes else []
    others = [one for one in attributes if list(one) != first]
    if not others:
        columns = zip(*(one.values() for one in attributes), strict=True)
        return frozenset(first), dict(zip(first, columns, strict=False))
    return frozenset(first).union(*others), {}


def instance_rows(source: Source, frames: Sequence[Sequence[Any]]) -> Rows:
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
    rows.put("n_elements", _same(list(map(len, source.attributes))))
    rows.put("n_private_elements", _same([len(vrs_of(entry)) for entry in source.entries]))
    rows.put("cast_failures", _failed(failures, rows.n_rows))
    rows.put("stored_transfer_syntax_uid", _texts(source.entries, "StoredTransferSyntaxUID"))
    rows.put("checksum_type", _texts(source.entries, "ChecksumType"))
    rows.put("sop_class_name", _same([SOP_CLASSES.get(uid) for uid in rows.values("SOPClassUID")]))
    return rows


def _failed(failures: Failures, n_rows: int) -> tuple[bool, Any]:
    if not failures:
        return True, None
    return False, [[failure.as_row() for failure in failures[n]] if n in failures else None for n in range(n_rows)]


def frames_of(source: Source) -> list[list[Any]]:
    """The frames of each instance, checked for their form."""
    frames = [items(entry, "ImageFrames") for entry in source.entries]
    if not {type(frame) for one in frames for frame in one} <= {dict}:
        raise DocumentError("An entry of ImageFrames is not an object.")
    return frames


def frame_rows(source: Source, frames: Sequence[Sequence[Mapping[str, Any]]]) -> Rows:
    """Rows of `frames`."""
    every = [frame for one in frames for frame in one]
    levels = [items(frame, "PixelDataChecksumFromBaseToFullResolution") for frame in every]
    if not {type(level) for one in levels for level in one} <= {dict}:
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
            "frame_id": [text(frame.get("ID")) for frame in every],
            "width": wholes([level.get("Width") for level in full], "Width", 2**31),
            "height": wholes([level.get("Height") for level in full], "Height", 2**31),
            "crc32": wholes([level.get("Checksum") for level in full], "Checksum", 2**32),
            "n_resolutions": [len(one) for one in levels],
            "min_pixel_value": floats([frame.get("MinPixelValue") for frame in every], "MinPixelValue"),
            "max_pixel_value": floats([frame.get("MaxPixelValue") for frame in every], "MaxPixelValue"),
            "frame_size_bytes": wholes([frame.get("FrameSizeInBytes") for frame in every], "FrameSizeInBytes", 2**63),
        },
    )


def metadata_rows(source: Source) -> Rows:
    """Rows of `instance_metadata`."""
    return Rows(
        len(source.uids),
        dict(source.base),
        {
            "SOPInstanceUID": list(source.uids),
            "metadata_json": [as_json(one) for one in source.attributes],
            "vrs_json": [as_json(vrs) if (vrs := vrs_of(entry)) else None for entry in source.entries],
        },
    )


def add_hashes(instances: Rows, metadata: Rows) -> None:
    """Add `dataset_hash`: the document holds no file meta and no pixels, so its text of an instance is what counts."""
    texts = zip(metadata.values("metadata_json"), metadata.values("vrs_json"), strict=True)
    instances.columns["dataset_hash"] = [sha256(own + (vrs or b"")).hexdigest()[:_DIGITS] for own, vrs in texts]


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


def vrs_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """VRs of the private attributes of an instance."""
    vrs = entry.get("DICOMVRs")
    return vrs if isinstance(vrs, dict) else {}


def _texts(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[bool, Any]:
    return _same([text(entry.get(key)) for entry in entries])


def _same(values: list[Any]) -> tuple[bool, Any]:
    if values and values.count(values[0]) == len(values):
        return True, values[0]
    return False, values


def _slice_positions(rows: Rows) -> list[float | None]:
    """ImagePositionPatient along the normal of ImageOrientationPatient, in mm."""
    planes, points = rows.values("ImageOrientationPatient"), rows.values("ImagePositionPatient")
    return [_slice_position(plane, point) for plane, point in zip(planes, points, strict=True)]


def _slice_position(plane: list[Any] | None, point: list[Any] | None) -> float | None:
    if plane is None or point is None or len(plane) != _PLANE or len(point) != _POINT:
        return None
    if None in plane or None in point:
        return None
    a, b, c, d, e, f = plane
    x, y, z = point
    return float((b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z)
