"""From an archive's keys to its shards: `python benchmarks/bench_archive_plan.py [--keys N] [--listed N]`.

An S3 Inventory report (Parquet, then CSV) of N keys in three layouts is read and planned; then a bucket of real objects
is listed. CPU and peak memory of this process, which does all of the work but S3's.

Target: a million keys in at most 60 s CPU and 1 GiB.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gzip
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from dotenv import dotenv_values

from ahi.archive import archives, inventory
from ahi.archive.plan import Plan, make_plan
from ahi.pipeline import Pipeline, connect
from ahi.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUCKET, FILES = "old-pacs", 4
CPU_SECONDS, MEMORY_MIB = 60, 1024
DAY = dt.datetime(2019, 1, 1, tzinfo=dt.UTC)
LAYOUTS: dict[str, Callable[[int], str]] = {
    "series of 40": lambda n: f"pacs/{n // 4_000:04d}/{n // 160:07d}/1.2.840.113619.2.{n // 40}/{n}.dcm",
    "studies of 400": lambda n: f"pacs/{n // 40_000:04d}/1.2.840.113619.2.{n // 400}/{n}.dcm",
    "one folder": lambda n: f"pacs/1.2.840.113619.2.55.3.604688119.{n}.dcm",
}


@contextmanager
def embedded_aws() -> Iterator[Pipeline]:
    with tempfile.TemporaryDirectory(prefix="ahi-bench-") as folder:
        home = Path(folder)
        command = [sys.executable, "-m", "local_aws", "--home", str(home), "--port", "0"]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                command, env=os.environ | {"LOCAL_AWS_RATE_LIMITS": "off"}, stdout=log, stderr=log
            )
        try:
            while not (home / "stack.env").exists():
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.1)
            os.environ |= {k: v for k, v in dotenv_values(home / "stack.env").items() if v} | {"AHI_HOME": folder}
            yield connect(Settings())
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def report(name: str, layout: Callable[[int], str], n_keys: int, kind: str) -> None:
    """Write an S3 Inventory report of keys that need no object behind them. In a process apart, for its memory."""
    named, s3 = [], connect(Settings()).aws.s3
    for number in range(FILES):
        some = range(number, n_keys, FILES)
        table = pa.table(
            {
                "bucket": pa.repeat(BUCKET, len(some)),
                "key": [layout(n) for n in some],
                "size": pa.array([524_288 + n % 1_000 for n in some]),
                "last_modified_date": pa.repeat(DAY, len(some)).cast(pa.timestamp("ms"))
                if kind == "Parquet"
                else pa.repeat("2019-01-01T00:00:00.000Z", len(some)),
                "e_tag": [f"{n:032x}" for n in some],
                "storage_class": pa.repeat("STANDARD", len(some)),
            }
        )
        out = io.BytesIO()
        if kind == "Parquet":
            pq.write_table(table, out, compression="snappy")
        else:
            pa_csv.write_csv(table, out, pa_csv.WriteOptions(include_header=False, quoting_style="all_valid"))
            out = io.BytesIO(gzip.compress(out.getvalue(), 1))
        key = f"{name}/{kind}/data/{number}"
        s3.put_object(Bucket="reports", Key=key, Body=out.getvalue())
        named.append({"key": key, "size": out.tell(), "MD5checksum": hashlib.md5(out.getvalue()).hexdigest()})
    columns = "Bucket, Key, Size, LastModifiedDate, ETag, StorageClass"
    manifest = {"sourceBucket": BUCKET, "fileFormat": kind, "fileSchema": columns, "files": named}
    body = json.dumps(manifest | {"creationTimestamp": "1763600000000"}).encode()
    s3.put_object(Bucket="reports", Key=f"{name}/{kind}/manifest.json", Body=body)
    s3.put_object(Bucket="reports", Key=f"{name}/{kind}/manifest.checksum", Body=hashlib.md5(body).hexdigest().encode())


def timed(label: str, pipeline: Pipeline, archive: archives.Archive, n_keys: int) -> bool:
    wall, cpu = time.perf_counter(), time.process_time()
    found = inventory.look(pipeline, archive)
    looked, looked_wall = time.process_time() - cpu, time.perf_counter() - wall
    plan: Plan = make_plan(pipeline, archive, keep=True)
    assert plan.n_objects == found.n_objects == n_keys, "every key in one shard"
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    allowed = CPU_SECONDS * max(1.0, found.n_objects / 1e6)
    met = cpu <= allowed and memory <= MEMORY_MIB
    print(
        f"{label:28} {found.n_objects:>9,} keys  "
        f"look {looked:5.1f} s CPU ({found.n_objects / looked_wall:,.0f} keys/s), "
        f"all {cpu:5.1f} s CPU, {wall:5.1f} s, peak {memory:4.0f} MiB, {len(plan.shards):,} shards, "
        f"{plan.copied.n_objects / max(1, plan.n_objects):.0%} copied  {'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--listed", type=int, default=20_000)
    parser.add_argument("--layouts", nargs="*", default=list(LAYOUTS))
    chosen = parser.parse_args()
    met = True
    with embedded_aws() as pipeline:
        for bucket in (BUCKET, "reports"):
            pipeline.aws.s3.create_bucket(Bucket=bucket)
        kinds = {name: ["Parquet", "CSV"] if name == next(iter(LAYOUTS)) else ["Parquet"] for name in chosen.layouts}
        for number, (name, kind) in enumerate((name, kind) for name, some in kinds.items() for kind in some):
            subprocess.run(
                [sys.executable, __file__, "--report", str(number), name, str(chosen.keys), kind], check=True
            )
            uri = f"s3://reports/{number}/{kind}/manifest.json"
            archive = archives.add(pipeline, f"s3://{BUCKET}/pacs/", name=f"a{number}", report_uri=uri)
            met &= timed(f"{kind}, {name}", pipeline, archive, chosen.keys)
        if chosen.listed:
            layout = LAYOUTS["series of 40"]
            with ThreadPoolExecutor(16) as pool:
                list(
                    pool.map(
                        lambda n: pipeline.aws.s3.put_object(Bucket=BUCKET, Key=layout(n), Body=b"\0" * 600),
                        range(chosen.listed),
                    )
                )
            # Pages, ranges and parts: more keys than any of them holds, and each is found once.
            archive = archives.add(pipeline, f"s3://{BUCKET}/pacs/", name="listed")
            met &= timed("listing, series of 40", pipeline, archive, chosen.listed)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--report"]:
        report(sys.argv[2], LAYOUTS[sys.argv[3]], int(sys.argv[4]), sys.argv[5])
    else:
        main()
