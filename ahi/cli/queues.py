"""How full the queues are. Belongs here: counting messages, dead-letter queues included."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from ahi.settings import Settings

COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


@dataclass(frozen=True)
class QueueDepth:
    """Messages of one queue."""

    name: str
    waiting: int
    in_flight: int
    dead: int
    """In its dead-letter queue: received again and again, never acknowledged."""


def depths(sqs: SQSClient, settings: Settings) -> list[QueueDepth]:
    """Depth of each queue of the pipeline. On AWS the counts are approximate for about a minute."""
    urls = {
        "uploads": settings.upload_queue_url,
        "import events": settings.import_queue_url,
        "image set events": settings.image_set_queue_url,
        "healthlake events": settings.healthlake_queue_url,
    }
    return [_depth(sqs, name, url) for name, url in urls.items() if url]


def _depth(sqs: SQSClient, name: str, url: str) -> QueueDepth:
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    visible, hidden, delayed = (int(attributes.get(count, "0")) for count in COUNTS)
    dead = 0
    if policy := attributes.get("RedrivePolicy"):
        dead_name = json.loads(policy)["deadLetterTargetArn"].rsplit(":", 1)[1]
        dead_url = sqs.get_queue_url(QueueName=dead_name)["QueueUrl"]
        answer = sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["ApproximateNumberOfMessages"])
        dead = int(answer["Attributes"]["ApproximateNumberOfMessages"])
    return QueueDepth(name, visible + delayed, hidden, dead)
