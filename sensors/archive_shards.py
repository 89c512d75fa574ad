"""The sensor of archives' shards: a partition for each, and runs of those that continuous archives grew.

Belongs here: keeping Dagster's list like the catalog's, and asking for runs. Does not belong here: planning shards.

Shards are planned in the UI, by a schedule and by `ahi archive plan`, which knows no Dagster. All of them reach the
launch dialog this way, within seconds.
"""

import dagster as dg

from ahi.archive.progress import grown_shards, shard_keys
from ahi.index import catalog_archives
from ahi.pipeline import Pipeline

PARTITIONS = catalog_archives.archive_shards.name
"""Name of the partitions in Dagster's list, as `ahi_assets.common.ARCHIVE_SHARDS` has it."""

PLAN = "archive_plan"
"""The asset that plans shards; those that it did not plan itself are told as its materialization."""

JOB = "archive_shards"
ARCHIVE_TAGS = {"ahi/archive": "grown"}
"""For the limit in `dagster.yaml`: what grows is imported beside backfills, behind live runs."""

REQUESTS = 20
"""Runs asked for in one tick; each imports one shard, and the next tick asks for the next."""


@dg.sensor(job_name=JOB, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def archive_shards(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """Adds a partition for each planned shard, and imports what continuous archives grew."""
    # By the instance and not in the result: the daemon asks for each key of a result by itself, 5 ms each.
    missing = sorted(set(shard_keys(pipeline.index)) - set(context.instance.get_dynamic_partitions(PARTITIONS)))
    if missing:
        context.instance.add_dynamic_partitions(PARTITIONS, missing)
        # The launch dialog asks "are you sure" while what comes before the shards was never made in Dagster's eyes.
        planned = dg.AssetMaterialization(
            PLAN, description="Planned outside Dagster, as by `ahi archive plan`.", metadata={"shards": len(missing)}
        )
        context.instance.report_runless_asset_event(planned)
    grown = grown_shards(pipeline.index, most=REQUESTS)
    if not grown:
        return dg.SkipReason(f"{len(missing)} partitions added" if missing else "Every shard has its partition")
    # A key names its run for ever: a shard that failed is launched again by a person, who sees why.
    requests = [dg.RunRequest(run_key=key, partition_key=key, tags=ARCHIVE_TAGS) for key in grown]
    return dg.SensorResult(run_requests=requests)
