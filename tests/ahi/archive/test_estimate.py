"""An estimate is arithmetic that can be checked by hand, from the plan, the quotas and a dated price table."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from ahi.archive.archives import Archive
from ahi.archive.choices import Period
from ahi.archive.estimate import Estimate, estimate
from ahi.archive.inventory import Look
from ahi.archive.keys import Totals
from ahi.archive.packing import Limits
from ahi.archive.plan import Plan, PlannedShard
from ahi.archive.prices import price_table
from ahi.archive.screening import Sample
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_archives import Source
from ahi.index.store import Index
from ahi.settings import Settings
from tests import command_line
from tests.ahi.archive.conftest import Holding
from tests.site_fixtures import SAMPLES, Site

MOMENT = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
LOOK = Look("old", 1, Source.LISTING, MOMENT, 1_000_500, 600 * 2**30, 0, 0, 0, "x")
ARCHIVE = Archive("old", "s3://old-pacs/", "old-pacs", "", Source.LISTING, None, MOMENT, False, None, None, 1, 0, None)
SHARDS = tuple(
    PlannedShard(f"old-{n:05d}", n, 5_000, 3 * 2**30, "a/" if n > 50 else None)
    for n in range(1, 201)
)  # fmt: skip
PLAN = Plan(
    ARCHIVE, LOOK, Limits(5_000, 10**10, 1.0, 200.0), SHARDS, {"NOT_DICOM": Totals(500, 1)}, Totals(0, 0), 10_000, 500,
    Sample(60, 3), is_kept=False,
)  # fmt: skip


@pytest.fixture
def pipeline(tmp_path, index_template) -> Any:
    return SimpleNamespace(settings=Settings(), index=Index(tmp_path, f"sqlite:///{tmp_path / 'catalog.sqlite'}"))


def usd(found: Estimate) -> dict[str, float | None]:
    return {item.name: item.usd and round(item.usd, 6) for item in found.items}


def test_by_hand(pipeline: Any) -> None:
    found = estimate(pipeline, PLAN)
    assert (found.n_objects, found.n_jobs, found.n_jobs_in_place, found.n_copies) == (1_000_000, 200, 150, 250_000)
    # 10,000 folders, and 990,000 objects of which one in twenty begins a series.
    assert found.n_image_sets == 59_500
    assert {step.name: round(step.seconds, 1) for step in found.steps} == {
        "start rate": 200,
        "jobs in flight": 200 * (100 + 250) / 40,
        "one job": 350,
        "bytes and files a job": 200,
        "copies": 1_250,
        "header reads": 3_333.3,
        "image set looks": 2_380,
        "documents": 1_190,
    }
    # Of ten runs, two at a time, the last begins behind the eighth, after 3,416.7 s. Behind its headers (333.3 s) come
    # the last job, and the looks and documents of 297.5 image sets.
    assert (found.longest, round(found.seconds, 1)) == (
        "header reads",
        round(3_416.67 + 333.33 + 350 + 297.5 / 25 + 297.5 / 50, 1),
    )
    assert found.image_sets_range == (26_978, 145_637)  # 1.71 to 13.7 % of 990,000
    assert usd(found) == {
        "listing": round(1_001 * 0.005 / 1_000, 6),
        "header reads": round(1_000_500 * 0.0004 / 1_000, 6),
        "looks at folders": round(2 * 5 * 150 * 0.005 / 1_000, 6),
        "reads by HealthImaging": 0.4,
        "copies": 1.25,
        "staged copies": round(150 * 7 / 30 * 0.023, 6),
        "import": 0.0,
        "API calls": round((400 + 119_000) * 0.005 / 1_000, 6),
        "result files": 0.004,
        "result files read": 0.00032,
        "kept documents": round(59_500 * 0.005 / 1_000, 6),
        "Frequent Access": 63.0,
        "Archive Instant Access": 3.6,
        "structured storage": None,
    }
    assert found.usd(Period.FIRST_MONTH, Period.EACH_MONTH) == pytest.approx(63)
    assert all(item.formula for item in [*found.items, *found.steps])


def test_small_image_sets_are_billed_at_five_megabytes(pipeline: Any) -> None:
    small = dataclasses.replace(PLAN, shards=SHARDS[:1], series=Sample(10, 10), n_folders=1)
    assert usd(estimate(pipeline, small))["Frequent Access"] == pytest.approx(5_000 * 5 / 1024 * 0.105)


def test_jobs_that_ended_here_replace_the_assumption(pipeline: Any) -> None:
    with pipeline.index.transaction() as connection:
        for number, n_objects in enumerate([10, 100, 1_000, 2_000, 5_000]):
            row = {"job_key": str(number), "service": SERVICE, "state": JobState.SETTLED, "day": "2026-11-22"}
            row |= {"datastore_id": "d", "input_uri": "i", "output_uri": "o", "in_place": False, "n_bytes": 1}
            row |= {"n_objects": n_objects, "planned_at": MOMENT, "submitted_at": MOMENT, "starts": 1}
            row |= {"ended_at": MOMENT + dt.timedelta(seconds=30 + 0.1 * n_objects)}
            connection.execute(catalog.jobs.insert().values(row))
    steps = {step.name: step for step in estimate(pipeline, PLAN).steps}
    assert steps["one job"].seconds == pytest.approx(530)
    assert "5 jobs here" in steps["jobs in flight"].formula


def test_the_time_is_that_of_the_last_job_and_not_of_the_longest_step(pipeline: Any) -> None:
    # 70 jobs of 110 s, one started each second, in runs of 20 of which two are at work: the second ends after 149 s,
    # and of the ten jobs of the fourth the last starts 9 s later.
    shards = tuple(PlannedShard(f"old-{n:05d}", n, 200, 1, "a/") for n in range(70))
    plan = dataclasses.replace(PLAN, shards=shards, n_folders=70, series=Sample(60, 0))
    found = estimate(pipeline, dataclasses.replace(plan, limits=Limits(5_000, 10**10, 1.0, 200.0)))
    assert {step.name: step.seconds for step in found.steps}["start rate"] == 70
    assert 149 + 9 + 110 <= found.seconds <= 149 + 9 + 110 + 10
    # A brake takes time and does not change the plan.
    slow = estimate(pipeline, dataclasses.replace(plan, archive=dataclasses.replace(ARCHIVE, rate=0.1)))
    assert 690 + 110 <= slow.seconds <= 690 + 110 + 10


def test_a_run_begins_no_shard_before_all_of_the_one_before_it_are_through(pipeline: Any) -> None:
    shards = tuple(PlannedShard(f"old-{n:05d}", n, 200, 1, "a/") for n in range(100))
    plan = dataclasses.replace(PLAN, shards=shards, n_folders=100, series=Sample(60, 0))
    found = estimate(pipeline, dataclasses.replace(plan, limits=Limits(5_000, 10**10, 1.0, 200.0)))
    # Five runs of 20 jobs of 110 s, two at a time: the third begins behind the first, the fifth behind the third.
    assert 3 * (110 + 19) <= found.seconds <= 3 * (110 + 19) + 40


def test_no_series_begun_in_a_sample_does_not_mean_none_at_all(pipeline: Any) -> None:
    found = estimate(pipeline, dataclasses.replace(PLAN, series=Sample(64, 0)))
    assert found.n_image_sets == found.image_sets_range[0] == 10_000
    # Of 990,000 further objects up to 5.7 % may begin one.
    assert found.image_sets_range[1] == pytest.approx(10_000 + 0.0566 * 990_000, rel=0.01)


def test_nothing_to_import_takes_nothing(pipeline: Any) -> None:
    found = estimate(pipeline, dataclasses.replace(PLAN, shards=(), n_folders=0, series=Sample(0, 0)))
    assert (found.seconds, found.n_image_sets, found.usd(Period.FIRST_MONTH)) == (0, 0, 0)


def test_each_price_has_a_unit_and_a_source() -> None:
    table = price_table()
    assert set(table.usd) == set(table.units)
    assert set(table.usd) | set(table.values) == set(table.sources)
    assert table.region == "us-east-1"
    assert table.as_of


def test_the_command_plans_keeps_and_lists(site: Site, holding: Holding) -> None:
    holding.put({f"2019/s/{n}.dcm": (SAMPLES / f"pydicom/CT2/{n}").read_bytes() for n in (17106, 17136)})
    holding.put({"2019/s/readme.txt": b"no image"})

    def ahi(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command_line.ahi(site.home, "archive", *arguments, env=site.environment | {"COLUMNS": "200"})

    said = ahi("plan", f"s3://{holding.bucket}/2019", "--keep")
    assert said.returncode == 0, said.stderr
    for words in (
        "objects to import",
        "set aside: NOT_DICOM",
        "GetImageSetMetadata a second",
        "COPY requests",
        "Once ",
    ):
        assert words in said.stdout
    assert "readme" not in said.stdout + said.stderr
    [listed] = json.loads(ahi("list", "--json").stdout)
    assert (listed["look"]["n_objects"], listed["shards"]) == (3, {"planned": 1})
    assert "as the sample tells" in said.stdout
    wrong = ahi("plan", "s3://there-is-no-such-bucket/")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
