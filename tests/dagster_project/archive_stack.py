"""Backfills of archives on a whole stack, for tests and benchmarks. Belongs here: launching, watching, killing."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from dotenv import dotenv_values

from ahi.archive.progress import progress
from ahi.closure import closure
from ahi.index import catalog_archives as c
from ahi.pipeline import connect
from ahi.settings import Settings
from dagster_project.stack import ask_dagster
from tests.conftest import AwsStack, wait_for
from tests.dagster_project.test_killed_processes import processes, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.pipeline import Pipeline
    from dagster_project.stack import Stack

ASSET = '{path: ["archive_imports"]}'
PARTITIONS = f"{{ assetNodeOrError(assetKey: {ASSET}) {{ ... on AssetNode {{ partitionKeys }} }} }}"
LAUNCH = (
    "mutation { launchPartitionBackfill(backfillParams: {partitionNames: %s, assetSelection: [" + ASSET + "]}) "
    "{ __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"
)


def pipeline_of(stack: Stack, patch: Any) -> Pipeline:
    """A pipeline of this process that looks at a stack. `patch` sets environment variables."""
    patch.setenv("AHI_HOME", str(stack.home))
    for name, value in dotenv_values(stack.home / "stack.env").items():
        patch.setenv(name, value or "")
    return connect(Settings())


def aws_of(stack: Stack) -> AwsStack:
    """The embedded AWS of a stack: its clients, its log of calls, its faults."""
    values = dotenv_values(stack.home / "stack.env")
    return AwsStack(stack.home, env={name: value or "" for name, value in values.items()})


def launch(stack: Stack, keys: Sequence[str]) -> str:
    """Launch a backfill as the dialog of the UI does, once the sensor has made the partitions. Returns its id."""

    def there() -> bool:
        return set(keys) <= set(ask_dagster(stack, PARTITIONS)["assetNodeOrError"]["partitionKeys"])

    wait_for(there, seconds=120, what="the partitions")
    answer = ask_dagster(stack, LAUNCH % json.dumps(list(keys)))["launchPartitionBackfill"]
    return str(answer["backfillId"])


def status(stack: Stack, backfill: str) -> str:
    """Status of a backfill in the UI."""
    query = f'{{ partitionBackfillOrError(backfillId: "{backfill}") {{ ... on PartitionBackfill {{ status }} }} }}'
    return str(ask_dagster(stack, query)["partitionBackfillOrError"]["status"])


def is_through(pipeline: Pipeline, archive_id: str = "old") -> bool:
    """Whether every object of an archive is through, indexed, and nothing else is on its way."""
    seen = progress(pipeline.index, archive_id)
    return seen.share == 1.0 and closure(pipeline.index.engine).at_rest


def kill_workers(stack: Stack) -> int:
    """SIGKILL for every run at work and for the daemon, which its supervisor starts again. Returns how many runs.

    Nothing is killed where no run is at work.
    """
    victims = runs(stack)
    if not victims:
        return 0
    daemons = processes(stack, "dagster_project.program daemon")
    for process in (*victims, *daemons):
        process.send_signal(signal.SIGKILL)
    before = {process.pid for process in daemons}
    wait_for(lambda: [p for p in processes(stack, "dagster_project.program daemon") if p.pid not in before], seconds=60)
    return len(victims)


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """The most of some spans of time that overlap."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = running = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    return most


def forecast_error(pipeline: Pipeline, share: float, archive_id: str = "old") -> float:
    """How far off the first forecast was that was made at a share of the objects, as a share of the whole time."""
    table = c.archive_progress
    query = sa.select(table.c.at, table.c.ends_at, table.c.n_final * 1.0 / table.c.n_total).order_by(table.c.at)
    with pipeline.index.engine.connect() as connection:
        samples = connection.execute(query.where(table.c.archive_id == archive_id)).all()
    ended = progress(pipeline.index, archive_id).ended_at
    forecast = next(ends for _, ends, seen in samples if seen >= share and ends)
    assert ended is not None
    return abs((ended - forecast) / (ended - samples[0].at))
