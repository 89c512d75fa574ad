"""A large ledger under live runs: `python benchmarks/bench_ledger.py [--objects N] [--jobs N] [--events N]`.

What `bench_growth` is to the tables of DICOM attributes, this is to those of the pipeline's own account. One day of
objects, jobs and events is committed at once, published, changed once more and folded. Between these steps runs
commit 100 rows and publish. Wall-clock time and CPU of this process; memory is the peak since the step began.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.store import Index

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = "2026-11-21"
PART = 20_000


def measured(label: str, what: Callable[[], object]) -> None:
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"{label:52} {wall:8.2f} {cpu:8.2f} {int(peak.split()[1]) / 1024:8.0f}", flush=True)


def fill(index: Index, n_objects: int, n_jobs: int, n_events: int) -> None:
    moment = now()
    for table, n_rows, row in (
        (c.objects, n_objects, an_object),
        (c.jobs, n_jobs, a_job),
        (c.events, n_events, an_event),
    ):
        for start in range(0, n_rows, PART):
            with index.commit(kind="bench") as commit:
                rows = [row(str(n), moment) for n in range(start, min(start + PART, n_rows))]
                if table is c.objects:
                    rows = [values | {"changed_seq": commit.seq, "header_seq": commit.seq} for values in rows]
                commit.connection.execute(table.insert(), rows)


def an_object(name: str, moment: object) -> dict[str, object]:
    uid = f"1.2.826.0.1.3680043.9.7433.1.{name}"
    return {
        "object_id": f"{int(name) * 2654435761 % 2**64:032x}",
        "bucket": "landing",
        "key": f"site/scanner/{uid}.dcm",
        "etag": f"{int(name):032x}",
        "size_bytes": 526_336,
        "sequencer": f"{int(name):018x}",
        "state": "imported",
        "state_since": moment,
        "StudyInstanceUID": f"{uid[:-2]}.1",
        "SeriesInstanceUID": f"{uid[:-2]}.2",
        "SOPInstanceUID": uid,
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "Modality": "CT",
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        "attempts": 1,
        "batch_id": f"{int(name) // 100:032x}",
        "day": DAY,
        "landed_at": moment,
        "received_at": moment,
        "header_at": moment,
    }


def a_job(name: str, moment: object) -> dict[str, object]:
    return {
        "job_key": f"job-{name}",
        "service": "medical-imaging",
        "state": "settled",
        "day": DAY,
        "datastore_id": "store",
        "input_uri": f"s3://staging/job-{name}/",
        "output_uri": f"s3://lake/jobs/job-{name}/",
        "in_place": False,
        "n_objects": 100,
        "n_bytes": 52_633_600,
        "planned_at": moment,
        "settled_at": moment,
    }


def an_event(name: str, moment: object) -> dict[str, object]:
    return {
        "event_id": f"{int(name):08x}-0000-4000-8000-000000000000",
        "detail_type": "Import Job Completed",
        "subject": f"job-{name}",
        "occurred_at": moment,
        "batch_id": f"{int(name) // 100:032x}",
        "outcome": "used",
    }


def live_run(index: Index, start: int) -> None:
    """What a run adds and changes: 100 new objects, 100 old ones in another state, one job."""
    with index.commit(kind="bench") as commit:
        seq, moment = commit.seq, now()
        rows = [an_object(str(n), moment) | {"changed_seq": seq, "header_seq": seq} for n in range(start, start + 100)]
        commit.connection.execute(c.objects.insert(), rows)
        old = [str(an_object(str(n), moment)["object_id"]) for n in range(start % 90_000, start % 90_000 + 100)]
        change = c.objects.update().where(c.objects.c.object_id.in_(old))
        commit.connection.execute(change.values(indexed_seq=seq, indexed_at=moment, changed_seq=seq))
        commit.connection.execute(c.jobs.update().where(c.jobs.c.job_key == f"job-{start % 1000}").values(message="x"))


def change_all(index: Index) -> None:
    with index.commit(kind="bench") as commit:
        commit.connection.execute(c.objects.update().values(is_primary=True, changed_seq=commit.seq))


def live_runs(index: Index, start: int, label: str, n: int = 10) -> int:
    """Each run's commit and publication; the first publication shows what happened before it."""
    for number in range(n):
        live_run(index, start + number * 100)
        if number in (0, 1, n - 1):
            measured(f"live publication {number + 1}, {label}", index.publish)
        else:
            index.publish()
    return start + n * 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=500_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=500_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        index = Index(root, f"sqlite:///{root / 'catalog.sqlite'}", grace_seconds=0)
        index.publish()
        print(f"{'':52} {'wall s':>8} {'CPU s':>8} {'MiB':>8}")
        measured("filling", lambda: fill(index, wanted.objects, wanted.jobs, wanted.events))
        measured("publication of everything at once", index.publish)
        number = live_runs(index, wanted.objects, "slices")
        measured("compaction, everything is new", index.compact)
        number = live_runs(index, number, "base")
        measured("every object changed", lambda: change_all(index))
        measured("publication of that", index.publish)
        number = live_runs(index, number, "base and slices")
        measured("compaction, every object changed", index.compact)
        number = live_runs(index, number, "base again")
        for view in ("objects", "import_jobs", "events"):
            measured(f"counting {view}", lambda view=view: index.query(f"SELECT count(*) FROM {view}"))
        counted = index.query("SELECT count(*), count(DISTINCT object_id), count(is_primary) FROM objects").rows[0]
        with index.snapshot() as connection:
            stored = connection.scalar(sa.select(sa.func.count()).select_from(c.objects))
        print(f"objects in the ledger {stored}; shown, distinct, changed: {counted}")


if __name__ == "__main__":
    main()
