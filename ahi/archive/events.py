"""HealthImaging's events of what archives import.

Belongs here: telling them from those of uploads. Does not belong here: acting on them, which is the same for both
(`ahi.service_events`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi.events import ImageSetEvent, ImportJobEvent, parse_service_event
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index.catalog import JOBS_UNDER_WAY

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ahi.inbox import Message
    from ahi.pipeline import Pipeline


def of_archives(pipeline: Pipeline, messages: Sequence[Message]) -> set[str]:
    """Ids of the messages that no upload waits for.

    Nobody waits for a single object of an archive, and a run costs the same for one event as for many. An image set
    that the ledger does not know yet may be of either while a job of an archive is under way. It counts as an
    archive's until the results of its job are read, which comes first.
    """
    events = {message.message_id: parse_service_event(message.body) for message in messages}
    jobs = {event for event in events.values() if isinstance(event, ImportJobEvent)}
    image_sets = {event.image_set_id for event in events.values() if isinstance(event, ImageSetEvent)}
    with pipeline.index.engine.connect() as connection:
        ours, theirs = _jobs(connection, jobs), _image_sets(connection, image_sets)
    return {
        message_id
        for message_id, event in events.items()
        if (isinstance(event, ImportJobEvent) and not ours.isdisjoint((event.job_id, event.job_name)))
        or (isinstance(event, ImageSetEvent) and event.image_set_id in theirs)
    }


def _jobs(connection: sa.Connection, events: Collection[ImportJobEvent]) -> set[str]:
    """Ids and names of jobs of archives. By both: a job's first events may come before the answer to its start."""
    table, found = catalog.jobs, set[str]()
    for some in chunked(events, 250):
        named = table.c.job_key.in_([event.job_name for event in some])
        of_events = sa.or_(named, table.c.job_id.in_([event.job_id for event in some]))
        query = sa.select(table.c.job_id, table.c.job_key).where(table.c.service == SERVICE, of_events)
        for row in connection.execute(query.where(table.c.shard_key.is_not(None))):
            found |= {row.job_key, row.job_id} - {None}
    return found


def _image_sets(connection: sa.Connection, image_set_ids: Collection[str]) -> set[str]:
    """Those of archives, by the objects in them, and those of nobody yet if an archive has a job under way."""
    table, jobs, known, uploaded = catalog.objects, catalog.jobs, set[str](), set[str]()
    for some in chunked(sorted(image_set_ids), 500):
        query = sa.select(table.c.image_set_id, table.c.shard_key).where(table.c.image_set_id.in_(some)).distinct()
        for row in connection.execute(query):
            known.add(row.image_set_id)
            uploaded |= set() if row.shard_key else {row.image_set_id}
    if known.issuperset(image_set_ids):
        return known - uploaded
    under_way = sa.select(jobs.c.job_key).where(jobs.c.service == SERVICE, jobs.c.state.in_(JOBS_UNDER_WAY))
    is_under_way = connection.execute(under_way.where(jobs.c.shard_key.is_not(None)).limit(1)).first() is not None
    return (set(image_set_ids) if is_under_way else known) - uploaded
