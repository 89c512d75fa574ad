"""Bytes of an object, read as few as possible. Belongs here: ranged reads and how they grow, bounded inflation.

Does not belong here: S3 (the caller brings a `ByteSource`), and what the bytes mean.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

# Enough for the index columns of 99.9 % of files; then four times as much each time.
FIRST_READ = 16 * 1024
GROWTH = 4
# No header needs more in memory at a time (the longest seen takes 86 KiB); what does is odd.
MAX_HEADER = 8 * 1024 * 1024


class ByteSource(Protocol):
    """An object of which ranges can be read, such as S3's GET with a Range. Its errors pass through every reader."""

    @property
    def size(self) -> int:
        """Bytes in the object."""

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer only at the end of the object."""


@dataclass(frozen=True)
class BytesSource:
    """Bytes in memory as a `ByteSource`."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self.data)

    def read(self, start: int, length: int) -> bytes:
        """The bytes of the range."""
        return self.data[start : start + length]


@dataclass(frozen=True)
class FileSource:
    """A local file as a `ByteSource`."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.path.stat().st_size

    def read(self, start: int, length: int) -> bytes:
        """The bytes of the range."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)


@dataclass
class Window:
    """The part of an object that is in memory: `data`, which begins at `base` in the object."""

    source: ByteSource
    size: int
    data: bytes = b""
    base: int = 0
    bytes_read: int = 0
    reads: int = 0
    step: int = field(default=FIRST_READ)

    @property
    def end(self) -> int:
        """Position in the object behind the last byte held."""
        return self.base + len(self.data)

    @property
    def at_end(self) -> bool:
        """Whether the last byte of the object is held (or lies before `base`)."""
        return self.end >= self.size

    def fetch(self, start: int, length: int) -> bytes:
        """Bytes of the object, from memory or by a read; the window stays as it is."""
        if start >= self.base and start + length <= self.end:
            return self.data[start - self.base : start - self.base + length]
        length = max(0, min(length, self.size - start))
        if not length:
            return b""
        data = self.source.read(start, length)
        self.bytes_read += len(data)
        self.reads += 1
        return data

    def grow(self, keep: int) -> bool:
        """Read on, and hold everything from position `keep` of the object; False when there is no more to read.

        Each call reads four times as much as the one before. A position behind what is held skips what lies between.
        """
        held = self.data[keep - self.base :] if keep < self.end else b""
        start = max(keep, self.end)
        if start >= self.size or len(held) + self.step > MAX_HEADER:
            return False
        more = self.fetch(start, self.step)
        if len(more) < self.step:
            # A short read is the end, whatever size was stated.
            self.size = start + len(more)
        self.step *= GROWTH
        self.data, self.base = held + more, keep
        return bool(more)


class InflatedSource:
    """The data set of an object in the deflated transfer syntax, inflated as far as asked.

    Holds at most `MAX_HEADER` inflated bytes: a deflate stream can grow a thousandfold.
    """

    def __init__(self, window: Window, start: int) -> None:
        self._window = window
        self._next = start
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()
        self.broken = False

    @property
    def size(self) -> int:
        """Inflated size where it is known, else the most that is ever inflated."""
        return len(self._data) if self._inflater.eof or self.broken else MAX_HEADER

    @property
    def ended(self) -> bool:
        """Whether the deflate stream has ended as it should."""
        return self._inflater.eof

    def read(self, start: int, length: int) -> bytes:
        """Inflated bytes of the range; sets `broken` when the stream ends early or is damaged."""
        self._inflate(min(start + length, MAX_HEADER))
        return bytes(self._data[start : start + length])

    def _inflate(self, until: int) -> None:
        while len(self._data) < until and not self._inflater.eof and not self.broken:
            self._data += self._some(until - len(self._data))

    def _some(self, most: int) -> bytes:
        packed = self._inflater.unconsumed_tail
        if not packed:
            held = self._window.end - self._next
            packed = self._window.fetch(self._next, held if held > 0 else self._window.step)
            self._next += len(packed)
        try:
            inflated = self._inflater.decompress(packed, most)
        except zlib.error:
            self.broken = True
            return b""
        if not packed and not inflated:
            self.broken = not self._inflater.eof
        return inflated

    def runs_to_its_end(self, max_packed: int, max_inflated: int) -> bool | None:
        """Whether the stream is whole, found by inflating and dropping the rest; None when that would be too much."""
        inflated = len(self._data)
        while not self._inflater.eof and not self.broken:
            if inflated > max_inflated or self._window.bytes_read > max_packed:
                return None
            inflated += len(self._some(1 << 20))
        return self._inflater.eof
