"""Where the emulated service keeps pixels: one file of frames for each import, rows that say where each frame lies.

Belongs here: bytes of frames, as they are stored. Does not belong here: decoding and encoding (`codecs.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredFrame:
    """One frame as it lies in the store.

    Attributes:
        data: The frame's own stream (native bytes, or all its fragments joined).
        syntax: Transfer syntax of `data`.
        stored_syntax: Transfer syntax in which GetImageFrame hands it out.
        rows: Height in pixels.
        columns: Width in pixels.
        samples: Samples per pixel.
        bits_allocated: Bits of a sample.
        bits_stored: Bits of a sample that carry a value.
        signed: Whether samples are signed.
        planar: Planar configuration of `data`.
        photometric: Photometric interpretation of `data`.
    """

    data: bytes
    syntax: str
    stored_syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: int
    photometric: str
