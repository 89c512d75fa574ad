"""The sensor of the queue with S3 events and association manifests."""

import dagster as dg

from ahi.inbox import Queue
from ahi.pipeline import Pipeline
from sensors.tick import PRIORITY, Target, tick

TARGET = Target(Queue.UPLOADS, "uploads", ("dicom_objects",), priority=PRIORITY + 2)
"""Before events: most of those may be of archives, and an upload is seen from its header on."""


@dg.sensor(job_name=TARGET.job_name, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def upload_queue(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """Runs `uploads` for each batch of messages."""
    return tick(context, pipeline, TARGET)
