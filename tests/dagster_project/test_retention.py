"""Retention of runs, on a real instance with real runs."""

import datetime as dt
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import SCHEDULE_NAME_TAG

from ahi.clock import now
from dagster_project.retention import delete_runs
from tests.dagster_fixtures import dagster_template, instance

__all__ = ["dagster_template", "instance"]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@dg.op
def speak() -> None:
    """Leave output behind."""
    print("said")  # noqa: T201


@dg.job
def live() -> None:
    """Stands for a job that a sensor asks for."""
    speak()


@dg.job(tags={SCHEDULE_NAME_TAG: "every_minute"})
def by_clock() -> None:
    """Stands for a job that a schedule asks for."""
    speak()


def run(instance: dg.DagsterInstance, job: dg.JobDefinition) -> str:
    result = job.execute_in_process(instance=instance)
    assert (Path(instance.storage_directory()) / result.run_id).is_dir()
    return result.run_id


def left(instance: dg.DagsterInstance) -> set[str]:
    return {ran.run_id for ran in instance.get_runs()}


def test_a_deleted_run_leaves_nothing_and_the_newest_stays(instance: dg.DagsterInstance) -> None:
    old, newest = [run(instance, live) for _ in range(2)]
    later = now() + dt.timedelta(hours=1)
    assert delete_runs(instance, later, later) == 1
    assert left(instance) == {newest}
    storage = Path(instance.storage_directory())
    assert not (storage / old).exists()
    assert (storage / newest).exists()


def test_runs_of_schedules_go_sooner(instance: dg.DagsterInstance) -> None:
    kept = {run(instance, live) for _ in range(2)}
    clock = [run(instance, by_clock) for _ in range(3)]
    delete_runs(instance, now() - dt.timedelta(days=1), now() + dt.timedelta(hours=1))
    assert left(instance) == kept | {clock[-1]}


def test_recent_runs_stay(instance: dg.DagsterInstance) -> None:
    runs = {run(instance, live), run(instance, by_clock), run(instance, by_clock)}
    earlier = now() - dt.timedelta(hours=1)
    assert delete_runs(instance, earlier, earlier) == 0
    assert left(instance) == runs
