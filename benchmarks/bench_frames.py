"""The embedded AWS: CPU of its process for an image frame, cold and warm, and what pixels add to an import.

    python benchmarks/bench_frames.py [--frames 100] [--instances 1000]

A frame is a CT slice of 512 x 512 pixels with 12 bits of smooth tissue and noise. Cold: it is transcoded into HTJ2K.
Warm: it comes from the cache. The import is that of `bench_emulator.py` (64 x 64 pixels), once with its pixels and once
without.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bench_emulator import PER_SERIES, Server, made, template
from pydicom import dcmread

if TYPE_CHECKING:
    from collections.abc import Iterator


def slices(count: int) -> bytes:
    """One object of so many frames."""
    data = dcmread(io.BytesIO(template()))
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    tissue = 1000 + 600 * np.exp(-2 * (x * x + y * y))
    frames = [(np.roll(tissue, i, 1) + random.normal(0, 20, (512, 512))).astype(np.uint16) for i in range(count)]
    data.Rows = data.Columns = 512
    data.NumberOfFrames = count
    data.PixelData = b"".join(f.tobytes() for f in frames)
    data.SeriesInstanceUID, data.StudyInstanceUID = "1.2.3.4.1", "1.2.3.4.2"
    data.save_as(body := io.BytesIO(), enforce_file_format=True)
    return body.getvalue()


def without_pixels(count: int, job: int) -> Iterator[tuple[str, bytes]]:
    """The objects of `made`, cut before their pixels, which are the last element."""
    for name, body in made(count, job, PER_SERIES):
        yield name, body[: body.rindex(b"\xe0\x7f\x10\x00OW")]


def imports(server: Server, count: int) -> None:
    """CPU of an import with and without pixels, the two in turn."""
    server.put("warm/", made(100, 90, PER_SERIES))
    server.run("warm/")
    spent = {"with": 0.0, "without": 0.0}
    for job in range(2):
        for kind, objects in (("with", made(count, job, PER_SERIES)), ("without", without_pixels(count, 10 + job))):
            number = server.put(f"{kind}{job}/", objects)
            before = server.cpu()
            server.run(f"{kind}{job}/")
            spent[kind] += (server.cpu() - before) / number / 2 * 1e3
    print(f"import: {spent['with']:.2f} ms CPU an instance with 8 KiB of pixels, {spent['without']:.2f} without")


def frames(server: Server, count: int) -> None:
    """CPU of GetImageFrame."""
    server.put("slices/", iter([("a.dcm", slices(count))]))
    server.run("slices/")
    wanted = {"datastoreId": server.env["AHI_DATASTORE_ID"]}
    criteria = {"filters": [{"operator": "EQUAL", "values": [{"DICOMSeriesInstanceUID": "1.2.3.4.1"}]}]}
    found = server.api.search_image_sets(**wanted, searchCriteria=criteria)["imageSetsMetadataSummaries"]
    wanted["imageSetId"] = found[0]["imageSetId"]
    document = json.loads(gzip.decompress(server.api.get_image_set_metadata(**wanted)["imageSetMetadataBlob"].read()))
    [series] = document["Study"]["Series"].values()
    [instance] = series["Instances"].values()
    for kind in ("cold", "warm"):
        before, size = server.cpu(), 0
        for frame in instance["ImageFrames"]:
            answer = server.api.get_image_frame(**wanted, imageFrameInformation={"imageFrameId": frame["ID"]})
            size += len(answer["imageFrameBlob"].read())
        cpu = (server.cpu() - before) / count * 1e3
        print(f"GetImageFrame {kind}: {cpu:.1f} ms CPU, {size / count / 1024:.0f} KiB of 512 KiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--instances", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "home")
        frames(server, asked.frames)
        imports(server, asked.instances)
        server.stop()


if __name__ == "__main__":
    main()
