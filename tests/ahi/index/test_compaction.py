from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from ahi.index import catalog as c
from ahi.index import compaction, writer
from ahi.index.compaction import (
    BATCH_FILES,
    BATCH_PART,
    COMPACT_LOCK,
    LARGE_TIMES,
    MEDIUM_FILES,
    CompactionResult,
)
from ahi.index.engine import locked
from ahi.index.leftovers import export_folder

if TYPE_CHECKING:
    from ahi.index.store import Index


def live(index: Index, table: str = "series") -> list[str]:
    with index.snapshot() as connection:
        return list(
            connection.scalars(
                sa.select(c.files.c.path).where(c.files.c.table_name == table, c.files.c.retired_seq.is_(None))
            )
        )


def dead(index: Index) -> int:
    with index.snapshot() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(c.dead)) or 0


def stored(index: Index) -> set[str]:
    """Files of rows that count; those of history stay."""
    found = {path.relative_to(index.root).as_posix() for path in index.root.glob("data/*/*/*.parquet")}
    return {path for path in found if "_history/" not in path}


@pytest.fixture
def eager(index: Index) -> Index:
    index.compact_files = 4
    return index


def test_few_files_are_left_alone(index: Index, put) -> None:
    put("one", {"a": 1})
    put("two", {"b": 1})
    assert index.compact() == CompactionResult()


def test_small_files_become_one_sorted_file_without_dead_rows(eager: Index, put, shown) -> None:
    for number, modality in enumerate(["MR", "CT", "US", "CR"]):
        put(f"b{number}", {"a": number + 1, f"x{number}": 2}, Modality=modality)
    before = shown()
    result = eager.compact()
    assert (result.files_in, result.files_out) == (8, 2)
    assert result.keys_purged == 6, "three versions of one image set in two tables"
    assert shown() == before
    (path,) = live(eager)
    table = pq.read_table(eager.root / path, partitioning=None)
    uids = table["SeriesInstanceUID"].to_pylist()
    assert uids == sorted(uids)
    assert len(table) == 5
    assert (eager.root / path).stat().st_size > 0
    assert eager.query("SELECT rows_by_table['series'] FROM index_info").rows == [(5,)]


def test_readers_of_old_publications_have_the_grace_period(eager: Index, put, shown) -> None:
    eager.grace_seconds = 3_600
    for number in range(4):
        put(f"b{number}", {"a": number + 1})
    shown()
    with duckdb.connect(str(eager.path), read_only=True) as reader:
        eager.compact()
        eager.publish()
        eager.expire()
        assert reader.execute("SELECT image_set_version FROM series").fetchall() == [(4,)]
        assert len(stored(eager)) == 10
        eager.grace_seconds = 0
        result = eager.expire()
    assert (result.retired, result.orphans) == (8, 0)
    assert stored(eager) == {*live(eager), *live(eager, "instances")}
    assert dead(eager) == 0
    assert shown() == {"a": (4, 4)}


def test_files_that_the_newest_publication_needs_stay_however_old(eager: Index, put, shown) -> None:
    for number in range(4):
        put(f"b{number}", {"a": number + 1})
    before = shown()
    eager.compact()
    assert eager.expire().retired == 0
    assert eager.query("SELECT image_set_version FROM series").rows == [(4,)]
    assert shown() == before
    assert eager.expire().retired == 8


def test_files_of_no_commit_go_after_the_grace_period(index: Index, put, series_row, shown) -> None:
    put("one", {"a": 1})
    index.write("series", [series_row("lost")], batch_id="never")
    index.grace_seconds = 3_600
    shown()
    assert index.expire().orphans == 0
    index.grace_seconds = 0
    assert index.expire().orphans == 1
    assert shown() == {"a": (1, 1)}
    assert stored(index) == {*live(index), *live(index, "instances")}


