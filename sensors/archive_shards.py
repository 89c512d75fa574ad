"""The sensor that makes partitions of planned shards. Belongs here: keeping Dagster's list like the catalog's.

Shards are planned in the UI, by a schedule and by `ahi archive plan`, which knows no Dagster. All of them reach the
launch dialog this way, within seconds.
"""

import dagster as dg

from ahi.archive.progress import shard_keys
from ahi.index import catalog_archives
from ahi.pipeline import Pipeline

PARTITIONS = catalog_archives.archive_shards.name
"""Name of the partitions in Dagster's list, as `ahi_assets.common.ARCHIVE_SHARDS` has it."""


@dg.sensor(minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def archive_shards(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SkipReason:
    """Adds a partition for each planned shard of an archive."""
    # By the instance and not in the result: the daemon asks for each key of a result by itself, 5 ms each.
    missing = sorted(set(shard_keys(pipeline.index)) - set(context.instance.get_dynamic_partitions(PARTITIONS)))
    if missing:
        context.instance.add_dynamic_partitions(PARTITIONS, missing)
    return dg.SkipReason(f"{len(missing)} partitions added" if missing else "Every shard has its partition")
