from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from ahi.index import parquet


def test_a_spare_connection_is_taken_again_until_work_on_it_fails(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet, "_SPARE", [])
    parquet.keep_spare()
    (spare,) = parquet._SPARE
    for _ in range(2):
        with parquet.spilling(tmp_path) as connection:
            assert connection is spare
            assert parquet._SPARE == []
            with parquet.spilling(tmp_path) as another:
                assert another is not spare
    with pytest.raises(duckdb.Error), parquet.spilling(tmp_path) as connection:
        connection.execute("SELECT broken")
    assert parquet._SPARE == []


def test_a_spare_connection_that_has_spilled_is_replaced(tmp_path: Path, monkeypatch) -> None:
    """DuckDB gives such a one no folder again: the next work on it would fail."""
    monkeypatch.setattr(parquet, "_SPARE", [])
    parquet.keep_spare()
    with parquet.spilling(tmp_path) as connection:
        connection.execute("SET memory_limit = '20MB'")
        connection.execute("CREATE TABLE t AS SELECT md5(i::VARCHAR) AS a FROM range(1_000_000) t(i)")
        assert list((tmp_path / ".spill").iterdir())
    with parquet.spilling(tmp_path) as connection:
        assert connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    assert connection in parquet._SPARE
