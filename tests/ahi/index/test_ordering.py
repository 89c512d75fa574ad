"""Rows in order, however few of them fit into memory."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ahi.index import compaction, export, ordering
from ahi.index.columns import Tier
from ahi.index.ordering import sorted_groups
from ahi.index.parquet import spilling

if TYPE_CHECKING:
    from pathlib import Path

    from ahi.index.store import Index

KEYS = ("uid", "number")


def by_key(row: dict[str, object]) -> tuple[object, ...]:
    return tuple((row[key] is None, row[key] or "") for key in KEYS)


@pytest.mark.parametrize(
    ("n_rows", "distinct", "nulls"), [(0, 1, 0), (1, 1, 0), (900, 1, 0), (900, 300, 40), (7, 3, 7)]
)
@pytest.mark.parametrize("range_bytes", [1, 5_000, 10**9])
def test_groups_hold_every_row_once_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int, distinct: int, nulls: int, range_bytes: int
) -> None:
    monkeypatch.setattr(ordering, "FINE_ROWS", 20)
    monkeypatch.setattr(ordering, "RANGE_BYTES", range_bytes)
    chosen = random.Random(n_rows + nulls)
    rows = [
        {"uid": None if at < nulls else f"1.2.{chosen.randrange(distinct)}", "number": str(at), "empty": None}
        for at in range(n_rows)
    ]
    chosen.shuffle(rows)
    schema = pa.schema({"uid": pa.string(), "number": pa.string(), "empty": pa.list_(pa.string())})
    with spilling(tmp_path) as connection:
        connection.register("given", pa.Table.from_pylist(rows, schema=schema))
        groups = list(sorted_groups(connection, "SELECT * FROM given", KEYS, 32))
        connection.unregister("given")
    assert [row for group in groups for row in group.to_pylist()] == sorted(rows, key=by_key)
    assert [len(group) for group in groups[:-1]] == [32] * (n_rows // 32 - (not n_rows % 32 and n_rows > 0))


@pytest.mark.parametrize("uid", ["'1.2'", "NULL", "CASE WHEN i % 10 = 0 THEN '1.' || i WHEN i % 7 > 0 THEN '1.2' END"])
def test_rows_of_one_study_are_not_in_memory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: str
) -> None:
    """A project may send all that it has under one study."""
    monkeypatch.setattr(ordering, "FINE_ROWS", 20)
    monkeypatch.setattr(ordering, "RANGE_BYTES", 1)
    made = f"SELECT {uid} AS uid, i * 7919 % 1000 AS number, repeat('x', i % 9) AS text FROM range(1000) r(i)"
    with spilling(tmp_path) as connection:
        ranges = list(ordering._ranges(connection, made, KEYS))
        expected = connection.execute(f"SELECT * FROM ({made}) ORDER BY uid NULLS LAST, number").fetchall()
    assert [tuple(row.values()) for one in ranges for row in one.to_pylist()] == expected
    assert max(map(len, ranges)) <= 6 * 20


def test_a_group_of_large_rows_has_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "GROUP_BYTES", 10_000)
    with spilling(tmp_path) as connection:
        rows = "SELECT i AS uid, repeat('x', 1000) AS text FROM range(100) r(i)"
        groups = list(sorted_groups(connection, rows, ["uid"], 50))
    assert 5 < max(map(len, groups)) < 11
    assert sum(map(len, groups)) == 100


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sort as if the rows of the test were too many for DuckDB."""
    monkeypatch.setattr(ordering, "CELLS", 0)
    monkeypatch.setattr(ordering, "FINE_ROWS", 2)
    monkeypatch.setattr(ordering, "RANGE_BYTES", 1)
    assert compaction.is_large(1, 1)


def test_a_large_merge_is_the_merge_of_a_small_one(index: Index, put, small_steps) -> None:
    index.compact_files = 4
    for number, modality in enumerate(["MR", "CT", "US", "CR"]):
        put(f"b{number}", {"a": number + 1, f"x{number}": 2}, Modality=modality, SoftwareVersions=[])
    index.publish()
    asked = "SELECT * FROM {} ORDER BY ALL"
    views = ("series", "instances", "series_history")
    before = [index.query(asked.format(view)) for view in views]
    assert index.compact().rows_past == 9
    index.publish()
    assert [index.query(asked.format(view)) for view in views] == before
    (path,) = (path for path in index.root.glob("data/series/*/*.parquet") if pq.read_metadata(path).num_rows == 5)
    uids = pq.read_table(path, partitioning=None)["SeriesInstanceUID"].to_pylist()
    assert uids == sorted(uids)


def test_a_large_copy_is_the_copy_of_a_small_one(
    index: Index, put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_steps
) -> None:
    put("one", {"a": 1, "b": 2, "c": 3}, StudyInstanceUID="1.9", SoftwareVersions=["x", "y"])
    put("two", {"d": 2}, Modality="MR", StudyInstanceUID="1.3")
    index.publish()
    large = export.export(index.path, Tier.IDENTIFIED, str(tmp_path / "large"))
    monkeypatch.setattr(ordering, "CELLS", 10**9)
    small = export.export(index.path, Tier.IDENTIFIED, str(tmp_path / "small"))
    assert [(one.name, one.n_rows) for one in large] == [(one.name, one.n_rows) for one in small]
    for one in small:
        tables = [pq.read_table(tmp_path / copy / f"{one.name}.parquet") for copy in ("large", "small")]
        assert tables[0].to_pylist() == tables[1].to_pylist(), one.name
        metadata = [pq.read_metadata(tmp_path / copy / f"{one.name}.parquet").metadata for copy in ("large", "small")]
        assert metadata[0].keys() == metadata[1].keys()
