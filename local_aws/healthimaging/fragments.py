"""Pixel data in an object: its bytes by position, its fragments, and which of them make a frame.

Belongs here: PS3.5 annex A.4. Does not belong here: what the metadata says about a frame (`frames.py`).
"""

from __future__ import annotations

import base64
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    # First byte and number of bytes to those bytes (fewer at the end of the object).
    Fetch = Callable[[int, int], bytes]

# Of a large object so much is in memory at a time.
CHUNK_BYTES = 32 * 2**20
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_HEADER = 8
# JPEG and JPEG-LS, JPEG 2000 family, JPEG XL.
_STARTS = (b"\xff\xd8", b"\xff\x4f", b"\xff\x0a")
_END = b"\xff\xd9"
Fragment = tuple[int, int]


class CutError(Exception):
    """The object ends before its pixel data does."""


class Source:
    """The bytes of one object: all of them in memory, or the beginning, with the rest fetched in large ranges."""

    def __init__(self, data: bytes, fetch: Fetch | None = None, *, swap: int = 1, origin: int = 0) -> None:
        self._data = memoryview(data)
        self._fetch = fetch
        self._window = memoryview(b"")
        self._window_start = 0
        self._swap = swap
        self._origin = origin

    def view(self, start: int, length: int) -> memoryview:
        """So many bytes from a position on, in little endian order.

        Raises:
            CutError: The object has fewer.
        """
        if self._swap == 1:
            return self._raw(start, length)
        import numpy as np

        before = (start - self._origin) % self._swap
        after = -(before + length) % self._swap
        words = self._raw(start - before, before + length + after)
        swapped = np.frombuffer(words, f"u{self._swap}").byteswap().tobytes()
        return memoryview(swapped)[before : before + length]

    def _raw(self, start: int, length: int) -> memoryview:
        if start + length <= len(self._data):
            return self._data[start : start + length]
        begin = start - self._window_start
        if begin < 0 or begin + length > len(self._window):
            if self._fetch is None:
                raise CutError
            self._window = memoryview(b"")  # the old one goes before the new one comes
            self._window = memoryview(self._fetch(start, max(length, CHUNK_BYTES)))
            self._window_start, begin = start, 0
            if len(self._window) < length:
                raise CutError
        return self._window[begin : begin + length]

    def pieces(self, start: int, length: int) -> Iterator[memoryview]:
        """The same in pieces that fit into memory."""
        for offset in range(0, length, CHUNK_BYTES):
            yield self.view(start + offset, min(CHUNK_BYTES, length - offset))


def walk(source: Source, start: int) -> tuple[list[int], list[Fragment], int]:
    """Basic offset table, fragments (position and length of their content), and where the sequence ends.

    Raises:
        CutError: It does not end.
    """
    table: list[int] | None = None
    fragments: list[Fragment] = []
    position = start
    while True:
        header = bytes(source.view(position, _HEADER))
        position += _HEADER
        if header[:4] == _SEQUENCE_END:
            return table or [], fragments, position
        if header[:4] != _ITEM:
            raise CutError
        length = struct.unpack("<I", header[4:])[0]
        if table is None:
            if length > CHUNK_BYTES:
                raise CutError
            content = bytes(source.view(position, length))
            table = list(struct.unpack(f"<{length // 4}I", content[: length // 4 * 4]))
        else:
            fragments.append((position, length))
        position += length


def extended(value: object) -> list[int]:
    """Offsets of an Extended Offset Table as it stands in the document."""
    if not isinstance(value, str):
        return []
    raw = base64.b64decode(value)
    return list(struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8]))


def group(
    source: Source, fragments: list[Fragment], table: Sequence[int], count: int
) -> tuple[list[list[Fragment]], bool]:
    """Fragments by frame.

    Args:
        source: The object.
        fragments: All fragments.
        table: Offsets of the frames from the first fragment's item, or nothing.
        count: Number of frames that the object says.

    Returns:
        The fragments of each frame, and whether the offset table is invalid. No frames when they cannot be made out.
    """
    if table and fragments:
        first = fragments[0][0]
        where = {position - first: index for index, (position, _) in enumerate(fragments)}
        starts = [where.get(offset, -1) for offset in table]
        if len(starts) == count and starts[0] == 0 and all(a < b for a, b in pairwise(starts)):
            return [fragments[a:b] for a, b in pairwise([*starts, len(fragments)])], False
    if count == 1 and fragments:
        return [fragments], bool(table)
    if len(fragments) == count:
        return [[f] for f in fragments], bool(table)
    frames = _by_marker(source, fragments)
    return (frames if len(frames) == count else []), bool(table)


def _by_marker(source: Source, fragments: list[Fragment]) -> list[list[Fragment]]:
    """Frames by the markers that begin and end a JPEG stream."""
    frames: list[list[Fragment]] = []
    ended = True
    for position, length in fragments:
        tail = bytes(source.view(position + max(0, length - 4), min(4, length)))
        if ended:
            if bytes(source.view(position, min(2, length))) not in _STARTS:
                return []
            frames.append([])
        frames[-1].append((position, length))
        ended = _END in tail
    return frames if ended else []
