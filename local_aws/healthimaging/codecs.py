"""Pixels of one frame: decode every transfer syntax that HealthImaging transcodes, encode what it hands out.

Belongs here: one frame in, samples or one stream out. Does not belong here: which frames there are (`frames.py`),
where they lie (`pixel_store.py`).

Samples come as they are coded: no colour conversion but that of a JPEG 2000 codestream's own component transform, no
masking of bits, sign extended where the object says that samples are signed.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.syntaxes import EXPLICIT, HTJ2K, JPEG, JPEG_2000, RLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from local_aws.healthimaging.pixel_store import StoredFrame

    Array = NDArray[np.generic]

_DECODERS = {
    **dict.fromkeys((JPEG + n for n in ("50", "51", "57", "70")), "jpeg8"),
    **dict.fromkeys((JPEG + n for n in ("80", "81")), "jpegls"),
    # OpenJPH lets lossy samples beyond white come out black; OpenJPEG, slower, does not.
    **dict.fromkeys((JPEG + n for n in ("90", "91", "92", "93", "203")), "jpeg2k"),
    **dict.fromkeys((JPEG + n for n in ("201", "202")), "htj2k"),
    JPEG + "112": "jpegxl",
}
# What holds every stream of a lossless format, and is transcoded into it.
GENERAL = {HTJ2K: JPEG + "201", JPEG_2000: JPEG + "91"}
# Largest samples, in bits, that the encoder of a format keeps exactly (checked in test_frames.py).
_EXACT = {HTJ2K: 32, JPEG_2000: 16}
SUBSAMPLED = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422"})
_END_OF_CODESTREAM = b"\xff\xd9"
_SIZE_OF_CODESTREAM = b"\xff\x4f\xff\x51"
_SAMPLE_SIZE = 42
# SOF0 to SOF15 without DHT, JPG and DAC; SOF55 is JPEG-LS.
_STARTS_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
COLOURS = 3
# The encoder's number of decompositions.
BASE_SIDE, MAX_HALVINGS = 256, 5


class CodecError(Exception):
    """The frame cannot be decoded, or not be encoded without loss; the text says why."""


def photometric(frame: StoredFrame) -> str:
    """Photometric interpretation of the samples that `decode` returns."""
    if frame.photometric in {"YBR_RCT", "YBR_ICT"}:
        return "RGB"
    return {"YBR_FULL_422": "YBR_FULL", "YBR_PARTIAL_422": "YBR_FULL"}.get(frame.photometric, frame.photometric)


def decode(frame: StoredFrame) -> Array:
    """Samples of a frame.

    Returns:
        (rows, columns) or (rows, columns, samples); integers of the allocated size, one byte for single bits.

    Raises:
        CodecError: Unknown transfer syntax, broken stream, or another size than the object says.
    """
    if frame.blob:
        raise CodecError("the pixel data is kept as one blob")
    if frame.rows < 1 or frame.columns < 1:
        raise CodecError("the object does not say how large its frames are")
    if frame.syntax == EXPLICIT:
        return _native(frame)
    array = _rle(frame) if frame.syntax == RLE else _compressed(frame)
    shape = (frame.rows, frame.columns) if frame.samples == 1 else (frame.rows, frame.columns, frame.samples)
    if array.shape != shape and array.ndim == COLOURS and array.shape == (shape[-1], *shape[:-1]):
        import numpy as np

        array = np.moveaxis(array, 0, -1)
    if array.shape != shape:
        raise CodecError(f"the decoded frame is {array.shape}, the object says {shape}")
    return _fitted(frame, array)


def native(frame: StoredFrame) -> bytes:
    """A frame as it stands in an object of Explicit VR Little Endian, planar configuration 0.

    Single bits stay packed. A subsampled frame comes with all its samples: see `photometric`.

    Raises:
        CodecError: It cannot be decoded.
    """
    if frame.syntax == EXPLICIT and _is_plain(frame):
        return frame.data
    array = decode(frame)
    if frame.bits_allocated == 1:
        import numpy as np

        return np.packbits(array.astype(np.uint8).ravel(), bitorder="little").tobytes()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def pixels(frame: StoredFrame) -> bytes:
    """The bytes that a decoder of `stored_stream` ends up with, of which HealthImaging keeps the checksum."""
    if frame.syntax == EXPLICIT and _is_plain(frame) and frame.bits_allocated != 1:
        return frame.data
    array = decode(frame)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def stored_stream(frame: StoredFrame) -> bytes:
    """What GetImageFrame returns: the original stream where it is kept, else the data store's lossless format.

    Raises:
        CodecError: It cannot be transcoded.
    """
    if frame.blob or frame.syntax == frame.stored_syntax:
        return frame.data
    return encode(decode(frame), frame.stored_syntax)


def check_encodable(bits_allocated: int, samples: int, syntax: str) -> None:
    """Refuse what the lossless format cannot carry.

    Raises:
        CodecError: With the reason.
    """
    if bits_allocated not in {1, 8, 16, 32} or bits_allocated > _EXACT.get(syntax, 0):
        raise CodecError(f"{syntax} does not carry {bits_allocated} bits a sample")
    if samples not in {1, COLOURS}:
        raise CodecError(f"{syntax} is not made of {samples} samples a pixel")


def encode(array: Array, syntax: str) -> bytes:
    """Samples as one lossless stream: HTJ2K (progression RPCL) or JPEG 2000.

    Raises:
        CodecError: The format cannot carry them.
    """
    import imagecodecs
    import numpy as np

    check_encodable(array.dtype.itemsize * 8, array.shape[2] if array.ndim == COLOURS else 1, syntax)
    array = np.ascontiguousarray(array)
    try:
        if syntax == HTJ2K:
            return bytes(imagecodecs.htj2k_encode(array, reversible=True))
        return bytes(imagecodecs.jpeg2k_encode(array, level=0, codecformat="j2k", reversible=True))
    except (RuntimeError, ValueError, TypeError) as error:
        raise CodecError(f"the frame cannot be encoded: {error}") from error


def lower_resolutions(array: Array) -> list[Array]:
    """What a decoder gets out of an image's HTJ2K stream below full resolution, smallest first.

    Halves down to sides of `BASE_SIDE` at most: the real document of 2022 goes from 640 and from 320 columns to 160.

    Raises:
        CodecError: The format cannot carry it.
    """
    import imagecodecs

    halvings = min(((max(array.shape[:2]) - 1) // BASE_SIDE).bit_length(), MAX_HALVINGS)
    stream = encode(array, HTJ2K) if halvings else b""
    return [imagecodecs.htj2k_decode(stream, skipres=skipped) for skipped in range(halvings, 0, -1)]


# -- one syntax each --------------------------------------------------------------------------------------------------


def _is_plain(frame: StoredFrame) -> bool:
    """Whether native bytes are already in the order that a decoder gives."""
    return frame.samples == 1 or (frame.planar == 0 and frame.photometric not in SUBSAMPLED)


def _dtype(frame: StoredFrame) -> str:
    if frame.bits_allocated not in {8, 16, 32}:
        raise CodecError(f"{frame.bits_allocated} bits allocated are not supported")
    return f"<{'i' if frame.signed else 'u'}{frame.bits_allocated // 8}"


def _native(frame: StoredFrame) -> Array:
    import numpy as np

    rows, columns, samples = frame.rows, frame.columns, frame.samples
    count = rows * columns * samples
    if frame.bits_allocated == 1:
        return _bits(frame, count)
    if samples == COLOURS and frame.photometric in SUBSAMPLED:
        return _subsampled(frame)
    dtype = np.dtype(_dtype(frame))
    if len(frame.data) < count * dtype.itemsize:
        raise CodecError("the frame is shorter than the object says")
    flat = np.frombuffer(frame.data, dtype, count)
    if samples == 1:
        return flat.reshape(rows, columns)
    if frame.planar == 1:
        return np.ascontiguousarray(np.moveaxis(flat.reshape(samples, rows, columns), 0, -1))
    return flat.reshape(rows, columns, samples)


def _bits(frame: StoredFrame, count: int) -> Array:
    import numpy as np

    bits = np.unpackbits(np.frombuffer(frame.data, np.uint8), bitorder="little")
    if bits.size < count or frame.samples != 1:
        raise CodecError("the frame is shorter than the object says")
    return bits[:count].reshape(frame.rows, frame.columns)


def _subsampled(frame: StoredFrame) -> Array:
    """YBR_FULL_422 without compression: Y1 Y2 Cb Cr for each two pixels of a row (PS3.3, C.7.6.3.1.2)."""
    import numpy as np

    rows, columns = frame.rows, frame.columns
    if columns % 2 or frame.bits_allocated != 8 or len(frame.data) < rows * columns * 2:  # noqa: PLR2004
        raise CodecError("the subsampled frame does not have the size that the object says")
    quads = np.frombuffer(frame.data, np.uint8, rows * columns * 2).reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns, COLOURS), np.uint8)
    out[:, :, 0] = quads[:, :, :2].reshape(rows, columns)
    out[:, :, 1] = np.repeat(quads[:, :, 2], 2, axis=1)
    out[:, :, 2] = np.repeat(quads[:, :, 3], 2, axis=1)
    return out


def _rle(frame: StoredFrame) -> Array:
    import imagecodecs
    import numpy as np

    dtype = np.dtype("u1") if frame.bits_allocated == 1 else np.dtype(_dtype(frame))
    count = frame.rows * frame.columns * frame.samples
    try:
        raw = imagecodecs.dicomrle_decode(frame.data, dtype)
    except (RuntimeError, ValueError) as error:
        raise CodecError(f"the RLE stream cannot be decoded: {error}") from error
    flat = np.frombuffer(raw, dtype)
    if frame.bits_allocated == 1 and flat.size < count:
        flat = np.unpackbits(flat, bitorder="little")
    if flat.size < count:
        raise CodecError("the RLE stream is shorter than the object says")
    flat = flat[:count]
    if frame.samples == 1:
        return flat.reshape(frame.rows, frame.columns)
    # One run of segments a sample: RLE is planar whatever Planar Configuration says.
    return np.ascontiguousarray(np.moveaxis(flat.reshape(frame.samples, frame.rows, frame.columns), 0, -1))


def _compressed(frame: StoredFrame) -> Array:
    import imagecodecs

    name = _DECODERS.get(frame.syntax)
    if name is None:
        raise CodecError(f"transfer syntax {frame.syntax} cannot be decoded here")
    stated = _stated_size(frame.data)
    if stated and stated != (frame.rows, frame.columns):
        # Before a decoder makes room for it: a few bytes can ask for gigabytes.
        raise CodecError(f"the stream is of {stated}, the object says {(frame.rows, frame.columns)}")
    options: dict[str, Any] = {}
    if name == "jpeg8" and frame.samples == COLOURS:
        # Said to be RGB on both sides, the samples pass as they are coded.
        options = {"colorspace": "RGB", "outcolorspace": "RGB"}
    if name == "htj2k" and _END_OF_CODESTREAM not in frame.data[-4:]:
        # The decoder takes a stream that was cut and returns wrong samples.
        raise CodecError("the HTJ2K stream is cut")
    try:
        array: Array = getattr(imagecodecs, f"{name}_decode")(frame.data, **options)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise CodecError(f"the stream cannot be decoded: {error}") from error
    if array.ndim == COLOURS and array.shape[-1] == 1:
        array = array[:, :, 0]
    return array


def is_as_said(stream: bytes, bits_allocated: int, *, signed: bool) -> bool:
    """Whether the samples of a JPEG 2000 codestream have the size and sign that the object says.

    Args:
        stream: Its beginning.
        bits_allocated: What the object says.
        signed: What the object says.
    """
    if stream[:4] != _SIZE_OF_CODESTREAM or len(stream) <= _SAMPLE_SIZE:
        return False
    sample = stream[_SAMPLE_SIZE]
    return bool(sample & 0x80) == signed and sample % 0x80 // 8 * 8 + 8 == bits_allocated


def _stated_size(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream says it has; None when they are not found."""
    codestream = stream.find(_SIZE_OF_CODESTREAM, 0, 4096)
    if codestream >= 0 and len(stream) >= codestream + 24:
        width, height, left, top = struct.unpack_from(">4I", stream, codestream + 8)
        return height - top, width - left
    position = 2
    while stream[:2] == b"\xff\xd8" and position + 9 <= len(stream) and stream[position] == 0xFF:  # noqa: PLR2004
        marker = stream[position + 1]
        if marker == 0xFF:  # noqa: PLR2004 -- a fill byte
            position += 1
            continue
        if marker in _STARTS_OF_FRAME:
            height, width = struct.unpack_from(">2H", stream, position + 5)
            return height, width
        position += 2 + struct.unpack_from(">H", stream, position + 2)[0]
    return None


