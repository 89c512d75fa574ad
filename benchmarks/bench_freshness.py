"""Freshness on an idle stack: single uploads, one after the other, each hop from arrival to the published index.

    python benchmarks/bench_freshness.py [UPLOADS]

Targets: arrival to header queryable p50 <= 4 s and p95 <= 8 s; arrival to queryable p50 <= 8 s and p95 <= 15 s; a run,
work on its one object included, takes at most 1.5 s of CPU.
"""

from __future__ import annotations

import io
import random
import sys
import time
from pathlib import Path

import pydicom
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from live_stack import cpu_seconds, live_stack, run_cpu_seconds
from pydicom.uid import generate_uid

from ahi.closure import closure
from ahi.freshness import percentiles

SAMPLE = Path(__file__).parents[1] / "samples" / "dicom" / "pydicom" / "CT_small.dcm"
TARGETS = {"arrival to header queryable": (4, 8), "arrival to queryable": (8, 15)}
RUN_CPU_SECONDS = 1.5
PATIENCE_SECONDS = 120


def one_object() -> bytes:
    """The sample under new UIDs."""
    dataset = pydicom.dcmread(SAMPLE)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.save_as(body := io.BytesIO())
    return body.getvalue()


def main() -> None:
    uploads = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    luck = random.Random(1)
    with live_stack() as (stack, pipeline), DagsterInstance.from_config(str(stack.home / "dagster")) as instance:

        def runs() -> int:
            return instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]))

        def upload(name: str) -> None:
            pipeline.aws.s3.put_object(Bucket=pipeline.settings.landing_bucket, Key=name, Body=one_object())
            wanted, deadline = closure(pipeline.index.engine).landed + 1, time.monotonic() + PATIENCE_SECONDS
            while not ((now := closure(pipeline.index.engine)).landed >= wanted and now.at_rest):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{name} did not come through: {now}")
                time.sleep(0.2)

        upload("bench/warm-up.dcm")  # pays for the fork server's imports
        with pipeline.index.commit(kind="bench") as commit:
            commit.connection.exec_driver_sql("UPDATE objects SET landed_at = 0")  # out of the day that is measured
        time.sleep(3)
        before, in_runs, ended = cpu_seconds(stack), run_cpu_seconds(stack), runs()
        started = time.monotonic()
        for number in range(uploads):
            time.sleep(luck.uniform(0.5, 6))  # so that uploads meet every phase of the sensors' ticks
            upload(f"bench/{number}.dcm")
        time.sleep(3)  # the last publication
        cpu, wall = cpu_seconds(stack) - before, time.monotonic() - started
        print(f"\n{uploads} single uploads in {wall:.0f} s, {cpu / uploads:.2f} s CPU of the whole stack an upload\n")
        ended, in_runs = runs() - ended, run_cpu_seconds(stack) - in_runs
        met = in_runs / ended <= RUN_CPU_SECONDS
        mark = f"target {RUN_CPU_SECONDS} {'met' if met else 'MISSED'}"
        print(f"{ended} runs, {in_runs / ended:.2f} s CPU each, work included  {mark}\n")
        print(f"{'hop':32}{'n':>5}{'p50 s':>8}{'p95 s':>8}{'p99 s':>8}")
        for hop in percentiles(pipeline.index.engine):
            mark = ""
            if hop.name in TARGETS:
                p50, p95 = TARGETS[hop.name]
                held = hop.p50 <= p50 and hop.p95 <= p95
                met, mark = met and held, f"  target {p50}/{p95} {'met' if held else 'MISSED'}"
            print(f"{hop.name:32}{hop.count:5}{hop.p50:8.2f}{hop.p95:8.2f}{hop.p99:8.2f}{mark}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
