"""The sweep: finds what no event told us.

Belongs here: the looks of one sweep, and comparing the inbox and the landing bucket with what we know. Each finding
goes into the inbox, and from there the same way as an event. Does not belong here: looks at image sets (`ahi.search`),
how findings are told (`ahi.findings`), and another way to import or index anything.

EventBridge and S3 notifications are good but not perfect, and a queue may be purged by a hand. What is found late is
found all the same.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import sqlalchemy as sa
from more_itertools import chunked

from ahi import chain, findings, inbox, ledger, results, search
from ahi.archive import leases
from ahi.aws import in_words
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.findings import Look
from ahi.import_service import HealthImaging
from ahi.inbox import Message, Queue
from ahi.index import catalog
from ahi.index.catalog import ObjectState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mypy_boto3_s3.type_defs import ListObjectVersionsOutputTypeDef, ObjectVersionTypeDef

    from ahi.pipeline import Pipeline

PAGE = 1_000
"""The most entries that S3 gives in one page of a listing."""

RECENT = dt.timedelta(hours=2)
"""How far a look at the inbox goes back behind the last one."""

FIRST = dt.timedelta(days=1)
"""How far the first look at the inbox goes back."""


class SweepError(Exception):
    """Some looks failed; all others were made. Says which and how, and nothing of what they looked at."""


def sweep(pipeline: Pipeline, *, thorough: bool = False) -> Counter[str]:
    """One sweep. Returns how much each look found; all zero on a calm system.

    Each look stands alone: one that fails keeps no other from its work. Those that take time in proportion to what is
    stored run at their own intervals, within a budget per sweep, and go on at the next sweep from where they were.
    `thorough` does without intervals, budgets and grace.

    Raises:
        SweepError: After all looks, naming those that failed. The next sweep makes them again.
        PermanentError: The same, when every failure is one that a person has to mend.
    """
    settings, moment = pipeline.settings, now()
    late = moment - dt.timedelta(seconds=0 if thorough else settings.sweep_grace_seconds)
    look = Look(moment, late, thorough)
    found, failures = Counter[str](), dict[str, Exception]()
    for name, run in LOOKS.items():
        try:
            found.update(run(pipeline, look))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not keep the other looks from their work
            failures[name] = error
    if failures:
        text = "; ".join(f"{name}: {in_words(error)}" for name, error in failures.items())
        permanent = all(isinstance(error, PermanentError) for error in failures.values())
        kind = PermanentError if permanent else SweepError
        raise kind(f"{len(failures)} of {len(LOOKS)} looks failed. {text}")
    return found


def unregistered_batches(pipeline: Pipeline, look: Look) -> int:
    """Inbox objects that the catalog does not know: a tick died. A thorough look sees all: the catalog was restored."""
    if not (look.thorough or findings.due(pipeline, "inbox", pipeline.settings.inbox_interval_seconds, look.moment)):
        return 0
    last = findings.place(pipeline, "inbox:done")
    oldest = min(dt.datetime.fromisoformat(last) if last else look.moment - FIRST, look.moment) - RECENT
    back = (look.moment.date() - oldest.date()).days
    days = [(look.moment - dt.timedelta(days=n)).date().isoformat() for n in range(back + 1)]
    found = 0
    for queue in Queue:
        for prefix in [f"inbox/{queue}/"] if look.thorough else [f"inbox/{queue}/{day}/" for day in days]:
            for batches in _inbox_pages(pipeline, queue, prefix):
                recent = [batch for batch in batches if look.thorough or batch.received_at >= oldest]
                known = _known_batches(pipeline, [batch.batch_id for batch in recent])
                missing = [batch for batch in recent if batch.batch_id not in known]
                found += inbox.register(pipeline, missing) if missing else 0
    findings.done(pipeline, "inbox")
    return found


def _inbox_pages(pipeline: Pipeline, queue: Queue, prefix: str) -> Iterator[list[inbox.Batch]]:
    pages = pipeline.aws.s3.get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=pipeline.settings.lake_bucket, Prefix=prefix):
        batches = []
        for entry in page.get("Contents", []):
            *_, day, name = entry["Key"].split("/")
            batch_id = name.removesuffix(".jsonl")
            batches.append(inbox.Batch(batch_id, queue, day, entry["Key"], 0, entry["LastModified"]))
        yield batches


def _known_batches(pipeline: Pipeline, batch_ids: Iterable[str]) -> set[str]:
    column, known = catalog.batches.c.batch_id, set[str]()
    with pipeline.index.engine.connect() as connection:
        for some in chunked(batch_ids, findings.LOOKUP):
            known |= set(connection.execute(sa.select(column).where(column.in_(some))).scalars())
    return known


def recovered_starts(pipeline: Pipeline, look: Look) -> Mapping[str, int]:
    """Import jobs whose start was not recorded: found at the service by name, or given back to be started again."""
    silent = 0 if look.thorough else pipeline.settings.claim_seconds
    known, again = chain.recover(pipeline.index, HealthImaging(pipeline), silent_seconds=silent)
    return {"starts_found": known, "starts_repeated": again}


def ended_jobs(pipeline: Pipeline, look: Look) -> int:
    """Import jobs that ended without our hearing of it."""
    return results.follow_running(pipeline, older_than=look.late)["ended"]


def abandoned_shards(pipeline: Pipeline, look: Look) -> Mapping[str, int]:
    """Shards of archives whose run is gone: what it had planned would keep uploads of the same instances waiting."""
    taken_back, left = leases.let_go_of_silent(pipeline, moment=look.moment, late=look.late)
    return {"shard_jobs_taken_back": taken_back, "shards_left": left}


def overdue_holds(pipeline: Pipeline, look: Look) -> int:
    """Free objects that have waited for their association's manifest long enough; they go in by a staged job."""
    table = catalog.objects
    cutoff = look.moment - dt.timedelta(seconds=pipeline.settings.hold_seconds)
    overdue = sa.and_(table.c.state == ObjectState.HELD, table.c.state_since <= cutoff)
    with pipeline.index.engine.connect() as connection:
        if connection.execute(sa.select(table.c.object_id).where(overdue).limit(1)).first() is None:
            return 0
    with pipeline.index.commit(kind="holds", run_id=pipeline.run_id) as commit:
        values = {"state": ObjectState.READY, "state_since": look.moment, "changed_seq": commit.seq}
        return commit.connection.execute(table.update().where(overdue).values(values)).rowcount


