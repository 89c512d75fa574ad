"""Copies by the clock: complete before they are pointed at, made anew only after a change, few of them kept."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from ahi.index import copies
from ahi.index.columns import Tier
from ahi.index.copies import refresh_copies
from ahi.index.export import ExportError
from ahi.index.tiers.build import build_tier

if TYPE_CHECKING:
    from ahi.index.store import Index
    from tests.conftest import AwsStack

TIERS = (Tier.IDENTIFIED, Tier.DEIDENTIFIED)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    moment = copies.now() + dt.timedelta(hours=hours)
    monkeypatch.setattr(copies, "now", lambda: moment)


def test_a_copy_is_made_after_each_change_and_young_ones_stay(index: Index, put, out: Path) -> None:
    made = []
    for number in range(4):
        put(f"batch{number}", {f"set{number}": 1})
        index.publish()
        (copy,) = refresh_copies(index.root, TIERS, str(out))
        (again,) = refresh_copies(index.root, TIERS, str(out))
        assert (copy.is_new, again.is_new, copy.rows["series"]) == (True, False, number + 1)
        assert again.place == copy.place
        made.append(Path(copy.place).name)
    folder = out / "identified"
    assert {path.name for path in folder.iterdir()} == {*made, "current", "latest.json"}
    assert json.loads((folder / "latest.json").read_text())["folder"] == made[-1]
    assert pl.read_parquet(folder / "current" / "series.parquet").height == 4
    subprocess.run("sha256sum -c --strict --quiet *.sha256", shell=True, cwd=folder / "current", check=True)


@pytest.mark.parametrize("run_id", ["run7", ""])
def test_the_files_of_a_copy_name_the_run_that_made_them(index: Index, put, out: Path, run_id: str) -> None:
    put("one", {"a": 1})
    index.publish()
    (copy,) = refresh_copies(index.root, TIERS[:1], str(out), run_id=run_id)
    for path in Path(copy.place).glob("*.parquet"):
        assert pq.read_metadata(path).metadata.get(b"run_id", b"").decode() == run_id, path


def test_old_copies_go_with_what_was_erased_also_when_nothing_is_new(
    index: Index, put, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = out / "identified"
    for number in range(3):
        put(f"batch{number}", {f"set{number}": 1})
        index.publish()
        (newest,) = refresh_copies(index.root, TIERS, str(out))
    for name in ("20200101T000000000000Z-torn", "notes of Z-team", ".export-0f"):
        (folder / name).mkdir()
        (folder / name / "series.parquet").write_bytes(b"torn")
    later(monkeypatch, 11.9)
    refresh_copies(index.root, TIERS, str(out))
    assert len(list(folder.glob("2*Z-*"))) == 3, "what no one has pointed at is old"
    later(monkeypatch, 0.2)
    (again,) = refresh_copies(index.root, TIERS, str(out))
    assert not again.is_new
    left = {path.name for path in folder.iterdir()}
    assert left == {Path(newest.place).name, "notes of Z-team", "current", "latest.json"}


def test_what_the_umask_closed_is_open_as_the_folder_above(index: Index, put, out: Path) -> None:
    put("one", {"a": 1})
    index.publish()
    with pytest.raises(ExportError, match="make it first"):
        refresh_copies(index.root, TIERS, str(out / "none"))
    assert not (out / "none").exists()
    out.chmod(0o2750)
    before = os.umask(0o077)
    try:
        (copy,) = refresh_copies(index.root, TIERS, str(out))
    finally:
        os.umask(before)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if not path.is_symlink()}
    assert {mode for path, mode in found.items() if path.is_dir()} == {0o2750}
    assert {mode for path, mode in found.items() if path.is_file()} == {0o640}
    assert {out / "identified", Path(copy.place), out / "identified" / "latest.json"} < found.keys()


@pytest.mark.parametrize("broken", ["gone", "no index", "torn", "a list", "no such key"])
def test_a_copy_that_is_gone_is_made_again(index: Index, put, out: Path, broken: str) -> None:
    put("one", {"a": 1})
    index.publish()
    (first,) = refresh_copies(index.root, TIERS, str(out))
    latest = out / "identified" / "latest.json"
    if broken == "gone":
        shutil.rmtree(first.place)
    elif broken == "no index":
        Path(first.place, "index.duckdb").unlink()
    else:
        latest.write_bytes({"torn": b'{"folder": "\xff', "a list": b"[]", "no such key": b'{"folder": "x"}'}[broken])
    (copy,) = refresh_copies(index.root, TIERS, str(out))
    assert (copy.is_new, copy.place == first.place) == (True, False)
    assert json.loads(latest.read_text())["folder"] == Path(copy.place).name
    (out / "identified" / "current").unlink()
    (again,) = refresh_copies(index.root, TIERS, str(out))
    assert not again.is_new
    assert (out / "identified" / "current").resolve() == Path(copy.place).resolve()


def test_each_tier_has_a_folder_of_its_own_once_it_is_published(index: Index, put, tmp_path: Path) -> None:
    put("one", {"a": 1}, PatientName="CANARY^JOHN")
    assert refresh_copies(index.root, TIERS, str(tmp_path)) == []
    index.publish()
    build_tier(index, Tier.DEIDENTIFIED, b"secret")
    assert [copy.tier for copy in refresh_copies(index.root, TIERS, str(tmp_path))] == list(TIERS)
    with duckdb.connect(str(tmp_path / "deidentified" / "current" / "index.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM series").fetchone() == (1,)
    held = b"".join(path.read_bytes() for path in (tmp_path / "deidentified").rglob("*") if path.is_file())
    assert b"CANARY" not in held


def test_a_copy_that_breaks_off_is_pointed_at_by_nothing(
    index: Index, put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("one", {"a": 1})
    index.publish()
    (first,) = refresh_copies(index.root, TIERS, str(tmp_path))
    put("two", {"b": 1})
    index.publish()
    with monkeypatch.context() as broken:

        def refused(*_: object, **__: object) -> None:
            raise ExportError("no room")

        broken.setattr(copies, "export", refused)
        with pytest.raises(ExportError):
            refresh_copies(index.root, TIERS, str(tmp_path))
    assert os.path.realpath(tmp_path / "identified" / "current") == os.path.realpath(first.place)
    assert [copy.is_new for copy in refresh_copies(index.root, TIERS, str(tmp_path))] == [True]


def test_a_bucket_has_the_newest_copy_named_beside_all_of_them(index: Index, put, aws_stack: AwsStack) -> None:
    s3 = aws_stack.client("s3")
    s3.create_bucket(Bucket="daily-copies")
    places = []
    for number in range(2):
        put(f"batch{number}", {f"set{number}": 1})
        index.publish()
        (copy,) = refresh_copies(index.root, TIERS, "s3://daily-copies/research", s3=s3)
        (again,) = refresh_copies(index.root, TIERS, "s3://daily-copies/research", s3=s3)
        assert (copy.is_new, again.is_new) == (True, False)
        places.append(copy.place.removeprefix("s3://daily-copies/"))
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="daily-copies")["Contents"]]
    assert {f"{place}/series.parquet" for place in places} < set(keys)
    latest = json.loads(s3.get_object(Bucket="daily-copies", Key="research/identified/latest.json")["Body"].read())
    assert f"research/identified/{latest['folder']}" == places[-1]
    for entry in s3.list_objects_v2(Bucket="daily-copies", Prefix=places[-1])["Contents"]:
        s3.delete_object(Bucket="daily-copies", Key=entry["Key"])
    (copy,) = refresh_copies(index.root, TIERS, "s3://daily-copies/research", s3=s3)
    assert copy.is_new
