"""Image frames of an instance: how many, how large, with which checksums; their bytes go to the pixel store.

Belongs here: what `ImageFrames` and `StoredTransferSyntaxUID` say. Does not belong here: decoding (`codecs.py`), the
fragments of encapsulated pixel data (`fragments.py`), files (`pixel_store.py`).

"Pixel data verification" of the developer guide: what is transcoded has the CRC32, the extremes and the size of its
decoded pixels; what is kept has the CRC32 and the size of its original stream, and no extremes.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import codecs, fragments
from local_aws.healthimaging.codecs import SUBSAMPLED, CodecError
from local_aws.healthimaging.dicom import PIXEL_DATA
from local_aws.healthimaging.fragments import Source
from local_aws.healthimaging.pixel_store import Form, StoredFrame
from local_aws.healthimaging.syntaxes import BIG_ENDIAN, EXPLICIT, HTJ2K, KEPT, NATIVE, TRANSCODED, VIDEO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from local_aws.healthimaging.dicom import Parsed
    from local_aws.healthimaging.fragments import Fetch, Fragment
    from local_aws.healthimaging.pixel_store import PixelWriter

# Bits allocated, and the bytes of a word that big endian turns round.
_WORDS = {16: 2, 32: 4, 64: 8}
# A frame that must be in memory at once, to be decoded or put in order, is not larger than this.
MAX_FRAME = 256 * 2**20
# Frames whose description alone is beyond the 50 MB that an image set's metadata may have.
MAX_FRAMES = 250_000


@dataclass(frozen=True)
class Described:
    """What the metadata says of an instance's pixels.

    Attributes:
        frames: `ImageFrames`.
        stored_syntax: `StoredTransferSyntaxUID`; None without pixels.
        problems: Warning types as "HealthImaging warning codes" names them, such as TRANSCODING_EXCEPTION.
    """

    frames: list[dict[str, Any]]
    stored_syntax: str | None = None
    problems: tuple[str, ...] = ()


class _BlobError(Exception):
    """The frames cannot be kept one by one; the text is the warning's type."""


def is_supported(parsed: Parsed) -> bool:
    """Whether the transfer syntax is one that HealthImaging lists; others are kept with a warning."""
    return parsed.text(0x00020010) in TRANSCODED | KEPT


def stored_syntax(parsed: Parsed, lossless: str = HTJ2K) -> str:
    """Transfer syntax in which HealthImaging keeps the frames."""
    syntax = parsed.text(0x00020010)
    if syntax in KEPT or (syntax == EXPLICIT and parsed.number(0x00280100) == 1):
        return syntax
    return lossless if syntax in TRANSCODED else syntax


def _frame_bits(parsed: Parsed) -> int:
    # An odd object may have negative ones: such a frame has no size.
    rows, columns, bits = (max(parsed.number(tag), 0) for tag in (0x00280010, 0x00280011, 0x00280100))
    pixels = rows * columns * max(parsed.number(0x00280002, 1), 0)
    if parsed.text(0x00280004) in SUBSAMPLED and parsed.text(0x00020010) in NATIVE:
        pixels = pixels * 2 // 3
    return pixels * bits


def missing_pixels(parsed: Parsed) -> bool:
    """Whether the pixel data is shorter than the object says: such a file is not imported."""
    if parsed.pixel_start < 0:
        return False
    if parsed.truncated:
        return True
    if parsed.text(0x00020010) in NATIVE and not parsed.encapsulated:
        return parsed.pixel_length < (_frame_bits(parsed) * _count(parsed) + 7) // 8
    return False


def _count(parsed: Parsed) -> int:
    return max(parsed.number(0x00280008, 1), 1)


def describe(parsed: Parsed, seed: str, writer: PixelWriter, *, fetch: Fetch | None = None) -> Described:
    """Keep the frames of an instance and say what the metadata says about them.

    Args:
        parsed: The object.
        seed: What makes the frame ids of this import unique.
        writer: Where the bytes go.
        fetch: Reads a range of the object, when `parsed` was read from its beginning only.

    Raises:
        CutError: The object ends before its pixels do.
    """
    if parsed.pixel_start < 0 or not (parsed.pixel_length or parsed.encapsulated):
        return Described([])
    instance = _Instance(parsed, seed, writer, fetch)
    begin = writer.position
    try:
        if _count(parsed) > MAX_FRAMES:
            raise _BlobError("FRAMES_EXTRACTION_FAILURE")  # noqa: TRY301
        if is_supported(parsed):
            return instance.encapsulated() if parsed.encapsulated else instance.native()
        problem = "UNSUPPORTED_TRANSFER_SYNTAX"
    except _BlobError as error:
        problem = str(error)
    except CodecError:
        problem = "TRANSCODING_EXCEPTION"
    writer.rewind(begin)
    return instance.blob(problem)


