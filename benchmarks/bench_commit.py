"""What a commit and a publication cost: `python benchmarks/bench_commit.py [--files 1000]`.

A commit is 100 series, 100 instances and 100 raised heads, half of them new and half the next version of an old one;
100 objects of the ledger change with it. Wall-clock time is the median, CPU the mean of this process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.store import Head, Index

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 100


def commit(index: Index, number: int) -> None:
    batch_id = f"bench-{number}"
    sets = [(f"{number}-{k}", 1) for k in range(ROWS // 2)]
    sets += [(f"{max(number - 1, 0)}-{k}", 2) for k in range(ROWS // 2)] if number else []
    series = [
        {
            "datastore_id": "store",
            "image_set_id": name,
            "image_set_version": version,
            "is_primary": True,
            "patient_key": f"{number % 97}",
            "StudyInstanceUID": f"1.2.826.0.1.{number}",
            "SeriesInstanceUID": f"1.2.826.0.1.{number}.{name}",
            "Modality": "CT",
            "SliceThickness": 1.25,
            "n_instances": 1,
        }
        for name, version in sets
    ]
    same = ("datastore_id", "image_set_id", "image_set_version", "is_primary", "StudyInstanceUID", "SeriesInstanceUID")
    instances = [
        {key: row[key] for key in same} | {"SOPInstanceUID": f"{row['SeriesInstanceUID']}.1", "InstanceNumber": 1}
        for row in series
    ]
    files = [index.write("series", series, batch_id=batch_id), index.write("instances", instances, batch_id=batch_id)]
    with index.commit(batch_id=batch_id, kind="bench", files=files) as open_commit:
        open_commit.raise_heads([Head("store", name, version, True, None, None, 1) for name, version in sets])
        moment, seq = now(), open_commit.seq
        rows = [
            {
                "object_id": f"{number}-{k}",
                "bucket": "landing",
                "key": f"site/{number}/{k}.dcm",
                "state": "imported",
                "state_since": moment,
                "attempts": 1,
                "day": f"2026-11-{1 + number // 250 % 28:02d}",
                "landed_at": moment,
                "header_at": moment,
                "header_seq": seq,
                "indexed_at": moment,
                "indexed_seq": seq,
                "changed_seq": seq,
            }
            for k in range(ROWS)
        ]
        open_commit.connection.execute(c.objects.insert(), rows)


def timed(what: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def show(label: str, times: list[tuple[float, float]]) -> None:
    walls = sorted(wall for wall, _ in times)
    cpu = statistics.mean(cpu for _, cpu in times)
    print(f"{label:44} {statistics.median(walls):8.1f} {walls[-1]:8.1f} {cpu:8.1f}")


def rounds(index: Index, start: int, label: str, n: int = 12) -> int:
    """Commits and publications in turn, as live runs do them; gives the next free number."""
    commits, publications = [], []
    for number in range(start, start + n):
        commits.append(timed(lambda number=number: commit(index, number)))
        publications.append(timed(index.publish))
    show(f"commit of {ROWS} rows, {label}", commits)
    show(f"publication, {label}", publications)
    return start + n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000, help="live files to have before the second round")
    wanted = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        index = Index(root, f"sqlite:///{root / 'catalog.sqlite'}", grace_seconds=0)
        print(f"{'milliseconds':44} {'median':>8} {'max':>8} {'CPU':>8}")
        show("first commit, libraries loaded", [timed(lambda: commit(index, 0))])
        show("first publication, views made", [timed(index.publish)])
        number = rounds(index, 1, "empty index")
        while number * 2 < wanted:
            commit(index, number)
            number += 1
        show("publication that moves the ledger to files", [timed(index.publish)])
        number = rounds(index, number, f"{wanted} files")
        show("publication with nothing new", [timed(index.publish) for _ in range(12)])
        point = "SELECT * FROM series WHERE SeriesInstanceUID = '1.2.826.0.1.7.7-3'"
        show("one series, before compaction", [timed(lambda: index.query(point)) for _ in range(5)])
        show("compaction", [timed(index.compact)])
        index.publish()
        show("one series, after compaction", [timed(lambda: index.query(point)) for _ in range(5)])
        rounds(index, number, "compacted")
        show("expiry", [timed(index.expire)])
        with index.snapshot() as connection:
            n_objects = connection.scalar(sa.select(sa.func.count()).select_from(c.objects))
        size = index.path.stat().st_size / 2**20
        print(f"{n_objects} objects in the ledger, index.duckdb {size:.1f} MiB")


if __name__ == "__main__":
    main()
