"""A plan puts every object of an archive into one shard or sets it aside, and a later one adds to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ahi.archive import archives, control, inventory, parts, plan
from ahi.archive.choices import Screen
from ahi.archive.plan import OutdatedPlanError, make_plan, shard_keys
from ahi.archive.shards import read_shard
from ahi.cli.main import app
from ahi.errors import PermanentError
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import ShardState
from ahi.proof import prove
from ahi.reasons import Reason
from ahi.settings import load_settings
from tests.ahi.archive.conftest import Holding
from tests.postgresql_fixtures import new_schema
from tests.site_fixtures import SAMPLES, Site
from tests.trouble_fixtures import ask_once, cut_off, refuse

CT = (SAMPLES / "pydicom/CT2/17106").read_bytes()
MR = (SAMPLES / "pydicom/MR2/15970").read_bytes()


@pytest.fixture
def archive_site(
    request: pytest.FixtureRequest, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> Site:
    catalog = {"catalog_url": new_schema(request.getfixturevalue("postgresql"))} if hasattr(request, "param") else {}
    site = make_site(max_files_per_job=6, copies_per_second=4, job_starts_per_second=1, **catalog)
    monkeypatch.setenv("AHI_ARCHIVE_LIST_THREADS", "2")
    return site


def look_and_plan(site: Site, holding: Holding, **options: Any) -> plan.Plan:
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}/pacs", name="old")
    inventory.look(site.pipeline, archive)
    return make_plan(site.pipeline, archive, **({"keep": True} | options))


def held(site: Site) -> dict[str, tuple[str | None, list[str]]]:
    """Prefix and keys of each shard."""
    table = c.archive_shards
    with site.pipeline.index.engine.connect() as connection:
        rows = connection.execute(sa.select(table.c.shard_key, table.c.in_place_prefix)).all()
    return {key: (prefix, [one.key for one in read_shard(site.pipeline, key)]) for key, prefix in rows}


@pytest.fixture
def filled(holding: Holding) -> Holding:
    """A patient that fits one job, a folder that no job holds, small folders, and what is no image."""
    holding.put({f"pacs/a/s{n}/{i}.dcm": CT for n in range(2) for i in range(3)})
    holding.put({f"pacs/flat/{i:02d}.dcm": CT if i % 2 else MR for i in range(14)})
    holding.put({"pacs/small/1.dcm": CT, "pacs/small/readme.txt": b"see DICOMDIR", "pacs/small/named.txt": MR})
    holding.put({"pacs/empty.dcm": b"", "pacs/marker/": b"", "pacs/x/ü 1.dcm": MR})
    return holding


def test_every_object_is_in_one_shard_or_set_aside(archive_site: Site, filled: Holding, tmp_path: Path) -> None:
    made = look_and_plan(archive_site, filled)
    shards = held(archive_site)
    assert shards.pop("old-00001") == ("pacs/a/", [f"pacs/a/s{n}/{i}.dcm" for n in range(2) for i in range(3)])
    assert {prefix for prefix, _ in shards.values()} == {None}
    counted = Counter(key for _, keys in shards.values() for key in keys)
    assert set(counted.values()) == {1}
    flat = {f"pacs/flat/{i:02d}.dcm" for i in range(14)}
    assert set(counted) == flat | {"pacs/small/1.dcm", "pacs/small/named.txt", "pacs/x/ü 1.dcm"}
    assert all(len(keys) <= 6 for _, keys in shards.values())
    assert {reason: some.n_objects for reason, some in made.set_aside.items()} == {
        Reason.NOT_DICOM: 1,
        Reason.EMPTY: 2,
    }
    assert made.n_objects == 23 == sum(len(keys) for _, keys in held(archive_site).values())
    assert (made.copied.n_objects, made.n_headers_read) == (17, 2)
    [key] = [k for k in parts.lake_keys(archive_site.pipeline, "archives/old/plans/", ".parquet") if "aside" in k]
    [path] = parts.fetch(archive_site.pipeline, [key], tmp_path)
    assert {(row["key"], row["hindrance"]) for row in pq.read_table(path).to_pylist()} == {
        ("pacs/empty.dcm", Reason.EMPTY),
        ("pacs/marker/", Reason.EMPTY),
        ("pacs/small/readme.txt", Reason.NOT_DICOM),
    }


def test_a_dry_run_changes_nothing_and_says_the_same(archive_site: Site, filled: Holding) -> None:
    dry = look_and_plan(archive_site, filled, keep=False)
    assert held(archive_site) == {}
    assert archives.find(archive_site.pipeline, "old").planned_generation == 0
    kept = look_and_plan(archive_site, filled)
    assert dry.shards == kept.shards
    assert shard_keys(archive_site.pipeline, kept.archive) == [shard.shard_key for shard in kept.shards]
    assert archives.find(archive_site.pipeline, "old").planned_generation == 2


def test_a_series_begins_where_neighbours_differ(archive_site: Site, filled: Holding) -> None:
    made = look_and_plan(archive_site, filled, keep=False)
    assert made.series.n_pairs >= 14
    # All 13 pairs of the flat folder; the other folders hold one series each, or are a pair of two.
    assert made.series.n_changes == 14
    assert made.n_folders == 5


def test_what_s3_does_not_give_for_the_moment_fails_no_plan_and_stays_in_it(
    archive_site: Site, filled: Holding
) -> None:
    s3 = archive_site.pipeline.aws.s3
    ask_once(s3)
    refuse(s3, "GetObject", "InternalError", of=["pacs/small/readme.txt"])
    cut_off(s3, "GetObject", None, of=["pacs/small/named.txt", "pacs/a/s0/1.dcm"])
    made = look_and_plan(archive_site, filled, screening=Screen.ALL)
    assert (made.n_headers_read, sum(some.n_objects for some in made.set_aside.values())) == (24, 2)
    assert sum(len(keys) for _, keys in held(archive_site).values()) == made.n_objects == 24


@pytest.mark.parametrize(("screening", "n_read", "n_aside"), [(Screen.NONE, 0, 2), (Screen.ALL, 24, 3)])
def test_which_headers_are_read_is_a_choice(archive_site: Site, filled: Holding, screening, n_read, n_aside) -> None:
    made = look_and_plan(archive_site, filled, screening=screening, sampling=False)
    assert (made.n_headers_read, sum(some.n_objects for some in made.set_aside.values())) == (n_read, n_aside)


@pytest.mark.parametrize("archive_site", ["postgresql"], indirect=True)
def test_plans_are_kept_in_postgresql_too(archive_site: Site, filled: Holding) -> None:
    test_growth_adds_shards_and_moves_nothing(archive_site, filled)


def test_growth_adds_shards_and_moves_nothing(archive_site: Site, filled: Holding) -> None:
    look_and_plan(archive_site, filled)
    before = held(archive_site)
    again = look_and_plan(archive_site, filled)
    assert (again.shards, again.n_objects, again.known.n_objects) == ((), 0, 23)
    filled.put({"pacs/a/s0/late.dcm": CT, "pacs/small/1.dcm": MR, "pacs/b/1.dcm": CT})
    filled.delete("pacs/flat/00.dcm")
    more = look_and_plan(archive_site, filled)
    assert sum(shard.n_objects for shard in more.shards) == 3
    after = held(archive_site)
    assert {key: keys for key, (_, keys) in after.items() if key in before} == {
        key: keys for key, (_, keys) in before.items()
    }
    added = [key for name, (_, keys) in after.items() if name not in before for key in keys]
    assert sorted(added) == ["pacs/a/s0/late.dcm", "pacs/b/1.dcm", "pacs/small/1.dcm"]
    # Its folder holds more than the shard now: as a job's prefix it would import the rest a second time.
    assert after["old-00001"][0] is None


def test_a_started_shard_stays_as_it_is(archive_site: Site, filled: Holding) -> None:
    look_and_plan(archive_site, filled)
    with archive_site.pipeline.index.transaction() as connection:
        connection.execute(c.archive_shards.update().values(state=ShardState.STARTED))
    filled.put({"pacs/a/s0/late.dcm": CT})
    look_and_plan(archive_site, filled)
    assert held(archive_site)["old-00001"][0] == "pacs/a/"


def test_a_plan_that_another_overtook_is_not_kept(archive_site: Site, filled: Holding, monkeypatch) -> None:
    write = plan._write_manifests

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(plan, "_write_manifests", write)
        look_and_plan(archive_site, filled)
        return write(*arguments)

    monkeypatch.setattr(plan, "_write_manifests", overtaken)
    with pytest.raises(OutdatedPlanError):
        look_and_plan(archive_site, filled)
    keys = [key for _, some in held(archive_site).values() for key in some]
    assert len(keys) == len(set(keys)) == 23


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_what_s3_cannot_read_at_once_is_set_aside_and_shown(archive_site: Site, filled: Holding, kind: str) -> None:
    row = filled.s3.list_objects_v2(Bucket=filled.bucket, Prefix="pacs/a/")["Contents"][0]
    tiers = {
        "cold": "DEEP_ARCHIVE",
        "asleep": "INTELLIGENT_TIERING:DEEP_ARCHIVE",
        "awake": "INTELLIGENT_TIERING:FREQUENT",
    }
    cold = [
        (filled.bucket, f"pacs/{name}.dcm", None, True, False, 900, row["LastModified"], "0" * 32, tier)
        for name, tier in tiers.items()
    ]
    report = filled.report(kind, extra=cold)
    archive = archives.add(archive_site.pipeline, f"s3://{filled.bucket}/pacs", name="old", report_uri=report)
    inventory.look(archive_site.pipeline, archive)
    made = make_plan(archive_site.pipeline, archive, keep=False, sampling=False)
    assert made.set_aside[Reason.ARCHIVED].n_objects == 2
    load_settings.cache_clear()
    said = CliRunner().invoke(app, ["archive", "plan", "old"]).output
    load_settings.cache_clear()
    assert "2 objects, 1.8 kB, can only be read after a restore" in said


def test_a_rate_slows_an_import_and_packs_nothing(archive_site: Site, filled: Holding) -> None:
    planned = look_and_plan(archive_site, filled, keep=False)
    control.set_rate(archive_site.pipeline.index, "old", 0.001)
    assert look_and_plan(archive_site, filled, keep=False).shards == planned.shards


def test_all_archives_together_stay_within_the_partitions_of_dagster(
    archive_site: Site, filled: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = look_and_plan(archive_site, filled)
    monkeypatch.setattr(plan, "MOST_PARTITIONS", len(kept.shards) + 2)
    filled.put({f"pacs/more/s{n}/{i}.dcm": CT for n in range(3) for i in range(6)})
    with pytest.raises(PermanentError, match="archive remove"):
        look_and_plan(archive_site, filled)
    assert len(look_and_plan(archive_site, filled, keep=False).shards) == 3
    monkeypatch.setattr(plan, "MOST_PARTITIONS", len(kept.shards) + 3)
    assert len(look_and_plan(archive_site, filled).shards) == 3


def test_an_archive_nobody_looked_at_cannot_be_planned(site: Site, holding: Holding) -> None:
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}")
    with pytest.raises(PermanentError, match="looked at"):
        make_plan(site.pipeline, archive, keep=False)


def test_a_removed_archive_leaves_no_key_behind(archive_site: Site, filled: Holding) -> None:
    made, pipeline = look_and_plan(archive_site, filled), archive_site.pipeline
    filled.put({"pacs/9.8.7.6.dcm": CT})
    look_and_plan(archive_site, filled)

    def places() -> dict[str, int]:
        return {place.name: place.n for place in prove(pipeline.index, "9.8.7.6", secret=b"", pipeline=pipeline)}

    # The part of the second look, its differences and the manifest.
    assert places()["archives/"] == 3
    with pipeline.index.transaction() as connection:
        connection.execute(c.archive_shards.update().values(state=ShardState.STARTED))
    with pytest.raises(PermanentError, match="are started"):
        archives.remove(pipeline, made.archive)
    with pipeline.index.transaction() as connection:
        connection.execute(c.archive_shards.update().values(state=ShardState.DONE))
    assert archives.remove(pipeline, made.archive) > 5
    assert (places()["archives/"], archives.all_archives(pipeline), held(archive_site)) == (0, [], {})
