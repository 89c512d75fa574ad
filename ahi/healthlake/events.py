"""HealthLake's events in their wire form, parsed to typed records, and a batch of them opened.

Belongs here: EventBridge's envelope of `aws.healthlake` (EventBridge events reference, "AWS HealthLake events") and
calls that a trail delivers. Does not belong here: acting on them. An event says nothing of how a job ended but its
detail-type; who acts asks DescribeFHIRImportJob.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi import inbox, quarantine
from ahi.events import Unreadable, instant
from ahi.index import catalog
from ahi.reasons import Reason

if TYPE_CHECKING:
    import datetime as dt

    from ahi.inbox import Batch
    from ahi.pipeline import Pipeline

API_CALL = "AWS API Call via CloudTrail"


@dataclass(frozen=True)
class HealthLakeEvent:
    """HealthLake says something of an import job, an export job, a data store or a resource."""

    event_id: str
    detail_type: str
    datastore_id: str
    at: dt.datetime | None
    job_id: str = ""
    input_uri: str = ""
    """Of an import job: what it reads. It finds a job whose start we made but did not live to record."""
    subject: str = ""
    """Job id, `Type/id` of a resource, or data store id."""

    @property
    def is_import(self) -> bool:
        """Whether it is of an import job: whatever follows the first words, the job is worth a look."""
        return self.detail_type.startswith("Import Job ") and bool(self.job_id)


@dataclass(frozen=True)
class EventBatch:
    """What a batch of events holds."""

    import_jobs: tuple[HealthLakeEvent, ...]
    counts: Counter[str]
    """messages, duplicate, recorded (exports, resources, data stores, unknown), quarantined."""


def parse_healthlake_event(body: str) -> HealthLakeEvent | Unreadable:
    """The HealthLake event in one message. With SNS in between, without raw delivery, it is wrapped in `Message`."""
    try:
        message = json.loads(body)
        if isinstance(message, dict) and isinstance(message.get("Message"), str) and "detail-type" not in message:
            message = json.loads(message["Message"])
    except (ValueError, RecursionError):
        return Unreadable(Reason.MESSAGE_NOT_JSON, "not JSON")
    detail_type = message.get("detail-type") if isinstance(message, dict) else None
    detail = message.get("detail") if isinstance(message, dict) else None
    if not isinstance(detail_type, str) or not isinstance(detail, dict):
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "no detail-type or no detail: not an EventBridge event")
    event_id, at = _text(message.get("id")), instant(message.get("time"))
    if not event_id:
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an EventBridge event without id")
    store = _text(detail.get("datastoreId"))
    if detail_type == API_CALL:
        parameters, more = _dict(detail.get("requestParameters")), _dict(detail.get("additionalEventData"))
        kind, name = _text(parameters.get("resourceType")), _text(more.get("resourceId"))
        called = f"{API_CALL}: {_text(detail.get('eventName')) or 'unknown'}"
        return HealthLakeEvent(
            event_id, called, _text(parameters.get("datastoreId")), at, subject=f"{kind}/{name}".strip("/")
        )
    job_id, uri = _text(detail.get("jobId")), _text(_dict(detail.get("inputDataConfig")).get("s3Uri"))
    return HealthLakeEvent(event_id, detail_type, store, at, job_id, uri, subject=job_id or store)


def open_batch(pipeline: Pipeline, batch: Batch) -> EventBatch:
    """Parse a batch, record each event, and quarantine what cannot be read. Idempotent."""
    messages = inbox.read(pipeline, batch)
    counts, bad, seen = Counter(messages=len(messages)), list[quarantine.Item](), dict[str, HealthLakeEvent]()
    for message in messages:
        event = parse_healthlake_event(message.body)
        if isinstance(event, Unreadable):
            evidence = f"{batch.object_key}#{message.message_id}"
            bad.append(quarantine.Item(batch.queue, event.reason, event.text, evidence))
        else:
            counts["duplicate"] += event.event_id in seen
            seen[event.event_id] = event
    with pipeline.index.transaction() as connection:
        counts["recorded"] = _record(connection, batch, seen)
        counts["quarantined"] = quarantine.enter(connection, bad, batch.batch_id)
    return EventBatch(tuple(event for event in seen.values() if event.is_import), counts)


def _record(connection: sa.Connection, batch: Batch, seen: dict[str, HealthLakeEvent]) -> int:
    """Enter events that are new. Returns how many of them ask for nothing more."""
    table, recorded = catalog.events, 0
    for event_id, event in seen.items():
        if connection.execute(sa.select(table.c.event_id).where(table.c.event_id == event_id)).first():
            continue
        recorded += not event.is_import
        row = {
            "event_id": event_id,
            "detail_type": event.detail_type,
            "subject": event.subject or None,
            "occurred_at": event.at,
            "batch_id": batch.batch_id,
            "outcome": "used" if event.is_import else "recorded",
        }
        connection.execute(table.insert().values(row))
    return recorded


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
