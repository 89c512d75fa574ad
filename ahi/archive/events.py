"""HealthImaging's events of what archives import.

Belongs here: telling them from those of uploads. Does not belong here: acting on them (`ahi.archive.following`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi.clock import now
from ahi.events import ImageSetEvent, ImportJobEvent, parse_service_event
from ahi.import_service import SERVICE
from ahi.index import catalog

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ahi.inbox import Message
    from ahi.pipeline import Pipeline


FOLLOWED = "archive-events"
"""Lease of the run that sees to events of archives."""


def is_followed(pipeline: Pipeline) -> bool:
    """Whether a run sees to events of archives."""
    table = catalog.leases
    held = sa.select(table.c.name).where(table.c.name == FOLLOWED, table.c.until > now())
    with pipeline.index.engine.connect() as connection:
        return connection.execute(held).first() is not None


def left_to_follower(pipeline: Pipeline, messages: Sequence[Message]) -> set[str]:
    """Ids of the messages that the run which sees to events of archives will see to; none when there is no such run.

    All of image sets are among them, whosever they are: the results of an upload's job name its image sets, and bring
    them in (`ahi.archive.following.show_settled`).
    """
    if not is_followed(pipeline):
        return set()
    events = {message.message_id: parse_service_event(message.body) for message in messages}
    of_archives = _jobs(pipeline, {event for event in events.values() if isinstance(event, ImportJobEvent)})
    return {
        message_id
        for message_id, event in events.items()
        if isinstance(event, ImageSetEvent)
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
