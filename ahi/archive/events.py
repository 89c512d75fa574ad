"""HealthImaging's events that a run of shards sees to, so that they get no runs of their own.

Belongs here: which they are. Does not belong here: acting on them (`ahi.archive.following`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi import leases
from ahi.events import ImageSetEvent, ImportJobEvent, parse_service_event
from ahi.import_service import SERVICE
from ahi.inbox import Queue
from ahi.index import catalog

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ahi.inbox import Message
    from ahi.pipeline import Pipeline

FOLLOWED = "archive-events"
"""Lease of the run that sees to them."""

QUEUES = (Queue.IMPORT_EVENTS, Queue.IMAGE_SET_EVENTS)
"""Where they come from."""


def is_followed(pipeline: Pipeline) -> bool:
    """Whether a run of shards sees to events."""
    return leases.holder_until(pipeline.index, FOLLOWED) is not None


def left_to_follower(pipeline: Pipeline, messages: Sequence[Message]) -> set[str]:
    """Which messages are left to the run that follows: ids, none when nobody follows.

    Of import jobs those of archives. Of image sets all but deletions, whosever they are: most are of archives, which
    ones is not known before the results of their job are read, and those of uploads are brought in by the results of
    theirs (`ahi.archive.following.show_uploads`).
    """
    if not is_followed(pipeline):
        return set()
    events = {message.message_id: parse_service_event(message.body) for message in messages}
    of_archives = _jobs(pipeline, {event for event in events.values() if isinstance(event, ImportJobEvent)})
    return {
        message_id
        for message_id, event in events.items()
        if (isinstance(event, ImageSetEvent) and not event.detail_type.startswith("Image Set Delet"))
        or (isinstance(event, ImportJobEvent) and not of_archives.isdisjoint((event.job_id, event.job_name)))
    }


def _jobs(pipeline: Pipeline, events: Collection[ImportJobEvent]) -> set[str]:
    """Ids and names of jobs of archives. By both: a job's first events may come before the answer to its start."""
    table, found = catalog.jobs, set[str]()
    with pipeline.index.engine.connect() as connection:
        for some in chunked(events, 250):
            named = table.c.job_key.in_([event.job_name for event in some])
            of_events = sa.or_(named, table.c.job_id.in_([event.job_id for event in some]))
            query = sa.select(table.c.job_id, table.c.job_key).where(table.c.service == SERVICE, of_events)
            for row in connection.execute(query.where(table.c.shard_key.is_not(None))):
                found |= {row.job_key, row.job_id} - {None}
    return found
