"""The sensor of archives' shards: a partition for each, and runs of those that are to be imported by themselves.

Belongs here: keeping Dagster's list like the catalog's, and asking for runs. Does not belong here: planning shards.

Shards are planned in the UI, by a schedule and by `ahi archive plan`, which knows no Dagster. All of them reach the
launch dialog this way, within seconds. Runs are asked for of what continuous archives grew, and of what was left while
an archive was paused.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count, islice

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.tags import RUN_KEY_TAG
from more_itertools import chunked

from ahi.archive.archives import shards_as_of
from ahi.archive.imports import RUNS, SHARDS_OF_A_RUN
from ahi.archive.leases import resumed
from ahi.archive.progress import grown_shards, shard_keys
from ahi.clock import now
from ahi.index import catalog_archives
from ahi.pipeline import Pipeline

PARTITIONS = catalog_archives.archive_shards.name
"""Name of the partitions in Dagster's list, as `ahi_assets.common.ARCHIVE_SHARDS` has it."""

PLAN = "archive_plan"
"""The asset that plans shards; those that it did not plan itself are told as its materialization."""

JOB = "archive_shards"
GROWN = {"ahi/archive": "grown"}
"""For the limit in `dagster.yaml`: what grows is imported beside backfills, behind live runs."""
RESUMED = {"ahi/archive": "resumed"}
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
"""Tags of a run of several partitions, as backfills set them."""

REQUESTS = 20
"""Runs asked for in one tick; the next tick asks for the next."""

PAGE = 50
"""Shards, and keys of runs, asked for in one query."""

STALE = 200
"""Partitions deleted in one tick: one by one, as Dagster does, 5 ms each."""

POOL, POOL_RUNS = "archive_imports", RUNS
"""Pool of the asset, and how many of the six runs at a time it may be. `dagster.yaml` has one limit for all pools."""


@dg.sensor(job_name=JOB, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def archive_shards(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """Keeps a partition for each planned shard, and imports what continuous archives grew and what was resumed."""
    instance = context.instance
    if context.cursor is None:
        # Once: whoever sets another limit in the UI keeps it.
        instance.event_log_storage.set_concurrency_slots(POOL, POOL_RUNS)
    # Both lists may be long, so they are compared when shards came or went, and each hour: somebody may have
    # deleted partitions in the UI.
    state = f"{shards_as_of(pipeline.index)} {now():%Y-%m-%dT%H}"
    changed = ""
    if context.cursor != state:
        changed, is_all = _keep_alike(instance, pipeline)
        context.update_cursor(state if is_all else "more to delete")
    half = REQUESTS // 2
    # A key names its run for ever: a shard that failed is launched again by a person, who sees why.
    requests = list(islice(_not_over(instance, _grown(pipeline)), half))
    if parked := resumed(pipeline.index):
        requests += islice(_not_over(instance, _resumed(instance.get_dynamic_partitions(PARTITIONS), parked)), half)
    if not requests:
        return dg.SkipReason(changed or "Every shard has its partition")
    return dg.SensorResult(run_requests=requests)


def _keep_alike(instance: dg.DagsterInstance, pipeline: Pipeline) -> tuple[str, bool]:
    """Add and delete partitions. Returns what was done, in words, and whether it was all there was to do."""
    # Dagster's list first: a shard planned in between is then missing, and not one too many.
    there = list(instance.get_dynamic_partitions(PARTITIONS))
    keys = set(shard_keys(pipeline.index))
    missing = sorted(keys - set(there))
    if missing:
        # By the instance and not in the result: the daemon asks for each key of a result by itself, 5 ms each.
        instance.add_dynamic_partitions(PARTITIONS, missing)
        # The launch dialog asks "are you sure" while what comes before the shards was never made in Dagster's eyes.
        planned = dg.AssetMaterialization(
            PLAN, description="Planned outside Dagster, as by `ahi archive plan`.", metadata={"shards": len(missing)}
        )
        instance.report_runless_asset_event(planned)
    stale = [key for key in there if key not in keys]
    for key in stale[:STALE]:
        instance.delete_dynamic_partition(PARTITIONS, key)
    said = f"{len(missing)} partitions added, {len(stale[:STALE])} of removed archives deleted"
    return said if missing or stale else "", len(stale) <= STALE


def _grown(pipeline: Pipeline) -> Iterator[dg.RunRequest]:
    """Runs of what continuous archives grew, one a shard."""
    for page in count():
        keys = grown_shards(pipeline.index, most=PAGE, after=page * PAGE)
        yield from (dg.RunRequest(run_key=key, partition_key=key, tags=GROWN) for key in keys)
        if len(keys) < PAGE:
            return


def _not_over(instance: dg.DagsterInstance, requests: Iterator[dg.RunRequest]) -> Iterator[dg.RunRequest]:
    """Requests without those whose run is over: canceled in the queue, it would keep its place before others for ever.

    Those whose run waits or is at work stay, so that no more than some of them wait at a time.
    """
    for some in chunked(requests, PAGE):
        keys = [str(request.run_key) for request in some]
        over = dg.RunsFilter(tags={RUN_KEY_TAG: keys}, statuses=FINISHED_STATUSES)
        ended = {run.tags[RUN_KEY_TAG] for run in instance.get_runs(over)}
        yield from (request for request in some if request.run_key not in ended)


def _resumed(there: Sequence[str], parked: Mapping[str, datetime]) -> Iterator[dg.RunRequest]:
    """Runs of shards that were left while their archive was paused, of as many as those of a backfill."""
    for block in _blocks(there, parked):
        since = max(parked[key] for key in block)
        name = f"{block[0]}-{block[-1]}-{since:%Y%m%dT%H%M%S%f}"
        if len(block) == 1:
            yield dg.RunRequest(run_key=name, partition_key=block[0], tags=RESUMED)
        else:
            ends = dict(zip(RANGE, (block[0], block[-1]), strict=True))
            yield dg.RunRequest(run_key=name, tags={**RESUMED, **ends})


def _blocks(there: Sequence[str], wanted: Mapping[str, object]) -> Iterator[list[str]]:
    """Partitions that are wanted and stand side by side in Dagster's list: a range takes all between its ends.

    Cut at fixed places of that list, so that the next tick, when some are at work, asks for the same again.
    """
    block: list[str] = []
    for place, key in enumerate(there):
        if block and (key not in wanted or place % SHARDS_OF_A_RUN == 0):
            yield block
            block = []
        if key in wanted:
            block.append(key)
    if block:
        yield block
