"""However long small commits go on, upkeep keeps few files, and writes each row a bounded number of times."""

from __future__ import annotations

import math
import random

import pytest
import sqlalchemy as sa

from ahi.index import catalog as c
from ahi.index import fold, publish
from ahi.index.store import DataFile, Head, Index

COMPACT_FILES = 5
SMALL = 30_000
UPKEEP_EVERY = 8
COMMITS = 40
TABLES = ("codes", "frames", "object_references")


def test_files_stay_few_over_a_long_series_of_small_commits(
    index: Index, land, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "DELTA_ROWS", 4)
    index.compact_files, index.small_file_bytes = COMPACT_FILES, SMALL
    chance, written, rewritten, most = random.Random(1), 0, 0, 0
    for number in range(COMMITS):
        written += sum(
            file.n_bytes for file in _commit(index, number, chance.sample(TABLES, chance.randint(1, 3)), chance)
        )
        land(f"o{number}", f"o{chance.randrange(number + 1)}")
        if number % UPKEEP_EVERY == UPKEEP_EVERY - 1:
            index.publish()
            rewritten += index.compact().bytes_out
            index.expire()
            most = max(most, _assert_few(index))
    assert most > 0
    assert rewritten < written * 2 * math.log2(COMMITS), "each row is written again O(log) often"


def _commit(index: Index, number: int, tables: list[str], chance: random.Random) -> list[DataFile]:
    names = [f"{chance.randrange(number + 1)}"] + [f"{number}-{k}" for k in range(chance.randrange(3))]
    rows = [
        {"datastore_id": "s", "image_set_id": name, "image_set_version": number + 1, "SeriesInstanceUID": f"1.{name}"}
        for name in names
    ]
    files = [index.write(table, rows, batch_id=f"b{number}") for table in tables]
    with index.commit(kind="test", batch_id=f"b{number}", files=files) as commit:
        commit.raise_heads([Head("s", name, number + 1, True, None, None, 1) for name in names])
    return [file for file in files if file]


def _assert_few(index: Index) -> int:
    """Live files of each table, files on disk, and their rows in the catalog; gives the most live ones of a table."""
    with index.snapshot() as connection:
        live = connection.execute(
            sa.select(c.files.c.table_name, c.files.c.n_bytes, c.files.c.path).where(c.files.c.retired_seq.is_(None))
        ).all()
        known = connection.scalar(sa.select(sa.func.count()).select_from(c.files))
        publications = connection.scalar(sa.select(sa.func.count()).select_from(c.publications))
    counts = {}
    for name in TABLES:
        small = [row for row in live if row.table_name == name and row.n_bytes < SMALL]
        counts[name] = len(small)
        assert len(small) < COMPACT_FILES, name
    for name in ("objects", "heads"):
        assert len([row for row in live if row.table_name == name]) <= fold.MAX_SLICES + 2, name
    stored = {path.relative_to(index.root).as_posix() for path in index.root.glob("data/*/*/*.parquet")}
    assert {row.path for row in live} <= stored
    # Beside the live ones, those that the publication before the last compaction may still be read with.
    assert known is not None
    assert len(stored) == known <= len(live) + 2 * (COMPACT_FILES + UPKEEP_EVERY) * len(TABLES) + 4 * fold.MAX_SLICES
    assert publications is not None
    assert publications <= 2
    return max(counts.values())
