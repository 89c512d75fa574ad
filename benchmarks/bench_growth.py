"""Whether commits and queries stay as they are while an index grows: `bench_growth.py [--instances N N ...]`.

One index for each size, filled with image sets of 100 instances and their ledger and then compacted. UIDs of studies,
series and instances are in no order, as those of several senders. Then the same turns on each of them, one after the
other so that the machine's moods fall on all alike. A turn is

- the files alone: every Parquet file that the rows of 100 instances make, written and synced, and nothing else;
- a commit of them, as `ahi.indexing` does it: the same files, heads, sightings, and objects of the ledger indexed;
- a publication, and what the run that publishes does besides: it merges batches' files where there are
  enough, which is once in 15 batches, so that only the mean says something;
- queries of it: one study's instances and one patient's series, opening the file included as `ahi query` does; then,
  in a connection that has it open, of `STUDIES` studies anywhere in it all and four columns, one series and one
  instance, and the study in a copy (`ahi export`). Each is asked twice, and the second time counts.

Every other commit replaces image sets of the turn before. CPU is the mean, wall-clock time the median of all turns;
`ratio` is to the files alone.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import duckdb
import sqlalchemy as sa
from bench_documents import SLICE, document, taken_apart
from filling import FILE_SETS, PER_SET, STORE, fill, study_uids, template

from ahi import indexing
from ahi.clock import now
from ahi.documents import DocumentHead, flatten_all, patient_key_function
from ahi.index import catalog
from ahi.index.columnar import TableWriter
from ahi.index.columns import Tier
from ahi.index.export import export
from ahi.index.query import open_index
from ahi.index.store import Head, Index
from ahi.index.writer import sync_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from ahi.documents import Flattened
    from ahi.index.writer import DataFile

FOUR = "SOPInstanceUID, InstanceNumber, Rows, Columns"
SMALL = 2 * 2**20
"""An eighth of what it is by default: rows made by column take an eighth of the bytes that real ones do."""
STUDIES = 5
FILLED = 0.99
"""Part of the image sets that `fill` surely makes: whole files of them."""
KINDS = {"one set of 100": (1, 100), "100 sets of one": (100, 1)}


@dataclass
class Subject:
    """An index of one size, and what was measured on it: (wall, CPU) in milliseconds by what was done."""

    size: int
    index: Index
    copy: Path
    turn: int = 0
    times: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def time(self, what: str, work: Callable[[], object]) -> Any:
        """Do it, and note what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        done = work()
        took = (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
        self.times.setdefault(what, []).append(took)
        return done


def write(index: Index, batch_id: str, flat: list[Flattened[Any]]) -> list[DataFile]:
    """The files of a batch, as `ahi.indexing` writes them."""
    writer = TableWriter(index.root, index.tables, batch_id=batch_id)
    for part in chain.from_iterable(one.parts for one in flat):
        writer.add(part)
    return writer.files()


def files_alone(index: Index, batch_id: str, flat: list[Flattened[Any]]) -> list[DataFile]:
    """The floor: written and synced, but no part of the index."""
    files = write(index, batch_id, flat)
    sync_files(index.root, [file.path for file in files])
    return files


def commit(subject: Subject, batch_id: str, flat: list[Flattened[Any]], kept: list[Any]) -> None:
    """Make the batch true."""
    files = write(subject.index, batch_id, flat)
    with subject.index.commit(batch_id=batch_id, kind="index", files=files) as opened:
        heads = [
            Head(STORE, one.image_set_id, one.version, True, head.study_uid, head.series_uid, head.n_instances)
            for one, head in chain.from_iterable(one.documents for one in flat)
            if isinstance(head, DocumentHead)
        ]
        assert len(heads) == len(kept)
        opened.raise_heads(heads)
        indexing._shown(opened, kept)  # noqa: SLF001 - the rest of what the pipeline does


def batch(
    parts: Any, number: int, version: int, n_sets: int, n_instances: int
) -> tuple[list[Flattened[Any]], list[SimpleNamespace]]:
    """Rows of documents never seen before, or of their next version; and what is known of them."""
    key_of = patient_key_function(b"bench")
    numbers = [10**12 + number * 1_000 + n for n in range(n_sets)]
    kept = [
        SimpleNamespace(datastore_id=STORE, image_set_id=f"{n:032x}", version=version, is_primary=True) for n in numbers
    ]
    blobs = [document(parts, n, n_instances) for n in numbers]
    stamp = {"indexed_at": now(), "dagster_run_id": "bench"}
    return list(flatten_all(zip(kept, blobs, strict=True), patient_key=key_of, stamp=stamp)), kept


def announce(subject: Subject, kept: list[Any], n_instances: int) -> None:
    """What is in the catalog before a batch is indexed: sightings, and objects that wait for their rows."""
    moment = now()
    with subject.index.commit(kind="announce") as opened:
        connection, c = opened.connection, catalog
        ids = [one.image_set_id for one in kept]
        connection.execute(c.sightings.delete().where(c.sightings.c.image_set_id.in_(ids)))
        connection.execute(
            c.sightings.insert(),
            [
                {
                    "datastore_id": STORE,
                    "image_set_id": one.image_set_id,
                    "version": one.version,
                    "gone": False,
                    "seen_at": moment,
                    "pending": True,
                }
                for one in kept
            ],
        )
        connection.execute(
            c.objects.insert(),
            [
                {
                    "object_id": f"{hash((one.image_set_id, one.version, n)) % 2**63:016x}{n:016x}",
                    "bucket": "landing",
                    "key": f"site/{one.image_set_id}/{one.version}/{n}.dcm",
                    "state": "imported",
                    "state_since": moment,
                    "day": "2026-11-22",
                    "attempts": 1,
                    "landed_at": moment,
                    "image_set_id": one.image_set_id,
                    "image_set_version": one.version,
                    "changed_seq": opened.seq,
                }
                for one in kept
                for n in range(n_instances)
            ],
        )


def turn(subject: Subject, parts: Any) -> None:
    """Everything that is measured, once."""
    index, number = subject.index, subject.turn
    subject.turn += 1
    for kind, (n_sets, n_instances) in KINDS.items():
        flat, kept = batch(parts, (number // 2) * 10 + n_sets % 7, number % 2 + 1, n_sets, n_instances)
        announce(subject, kept, n_instances)
        alone = subject.time(f"files alone, {kind}", lambda f=flat: files_alone(index, f"alone-{number}", f))
        for file in alone:
            (index.root / file.path).unlink()
        batch_id = f"bench-{number}-{n_sets}"
        subject.time(f"commit, {kind}", lambda b=batch_id, f=flat, k=kept: commit(subject, b, f, k))
    subject.time("publication", index.publish)
    subject.time("merging of batches", index.compact_batches)
    # The same places of each index: how far into its row group a study stands counts for as much as the index's size.
    places = [random.Random(number * STUDIES + n).random() for n in range(STUDIES)]
    some = [int(subject.size // PER_SET * place * FILLED) for place in places]
    of_study = f"FROM instances WHERE StudyInstanceUID = '{study_uids(some[:1])[0]}'"
    found = subject.time("one study's 100 instances", lambda: index.query(f"SELECT * {of_study}"))
    assert len(found.rows) == PER_SET, len(found.rows)
    patient = f"SELECT * FROM series WHERE PatientID = 'P{100_000_000 + some[0]}'"
    assert len(subject.time("one patient's series", lambda: index.query(patient)).rows) == 1
    copy = duckdb.connect(str(subject.copy / "index.duckdb"), read_only=True)
    with open_index(index.path) as connection, copy:
        for study_uid in study_uids(some):
            ask_about(subject, connection, copy, study_uid)


def ask_about(
    subject: Subject, connection: duckdb.DuckDBPyConnection, copy: duckdb.DuckDBPyConnection, study_uid: str
) -> None:
    """Questions of one study to the open index and its copy."""
    of_study = f"FROM instances WHERE StudyInstanceUID = '{study_uid}'"
    first = f"SELECT SeriesInstanceUID, SOPInstanceUID {of_study} LIMIT 1"
    series_uid, uid = connection.execute(first).fetchall()[0]
    ask(subject, connection, "file open: the study", f"SELECT * {of_study}", PER_SET)
    ask(subject, connection, "file open: four columns of it", f"SELECT {FOUR} {of_study}", PER_SET)
    series = f"SELECT * FROM instances WHERE SeriesInstanceUID = '{series_uid}'"
    ask(subject, connection, "file open: one series", series, PER_SET)
    one = f"SELECT * FROM instances WHERE SOPInstanceUID = '{uid}'"
    ask(subject, connection, "file open: one instance", one, 1)
    ask(subject, copy, "copy open: the study", f"SELECT * {of_study}", PER_SET)
    ask(subject, copy, "copy open: four columns of it", f"SELECT {FOUR} {of_study}", PER_SET)


def ask(subject: Subject, connection: duckdb.DuckDBPyConnection, what: str, sql: str, n_rows: int) -> None:
    """A question, the second time that it is asked."""
    connection.execute(sql).fetchall()
    assert len(subject.time(what, lambda: connection.execute(sql).fetchall())) == n_rows, what


def show(subjects: list[Subject]) -> None:
    sizes = "".join(f"{f'{subject.size:,} instances':>34}" for subject in subjects)
    print(f"{'milliseconds':30}{sizes}\n{'':30}{'  wall median  CPU mean     ratio ' * len(subjects)}")
    for what in subjects[0].times:
        line = f"{what:30}"
        for subject in subjects:
            wall, cpu = middle(subject.times[what])
            floor = subject.times.get(what.replace("commit", "files alone"), []) if what.startswith("commit") else []
            ratio = " / ".join(f"{a / b:.2f}" for a, b in zip((wall, cpu), middle(floor), strict=True)) if floor else ""
            line += f"{wall:13.1f} {cpu:9.1f} {ratio:>11}"
        print(line)
    for subject in subjects:
        root = subject.index.root
        sql = (root / "catalog.sqlite").stat().st_size
        parquet = sum(path.stat().st_size for path in root.rglob("*.parquet"))
        print(f"{subject.size:,} instances: Parquet {parquet / 2**20:,.0f} MiB, catalog {sql / 2**20:,.0f} MiB")


def middle(times: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(wall for wall, _ in times), statistics.mean(cpu for _, cpu in times)


def subject_of(size: int, folder: Path, parts: Any) -> Subject:
    """An index of a size, filled unless the folder has it."""
    root, start = folder / str(size), time.perf_counter()
    is_new = not root.exists()
    index = Index(root, f"sqlite:///{root / 'catalog.sqlite'}", grace_seconds=0, small_file_bytes=SMALL)
    subject = Subject(size, index, folder / f"{size}-copy")
    if is_new:
        files = files_alone(index, "fill", batch(parts, 0, 1, 1, PER_SET)[0])
        rows = [template(index, files, table) for table in ("instances", "series")]
        shutil.rmtree(root / "data")
        fill(index, size // PER_SET // FILE_SETS * FILE_SETS, rows[0], rows[1])
        index.compact()
        index.publish()
        index.expire()
        export(index.path, Tier.IDENTIFIED, str(subject.copy))
    with index.snapshot() as connection:
        # A run before this one may have left its batches in the folder.
        subject.turn = 2 * (connection.scalar(sa.select(sa.func.count()).select_from(catalog.commits)) or 0)
    print(f"{size:,} instances made in {time.perf_counter() - start:.0f} s", flush=True)
    return subject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keep the indexes there, and use those that are there")
    wanted = parser.parse_args()
    if min(wanted.instances) < PER_SET * FILE_SETS:
        parser.error(f"the least index has {PER_SET * FILE_SETS:,} instances, which are one file of image sets")
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="ahi-bench-"))
    parts = taken_apart(SLICE, private=False)
    try:
        subjects = [subject_of(size, folder, parts) for size in wanted.instances]
        for subject in subjects:
            turn(subject, parts)
            subject.times.clear()  # libraries and caches
        for number in range(wanted.turns):
            for subject in subjects if number % 2 else reversed(subjects):
                turn(subject, parts)
            if number % 6 == 5:
                print(f"after {number + 1} turns")
                show(subjects)
        show(subjects)
    finally:
        if not wanted.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