def unannounced_objects(pipeline: Pipeline, look: Look) -> int:
    """Object versions in the landing bucket that no message announced, into the inbox as if one had.

    One sweep lists up to its budget; the next goes on from there; the interval counts from the end of a whole pass.
    """
    settings, name = pipeline.settings, "listing"
    place = None if look.thorough else findings.place(pipeline, name)
    if not (look.thorough or place or findings.due(pipeline, name, settings.listing_interval_seconds, look.moment)):
        return 0
    where: dict[str, str] = json.loads(place) if place else {}
    found, left, size = 0, settings.sweep_objects, min(PAGE, settings.sweep_objects)
    while look.thorough or left > 0:
        at = {k: v for k, v in where.items() if k != "hidden"}
        page = pipeline.aws.s3.list_object_versions(Bucket=settings.landing_bucket, MaxKeys=size, **at)  # type: ignore[arg-type]
        hidden = _hidden(page, where)
        entries = [entry for entry in page.get("Versions", []) if entry["Key"] not in hidden]
        found += _announce(pipeline, [entry for entry in entries if entry["LastModified"] <= look.late])
        if not page["IsTruncated"]:
            findings.done(pipeline, name)
            return found
        where = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
        if where["KeyMarker"] in hidden:
            where["hidden"] = where["KeyMarker"]
        left -= size
    findings.remember(pipeline, name, json.dumps(where))
    return found


def _hidden(page: ListObjectVersionsOutputTypeDef, where: Mapping[str, str]) -> set[str]:
    """Keys whose sender deleted them; a key's newest entry comes first, perhaps at the end of the page before."""
    hidden = {entry["Key"] for entry in page.get("DeleteMarkers", []) if entry["IsLatest"]}
    return hidden | {where["hidden"]} if "hidden" in where else hidden


def _announce(pipeline: Pipeline, entries: Iterable[ObjectVersionTypeDef]) -> int:
    """Put versions that the ledger does not have into the inbox. Overwritten ones too: the ledger sets them aside."""
    bucket = pipeline.settings.landing_bucket
    objects = {
        ledger.object_id_of(bucket, entry["Key"], entry.get("VersionId"), entry["ETag"].strip('"')): entry
        for entry in entries
        if not entry["Key"].endswith("/")
    }
    with pipeline.index.engine.connect() as connection:
        known = ledger.known(connection, objects)
    messages = []
    for object_id, entry in objects.items():
        if object_id not in known:
            item = {"key": quote_plus(entry["Key"]), "size": entry["Size"], "eTag": entry["ETag"].strip('"')}
            s3 = {"bucket": {"name": bucket}, "object": {**item, "versionId": entry.get("VersionId")}}
            at = entry["LastModified"].isoformat()
            record = {"eventName": "ObjectCreated:FoundBySweep", "eventTime": at, "s3": s3}
            messages.append(Message(f"sweep:{object_id}", json.dumps({"Records": [record]})))
    if messages:
        inbox.keep(pipeline, Queue.UPLOADS, messages)
    return len(messages)


def _enumerated(pipeline: Pipeline, look: Look) -> Mapping[str, int]:
    interval = pipeline.settings.enumeration_interval_seconds
    begun = findings.place(pipeline, "enumeration")
    if look.thorough or begun or findings.due(pipeline, "enumeration", interval, look.moment):
        return search.enumerated_image_sets(pipeline, look)
    return {}


LOOKS: Mapping[str, Callable[[Pipeline, Look], Mapping[str, int]]] = {
    "inbox": lambda pipeline, look: {"batches_unregistered": unregistered_batches(pipeline, look)},
    "starts": recovered_starts,
    "shards": abandoned_shards,
    "jobs": lambda pipeline, look: {"jobs_ended_unseen": ended_jobs(pipeline, look)},
    "holds": lambda pipeline, look: {"holds_released": overdue_holds(pipeline, look)},
    "changed image sets": lambda pipeline, look: {"image_sets_changed": search.changed_image_sets(pipeline, look)},
    "awaited image sets": lambda pipeline, look: {"image_sets_awaited": search.awaited_image_sets(pipeline, look)},
    "landing bucket": lambda pipeline, look: {"objects_unannounced": unannounced_objects(pipeline, look)},
    "all image sets": _enumerated,
}
"""The looks of a sweep by name, in order: the quick ones first."""