def _fitted(frame: StoredFrame, array: Array) -> Array:
    """Samples in the allocated size, with the sign that the object says."""
    import numpy as np

    if frame.bits_allocated == 1:
        return np.ascontiguousarray(array, np.uint8)
    wanted = np.dtype(_dtype(frame))
    if array.dtype.kind not in "iu" or array.dtype.itemsize > wanted.itemsize:
        raise CodecError(f"samples of {array.dtype} do not fit into {frame.bits_allocated} bits")
    if array.dtype.kind == wanted.kind:
        same: Array = np.ascontiguousarray(array, wanted)
        return same
    # JPEG-LS and JPEG know no sign, JPEG 2000 sometimes has the wrong one: what counts are the stored bits.
    spare = frame.bits_allocated - frame.bits_stored if 0 < frame.bits_stored <= frame.bits_allocated else 0
    widened = np.ascontiguousarray(array).astype(wanted)
    signed: Array = np.right_shift(np.left_shift(widened, spare), spare)
    return signed


class StreamCache:
    """The streams transcoded last, up to a number of bytes. Safe from several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._streams: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def stored_stream(self, frame: StoredFrame) -> bytes:
        """`stored_stream`, or what it gave the last time.

        Raises:
            CodecError: It cannot be transcoded.
        """
        if frame.blob or frame.syntax == frame.stored_syntax:
            return frame.data
        key = (frame.place, frame.stored_syntax)
        with self._lock:
            found = self._streams.get(key)
            if found is not None:
                self._streams.move_to_end(key)
                return found
        made = stored_stream(frame)
        with self._lock:
            if key not in self._streams and len(made) <= self._limit:
                self._streams[key] = made
                self._size += len(made)
            while self._size > self._limit:
                self._size -= len(self._streams.popitem(last=False)[1])
        return made