class _Instance:
    """One object on its way into the pixel store."""

    def __init__(self, parsed: Parsed, seed: str, writer: PixelWriter, fetch: Fetch | None) -> None:
        self._parsed = parsed
        self._seed = seed
        self._writer = writer
        self._count = _count(parsed)
        syntax = parsed.text(0x00020010)
        bits = parsed.number(0x00280100)
        swap = _WORDS.get(bits, 2 if parsed.pixel_vr == "OW" else 1) if syntax == BIG_ENDIAN else 1
        self._source = Source(parsed.data, fetch, swap=swap, origin=parsed.pixel_start)
        stored = stored_syntax(parsed, writer.lossless)
        self._form = Form(
            syntax=EXPLICIT if syntax in NATIVE else syntax,
            stored_syntax=stored,
            rows=parsed.number(0x00280010),
            columns=parsed.number(0x00280011),
            samples=parsed.number(0x00280002, 1),
            bits_allocated=bits,
            bits_stored=parsed.number(0x00280101, bits),
            signed=parsed.number(0x00280103) == 1,
            planar=parsed.number(0x00280006),
            photometric=parsed.text(0x00280004),
        )
        # What comes in the data store's own format is described by its decoded pixels as well.
        self._transcoded = stored == writer.lossless
        self._encodes = self._transcoded and (writer.rules.pyramid or writer.rules.encoded_sizes)

    # -- kinds of pixel data --------------------------------------------------------------------------------------

    def native(self) -> Described:
        """Uncompressed pixel data."""
        form, bits = self._form, _frame_bits(self._parsed)
        if form.syntax != EXPLICIT or self._parsed.pixel_tag != PIXEL_DATA or not bits:
            raise _BlobError("TRANSCODING_EXCEPTION")
        if self._transcoded:
            codecs.check_encodable(form.bits_allocated, form.samples, self._writer.lossless)
        plain = form.samples == 1 or (form.planar == 0 and form.photometric not in SUBSAMPLED)
        if not self._transcoded or form.bits_allocated == 1 or not plain or self._encodes:
            return self._done(self._whole_native(i, bits) for i in range(self._count))
        return self._done(self._plain(i, bits // 8) for i in range(self._count))

    def _plain(self, index: int, size: int) -> dict[str, Any]:
        """A frame whose bytes are those that a decoder gives."""
        extremes = _Extremes(self._form)
        crc, offset = 0, self._writer.position
        for piece in self._source.pieces(self._parsed.pixel_start + index * size, size):
            self._writer.write(piece)
            crc = zlib.crc32(piece, crc)
            extremes.add(piece)
        return self._frame(index, offset, size, crc, *extremes.values, size)

    def _whole_native(self, index: int, bits: int) -> dict[str, Any]:
        """A frame of single bits, of separate colour planes, or subsampled."""
        if bits > MAX_FRAME * 8:
            raise CodecError("a frame is too large")
        first, last = index * bits, (index + 1) * bits
        data: bytes | memoryview = self._source.view(
            self._parsed.pixel_start + first // 8, last // 8 + (last % 8 > 0) - first // 8
        )
        if first % 8 or last % 8:
            data = _shifted(data, first % 8, bits)
        offset = self._writer.write(data)
        if not self._transcoded:
            return self._frame(index, offset, len(data), zlib.crc32(data), None, None, len(data))
        return self._frame(index, offset, len(data), *self._examined(bytes(data)))

    def encapsulated(self) -> Described:
        """Pixel data in fragments."""
        if self._form.syntax == EXPLICIT:
            raise _BlobError("FRAMES_EXTRACTION_FAILURE")
        table, found, _ = fragments.walk(self._source, self._parsed.pixel_start)
        table = fragments.extended(self._parsed.values.get(0x7FE00001)) or table
        if self._form.stored_syntax in VIDEO:
            # One stream, whatever Number of Frames says.
            return self._done([self._kept(0, found)])
        groups, invalid = fragments.group(self._source, found, table, self._count)
        if not groups:
            raise _BlobError("FRAME_NUMBER_MISMATCH" if len(found) < self._count else "FRAMES_EXTRACTION_FAILURE")
        problems = ("INVALID_OFFSET_TABLE",) if invalid else ()
        if not self._transcoded:
            return self._done((self._kept(i, g) for i, g in enumerate(groups)), problems)
        form = self._form
        codecs.check_encodable(form.bits_allocated, form.samples, self._writer.lossless)
        if form.syntax == form.stored_syntax and not all(self._is_as_said(g) for g in groups):
            # A client decodes it to other bytes than the object says, so it does not pass as it is.
            self._form = replace(form, syntax=codecs.GENERAL[form.syntax])
        examine = form.rows * form.columns * form.samples * ((form.bits_allocated + 7) // 8) * self._count
        kept = self._decoded if examine <= self._writer.rules.checked_bytes else self._unchecked
        return self._done((kept(i, g) for i, g in enumerate(groups)), problems)

    def _is_as_said(self, group: list[Fragment]) -> bool:
        position, length = group[0]
        start = bytes(self._source.view(position, min(length, 64)))
        return codecs.is_as_said(start, self._form.bits_allocated, signed=self._form.signed)

    def _kept(self, index: int, group: list[Fragment]) -> dict[str, Any]:
        """A frame that stays in its original stream."""
        crc, offset = 0, self._writer.position
        for position, length in group:
            for piece in self._source.pieces(position, length):
                self._writer.write(piece)
                crc = zlib.crc32(piece, crc)
        size = self._writer.position - offset
        return self._frame(index, offset, size, crc, None, None, size)

    def _decoded(self, index: int, group: list[Fragment]) -> dict[str, Any]:
        """A compressed frame that is going to be transcoded."""
        if sum(length for _, length in group) > MAX_FRAME:
            raise CodecError("a frame is too large")
        data = b"".join(bytes(self._source.view(position, length)) for position, length in group)
        offset = self._writer.write(data)
        return self._frame(index, offset, len(data), *self._examined(data))

    def _unchecked(self, index: int, group: list[Fragment]) -> dict[str, Any]:
        """The same for an object too large to be decoded at import."""
        form = self._form
        offset, size = self._writer.position, form.rows * form.columns * form.samples * (form.bits_allocated // 8 or 1)
        for position, length in group:
            for piece in self._source.pieces(position, length):
                self._writer.write(piece)
        return self._frame(index, offset, self._writer.position - offset, None, None, None, size)

    def blob(self, problem: str) -> Described:
        """The whole value, as one frame in its original syntax; uncompressed values are little endian by now."""
        parsed = self._parsed
        syntax = parsed.text(0x00020010)
        syntax = EXPLICIT if syntax in NATIVE and not parsed.encapsulated else syntax
        self._form = replace(self._form, syntax=syntax, stored_syntax=syntax, blob=True)
        length = parsed.pixel_length
        if parsed.encapsulated:
            length = fragments.walk(self._source, parsed.pixel_start)[2] - parsed.pixel_start
        return self._done([self._kept(0, [(parsed.pixel_start, length)])], (problem,))

    # -- the metadata ---------------------------------------------------------------------------------------------

    def _done(self, frames: Iterable[dict[str, Any]], problems: tuple[str, ...] = ()) -> Described:
        found = list(frames)
        return Described(found, self._form.stored_syntax, problems)

    def _examined(self, data: bytes) -> tuple[int, int | None, int | None, int, list[dict[str, int]]]:
        """Checksum, extremes and size of the decoded pixels, and what is known of lower resolutions."""
        frame, rules = StoredFrame.of(data, self._form), self._writer.rules
        decoded = codecs.pixels(frame)
        extremes = _Extremes(self._form)
        extremes.add(decoded)
        size, lower = len(decoded), []
        if self._encodes:
            array = codecs.decode(frame)
            if rules.encoded_sizes:
                size = len(codecs.stored_stream(frame))
            for small in codecs.lower_resolutions(array) if rules.pyramid else ():
                pixels = small.astype(small.dtype.newbyteorder("<"), copy=False).tobytes()
                lower.append({"Width": small.shape[1], "Height": small.shape[0], "Checksum": zlib.crc32(pixels)})
        return zlib.crc32(decoded), *extremes.values, size, lower

    def _frame(
        self,
        index: int,
        offset: int,
        length: int,
        crc: int | None,
        low: int | None,
        high: int | None,
        size: int,
        lower: Iterable[dict[str, int]] = (),
    ) -> dict[str, Any]:
        frame_id = hashlib.blake2b(f"{self._seed}/{index}".encode(), digest_size=16).hexdigest()
        self._writer.frame(frame_id, offset, length, self._form)
        resolution = {"Width": self._form.columns, "Height": self._form.rows, "Checksum": crc}
        return {
            "ID": frame_id,
            "PixelDataChecksumFromBaseToFullResolution": [*lower, resolution],
            "MinPixelValue": low,
            "MaxPixelValue": high,
            "FrameSizeInBytes": size,
        }


class _Extremes:
    """Smallest and largest sample, over pieces."""

    def __init__(self, form: Form) -> None:
        self._signed = form.signed and form.bits_allocated > 1
        self._kind = f"<{'i' if self._signed else 'u'}{max(form.bits_allocated // 8, 1)}"
        # Above the stored bits there may be anything, such as an overlay.
        self._spare = form.bits_allocated - form.bits_stored if 0 < form.bits_stored < form.bits_allocated else 0
        self.values: tuple[int | None, int | None] = (None, None)

    def add(self, piece: bytes | memoryview) -> None:
        import numpy as np

        samples = np.frombuffer(piece, self._kind)
        if self._spare:
            samples = np.right_shift(np.left_shift(samples, self._spare), self._spare)
        low, high = self.values
        first, last = int(samples.min()), int(samples.max())
        self.values = (first if low is None else min(low, first), last if high is None else max(high, last))


def _shifted(data: bytes | memoryview, first: int, bits: int) -> bytes:
    """Single bits from a bit position on, moved to the beginning of a byte."""
    import numpy as np

    unpacked = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[first : first + bits]
    return np.packbits(unpacked, bitorder="little").tobytes()
