"""A copy opens with whatever an analyst has, also after it was moved."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from ahi.clock import now
from ahi.index import export as module
from ahi.index import parquet
from ahi.index.columns import Tier
from ahi.index.export import Exported, ExportError, export
from ahi.index.query import IndexNotPublishedError
from ahi.index.tiers.build import build_tier, tier_root

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from ahi.index.store import Index
    from tests.conftest import AwsStack


@pytest.fixture
def full(index: Index, put) -> Index:
    put("one", {"a": 1, "b": 2}, StudyInstanceUID="1.9", StudyDate=dt.date(2020, 1, 2), SoftwareVersions=["x", "y"])
    put("two", {"a": 2, "c": 1}, Modality="MR", StudyInstanceUID="1.3")
    put("three", {"d": 1}, is_primary=False)
    with index.commit(kind="test", run_id="run7"):
        pass
    index.publish()
    return index


def test_a_copy_holds_the_current_rows_sorted_by_study(full: Index, tmp_path: Path) -> None:
    tables = {table.name: table for table in export(full.path, Tier.IDENTIFIED, str(tmp_path / "copy"))}
    assert (tables["series"].n_rows, tables["instances"].n_rows, tables["studies"].n_rows) == (3, 5, 2)
    assert "headers" not in tables
    shown = pq.read_table(tmp_path / "copy" / "series.parquet").select(["StudyInstanceUID", "image_set_id"]).to_pylist()
    assert [tuple(row.values()) for row in shown] == [("1.3", "a"), ("1.3", "c"), ("1.9", "b")]
    metadata = pq.read_metadata(tmp_path / "copy" / "series.parquet").metadata
    assert (metadata[b"table"], metadata[b"tier"]) == (b"series", b"identified")
    published = full.query("SELECT seq, published_at FROM index_info").rows
    told = (int(metadata[b"seq"]), dt.datetime.fromisoformat(metadata[b"published_at"].decode()))
    assert ([told], metadata[b"dagster_run_id"]) == (published, b"run7")
    assert b"run_id" not in metadata, "no run made this copy"
    subprocess.run("sha256sum -c --strict --quiet *.sha256", shell=True, cwd=tmp_path / "copy", check=True)
    assert not list(tmp_path.glob(".export-*"))
    readme = (tmp_path / "copy" / "README.txt").read_text()
    assert "series" in readme
    assert f"It shows seq {told[0]}.\n" in readme


def test_every_table_inside_a_copy_finds_a_study_without_reading_all(full: Index, tmp_path: Path) -> None:
    tables = {table.name for table in export(full.path, Tier.IDENTIFIED, str(tmp_path / "copy")) if table.is_inside}
    with duckdb.connect(str(tmp_path / "copy" / "index.duckdb"), read_only=True) as connection:
        found = connection.execute("SELECT table_name FROM duckdb_indexes() WHERE sql LIKE '%(StudyInstanceUID)%'")
        # A patient has several.
        assert {str(row[0]) for row in found.fetchall()} == tables - {"patients"}


def test_indexes_of_many_tables_are_not_in_memory_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in one transaction, those of 16 tables of a million rows did not fit."""
    monkeypatch.setattr(parquet, "MEMORY", "64MB")
    monkeypatch.setattr(parquet, "_SPARE", [])
    uid = "'1.2.840.113619.2.' || hash(i) || '.' || hash(i + 1)"
    tables = [Exported(f"t{number}", 50_000, 1, is_inside=True) for number in range(16)]
    with parquet.spilling(tmp_path) as connection:
        connection.execute(f"ATTACH '{tmp_path}/source.duckdb' AS source")
        connection.execute("CREATE TABLE source.main.index_info AS SELECT 1 AS seq")
        rows = f"SELECT {uid} AS StudyInstanceUID FROM range(50_000) t(i) ORDER BY 1"
        for table in tables:
            connection.execute(f"COPY ({rows}) TO '{tmp_path}/{table.name}.parquet' (FORMAT parquet)")
        module._index(connection, tmp_path, tables)
    with duckdb.connect(str(tmp_path / "index.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM duckdb_indexes()").fetchone() == (16,)
        found = connection.execute(
            f"SELECT count(*) FROM t15 WHERE StudyInstanceUID IN (SELECT {uid} FROM range(9) t(i))"
        )
        assert found.fetchone() == (9,)


@pytest.mark.parametrize("inside", [True, False])
def test_a_moved_copy_opens_with_what_analysts_have(
    full: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    if not inside:
        monkeypatch.setattr(module, "INSIDE_BYTES", -1)
    export(full.path, Tier.IDENTIFIED, str(tmp_path / "first"))
    folder = tmp_path / "moved" / "it's here"
    folder.parent.mkdir()
    shutil.move(tmp_path / "first", folder)
    shutil.rmtree(full.root)
    sql = "SELECT Modality, count(*) FROM series JOIN studies USING (StudyInstanceUID) GROUP BY ALL ORDER BY 1"
    with duckdb.connect(str(folder / "index.duckdb"), read_only=True) as connection:
        if not inside:
            with pytest.raises(duckdb.IOException):
                connection.execute(sql)
            connection.execute("SET VARIABLE index_folder = ?", [str(folder)])
        assert connection.execute(sql).fetchall() == [("CT", 1), ("MR", 2)]
        comment = "SELECT comment FROM duckdb_columns() WHERE table_name = 'series' AND column_name = 'Modality'"
        assert "CT" in connection.execute(comment).fetchall()[0][0]
        kinds = "duckdb_tables()" if inside else "(SELECT view_name AS table_name, * FROM duckdb_views())"
        about = f"SELECT comment FROM {kinds} WHERE table_name = 'series'"
        assert "series" in connection.execute(about).fetchall()[0][0]
    monkeypatch.chdir(folder)
    with duckdb.connect("index.duckdb", read_only=True) as connection:
        assert connection.execute(sql).fetchall() == [("CT", 1), ("MR", 2)]
    path = folder / "series.parquet"
    assert pd.read_parquet(path)["n_instances"].sum() == 5
    assert pl.read_parquet(path)["n_instances"].sum() == 5
    assert pq.read_table(path)["SoftwareVersions"].to_pylist() == [None, None, ["x", "y"]]


def test_a_copy_of_a_tier_holds_that_tier(full: Index, tmp_path: Path) -> None:
    build_tier(full, Tier.DEIDENTIFIED, b"secret")
    source = tier_root(full.root, Tier.DEIDENTIFIED) / "index.duckdb"
    export(source, Tier.DEIDENTIFIED, str(tmp_path / "copy"))
    series = pq.read_table(tmp_path / "copy" / "series.parquet")
    metadata = pq.read_metadata(tmp_path / "copy" / "series.parquet").metadata
    assert dt.datetime.fromisoformat(metadata[b"published_at"].decode()) <= now()
    assert b"dagster_run_id" not in metadata
    assert "PatientID" not in series.column_names
    assert set(series["StudyDate"].to_pylist()) == {None, dt.date(2020, 1, 1)}
    with duckdb.connect(str(tmp_path / "copy" / "index.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT tier FROM index_info").fetchall() == [("deidentified",)]


def test_a_copy_in_a_bucket_is_the_same_copy(
    full: Index, tmp_path: Path, aws_stack: AwsStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = aws_stack.client("s3")
    s3.create_bucket(Bucket="copies")
    built: list[Path] = []
    upload = module._upload

    def uploaded(s3: S3Client, folder: Path, destination: str) -> None:
        built.append(folder)
        upload(s3, folder, destination)

    monkeypatch.setattr(module, "_upload", uploaded)
    export(full.path, Tier.IDENTIFIED, "s3://copies/some/prefix/", s3=s3)
    assert [(path.parent, path.name[:8], path.exists()) for path in built] == [(full.root, ".export-", False)]
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="copies")["Contents"]]
    assert {"some/prefix/index.duckdb", "some/prefix/series.parquet", "some/prefix/README.txt"} <= set(keys)
    with pytest.raises(ExportError, match=r"s3://copies/some/prefix/ holds objects already"):
        export(full.path, Tier.IDENTIFIED, "s3://copies/some/prefix", s3=s3)
    with pytest.raises(ExportError, match="holds objects"):
        export(full.path, Tier.IDENTIFIED, "s3://copies", s3=s3)
    s3.put_object(Bucket="copies", Key="some/pre/")
    export(full.path, Tier.IDENTIFIED, "s3://copies/some/pre", s3=s3)
    for key in keys:
        s3.download_file("copies", key, str(tmp_path / key.rsplit("/", 1)[1]))
    subprocess.run("sha256sum -c --strict --quiet *.sha256", shell=True, cwd=tmp_path, check=True)


def test_a_place_that_is_taken_is_left_alone(full: Index, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="not an empty folder"):
        export(full.path, Tier.IDENTIFIED, str(tmp_path / "taken"))
    with pytest.raises(IndexNotPublishedError):
        export(tmp_path / "none" / "index.duckdb", Tier.IDENTIFIED, str(tmp_path / "copy"))
    with pytest.raises(ExportError, match="bucket"):
        export(full.path, Tier.IDENTIFIED, "s3:///", s3=object())  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]


def test_a_copy_for_a_bucket_is_built_for_no_other_eyes(full: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    monkeypatch.setattr(module, "_refuse_taken", lambda *_: None)
    monkeypatch.setattr(module, "_upload", lambda _, folder, __: modes.append(stat.S_IMODE(folder.stat().st_mode)))
    before = os.umask(0)
    try:
        export(full.path, Tier.IDENTIFIED, "s3://copies/x", s3=object())  # type: ignore[arg-type]
    finally:
        os.umask(before)
    assert modes == [0o700]

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("export_folder", "_write"):
        with monkeypatch.context() as broken:
            broken.setattr(module, name, refused)
            with pytest.raises(ExportError, match="cannot be written: run it as the user of the pipeline"):
                export(full.path, Tier.IDENTIFIED, "s3://copies/x", s3=object())  # type: ignore[arg-type]


@pytest.mark.parametrize("takes", [True, False])
def test_a_connection_whose_work_fails_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: bool) -> None:
    monkeypatch.setattr(parquet, "_SPARE", [])
    parquet.keep_spare()
    (spare,) = parquet._SPARE
    if not takes:
        monkeypatch.setattr(parquet, "_takes", lambda *_: False)
    with pytest.raises(duckdb.Error), parquet.spilling(tmp_path) as connection:
        connection.execute("SELECT broken")
    assert (connection is spare) == takes
    for one in (spare, connection):
        with pytest.raises(duckdb.ConnectionException):
            one.execute("SELECT 1")
    assert parquet._SPARE == []
