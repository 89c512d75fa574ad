"""Header reading: objects per CPU-second against pydicom in the same run, and bytes read of each object.

    python benchmarks/bench_headers.py [FOLDER ...]     (default: samples/dicom)

Objects are in memory, so that only parsing counts. Both sides take the same keywords; pydicom reads with
`dcmread(stop_before_pixels=True)` and `get`. Rounds alternate; the figures are medians. A CT object of 512 x 512 pixels
(526 KB) is made on the spot.
"""

from __future__ import annotations

import io
import statistics
import struct
import sys
import time
import warnings
from pathlib import Path

from ahi.dicom.headers import BytesSource, Header, read_header
from ahi.index.registry import HEADER_KEYWORDS

ROUNDS = 5
LEAST_SECONDS = 0.5


def main() -> None:
    """Measure and print."""
    folders = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parents[1] / "samples" / "dicom"]
    files = [path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    mixed = [data for data in files if isinstance(read_header(BytesSource(data)), Header)]
    print(f"{len(HEADER_KEYWORDS)} keywords; objects per CPU-second, median of {ROUNDS} rounds")
    for name, objects in ((f"mixed real files ({len(mixed)})", mixed), ("CT 526 KB", [synthetic_ct(mixed)] * 50)):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(rate(objects, read_lean))
            theirs.append(rate(objects, read_pydicom))
        lean, plain = statistics.median(ours), statistics.median(theirs)
        print(f"{name}: lean {lean:,.0f}, pydicom {plain:,.0f}, ratio {lean / plain:.1f}")
        shares = [read_header(BytesSource(data)).bytes_read / len(data) for data in objects]
        total = sum(read_header(BytesSource(data)).bytes_read for data in objects)
        print(f"  bytes read: {total / len(objects):,.0f} an object, {100 * statistics.mean(shares):.1f} % of each")


def rate(objects: list[bytes], read) -> float:
    """Objects per CPU-second of one reader."""
    count, start = 0, time.process_time()
    while (spent := time.process_time() - start) < LEAST_SECONDS:
        for data in objects:
            read(data)
        count += len(objects)
    return count / spent


def read_lean(data: bytes) -> None:
    read_header(BytesSource(data))


def read_pydicom(data: bytes) -> None:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    for tag in HEADER_KEYWORDS:
        element = (dataset.file_meta if tag >> 16 == 2 else dataset).get(tag)
        if element is not None:
            _ = element.value


def synthetic_ct(objects: list[bytes]) -> bytes:
    """The first CT among the objects whose pixels come last, with pixels of 512 x 512 x 16 bit."""
    for data in objects:
        header = read_header(BytesSource(data))
        at = data.find(b"\xe0\x7f\x10\x00OW")
        if isinstance(header, Header) and header.values.get("Modality") == "CT" and at > 0:
            head = data[:at]
            for tag in (b"\x28\x00\x10\x00US", b"\x28\x00\x11\x00US"):
                value = head.find(tag) + 8
                head = head[:value] + struct.pack("<H", 512) + head[value + 2 :]
            return head + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 512 * 512 * 2) + bytes(512 * 512 * 2)
    message = "No uncompressed CT among the objects: name a folder that holds one."
    raise SystemExit(message)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
