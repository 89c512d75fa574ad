"""The gap between the end of one HealthLake job and the start of the next, on a whole running stack.

    python benchmarks/bench_healthlake_chain.py [BATCHES]

Target: at most 15 s wall, for 95 of 100. The usual tools poll each 120 s (the SDK's waiter, Kestra's default), which
leaves HealthLake idle for 60 s on average after each job.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median

from live_stack import live_stack, run_cpu_seconds

from ahi.healthlake import audit, control
from ahi.healthlake.plan import Terms, plan_import

JOB_SECONDS = 3
TARGET_SECONDS = 15.0
POLLING_SECONDS = 120.0
PATIENCE_SECONDS = 900


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    with live_stack(LOCAL_AWS_FHIR_IMPORT_SECONDS=str(JOB_SECONDS)) as (stack, pipeline):
        bucket = pipeline.settings.lake_bucket
        for number in range(count):
            body = json.dumps({"resourceType": "Patient", "id": f"p{number}"}).encode() + b"\n"
            pipeline.aws.s3.put_object(Bucket=bucket, Key=f"fhir/received/bench/{number:04d}.ndjson", Body=body)
        started = time.monotonic()
        plan_import(pipeline, f"s3://{bucket}/fhir/received/bench/", Terms(files_per_batch=1))
        while control.imports(pipeline.index.engine)[0].settled < count:
            if time.monotonic() - started > PATIENCE_SECONDS:
                raise SystemExit(f"No end within {PATIENCE_SECONDS} s")
            time.sleep(0.5)
        wall, gaps = time.monotonic() - started, sorted(audit.gaps(pipeline.index.engine))
        p95 = gaps[min(len(gaps) - 1, int(0.95 * len(gaps)))]
        print(f"\n{count} jobs of {JOB_SECONDS} s in {wall:.0f} s; runs used {run_cpu_seconds(stack):.1f} s of CPU")
        print(f"gap from end to next start: p50 {median(gaps):.1f} s, p95 {p95:.1f} s, most {gaps[-1]:.1f} s")
        print(f"polling each {POLLING_SECONDS:.0f} s would leave {POLLING_SECONDS / 2:.0f} s on average")
        for hop in audit.hops(pipeline.index.engine):
            print(f"{hop.name:24}{hop.count:6}{hop.p50:8.2f}{hop.p95:8.2f}")
        if p95 > TARGET_SECONDS:
            raise SystemExit("The target was missed")


if __name__ == "__main__":
    main()
