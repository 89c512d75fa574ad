"""Copies by the clock: complete before they are pointed at, made anew only after a change, few of them kept."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pytest

from ahi.index import copies
from ahi.index.columns import Tier
from ahi.index.copies import refresh_copies
from ahi.index.export import ExportError
from ahi.index.tiers.build import build_tier

if TYPE_CHECKING:
    from pathlib import Path

    from ahi.index.store import Index
    from tests.conftest import AwsStack

TIERS = (Tier.IDENTIFIED, Tier.DEIDENTIFIED)


def test_a_copy_is_made_after_each_change_and_the_one_before_stays(index: Index, put, tmp_path: Path) -> None:
    made = []
    for number in range(4):
        put(f"batch{number}", {f"set{number}": 1})
        index.publish()
        (copy,) = refresh_copies(index.root, TIERS, str(tmp_path / "out"))
        (again,) = refresh_copies(index.root, TIERS, str(tmp_path / "out"))
        assert (copy.is_new, again.is_new, copy.rows["series"]) == (True, False, number + 1)
        assert again.place == copy.place
        made.append(os.path.basename(copy.place))  # noqa: PTH119
    folder = tmp_path / "out" / "identified"
    assert {path.name for path in folder.iterdir()} == {*made[-2:], "current", "latest.json"}
    assert json.loads((folder / "latest.json").read_text())["folder"] == made[-1]
    assert pl.read_parquet(folder / "current" / "series.parquet").height == 4
    subprocess.run("sha256sum -c --strict --quiet *.sha256", shell=True, cwd=folder / "current", check=True)


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
