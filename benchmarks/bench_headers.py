"""Header path, bytes in memory to committed rows: objects per CPU-second, against pydicom in the same run.

    python benchmarks/bench_headers.py [FOLDER ...]     (default: samples/dicom)

Objects are in memory, so that S3 does not count. Timed is all that an upload batch does with them: the header, the row
of the ledger and of `headers`, the Parquet file with its sync, the commit. pydicom reads the same keywords with
`dcmread(stop_before_pixels=True)` and `get`, and stores nothing. Few objects come several times, each time under a UID
of its own. Rounds alternate; figures are medians. With folders of `make_corpus.py` and a real MR series the targets are
5,000 and 3,000 objects/CPU-s, and ten times pydicom. The busier the machine, the smaller all figures: pydicom's beside
them says how busy it is.
"""

from __future__ import annotations

import io
import shutil
import statistics
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ahi import ledger
from ahi.clock import now
from ahi.dicom import alike
from ahi.dicom.headers import BytesSource, Header, read_header
from ahi.events import ObjectCreated
from ahi.index.registry import HEADER_KEYWORDS
from ahi.index.store import Index
from ahi.uploads import UploadReport, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3
OBJECTS = 1_000
PYDICOM_OBJECTS = 100


def main() -> None:
    """Measure and print."""
    folders = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parents[1] / "samples" / "dicom"]
    print(f"{len(HEADER_KEYWORDS)} keywords; medians of {ROUNDS} rounds, batches of {OBJECTS} objects")
    for folder in folders:
        files = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
        objects = [data for data in files if isinstance(read_header(BytesSource(data)), Header)]
        compare(f"{folder.name} ({len(objects)} objects)", objects)
        if folder.name == "dicom":
            compare("CT 526 KB", [synthetic_ct(objects)])


def compare(name: str, objects: list[bytes]) -> None:
    """Print both sides of one set of objects."""
    batch = [own(data, number) for number, data in enumerate((objects * (OBJECTS // len(objects) + 1))[:OBJECTS])]
    few = batch[:: max(1, len(objects) // PYDICOM_OBJECTS)][:PYDICOM_OBJECTS]
    rounds = [(in_new_index(batch), timed(read_all, batch), timed(pydicom_all, few)) for _ in range(ROUNDS)]
    whole, alone, plain = (statistics.median(one[n][0] for one in rounds) for n in range(3))
    wall = statistics.median(one[0][1] for one in rounds)
    print(
        f"{name}: {whole:,.0f} objects/CPU-s to committed rows ({wall:,.0f}/s by the clock), {alone:,.0f} of headers, "
        f"pydicom {plain:,.0f}; ratios {whole / plain:.1f} and {alone / plain:.1f}"
    )
    read = [read_header(BytesSource(data)).bytes_read for data in objects]
    shares = [bytes_read / len(data) for bytes_read, data in zip(read, objects, strict=True)]
    print(f"  bytes read: {statistics.mean(read):,.0f} an object, {100 * statistics.mean(shares):.1f} % of each")


def own(data: bytes, number: int) -> bytes:
    """The object with a UID of its own, so that none comes twice."""
    header = read_header(BytesSource(data))
    uid = str(header.values["SOPInstanceUID"]).encode() if isinstance(header, Header) else b""
    return data.replace(uid, uid[:-5] + f"{number:05d}".encode()) if len(uid) > len("1.2.12345") else data


def timed(work: Callable[[list[bytes]], None], objects: list[bytes]) -> tuple[float, float]:
    """Objects per CPU-second and per second by the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    work(objects)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return len(objects) / cpu, len(objects) / wall


def in_new_index(objects: list[bytes]) -> tuple[float, float]:
    """Both rates of one upload batch, into an index that was made before, by a reader that knows none of them."""
    alike.forget()
    root = Path(tempfile.mkdtemp())
    try:
        index = Index(root, f"sqlite:///{root / 'catalog.sqlite'}")
        return timed(lambda batch: index_all(index, batch), objects)
    finally:
        shutil.rmtree(root)


def index_all(index: Index, objects: list[bytes]) -> None:
    """One upload batch, from bytes to a commit."""
    settings = SimpleNamespace(max_bytes_per_job=10**10, association_prefix="", patient_key_secret="benchmark")
    pipeline: Any = SimpleNamespace(index=index, run_id="benchmark", settings=settings)
    batch: Any = SimpleNamespace(batch_id="batch", day="2026-01-01", received_at=now())
    items = {
        str(number): ObjectCreated("bucket", f"key/{number}", None, "etag", len(data), "", batch.received_at)
        for number, data in enumerate(objects)
    }
    rows, headers = rows_of(
        pipeline, batch, items, (read_header(BytesSource(data)) for data in objects), UploadReport()
    )
    file = index.write("headers", headers, batch_id="batch")
    with index.commit(batch_id="batch", kind="uploads", files=[file]) as commit:
        stamp = {"header_at": commit.committed_at, "header_seq": commit.seq}
        ledger.enter(commit, [row | stamp for row in rows])


def read_all(objects: list[bytes]) -> None:
    """Headers alone."""
    alike.forget()
    for data in objects:
        read_header(BytesSource(data))


def pydicom_all(objects: list[bytes]) -> None:
    """The way of pydicom to the same values."""
    for data in objects:
        read_pydicom(data)


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
