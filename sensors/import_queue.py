"""The sensor of the queue with HealthImaging's import job events."""

import dagster as dg

from ahi.inbox import Queue
from ahi.pipeline import Pipeline
from sensors.tick import Target, tick

TARGET = Target(Queue.IMPORT_EVENTS, "import_events", ("import_results",), is_followed=True)


@dg.sensor(job_name=TARGET.job_name, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def import_queue(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """Runs `import_events` for each batch of messages."""
    return tick(context, pipeline, TARGET)
