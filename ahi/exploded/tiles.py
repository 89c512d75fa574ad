"""Frames of a slide whose order is implied. Belongs here: which frame is which tile (PS3.3 C.7.6.17.3, TILED_FULL).

Does not belong here: what functional groups say of frames (`frames`), rows of segments (`segments`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ahi.exploded.notes import text
from ahi.index.columns import Tier, dicom
from ahi.index.values import cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.exploded.notes import Item, Notes

FULL, LABEL_MAP = "TILED_FULL", "LABELMAP"
_NUMBER = dicom("Instance", "NumberOfFrames", 0x00280008, "IS", "1", Tier.DEIDENTIFIED, "A number.")


@dataclass(frozen=True)
class Tiles:
    """Tiles of a whole slide: row by row from the top left, then the next focal plane, then the next channel.

    A channel is a segment or an optical path.

    Attributes:
        width: Columns of a tile.
        height: Rows of a tile.
        n_across: Tiles beside each other.
        n_plane: Tiles of a focal plane.
        n_channel: Tiles of a channel.
        n_before: Frames of the concatenation before those of this object.
        n_frames: Frames of this object.
    """

    width: int
    height: int
    n_across: int
    n_plane: int
    n_channel: int
    n_before: int
    n_frames: int

    def place(self, frame_number: int) -> tuple[int, int, int]:
        """Channel of a frame, from 0; first column and first row of its tile, from 1."""
        channel, tile = divmod(self.n_before + frame_number - 1, self.n_channel)
        down, across = divmod(tile % self.n_plane, self.n_across)
        return channel, across * self.width + 1, down * self.height + 1

    def n_frames_of(self, channel: int) -> int:
        """How many frames of this object are of a channel."""
        first, last = channel * self.n_channel, (channel + 1) * self.n_channel
        return max(0, min(last, self.n_before + self.n_frames) - max(first, self.n_before))


def is_full(attributes: Mapping[str, Any]) -> bool:
    """Whether the order of an object's frames says which tile each is."""
    return text(attributes, "DimensionOrganizationType") == FULL


def channels_of(attributes: Mapping[str, Any], notes: Notes) -> list[Item]:
    """Segments or optical paths in their order; one that says nothing for an object without any, and a label map."""
    name = "SegmentSequence" if "SegmentSequence" in attributes else "OpticalPathSequence"
    return [{}] if text(attributes, "SegmentationType") == LABEL_MAP else notes.items(attributes, name) or [{}]


def tiles_of(attributes: Mapping[str, Any], n_channels: int) -> Tiles | None:
    """The tiles of an object; None when its frames have another order, or are not as many as its tiles."""
    if not is_full(attributes):
        return None
    width, height, n_frames = (whole(attributes, name) for name in ("Columns", "Rows", "NumberOfFrames"))
    columns, rows = whole(attributes, "TotalPixelMatrixColumns"), whole(attributes, "TotalPixelMatrixRows")
    if not (width and height and n_frames and columns and rows):
        return None
    n_across = -(-columns // width)
    n_plane = n_across * -(-rows // height)
    n_channel = n_plane * (whole(attributes, "TotalPixelMatrixFocalPlanes") or 1)
    n_before = whole(attributes, "ConcatenationFrameOffsetNumber")
    n_after = n_channel * n_channels - n_before - n_frames
    # A part of a concatenation has some of the tiles.
    if n_after < 0 or (n_after > 0 and "ConcatenationUID" not in attributes):
        return None
    return Tiles(width, height, n_across, n_plane, n_channel, n_before, n_frames)


def whole(attributes: Mapping[str, Any], keyword: str) -> int:
    """A whole number from 1 on; 0 for anything else."""
    number = cast(_NUMBER, attributes.get(keyword), [])
    return number if isinstance(number, int) and number > 0 else 0
