"""The sensor of the queue with HealthLake's events, which also keeps the chain going without any.

Belongs here: which runs are asked for, and a partition for each planned batch. Does not belong here: what a run does.
"""

import dagster as dg

from ahi.healthlake.advance import is_work_waiting
from ahi.healthlake.control import new_batches
from ahi.inbox import Queue
from ahi.pipeline import Pipeline
from sensors.tick import LIVE_TAGS, UNFINISHED, Target, tick

TARGET = Target(Queue.HEALTHLAKE_EVENTS, "healthlake", ("healthlake_chain",), is_partitioned=False)
PARTITIONS = "fhir_batches"
"""Name of the partitions in Dagster's list, as `ahi_assets.common.FHIR_BATCHES` has it."""


@dg.sensor(job_name=TARGET.job_name, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def healthlake_queue(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """Runs `healthlake` for each batch of messages, and whenever something waits that no event will tell of."""
    if not pipeline.settings.fhir_datastore_id:
        return dg.SkipReason("No HealthLake data store: AHI_FHIR_DATASTORE_ID is not set")
    _add_partitions(context, pipeline)
    if is_work_waiting(pipeline) and not _is_under_way(context):
        return dg.SensorResult(run_requests=[dg.RunRequest(job_name=TARGET.job_name, tags=LIVE_TAGS)])
    return tick(context, pipeline, TARGET)


def _add_partitions(context: dg.SensorEvaluationContext, pipeline: Pipeline) -> None:
    """Add a partition for each batch planned since the last tick, however it was planned."""
    batches, newest = new_batches(pipeline.index.engine, int(context.cursor or 0))
    if batches:
        # By the instance and not in the result: the daemon asks for each key of a result by itself, 5 ms each.
        context.instance.add_dynamic_partitions(PARTITIONS, batches)
        context.update_cursor(str(newest))


def _is_under_way(context: dg.SensorEvaluationContext) -> bool:
    filters = dg.RunsFilter(job_name=TARGET.job_name, statuses=UNFINISHED)
    return bool(context.instance.get_runs(filters, limit=1))
