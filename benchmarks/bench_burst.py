"""A burst: many small objects sent at once reach closure, with few runs and flat memory.

    python benchmarks/bench_burst.py [OBJECTS]

Targets for 2,000: closure; no process above 1 GiB; a handful of runs, not one an object.
"""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
from dagster import DagsterInstance
from live_stack import cpu_seconds, live_stack, memory
from pydicom.uid import generate_uid

from ahi.closure import closure
from ahi.freshness import percentiles

SAMPLE = Path(__file__).parents[1] / "samples" / "dicom" / "pydicom" / "MR_small.dcm"
PER_SERIES = 40
PATIENCE_SECONDS = 600
GIB = 2**30


def objects(count: int) -> list[bytes]:
    """Small objects in series of forty, two series a study."""
    dataset, made = pydicom.dcmread(SAMPLE), []
    for number in range(count):
        if number % (2 * PER_SERIES) == 0:
            dataset.StudyInstanceUID, dataset.PatientID = generate_uid(), f"bench{number}"
        if number % PER_SERIES == 0:
            dataset.SeriesInstanceUID = generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number % PER_SERIES + 1
        dataset.save_as(body := io.BytesIO())
        made.append(body.getvalue())
    return made


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    bodies = objects(count)
    with live_stack() as (stack, pipeline):
        bucket, before, peak = pipeline.settings.landing_bucket, cpu_seconds(stack), Counter[str]()
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            put = pipeline.aws.s3.put_object
            list(pool.map(lambda n: put(Bucket=bucket, Key=f"burst/{n}.dcm", Body=bodies[n]), range(count)))
        sent = time.monotonic() - started
        while not ((now := closure(pipeline.index.engine)).landed == count and now.at_rest):
            for name, size in memory(stack).items():
                peak[name] = max(peak[name], size)
            if time.monotonic() - started > PATIENCE_SECONDS:
                raise SystemExit(f"No closure within {PATIENCE_SECONDS} s: {now}")
            time.sleep(0.5)
        wall, cpu = time.monotonic() - started, cpu_seconds(stack) - before
        with DagsterInstance.from_config(str(stack.home / "dagster")) as instance:
            runs = Counter(run.job_name for run in instance.get_runs())
        live = sum(runs[name] for name in ("uploads", "import_events", "image_set_events"))
        print(f"\n{count} objects sent in {sent:.1f} s, at rest {wall:.1f} s after the first ({count / wall:.0f}/s)")
        print(f"CPU of the whole stack {cpu:.1f} s, {1000 * cpu / count:.1f} ms an object")
        print(f"runs: {dict(runs)}; live runs {live}; closes {now.closes}; {now.states}")
        print("largest processes: " + ", ".join(f"{size / 2**20:.0f} MiB {name}" for name, size in peak.most_common(3)))
        for hop in percentiles(pipeline.index.engine):
            print(f"{hop.name:32}{hop.count:6}{hop.p50:8.2f}{hop.p95:8.2f}{hop.p99:8.2f}")
        if not now.closes or max(peak.values()) > GIB or live > count / 20:
            raise SystemExit("A target was missed")


if __name__ == "__main__":
    main()
