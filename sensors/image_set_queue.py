"""The sensor of the queue with HealthImaging's image set events."""

import dagster as dg

from ahi.inbox import Queue
from ahi.pipeline import Pipeline
from sensors.tick import Target, tick

TARGET = Target(Queue.IMAGE_SET_EVENTS, "image_set_events", ("image_sets", "index_tables"), is_followed=True)


@dg.sensor(job_name=TARGET.job_name, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def image_set_queue(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """Runs `image_set_events` for each batch of messages."""
    return tick(context, pipeline, TARGET)
