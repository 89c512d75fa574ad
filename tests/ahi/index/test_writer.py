from __future__ import annotations

import datetime as dt
import hashlib
import os
import resource
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from ahi.index import catalog as c
from ahi.index.packing import LOOKED_UP
from ahi.index.registry import SCHEMA_VERSION, TABLES, arrow_schema
from ahi.index.store import Index, IndexWriteError
from ahi.index.writer import table_hash, write_parts

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_rows_come_back_typed_sorted_and_stamped(index: Index, series_row) -> None:
    rows = [
        series_row("b", Modality="MR", StudyDate=dt.date(2026, 1, 2), SoftwareVersions=["1", "2"]),
        series_row("a", Modality="CT", StudyTime=dt.time(1, 2, 3, 400), SliceThickness=0.5),
    ]
    file = index.write("series", rows, batch_id="batch")
    assert file is not None
    assert file.schema_hash == table_hash(TABLES["series"])
    content = (index.root / file.path).read_bytes()
    assert (file.n_rows, file.n_bytes) == (2, len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    table = pq.read_table(index.root / file.path, partitioning=None)
    assert table.schema.remove_metadata() == arrow_schema(TABLES["series"]).remove_metadata()
    assert table.schema.metadata == {
        b"table": b"series",
        b"schema_version": SCHEMA_VERSION.encode(),
        b"batch_id": b"batch",
    }
    first, second = table.to_pylist()
    assert (first["Modality"], second["Modality"]) == ("CT", "MR")
    assert (second["StudyDate"], second["SoftwareVersions"]) == (dt.date(2026, 1, 2), ["1", "2"])
    assert first["StudyTime"] == dt.time(1, 2, 3, 400)
    assert first["batch_id"] == "batch"
    assert first["indexed_at"].tzinfo is not None


def test_no_rows_make_no_file(index: Index) -> None:
    assert index.write("series", [], batch_id="batch") is None
    assert not list(index.root.glob("data/**/*.parquet"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"NoSuchColumn": "Doe^Jane"}, "NoSuchColumn"),
        ({"StudyDate": "Doe^Jane"}, "series.StudyDate"),
        ({"Rows": 70_000}, "series.Rows"),
        ({"SoftwareVersions": "Doe^Jane"}, "series.SoftwareVersions"),
        ({"PatientName": 7}, "series.PatientName"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_without_its_value(index: Index, series_row, values, named) -> None:
    with pytest.raises(IndexWriteError, match=named) as caught:
        index.write("series", [series_row("a", **values)], batch_id="batch")
    assert "Jane" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert not list(index.root.glob("data/**/*.parquet"))


def test_a_commit_syncs_its_files_and_their_folders(index: Index, put, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    put("one", {"a": 1})
    with index.snapshot() as connection:
        files = [index.root / path for path in connection.scalars(sa.select(c.files.c.path))]
    assert len(files) == 2
    assert {str(path) for file in files for path in (file, file.parent, file.parent.parent)} <= set(synced)


def test_what_the_disk_did_not_take_is_not_committed(index: Index, put, monkeypatch: pytest.MonkeyPatch) -> None:
    put("one", {"a": 1})

    def refused(_handle: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", refused)
        with pytest.raises(OSError, match="Input/output"):
            put("two", {"a": 2})
    with index.snapshot() as connection:
        assert list(connection.scalars(sa.select(c.commits.c.batch_id))) == ["one"]


def test_a_file_that_the_disk_took_a_part_of_is_an_error(index: Index, series_row) -> None:
    """A raw write says by its number only that it took less; the file would be committed as good."""
    rows = [series_row(str(n), SeriesDescription=os.urandom(500).hex()) for n in range(200)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            index.write("series", rows, batch_id="batch")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_columns_with_much_in_them_are_zstd_and_the_others_cost_little(index: Index, series_row) -> None:
    parts = {"family": "Doe" * 20, "given": None}
    rows = [
        series_row(
            str(n),
            SeriesDescription=f"{n:0500}",
            StudyID=f"{n:0100}",
            SoftwareVersions=["1" * 100],
            PatientName_parts=parts,
        )
        for n in range(100)
    ]
    file = index.write("series", rows, batch_id="batch")
    assert file is not None
    group = pq.ParquetFile(index.root / file.path).metadata.row_group(0)
    found = {one.path_in_schema: one for one in (group.column(n) for n in range(group.num_columns))}
    assert {name for name, one in found.items() if one.compression == "ZSTD"} == {"SeriesDescription"}
    assert {one.compression for name, one in found.items() if name != "SeriesDescription"} == {"LZ4"}
    with_dictionary = {name for name, one in found.items() if one.has_dictionary_page}
    assert {"SeriesDescription", "StudyID"} <= with_dictionary
    nested = {name for name in found if name.startswith(("SoftwareVersions", "PatientName_parts"))}
    assert len(nested) > len(("SoftwareVersions", "PatientName_parts"))
    assert with_dictionary.isdisjoint({"Modality", *nested})
    assert all(one.statistics is not None for name, one in found.items() if name in ("StudyInstanceUID", "PatientID"))


def test_a_large_file_tells_which_values_are_in_no_row_group_of_it(index: Index) -> None:
    table = index.tables["instances"]
    rows = [{"StudyInstanceUID": f"1.{n}", "SeriesInstanceUID": f"2.{n % 7}", "Rows": 512} for n in range(500)]
    part = pa.Table.from_pylist(rows, schema=arrow_schema(table))
    columns = [(column.name, column.duckdb_type) for column in table.columns]
    file = write_parts(index.root, "instances/day", iter([part, part]), part.schema, table="instances", columns=columns)
    assert file.n_rows == 1_000
    path = str(index.root / file.path)
    with duckdb.connect() as connection:
        filtered = "SELECT DISTINCT path_in_schema FROM parquet_metadata(?) WHERE bloom_filter_offset IS NOT NULL"
        assert {str(row[0]) for row in connection.execute(filtered, [path]).fetchall()} == set(LOOKED_UP) & set(
            part.column_names
        )
        # DuckDB's probe looks at another column where a nested one stands before it; here none does.
        excluded = "SELECT bool_and(bloom_filter_excludes) FROM parquet_bloom_probe(?, 'SeriesInstanceUID', ?)"
        there, absent = [f"2.{n}" for n in range(7)], [f"3.{n}" for n in range(200)]
        answers = {uid: connection.execute(excluded, [path, uid]).fetchone() for uid in (*there, *absent)}
    assert {answers[uid] for uid in there} == {(False,)}
    assert sum(answers[uid] == (True,) for uid in absent) > 180, "some look like one that is there"


def test_parts_are_let_go_as_they_are_written(index: Index) -> None:
    """They were kept until the file was complete: a merge of a million documents took 2.6 GB."""
    table, seen = index.tables["frames"], list[weakref.ref[pa.Table]]()

    def parts() -> Iterator[pa.Table]:
        for number in range(20):
            part = pa.Table.from_pylist([{"SeriesInstanceUID": f"{number}"}], schema=arrow_schema(table))
            seen.append(weakref.ref(part))
            assert sum(one() is not None for one in seen) <= 3
            yield part

    columns = [(column.name, column.duckdb_type) for column in table.columns]
    assert write_parts(index.root, "f/day", parts(), arrow_schema(table), table="frames", columns=columns).n_rows == 20


def test_a_batchs_file_is_read_with_the_types_and_the_account_it_was_written_with(index: Index, series_row) -> None:
    file = index.write("series", [series_row("1")], batch_id="batch")
    assert file is not None
    found = pq.ParquetFile(index.root / file.path)
    assert found.schema_arrow.remove_metadata().equals(arrow_schema(index.tables["series"]).remove_metadata())
    assert {key.decode(): value.decode() for key, value in found.metadata.metadata.items()} == {
        "table": "series",
        "schema_version": SCHEMA_VERSION,
        "batch_id": "batch",
    }
