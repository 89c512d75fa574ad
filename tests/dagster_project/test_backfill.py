"""Archives imported in backfills on the whole stack: killed at work, and on PostgreSQL.

AHI_DRILL_OBJECTS is how many objects the drill imports, in 50 shards from 5,000 on; 20,000 take five to ten minutes.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from http import HTTPStatus
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ahi.archive import report
from ahi.archive.progress import progress
from ahi.index import catalog
from dagster_project.demo import free_port
from dagster_project.stack import Stack, down, up
from tests.archive_fixtures import planned, shard_rows, small_objects
from tests.conftest import wait_for
from tests.dagster_project.archive_stack import (
    aws_of,
    forecast_error,
    is_through,
    kill_workers,
    launch,
    most_at_once,
    pipeline_of,
    status,
)

if TYPE_CHECKING:
    from ahi.pipeline import Pipeline

OBJECTS = int(os.environ.get("AHI_DRILL_OBJECTS", "500"))
WHOLE = "whole/"
SHARDS = 50 if OBJECTS >= 5_000 else 10
LIMITS = {
    "AHI_MAX_JOBS_IN_FLIGHT": "5",
    "AHI_JOB_STARTS_PER_SECOND": "1",
    "LOCAL_AWS_MAX_CONCURRENT_JOBS": "4",  # the service refuses the fifth, and its log says so
    "LOCAL_AWS_IMPORT_SECONDS": "10",  # longer than four starts take
}
OF_ARCHIVES = 4
"""Jobs that an archive may have in flight: four fifths of five."""


@pytest.fixture
def stack_settings() -> dict[str, str]:
    return LIMITS


def shards_of(count: int, shards: int) -> list[dict[str, bytes]]:
    """Small objects, 1 % of them bad, in so many shards."""
    objects = sorted(small_objects(count, bad_every=100).items())
    size = -(-len(objects) // shards)
    found = [dict(objects[start : start + size]) for start in range(0, len(objects), size)]
    return [*found[:-1], {f"{WHOLE}{key}": body for key, body in found[-1].items()}]


def planned_with_a_whole_folder(pipeline: Pipeline, shards: list[dict[str, bytes]]) -> list[str]:
    """An archive of these shards, the last of them a folder that is imported where it lies, bad files and all."""
    return planned(pipeline, shards, in_place=[*[None] * (len(shards) - 1), WHOLE])


@pytest.mark.drill
def test_a_backfill_killed_three_times_loses_nothing_and_imports_nothing_twice(stack, monkeypatch, capsys):
    pipeline, luck = pipeline_of(stack, monkeypatch), random.Random(4)
    keys = planned_with_a_whole_folder(pipeline, shards_of(OBJECTS, SHARDS))
    begun = time.monotonic()
    backfills = [launch(stack, keys)]
    deadline = begun + 600 + OBJECTS / 5
    for share in sorted(luck.uniform(0.05, 0.8) for _ in range(3)):
        wait_for(
            lambda share=share: progress(pipeline.index, "old").share >= share, seconds=deadline - time.monotonic()
        )
        wait_for(lambda: kill_workers(stack) > 0, seconds=120, what="a run to kill")

    def through() -> bool:
        if status(stack, backfills[-1]) in ("COMPLETED_FAILED", "FAILED"):
            # Retries are for lost workers and are two: what was killed oftener is launched again, as a person would.
            backfills.append(
                launch(stack, [row["shard_key"] for row in shard_rows(pipeline) if row["state"] != "done"])
            )
        return is_through(pipeline)

    wait_for(through, seconds=deadline - time.monotonic(), what="the archive")
    took = time.monotonic() - begun
    seen = progress(pipeline.index, "old")
    assert seen.final == seen.objects == OBJECTS
    assert seen.states == {"imported": OBJECTS - OBJECTS // 100, "failed": OBJECTS // 100}
    # What is indexed is published a moment later, by the end of its run or the next sweep.
    wait_for(lambda: not any(one.open for one in report.studies(pipeline, "old")), seconds=120, what="the report")
    with pipeline.index.engine.connect() as connection:
        attempts = Counter(
            connection.exec_driver_sql("SELECT attempts FROM objects WHERE state = 'imported'").scalars()
        )
        job_columns = (catalog.jobs.c.submitted_at, catalog.jobs.c.ended_at, catalog.jobs.c.job_id)
        of_archive = catalog.jobs.select().where(catalog.jobs.c.shard_key.is_not(None))
        jobs = connection.execute(of_archive.with_only_columns(*job_columns)).all()
    assert attempts == {1: OBJECTS - OBJECTS // 100}  # nothing was imported twice
    again = launch(stack, keys)
    wait_for(lambda: status(stack, again) == "COMPLETED_SUCCESS", seconds=300, what="the second backfill")
    imaging = pipeline.aws.imaging
    listed = [
        one
        for page in imaging.get_paginator("list_dicom_import_jobs").paginate(datastoreId=pipeline.settings.datastore_id)
        for one in page["jobSummaries"]
    ]
    assert {one["jobId"] for one in listed} == {job.job_id for job in jobs}
    assert most_at_once([(one["submittedAt"].timestamp(), one["endedAt"].timestamp()) for one in listed]) == OF_ARCHIVES
    calls = aws_of(stack).calls("StartDICOMImportJob", service="medical-imaging")
    assert {call["status"] for call in calls} == {HTTPStatus.OK}  # none was one job too many, or too early
    starts = [call["time"] for call in calls]
    assert len(starts) >= len(listed)  # one whose answer a killed run never saw is asked for again by its token
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert min(gaps) > 0.99  # the rate is one a second, by the log of the service
    numbers = (
        f"{len(listed)} jobs, {took:.0f} s, {len(backfills)} backfills, least time between starts {min(gaps):.2f} s"
    )
    with capsys.disabled():
        error = forecast_error(pipeline, 0.25)
        sys.stdout.write(f"\n{OBJECTS} objects, {numbers}; forecast at a quarter, with the kills, off by {error:.0%}\n")


@pytest.mark.drill
def test_the_stack_runs_on_postgresql(tmp_path, monkeypatch, postgresql):
    made = Stack(tmp_path / "home", ui_port=free_port(), aws_port=free_port(), database_url=postgresql)
    try:
        up(made, lambda line: None)
        pipeline = pipeline_of(made, monkeypatch)
        assert pipeline.index.engine.dialect.name == "postgresql"
        backfill = launch(made, planned_with_a_whole_folder(pipeline, shards_of(200, 4)))
        wait_for(lambda: is_through(pipeline), seconds=300, what="the archive")
        wait_for(lambda: status(made, backfill) == "COMPLETED_SUCCESS", seconds=60, what="green")
        with pipeline.index.engine.connect() as connection:
            (runs,) = connection.exec_driver_sql("SELECT count(*) FROM dagster.runs").one()
        assert runs > 0
        assert not list(made.home.rglob("*.db"))
        assert not list(made.home.rglob("catalog.sqlite"))
    finally:
        down(made)
