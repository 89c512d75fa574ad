"""The sweep: finds what no event told us.

Belongs here: comparing S3 and HealthImaging with what we know, and putting each finding into the inbox, from where it
goes the same way as an event. Does not belong here: another way to import or index anything.

EventBridge and S3 notifications are good but not perfect, and a queue may be purged by a hand. What is found late is
found all the same.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import quote_plus

import sqlalchemy as sa

from ahi import chain, inbox, ledger, results
from ahi.clock import now
from ahi.imports import HealthImaging
from ahi.inbox import Message, Queue
from ahi.index import catalog
from ahi.index.catalog import ObjectState
from ahi.uploads import listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ahi.pipeline import Pipeline

T = TypeVar("T")
TimeField = Literal["createdAt", "updatedAt"]

CHUNK = 1_000
"""Findings in one inbox batch."""


def sweep(pipeline: Pipeline, *, thorough: bool = False) -> Counter[str]:
    """One sweep. Returns how much each look found; all zero on a calm system.

    Listing the landing bucket and enumerating all image sets cost time in proportion to what lies there, so they run
    at their own intervals, or at once when `thorough`.
    """
    settings, moment = pipeline.settings, now()
    found = Counter[str]()
    found["batches_unregistered"] = unregistered_batches(pipeline, moment)
    known, again = chain.recover(
        pipeline.index, HealthImaging(pipeline), silent_seconds=0 if thorough else settings.claim_seconds
    )
    found["starts_found"], found["starts_repeated"] = known, again
    late = moment - dt.timedelta(seconds=0 if thorough else settings.sweep_grace_seconds)
    found["jobs_ended_unseen"] = results.follow_running(pipeline, older_than=late)["ended"]
    found["holds_released"] = overdue_holds(pipeline, moment)
    found["image_sets_changed"] = changed_image_sets(pipeline, moment)
    found["image_sets_awaited"] = awaited_image_sets(pipeline, late)
    if thorough or _due(pipeline, "listing", settings.listing_interval_seconds, moment):
        found["objects_unannounced"] = unannounced_objects(pipeline, late)
    if thorough or _due(pipeline, "enumeration", settings.enumeration_interval_seconds, moment):
        found["image_sets_gone"] = gone_image_sets(pipeline, moment)
    return found


def unregistered_batches(pipeline: Pipeline, moment: dt.datetime) -> int:
    """Inbox objects of today and yesterday that the catalog does not know: it was restored, or a tick died."""
    found = []
    days = [(moment - dt.timedelta(days=back)).date().isoformat() for back in (0, 1)]
    for queue in Queue:
        for day in days:
            pages = pipeline.aws.s3.get_paginator("list_objects_v2")
            prefix = f"inbox/{queue}/{day}/"
            for page in pages.paginate(Bucket=pipeline.settings.lake_bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    batch_id = entry["Key"].rsplit("/", 1)[-1].removesuffix(".jsonl")
                    found.append(inbox.Batch(batch_id, queue, day, entry["Key"], 0, entry["LastModified"]))
    return inbox.register(pipeline, found)


def overdue_holds(pipeline: Pipeline, moment: dt.datetime) -> int:
    """Free objects that have waited for their association's manifest long enough; they go in by a staged job."""
    table = catalog.objects
    cutoff = moment - dt.timedelta(seconds=pipeline.settings.hold_seconds)
    overdue = sa.and_(table.c.state == ObjectState.HELD, table.c.state_since <= cutoff)
    with pipeline.index.engine.connect() as connection:
        if connection.execute(sa.select(table.c.object_id).where(overdue).limit(1)).first() is None:
            return 0
    with pipeline.index.commit(kind="holds", run_id=pipeline.run_id) as commit:
        values = {"state": ObjectState.READY, "state_since": moment, "changed_seq": commit.seq}
        return commit.connection.execute(table.update().where(overdue).values(values)).rowcount


def unannounced_objects(pipeline: Pipeline, late: dt.datetime) -> int:
    """Objects in the landing bucket that no message announced, into the inbox as if one had."""
    bucket, found = pipeline.settings.landing_bucket, 0
    entries = (item for item in listing(pipeline, bucket) if item.at and item.at <= late)
    for some in _chunked(entries, CHUNK):
        ids = {ledger.object_id_of(item.bucket, item.key, item.version_id, item.etag): item for item in some}
        with pipeline.index.engine.connect() as connection:
            known = ledger.known(connection, ids)
        messages = []
        for object_id, item in ids.items():
            if object_id in known:
                continue
            entry = {"key": quote_plus(item.key), "size": item.size, "eTag": item.etag, "versionId": item.version_id}
            at = item.at.isoformat() if item.at else None
            s3 = {"bucket": {"name": bucket}, "object": entry}
            record = {"eventName": "ObjectCreated:FoundBySweep", "eventTime": at, "s3": s3}
            messages.append(Message(f"sweep:{object_id}", json.dumps({"Records": [record]})))
        found += _keep(pipeline, Queue.UPLOADS, messages)
    return found


