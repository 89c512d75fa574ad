"""Image frames of an instance: how many, how large, with which checksums.

Belongs here: what `ImageFrames` and `StoredTransferSyntaxUID` say. Does not belong here: pixels as such; frames of
compressed objects are described, not decoded.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_aws.healthimaging.dicom import Parsed

HTJ2K = "1.2.840.10008.1.2.4.202"
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"})
_JPEG = "1.2.840.10008.1.2.4."
TRANSCODED = NATIVE | {
    _JPEG + n for n in ("51", "57", "70", "80", "81", "90", "92", "93", "201", "202")
} | {"1.2.840.10008.1.2.5"}  # fmt: skip
KEPT = frozenset(
    _JPEG + n
    for n in (
        *("50", "91", "112", "203", "100", "100.1", "101", "101.1"),
        *("102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1", "106", "106.1", "107", "108"),
    )
)
# Above this many bytes of pixels an instance gets no checksums: an import must stay cheap.
MAX_CHECKED = 64 * 2**20


def stored_syntax(parsed: Parsed) -> str:
    """Transfer syntax in which HealthImaging keeps the frames."""
    syntax = parsed.text(0x00020010)
    if syntax in KEPT or (syntax == "1.2.840.10008.1.2.1" and parsed.number(0x00280100) == 1):
        return syntax
    return HTJ2K if syntax in TRANSCODED else syntax


def is_supported(parsed: Parsed) -> bool:
    """Whether the transfer syntax is one that HealthImaging lists; others are kept with a warning."""
    return parsed.text(0x00020010) in TRANSCODED | KEPT


def frame_bytes(parsed: Parsed) -> int:
    """Decoded size of one frame in bytes, from the image attributes; 0 when they do not say."""
    bits = parsed.number(0x00280100)
    samples = parsed.number(0x00280002, 1)
    pixels = parsed.number(0x00280010) * parsed.number(0x00280011) * samples
    if parsed.text(0x00280004) in {"YBR_FULL_422", "YBR_PARTIAL_422"} and parsed.text(0x00020010) in NATIVE:
        pixels = pixels * 2 // 3
    return (pixels * bits + 7) // 8


def missing_pixels(parsed: Parsed) -> bool:
    """Whether the pixel data is shorter than the object says: such a file is not imported."""
    if parsed.pixel_start < 0:
        return False
    if parsed.truncated:
        return True
    frames = max(parsed.number(0x00280008, 1), 1)
    if parsed.text(0x00020010) in NATIVE and parsed.fragments == 0:
        bits = frame_bytes(parsed) * frames if parsed.number(0x00280100) != 1 else 0
        return parsed.pixel_length < bits
    return 0 < parsed.fragments < frames


def describe(parsed: Parsed, seed: str) -> list[dict[str, Any]]:
    """The `ImageFrames` of an instance.

    Args:
        parsed: The object.
        seed: What makes the frame ids of this import unique.
    """
    if parsed.pixel_start < 0:
        return []
    count = max(parsed.number(0x00280008, 1), 1)
    size = frame_bytes(parsed)
    native = parsed.text(0x00020010) in NATIVE and not parsed.fragments
    checked = native and 0 < size * count <= min(len(parsed.pixels), MAX_CHECKED) and parsed.number(0x00280100) % 8 == 0
    width, height = parsed.number(0x00280011), parsed.number(0x00280010)
    frames = []
    for index in range(count):
        block = parsed.pixels[index * size : (index + 1) * size] if checked else b""
        low, high = _extremes(parsed, block) if checked else (None, None)
        frames.append(
            {
                "ID": hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=16).hexdigest(),
                "PixelDataChecksumFromBaseToFullResolution": [
                    {"Width": width, "Height": height, "Checksum": zlib.crc32(block) if checked else None}
                ],
                "MinPixelValue": low,
                "MaxPixelValue": high,
                "FrameSizeInBytes": size or parsed.pixel_length,
            }
        )
    return frames


def _extremes(parsed: Parsed, block: bytes | memoryview) -> tuple[int, int] | tuple[None, None]:
    import numpy as np

    bits = parsed.number(0x00280100)
    if bits not in {8, 16, 32}:
        return None, None
    order = ">" if parsed.text(0x00020010) == "1.2.840.10008.1.2.2" else "<"
    kind = "i" if parsed.number(0x00280103) else "u"
    values = np.frombuffer(block, dtype=f"{order}{kind}{bits // 8}")
    return (int(values.min()), int(values.max())) if values.size else (None, None)