@pytest.mark.both_catalogs
def test_a_commit_during_the_merge_is_not_lost(eager: Index, put, shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race of the first version of this code: keys buried while a merge runs must stay buried."""
    for number in range(4):
        put(f"b{number}", {"a": number + 1, "b": 1})
    write = compaction._write_merged

    def interrupted(index: Index, table, inputs):
        output = write(index, table, inputs)
        monkeypatch.setattr(compaction, "_write_merged", write)
        put("meanwhile", {"a": 9, "c": 3})
        return output

    monkeypatch.setattr(compaction, "_write_merged", interrupted)
    eager.compact()
    assert shown() == {"a": (9, 9), "b": (1, 1), "c": (3, 3)}
    eager.expire()
    for number in range(4):
        put(f"later{number}", {f"d{number}": 1})
    eager.compact()
    assert shown() == {"a": (9, 9), "b": (1, 1), "c": (3, 3)} | {f"d{number}": (1, 1) for number in range(4)}
    eager.expire()
    assert dead(eager) == 0


def test_a_table_with_nothing_left_has_no_file(eager: Index, put, shown) -> None:
    for number in range(4):
        put(f"b{number}", {"a": number + 1})
    with eager.commit(kind="test") as commit:
        commit.bury("store", "a", version=None, reason="gone", at=commit.committed_at)
    result = eager.compact()
    assert (result.files_in, result.files_out) == (8, 0)
    assert shown() == {}
    eager.expire()
    eager.expire()  # what the first one marked, such as keys of tables without rows, the next one removes
    assert (stored(eager), dead(eager)) == (set(), 0)


def test_large_files_are_left_alone(eager: Index, put, shown) -> None:
    for number in range(4):
        put(f"b{number}", {f"a{number}": 1})
    eager.compact()
    (merged,) = live(eager)
    eager.small_file_bytes = Path(eager.root / merged).stat().st_size
    for number in range(4):
        put(f"c{number}", {f"a{number}": 2})
    eager.compact()
    assert merged in live(eager)
    assert shown() == {f"a{number}": (2, 2) for number in range(4)}
    assert dead(eager) > 0, "rows in the large file still have to be left out"


def test_files_of_a_middling_size_are_merged_once_there_are_enough(eager: Index, put, shown) -> None:
    """Sixteen times the small size is bounded; that size alone left a file for each 200,000 rows, for ever."""
    for number in range(MEDIUM_FILES - 1):
        put(f"b{number}", {f"a{number}": 1, "again": number + 1})
    sizes = [path.stat().st_size for path in eager.root.glob("data/batches/*/*.parquet")]
    eager.small_file_bytes = min(sizes)
    assert max(sizes) < LARGE_TIMES * min(sizes), "none is small, and none is large"
    before = shown()
    assert eager.compact() == CompactionResult(), "one too few"
    put("last", {"a0": 2})
    result = eager.compact()
    assert (result.files_in, result.files_out) == (2 * MEDIUM_FILES, 2), "series and instances"
    assert len(live(eager)) == 1
    assert shown() == before | {"a0": (2, 2)}
    assert eager.compact() == CompactionResult()


@pytest.mark.both_catalogs
def test_what_commits_wrote_is_merged_once_there_is_enough_of_it(index: Index, put, shown) -> None:
    put("archive", {f"x{number}": 1 for number in range(3_000)})
    archive = {*live(index), *live(index, "instances")}
    index.small_file_bytes = BATCH_PART * min((index.root / path).stat().st_size for path in archive)
    for number in range(BATCH_FILES - 1):
        put(f"b{number}", {"again": number + 1, f"a{number}": 1, f"x{number}": 2})
    assert index.compact_batches() == CompactionResult(), "one too few"
    put("last", {"a0": 2})
    before = shown()
    with locked(index.root / COMPACT_LOCK):
        assert index.compact_batches() == CompactionResult(), "somebody compacts"
    result = index.compact_batches()
    assert (result.files_in, result.files_out) == (2 * BATCH_FILES, 2), "series and instances"
    assert archive < {*live(index), *live(index, "instances")}
    assert (len(live(index)), len(live(index, "instances"))) == (2, 2)
    assert shown() == before
    assert index.compact_batches() == CompactionResult()
    index.expire()
    assert shown() == before


def test_a_backlog_of_batches_is_merged_part_by_part(index: Index, put, shown) -> None:
    for number in range(2 * BATCH_FILES):
        put(f"b{number}", {f"a{number}": 1})
    largest = max(path.stat().st_size for path in index.root.glob("data/batches/*/*.parquet"))
    index.small_file_bytes = BATCH_PART * (largest + 1)
    before, merged = shown(), []
    while (result := index.compact_batches()).files_in:
        merged.append(result)
    assert len(merged) > 1
    assert all(result.bytes_in <= 2 * index.small_file_bytes for result in merged), "series and instances"
    assert len(live(index)) < BATCH_FILES
    assert shown() == before


@pytest.mark.both_catalogs
def test_a_large_file_is_written_again_when_too_much_of_it_is_dead(
    eager: Index, put, shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        put(f"b{number}", {f"a{number}": 1, f"b{number}": 1})
    eager.compact()
    large = live(eager)
    eager.small_file_bytes = 1
    put("new", {f"a{number}": 2 for number in range(4)})
    before = shown()
    monkeypatch.setattr(compaction, "DEAD_KEYS", 4)
    assert eager.compact() == CompactionResult()
    monkeypatch.setattr(compaction, "DEAD_KEYS", 3)
    result = eager.compact()
    assert (result.files_in, result.files_out, result.keys_purged) == (2, 2, 8)
    assert large[0] not in live(eager)
    assert shown() == before


@pytest.mark.both_catalogs
def test_keys_of_files_whose_commits_overlap_are_purged(
    eager: Index, put, shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged small files hold commits before and after that of the large one, and none of its rows.

    By their commits, each kept the other's dead keys from being purged; both were written again at each run.
    """
    put("first", {"a": 1})
    put("archive", {f"x{number}": 1 for number in range(400)})
    (_, archive) = live(eager)
    # Of instances, the archive's file is small, too.
    eager.small_file_bytes = (eager.root / archive).stat().st_size
    for name in "bcd":
        put(name, {name: 1})
    assert eager.compact().files_in == 4 + 5
    assert archive in live(eager)
    put("corrected", {f"x{number}": 2 for number in range(8)})
    before = shown()
    monkeypatch.setattr(compaction, "DEAD_KEYS", 7)
    result = eager.compact()
    assert (result.files_in, result.files_out, result.keys_purged) == (3, 3, 16)
    assert archive not in live(eager)
    assert eager.compact() == CompactionResult()
    assert shown() == before


def test_merged_row_groups_are_bounded_in_bytes(eager: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group cannot spill: 100,000 rows of documents' JSON did not fit into the memory of a merge."""
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", "1MB")
    for number in range(4):
        rows = [
            {"image_set_id": f"{number}", "SOPInstanceUID": f"{number}.{n}", "metadata_json": f"{n:01000d}"}
            for n in range(1_500)
        ]
        file = eager.write("instance_metadata", rows, batch_id=f"b{number}")
        with eager.commit(batch_id=f"b{number}", kind="test", files=[file]):
            pass
    eager.compact()
    (path,) = live(eager, "instance_metadata")
    merged = pq.ParquetFile(eager.root / path).metadata
    assert merged.num_rows == 6_000
    assert merged.num_row_groups > 2


def test_what_killed_queries_and_exports_left_goes_after_the_grace_period(index: Index) -> None:
    index.grace_seconds = 3_600
    tier = index.root / "tiers" / "limited"
    left = [
        index.root / ".spill" / "duckdb_temp_1.tmp",
        tier / ".spill" / "duckdb_temp_2.tmp",
        index.root / ".export-1" / "series.parquet",
        index.root / ".export-1" / ".spill" / "duckdb_temp_3.tmp",
        tier / ".export-2" / "series.parquet",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("copy")
    index.expire()
    assert all(path.exists() for path in left), "somebody may be at work on them"
    hours_ago = time.time() - 7_200
    for path in [*left, *(path.parent for path in left), left[3].parents[1]]:
        os.utime(path, (hours_ago, hours_ago))
    (index.root / ".spill" / "new.tmp").write_text("of a query at work")
    assert index.expire().n_bytes == len(left) * len("copy")
    assert [path.name for path in index.root.rglob(".*") if path.is_dir()] == [".spill"]
    assert [path.name for path in (index.root / ".spill").iterdir()] == ["new.tmp"]


def test_an_export_at_work_stays_however_old(index: Index) -> None:
    with export_folder(index.root) as folder:
        os.utime(folder, (0, 0))
        index.expire()
        assert folder.exists()
    assert not folder.exists()