def changed_image_sets(pipeline: Pipeline, moment: dt.datetime) -> int:
    """Image sets that HealthImaging changed since the last sweep and that we have not seen in that version."""
    cursor = _state(pipeline, "sweep:updated_at")
    overlap = dt.timedelta(seconds=pipeline.settings.sweep_overlap_seconds)
    since = dt.datetime.fromisoformat(cursor) - overlap if cursor else catalog.EPOCH
    found = _search_unseen(pipeline, "updatedAt", since, moment)
    messages = [_finding(image_set_id, version, moment) for image_set_id, version in found]
    count = _keep(pipeline, Queue.IMAGE_SET_EVENTS, messages)
    _set_state(pipeline, "sweep:updated_at", moment.isoformat())
    return count


def awaited_image_sets(pipeline: Pipeline, late: dt.datetime) -> int:
    """Image sets that hold imported objects and that the index still does not show."""
    table = catalog.objects
    waiting = sa.and_(table.c.state == ObjectState.IMPORTED, table.c.indexed_seq.is_(None), table.c.settled_at <= late)
    gone = sa.select(catalog.sightings.c.image_set_id).where(catalog.sightings.c.gone)
    query = sa.select(table.c.image_set_id).where(waiting, table.c.image_set_id.not_in(gone)).distinct().limit(10_000)
    with pipeline.index.engine.connect() as connection:
        ids = connection.execute(query).scalars().all()
    return _keep(pipeline, Queue.IMAGE_SET_EVENTS, [_finding(str(i), 0, now()) for i in ids])


def gone_image_sets(pipeline: Pipeline, moment: dt.datetime) -> int:
    """Image sets that the index shows and HealthImaging no longer lists: their deletion was not told."""
    listed = {image_set_id for image_set_id, _ in _search(pipeline, "createdAt", catalog.EPOCH, moment)}
    table = catalog.heads
    query = sa.select(table.c.image_set_id).where(
        table.c.datastore_id == pipeline.settings.datastore_id, table.c.deleted_at.is_(None)
    )
    with pipeline.index.engine.connect() as connection:
        missing = [i for i in connection.execute(query).scalars() if i not in listed]
    return _keep(pipeline, Queue.IMAGE_SET_EVENTS, [_finding(i, 0, moment) for i in missing])


def _search_unseen(
    pipeline: Pipeline, field: TimeField, since: dt.datetime, until: dt.datetime
) -> Iterator[tuple[str, int]]:
    table = catalog.sightings
    for some in _chunked(_search(pipeline, field, since, until), 500):
        query = sa.select(table.c.image_set_id, table.c.version).where(table.c.image_set_id.in_([i for i, _ in some]))
        with pipeline.index.engine.connect() as connection:
            seen = {row.image_set_id: row.version for row in connection.execute(query)}
        yield from ((i, version) for i, version in some if version > seen.get(i, 0))


def _search(pipeline: Pipeline, field: TimeField, since: dt.datetime, until: dt.datetime) -> Iterator[tuple[str, int]]:
    """SearchImageSets between two times, which is no access and costs no re-tiering."""
    pages = pipeline.aws.imaging.get_paginator("search_image_sets").paginate(
        datastoreId=pipeline.settings.datastore_id,
        searchCriteria={
            "filters": [{"operator": "BETWEEN", "values": [{field: since}, {field: until}]}],  # type: ignore[misc]
            "sort": {"sortField": field, "sortOrder": "ASC"},
        },
    )
    for page in pages:
        for summary in page["imageSetsMetadataSummaries"]:
            yield summary["imageSetId"], int(summary.get("version", 1))


def _finding(image_set_id: str, version: int, moment: dt.datetime) -> Message:
    """A message like an event, whose id holds the minute: the same finding a minute later is looked at again."""
    event_id = f"sweep:{image_set_id}:{version}:{moment:%Y%m%dT%H%M}"
    detail = {"imageSetId": image_set_id} | ({"imageSetVersion": str(version)} if version else {})
    event = {"id": event_id, "source": "ahi.sweep", "detail-type": "Image Set Updated", "detail": detail}
    return Message(event_id, json.dumps({**event, "time": moment.isoformat()}))


def _keep(pipeline: Pipeline, queue: Queue, messages: Sequence[Message]) -> int:
    for start in range(0, len(messages), CHUNK):
        inbox.keep(pipeline, queue, messages[start : start + CHUNK])
    return len(messages)


def _chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _due(pipeline: Pipeline, name: str, interval_seconds: float, moment: dt.datetime) -> bool:
    """Whether an interval has passed since the last time this was due; if so, it counts from now."""
    last = _state(pipeline, f"sweep:{name}")
    if last and moment - dt.datetime.fromisoformat(last) < dt.timedelta(seconds=interval_seconds):
        return False
    _set_state(pipeline, f"sweep:{name}", moment.isoformat())
    return True


def _state(pipeline: Pipeline, name: str) -> str | None:
    with pipeline.index.engine.connect() as connection:
        return connection.execute(
            sa.select(catalog.state.c.value).where(catalog.state.c.name == name)
        ).scalar_one_or_none()


def _set_state(pipeline: Pipeline, name: str, value: str) -> None:
    table = catalog.state
    with pipeline.index.transaction() as connection:
        change = table.update().where(table.c.name == name).values(value=value)
        if connection.execute(change).rowcount == 0:
            connection.execute(table.insert().values(name=name, value=value))
