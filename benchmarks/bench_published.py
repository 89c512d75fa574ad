"""The published index at 1 M series: `python benchmarks/bench_published.py [--series N] [--instances N]`.

Rows go through the writer in commits of 50,000, are published, compacted and exported; each form is opened and asked.
Wall-clock time and CPU of one DuckDB thread. A lookup is every column of the series of one study; p95 of 60 studies.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import duckdb

from ahi.index.columns import Tier
from ahi.index.export import export
from ahi.index.registry import TABLES
from ahi.index.store import Index
from ahi.index.tiers.build import build_tier, tier_root
from ahi.index.writer import write_parts
from benchmarks.synthetic_series import SERIES_OF_STUDY, instances, parts, series

LOOKUP = "SELECT * FROM series WHERE StudyInstanceUID = ?"
NARROW = "SELECT SeriesInstanceUID, Modality, BodyPartExamined, n_instances FROM series WHERE StudyInstanceUID = ?"
GROUP = "SELECT Modality, count(*) FROM series GROUP BY ALL"
TARGETS = {"lookup": 20.0, "group": 100.0, "cold": 1000.0}


def fill(index: Index, table: str, make: object, n_rows: int, rows: int = 50_000) -> None:
    columns = [(column.name, column.duckdb_type) for column in TABLES[table].columns]
    for number, part in enumerate(parts(make, n_rows, "", rows)):
        batch_id = f"{table}{number}"
        stamped = part.set_column(part.schema.get_field_index("batch_id"), "batch_id", [[batch_id] * len(part)])
        folder = f"{table}/2026-11-22"
        file = write_parts(
            index.root, folder, [stamped], stamped.schema, table=table, columns=columns, batch_id=batch_id
        )
        with index.commit(batch_id=batch_id, kind="bench", files=[file]):
            pass


def times(connection: duckdb.DuckDBPyConnection, sql: str, values: list[str | None]) -> str:
    walls, cpus = [], []
    for value in values:
        wall, cpu = time.perf_counter(), time.process_time()
        connection.execute(sql, [value] if value else None).fetchall()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    at = min(len(walls) - 1, int(len(walls) * 0.95))
    return (
        f"p50 {sorted(walls)[len(walls) // 2] * 1e3:7.1f} p95 {sorted(walls)[at] * 1e3:7.1f} ms wall, "
        f"p50 {sorted(cpus)[len(cpus) // 2] * 1e3:7.1f} p95 {sorted(cpus)[at] * 1e3:7.1f} ms CPU"
    )


def asked(label: str, path: Path, folder: Path) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    connection = duckdb.connect(str(path), read_only=True)
    connection.execute("SET threads = 1")
    connection.execute("SET VARIABLE index_folder = ?", [str(folder)])
    connection.execute("SELECT count(*) FROM series").fetchall()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = connection.execute(
        "SELECT DISTINCT StudyInstanceUID FROM series WHERE hash(StudyInstanceUID) % 1000 = 7 LIMIT 62"
    ).fetchall()
    studies: list[str | None] = [str(row[0]) for row in found]
    print(f"\n{label}")
    print(f"  cold attach and count      {wall * 1e3:7.1f} ms wall, {cpu * 1e3:7.1f} ms CPU")
    for name, sql, values in (
        ("one study, every column", LOOKUP, studies),
        ("one study, four columns", NARROW, studies),
        ("group by modality", GROUP, [None] * 10),
    ):
        connection.execute(sql, [values[0]] if values[0] else None).fetchall()
        print(f"  {name:26} {times(connection, sql, values[2:])}", flush=True)
    connection.close()


def size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--instances", type=int, default=1_000_000)
    wanted = parser.parse_args()
    print(f"targets at 1 M series, ms: {TARGETS}; {wanted.series:,} series, {SERIES_OF_STUDY} for each study")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "index"
        index = Index(root, f"sqlite:///{root / 'catalog.sqlite'}", grace_seconds=0, compact_files=2)
        fill(index, "series", series, wanted.series)
        fill(index, "instances", instances, wanted.instances, 100_000)
        index.publish()
        asked("live index, as written", index.path, root)
        cpu = time.process_time()
        index.compact()
        index.publish()
        index.expire()
        print(f"\ncompaction: {time.process_time() - cpu:.1f} s CPU")
        asked("live index, compacted", index.path, root)
        for table, rows in (("series", wanted.series), ("instances", wanted.instances)):
            print(f"  {table}: {size(root, f'data/{table}/*/*.parquet') / max(rows, 1):.1f} bytes a row")
        cpu = time.process_time()
        copy = Path(folder) / "copy"
        export(index.path, Tier.IDENTIFIED, str(copy))
        print(f"\nexport: {time.process_time() - cpu:.1f} s CPU")
        asked("copy", copy / "index.duckdb", copy)
        for table, rows in (("series", wanted.series), ("instances", wanted.instances)):
            print(f"  {table}: {size(copy, f'{table}.parquet') / max(rows, 1):.1f} bytes a row")
        print(f"  index.duckdb: {size(copy, 'index.duckdb') / max(wanted.series, 1):.1f} bytes a series")
        cpu = time.process_time()
        build_tier(index, Tier.DEIDENTIFIED, b"of the benchmark")
        print(f"\nde-identified tier: {time.process_time() - cpu:.1f} s CPU")
        tier = tier_root(root, Tier.DEIDENTIFIED)
        asked("de-identified tier", tier / "index.duckdb", tier)


if __name__ == "__main__":
    main()
