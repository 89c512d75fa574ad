"""Batches of HealthImaging's events.

Belongs here: from an inbox batch to what it asks us to look at, with nothing lost. Does not belong here: looking
(`ahi.results`, `ahi.image_sets`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi import inbox, quarantine
from ahi.events import DataStoreEvent, ImageSetEvent, ImportJobEvent, UnknownEvent, Unreadable, parse_service_event
from ahi.index import catalog

if TYPE_CHECKING:
    from ahi.inbox import Batch
    from ahi.pipeline import Pipeline

Known = ImportJobEvent | ImageSetEvent | DataStoreEvent


@dataclass(frozen=True)
class EventBatch:
    """What a batch of events holds."""

    import_jobs: tuple[ImportJobEvent, ...]
    image_sets: tuple[ImageSetEvent, ...]
    counts: Counter[str]
    """messages, duplicate, foreign (of another data store), recorded (of data stores or unknown), quarantined."""


def open_batch(pipeline: Pipeline, batch: Batch) -> EventBatch:
    """Parse a batch, record each event, and quarantine what cannot be read. Idempotent."""
    messages = inbox.read(pipeline, batch)
    counts, bad, seen = Counter(messages=len(messages)), list[quarantine.Item](), dict[str, Known | UnknownEvent]()
    for message in messages:
        event = parse_service_event(message.body)
        if isinstance(event, Unreadable):
            evidence = f"{batch.object_key}#{message.message_id}"
            bad.append(quarantine.Item(batch.queue, event.reason, event.text, evidence))
        else:
            counts["duplicate"] += event.event_id in seen
            seen[event.event_id] = event
    ours = {pipeline.settings.datastore_id, ""}
    mine = {i: e for i, e in seen.items() if not isinstance(e, Known) or e.datastore_id in ours}
    counts["foreign"] = len(seen) - len(mine)
    with pipeline.index.transaction() as connection:
        counts["recorded"] = _record(connection, batch, seen, set(mine))
        counts["quarantined"] = quarantine.enter(connection, bad, batch.batch_id)
    return EventBatch(
        tuple(event for event in mine.values() if isinstance(event, ImportJobEvent)),
        tuple(event for event in mine.values() if isinstance(event, ImageSetEvent)),
        counts,
    )


def _subject(event: Known | UnknownEvent) -> str | None:
    if isinstance(event, ImportJobEvent):
        return event.job_id
    if isinstance(event, DataStoreEvent):
        return event.datastore_id
    return event.image_set_id if isinstance(event, ImageSetEvent) else None


def _record(connection: sa.Connection, batch: Batch, seen: dict[str, Known | UnknownEvent], mine: set[str]) -> int:
    """Enter events that are new. Returns how many of them ask for nothing more."""
    table, recorded = catalog.events, 0
    for event_id, event in seen.items():
        if connection.execute(sa.select(table.c.event_id).where(table.c.event_id == event_id)).first():
            continue
        subject, outcome = _subject(event), "used"
        if isinstance(event, DataStoreEvent | UnknownEvent):
            outcome, recorded = "recorded", recorded + 1
        row = {
            "event_id": event_id,
            "detail_type": event.detail_type,
            "subject": subject,
            "occurred_at": event.at,
            "batch_id": batch.batch_id,
            "outcome": outcome if event_id in mine else "foreign",
        }
        connection.execute(table.insert().values(row))
    return recorded
