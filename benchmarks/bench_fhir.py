"""FHIR: making it from an index, and judging it: `python benchmarks/bench_fhir.py [--instances N] [--corpus FOLDER]`.

The index is made of synthetic rows: studies of 200 instances in four series, in Parquet files in arrival order, with
the columns of the views `series` and `instances` that are read. Each part runs in a process of its own, so that its
memory is its own; what is measured is the CPU time of all its threads and the peak of its memory. Targets: 150,000
instances and 20,000 real resources per CPU second; memory that does not grow with the index.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PER_SERIES, SERIES_PER_STUDY = 50, 4
PART = 100_000
MEMORY = "256MB"
CORPUS = Path(__file__).parents[1] / "tests" / "ahi" / "fhir" / "data" / "synthea.ndjson"
ROOT = "1.2.826.0.1.3680043.9.7433.1"


def rows(count: int) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Series and instances, as many at a time as go into a file."""
    import datetime as dt

    numbers = list(range(count // PER_SERIES))
    random.Random(7).shuffle(numbers)
    for start in range(0, len(numbers), PART // PER_SERIES):
        series, instances = [], []
        for number in numbers[start : start + PART // PER_SERIES]:
            study = f"{ROOT}.{number // SERIES_PER_STUDY * 7919}"
            own = {"row_source": "document", "datastore_id": "d" * 32, "image_set_id": f"{number:032x}"}
            own |= {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.{number % SERIES_PER_STUDY}"}
            series.append(
                own
                | {
                    "patient_key": f"{number // SERIES_PER_STUDY // 3:064x}",
                    "PatientID": f"P{number // SERIES_PER_STUDY // 3}",
                    "PatientName_parts": {"family": f"Doe{number // 12}", "given": "Jane"},
                    "PatientSex": "F",
                    "AccessionNumber": f"A{number // SERIES_PER_STUDY}",
                    "StudyDate": dt.date(2024, 1, 1),
                    "StudyTime": dt.time(12),
                    "TimezoneOffsetFromUTC": "+0100",
                    "StudyDescription": "CT abdomen",
                    "Modality": "CT",
                    "SeriesNumber": number % SERIES_PER_STUDY,
                    "SeriesDescription": "axial",
                    "BodyPartExamined": "ABDOMEN",
                    "Manufacturer": "ACME",
                    "DeviceSerialNumber": "4711",
                }
            )
            instances += [
                own
                | {
                    "SOPInstanceUID": f"{own['SeriesInstanceUID']}.{at}",
                    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
                    "InstanceNumber": at,
                }
                for at in range(1, PER_SERIES + 1)
            ]
        yield series, instances


def make(folder: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ahi.fhir.instances import COLUMNS
    from ahi.fhir.source import PATIENT_COLUMNS, SERIES_COLUMNS
    from ahi.index.registry import TABLES, arrow_schema

    read = {*SERIES_COLUMNS, *PATIENT_COLUMNS, *COLUMNS}
    for part, tables in enumerate(rows(count)):
        for name, found in zip(("series", "instances"), tables, strict=True):
            fields = [field for field in arrow_schema(TABLES[name]) if field.name in read]
            schema = pa.schema([*fields, pa.field("row_source", pa.string())])
            pq.write_table(
                pa.Table.from_pylist(found, schema), folder / f"{name}-{part:05}.parquet", compression="zstd"
            )


def build(folder: Path) -> None:
    """Every resource of the index to a file."""
    import duckdb

    from ahi.fhir.rules import Rules
    from ahi.fhir.source import fhir_resources

    with duckdb.connect() as connection, (folder / "out.ndjson").open("wb") as out:
        connection.execute(f"SET threads = 1; SET memory_limit = '{MEMORY}'; SET temp_directory = '{folder / 'spill'}'")
        for name in ("series", "instances"):
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{folder}/{name}-*.parquet')")
        idle, started = peak(), time.process_time()
        digests = 0
        for one in fhir_resources(connection, Rules("https://dicom.example/{datastore_id}")):
            out.write(one.body)
            out.write(b"\n")
            digests += one.digest != ""
        cpu = time.process_time() - started
        instances = int(connection.execute("SELECT count(*) FROM instances").fetchall()[0][0])
    size = (folder / "out.ndjson").stat().st_size / 2**20
    print(
        f"made   {instances:>10,} instances in {digests:,} resources, {size:.0f} MiB: {cpu:.2f} CPU s, "
        f"{instances / cpu:,.0f} instances a CPU second; peak {peak():.0f} MiB, {idle:.0f} before"
    )


def judge(path: Path) -> None:
    """Every line of a file or folder, twice: types are compiled when first met, so the second time counts."""
    from ahi.fhir.batch import Batch, Place
    from ahi.fhir.validate import Validator

    files = sorted(path.rglob("*.ndjson")) if path.is_dir() else [path]
    lines = [line for file in files if "malformed" not in file.parts for line in file.read_bytes().splitlines()]
    lines *= max(1, 3_000 // len(lines))
    validator = Validator()
    for line in lines:
        validator.check(line)
    started = time.process_time()
    refused = sum(not validator.check(line).ok for line in lines)
    cpu, started = time.process_time() - started, time.process_time()
    batch = Batch(validator, resolve=True)
    for number, line in enumerate(lines):
        batch.check(line, Place("f", number))
    whole = time.process_time() - started
    size = sum(map(len, lines)) / 2**20
    print(
        f"judged {len(lines):>10,} resources of {path.name}, {size:.0f} MiB: {cpu:.2f} CPU s, "
        f"{len(lines) / cpu:,.0f} a CPU second, {size / cpu:.0f} MiB/s; with duplicates and references "
        f"{len(lines) / whole:,.0f}; {refused} refused; peak {peak():.0f} MiB"
    )


def peak() -> float:
    """MiB; `getrusage` would count the parent's memory from before `exec`."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def alone(*arguments: object) -> None:
    subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="A file or folder of NDJSON")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.build:
        build(chosen.build)
    elif chosen.judge:
        judge(chosen.judge)
    else:
        for count in (chosen.instances // 10, chosen.instances):
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder), count)
                alone("--build", folder)
                if count < chosen.instances:
                    alone("--judge", f"{folder}/out.ndjson")
        alone("--judge", chosen.corpus)


if __name__ == "__main__":
    main()
