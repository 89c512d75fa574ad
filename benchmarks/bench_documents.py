"""Image set documents into committed rows: instances and sets per CPU-second, with every table of the registry.

    python benchmarks/bench_documents.py [DICOM_FILE]     (default: a CT slice of samples/)

A document is made of the slice as HealthImaging writes it; each instance differs from the next as slices of a series
do (UIDs, numbers, positions, times, tube current, window, frame checksums). Documents are gzipped bytes in memory, as
they are kept in the lake. Timed is what `ahi.indexing` does with them: flattening, all Parquet files with their syncs,
and the commit with heads, sightings and objects. Targets: 20,000 instances/CPU-s in sets of 100, 2,000 sets/CPU-s in
sets of one. `json.loads` of these bytes, in turns with it, says how busy the machine is; figures are medians, and those
of the quickest round, which a neighbour slowed down least. The private elements of a slice are rows of their own and
cost accordingly; both kinds are shown.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ahi import indexing
from ahi.clock import now
from ahi.documents import flatten_all, patient_key_function
from ahi.index import catalog
from ahi.index.store import Index
from local_aws.healthimaging import levels
from local_aws.healthimaging.dicom import entry, name, read

ROUNDS = 7
SLICE = Path(__file__).parents[1] / "samples" / "dicom" / "pydicom" / "CT2" / "17106"
KEY_OF = patient_key_function(b"benchmark")


def main() -> None:
    """Measure and print."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else SLICE
    for private in (False, True):
        parts = taken_apart(path, private=private)
        label = f"{len(parts[3])} attributes, {len(parts[4])} of them private"
        for n_sets, n_instances in ((200, 100), (500, 1)):
            blobs = [gzip.compress(document(parts, n, n_instances), 6) for n in range(n_sets)]
            spent, alone = list[tuple[float, float, float]](), list[float]()
            for _ in range(ROUNDS):
                spent.append(index_all(blobs))
                alone.append(loading(blobs))
            show(f"{n_sets} sets of {n_instances} ({label})", n_sets, n_instances, spent, alone)


def loading(blobs: list[bytes]) -> float:
    """CPU seconds that the standard library takes to load these documents and nothing else."""
    start = time.process_time()
    for blob in blobs:
        json.loads(gzip.decompress(blob))
    return time.process_time() - start


def show(name: str, n_sets: int, n_instances: int, spent: list[tuple[float, float, float]], alone: list[float]) -> None:
    """Print what the rounds took."""
    cpu, wall, flat = (statistics.median(each) for each in zip(*spent, strict=True))
    best, n_rows = min(each[0] for each in spent), n_sets * n_instances
    print(
        f"{name}: {n_rows / cpu:,.0f} instances/CPU-s (quickest round {n_rows / best:,.0f}), {n_sets / cpu:,.0f} "
        f"sets/CPU-s, {n_rows / wall:,.0f} instances/s by the clock; flattening {100 * flat / cpu:.0f} %; "
        f"json.loads alone {n_rows / statistics.median(alone):,.0f} instances/CPU-s, "
        f"{cpu / statistics.median(alone):.1f} times as many"
    )


def taken_apart(path: Path, *, private: bool) -> tuple[dict[str, Any], ...]:
    """Attributes of an object by level, and the VRs of its private ones."""
    parsed = read(path.read_bytes())
    found: tuple[dict[str, Any], ...] = ({}, {}, {}, {}, {})
    for tag, value in parsed.values.items():
        if tag >> 16 == 0x7FE0 or (entry(tag) is None and not private):
            continue
        level = 0 if tag in levels.PATIENT else 1 if tag in levels.STUDY else 2 if tag in levels.SERIES else 3
        found[level][name(tag)] = value
        if entry(tag) is None:
            found[4][name(tag)] = parsed.vrs.get(tag, "UN")
    return found


def document(parts: tuple[dict[str, Any], ...], number: int, n_instances: int) -> bytes:
    """The document of one image set, as JSON."""
    patient, study, series, own, vrs = parts
    study_uid, series_uid = f"1.2.826.0.1.{number}", f"1.2.826.0.1.{number}.1"
    instances = {}
    for n in range(1, n_instances + 1):
        uid, second = f"{series_uid}.{n}", f"{n // 60:02d}{n % 60:02d}"
        values = own | {
            "SOPInstanceUID": uid,
            "MediaStorageSOPInstanceUID": uid,
            "InstanceNumber": f"{n} ",
            "SliceLocation": f"{number + 1.25 * n:.3f}",
            "ImagePositionPatient": ["-125.000000", "-124.500000 ", f"{number + 1.25 * n:.6f}"],
            "ContentTime": f"10{second}",
            "AcquisitionTime": f"10{second}.{n:03d}",
            "XRayTubeCurrent": f"{200 + n % 37}",
            "WindowCenter": f"{n % 5 + 40}",
        }
        frame = {
            "ID": f"{number:016x}{n:016x}",
            "PixelDataChecksumFromBaseToFullResolution": [
                {"Width": width, "Height": width, "Checksum": (number * 7919 + n * width) % 2**32}
                for width in (64, 128, 256, 512)
            ],
            "MinPixelValue": -1000.0,
            "MaxPixelValue": 1000.0 + n,
            "FrameSizeInBytes": 150_000 + n,
        }
        instances[uid] = {
            "DICOM": values,
            "DICOMVRs": vrs,
            "StoredTransferSyntaxUID": "1.2.840.10008.1.2.4.202",
            "ChecksumType": "DECOMPRESSED",
            "ImageFrames": [frame],
        }
    return json.dumps(
        {
            "SchemaVersion": "1.1",
            "DatastoreID": "d" * 32,
            "ImageSetID": f"{number:032x}",
            "Patient": {"DICOM": patient | {"PatientID": f"P{number // 3}"}},
            "Study": {
                "DICOM": study | {"StudyInstanceUID": study_uid},
                "Series": {series_uid: {"DICOM": series | {"SeriesInstanceUID": series_uid}, "Instances": instances}},
            },
        }
    ).encode()


def index_all(blobs: list[bytes]) -> tuple[float, float, float]:
    """CPU and wall seconds of one commit of these documents into an index of their own; CPU seconds of flattening."""
    root = Path(tempfile.mkdtemp())
    try:
        index = Index(root, f"sqlite:///{root / 'catalog.sqlite'}")
        kept = [sighted(number, len(blob)) for number, blob in enumerate(blobs)]
        with index.transaction() as connection:
            row = {"datastore_id": "d" * 32, "version": 1, "gone": False, "seen_at": now(), "pending": True}
            connection.execute(catalog.sightings.insert(), [{**row, "image_set_id": one.image_set_id} for one in kept])
        pipeline: Any = SimpleNamespace(
            index=index,
            run_id="benchmark",
            settings=SimpleNamespace(datastore_id="d" * 32, patient_key_secret="benchmark"),
        )
        cpu, wall = time.process_time(), time.perf_counter()
        indexing.index_documents(pipeline, kept, blobs, indexing.IndexReport())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        start = time.process_time()
        for _ in flatten_all(zip(kept, blobs, strict=True), patient_key=KEY_OF, stamp={"indexed_at": now()}):
            pass
        return cpu, wall, time.process_time() - start
    finally:
        shutil.rmtree(root)


def sighted(number: int, size: int) -> indexing.Kept:
    """A kept document."""
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return indexing.Kept("d" * 32, f"{number:032x}", 1, "", size, is_primary=True, created_at=moment, updated_at=moment)


if __name__ == "__main__":
    main()
