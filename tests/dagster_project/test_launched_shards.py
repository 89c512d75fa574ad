"""Shards launched one at a time, without a backfill: uploads go on, a pause frees the slots, and a resume goes on."""

from __future__ import annotations

from collections import Counter

import pytest

from ahi.archive import control
from ahi.archive.leases import resumed
from dagster_project.stack import Stack, ask_dagster
from tests.archive_fixtures import hold_back, planned, shard_rows, small_objects
from tests.conftest import wait_for
from tests.dagster_project.archive_stack import PARTITIONS, is_through, pipeline_of
from tests.dagster_project.test_killed_processes import SAMPLES, ahi

LAUNCH = """
mutation { launchPipelineExecution(executionParams: { mode: "default",
  selector: { repositoryLocationName: "ahi", repositoryName: "__repository__", pipelineName: "__ASSET_JOB",
    assetSelection: [{path: ["archive_imports"]}], assetCheckSelection: [] },
  executionMetadata: { tags: [{ key: "dagster/partition", value: "%s" }] } })
  { __typename ... on PythonError { message } } }
"""
RUNS = """{ runsOrError { ... on Runs { results { status jobName assetSelection { path } } } } }"""
SHARDS = 6


def of_archives(stack: Stack) -> Counter[str]:
    """Runs of shards by status."""
    found = ask_dagster(stack, RUNS)["runsOrError"]["results"]
    mine = ({"path": ["archive_imports"]}, "archive_shards")  # a person's, and the sensor's
    shards = [run for run in found if mine[0] in (run["assetSelection"] or []) or run["jobName"] == mine[1]]
    return Counter(run["status"] for run in shards)


@pytest.mark.drill
def test_six_single_runs_leave_uploads_their_slots_and_a_pause_ends_them(stack, monkeypatch):
    pipeline = pipeline_of(stack, monkeypatch)
    objects = sorted(small_objects(2 * SHARDS).items())
    keys = planned(pipeline, [dict(objects[2 * n : 2 * n + 2]) for n in range(SHARDS)])
    hold_back(pipeline, "old")
    wait_for(lambda: set(keys) <= set(ask_dagster(stack, PARTITIONS)["assetNodeOrError"]["partitionKeys"]), seconds=120)
    for key in keys:
        answer = ask_dagster(stack, LAUNCH % key)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
    wait_for(lambda: of_archives(stack) == {"STARTED": 2, "QUEUED": 4}, seconds=120, what="two runs of six")
    sent = SAMPLES / "dicom" / "pydicom" / "rtplan.dcm"
    assert ahi(stack, "send", str(sent)).returncode == 0
    uploaded = "SELECT count(*) FROM objects WHERE shard_key IS NULL AND indexed_seq IS NOT NULL"

    def indexed() -> bool:
        with pipeline.index.engine.connect() as connection:
            return connection.exec_driver_sql(uploaded).scalar_one() == 1

    wait_for(indexed, seconds=180, what="the upload")
    assert of_archives(stack)["STARTED"] == 2
    control.pause(pipeline.index, "old")
    wait_for(lambda: of_archives(stack) == {"SUCCESS": SHARDS}, seconds=180, what="the end of all six")
    assert {row["state"] for row in shard_rows(pipeline)} <= {"planned", "cancelled"}
    control.set_rate(pipeline.index, "old", None)
    control.resume(pipeline.index, "old")
    assert set(resumed(pipeline.index)) <= set(keys)
    wait_for(lambda: is_through(pipeline), seconds=300, what="what was resumed")
    # One run of the sensor's took all of them, side by side.
    assert len({row["run_id"] for row in shard_rows(pipeline)}) == 1
    wait_for(lambda: of_archives(stack) == {"SUCCESS": SHARDS + 1}, seconds=120, what="its end")
