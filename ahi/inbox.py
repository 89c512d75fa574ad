"""The inbox: messages made durable before the queue forgets them.

Belongs here: drain a queue, write what came as one immutable object, acknowledge, list what no commit has consumed.
Does not belong here: what the messages mean (`ahi.events`) and what is done about them.

The order is the point: write, register, acknowledge. A crash in between gives the same messages again, perhaps in
other batches; consumers drop what they know by its own key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import day_of, now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index.commit import AlreadyCommittedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ahi.pipeline import Pipeline
    from ahi.settings import Settings


LONGEST_DEFERRAL = dt.timedelta(minutes=5)
"""What seems deferred for longer was so by a clock that has been set back since."""


class Queue(StrEnum):
    """A queue that a sensor drains; also the folder of its inbox objects."""

    UPLOADS = "uploads"
    IMPORT_EVENTS = "import_events"
    IMAGE_SET_EVENTS = "image_set_events"
    HEALTHLAKE_EVENTS = "healthlake_events"


@dataclass(frozen=True)
class Message:
    """One message as it came, and the handle that deletes it."""

    message_id: str
    body: str
    receipt: str = ""


@dataclass(frozen=True)
class Batch:
    """One inbox object: the unit of a run."""

    batch_id: str
    queue: Queue
    day: str
    object_key: str
    n_messages: int
    received_at: dt.datetime
    requests: int = 0
    """Runs that were asked for so far."""


def queue_url(settings: Settings, queue: Queue) -> str:
    """URL of a queue from the settings. Raises PermanentError with the variable to set when there is none."""
    name = {
        Queue.UPLOADS: "upload_queue_url",
        Queue.IMPORT_EVENTS: "import_queue_url",
        Queue.IMAGE_SET_EVENTS: "image_set_queue_url",
        Queue.HEALTHLAKE_EVENTS: "healthlake_queue_url",
    }[queue]
    url: str = getattr(settings, name)
    if not url:
        raise PermanentError(
            f"AHI_{name.upper()} is not set: export the outputs of infra/template.yaml, or run `make up`"
        )
    return url


def collect(
    pipeline: Pipeline,
    queue: Queue,
    *,
    listen_seconds: float,
    may_wait: Callable[[Sequence[Message]], set[str]] | None = None,
    wait_seconds: float = 0.0,
) -> Batch | None:
    """Drain a queue within its budgets and keep what came. Returns the batch to ask a run for, None if there is none.

    What may wait is gathered for `archive_gather_seconds`, or until something comes that may not. It becomes a batch of
    its own, deferred: no run is asked for before `wait_seconds` have passed, in which somebody else may see to it
    (`deferred`) or put it off again (`put_off`).

    Args:
        pipeline: Whose queue.
        queue: Which one.
        listen_seconds: How long to wait for a first message.
        may_wait: Says, by id, which of some messages somebody else will see to.
        wait_seconds: How long those are left to them.
    """
    url, settings = queue_url(pipeline.settings, queue), pipeline.settings
    received = drain(pipeline, url, listen_seconds=listen_seconds, for_seconds=settings.drain_seconds)
    until = time.monotonic() + settings.archive_gather_seconds
    while True:
        later = may_wait(list(received.values())) if may_wait else set[str]()
        is_hurried, left = len(later) < len(received) or not listen_seconds, until - time.monotonic()
        if not later or is_hurried or left <= 0 or len(received) >= settings.drain_messages:
            break
        more = settings.drain_messages - len(received)
        received |= drain(pipeline, url, listen_seconds=left, for_seconds=1.0, most=more)
    if waits := [received[name] for name in later]:
        keep(pipeline, queue, waits, for_seconds=wait_seconds)
    hurried = [message for name, message in received.items() if name not in later]
    batch = keep(pipeline, queue, hurried) if hurried else None
    acknowledge(pipeline, url, list(received.values()))
    return batch


def drain(
    pipeline: Pipeline, url: str, *, listen_seconds: float, for_seconds: float, most: int | None = None
) -> dict[str, Message]:
    """Receive messages, by id: wait for a first one, then go on until the queue is quiet or a budget is spent."""
    settings, sqs = pipeline.settings, pipeline.aws.sqs
    received: dict[str, Message] = {}
    wait, quiet_since = listen_seconds, 0.0
    deadline = float("inf") if wait else time.monotonic() + for_seconds
    while len(received) < (most or settings.drain_messages) and time.monotonic() < deadline:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=ceil(wait))
        found = [Message(m["MessageId"], m["Body"], m["ReceiptHandle"]) for m in answer.get("Messages", [])]
        received |= {message.message_id: message for message in found}
        if not received:
            break
        moment = time.monotonic()
        if wait or found:
            quiet_since = moment
        if wait:
            wait, deadline = 0.0, moment + for_seconds
        if not found:
            if moment - quiet_since >= settings.linger_seconds:
                break
            time.sleep(0.05)
    return received


def keep(pipeline: Pipeline, queue: Queue, messages: Sequence[Message], *, for_seconds: float = 0.0) -> Batch:
    """Write messages as one inbox object named by the digest of their ids, and register it. Idempotent.

    No run is asked for within `for_seconds`.
    """
    received_at = now()
    ids = sorted(message.message_id for message in messages)
    batch_id = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]
    day = day_of(received_at)
    key = f"inbox/{queue}/{day}/{batch_id}.jsonl"
    lines = [json.dumps({"messageId": m.message_id, "body": m.body}, ensure_ascii=False) for m in messages]
    metadata = {"received-at": received_at.isoformat()}
    body = ("\n".join(lines) + "\n").encode()
    pipeline.aws.s3.put_object(Bucket=pipeline.settings.lake_bucket, Key=key, Body=body, Metadata=metadata)
    batch = Batch(batch_id, queue, day, key, len(messages), received_at)
    later = received_at + dt.timedelta(seconds=for_seconds) if for_seconds else None
    register(pipeline, [batch], next_request_at=later)
    return batch


def register(pipeline: Pipeline, found: Iterable[Batch], *, next_request_at: dt.datetime | None = None) -> int:
    """Enter batches that the catalog does not know. Returns how many were new."""
    added = 0
    with pipeline.index.transaction() as connection:
        for batch in found:
            known = sa.select(catalog.batches.c.batch_id).where(catalog.batches.c.batch_id == batch.batch_id)
            if connection.execute(known).first() is None:
                # Its first request leaves with the tick that keeps it; a sweep's waits for the next tick.
                connection.execute(catalog.batches.insert().values(**vars(batch), next_request_at=next_request_at))
                added += 1
    return added


def acknowledge(pipeline: Pipeline, url: str, messages: Sequence[Message]) -> None:
    """Delete messages from their queue. One that will not go comes again, which is harmless."""
    for start in range(0, len(messages), 10):
        entries = [{"Id": str(n), "ReceiptHandle": m.receipt} for n, m in enumerate(messages[start : start + 10])]
        pipeline.aws.sqs.delete_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]


def pending(pipeline: Pipeline, queue: Queue, *, with_deferred: bool = True, limit: int = 1_000) -> list[Batch]:
    """Batches that no commit has consumed, oldest first."""
    table = catalog.batches
    query = sa.select(table).where(table.c.queue == queue, table.c.consumed_at.is_(None))
    if not with_deferred:
        query = query.where(sa.not_(_is_deferred()))
    return _batches(pipeline, query.order_by(table.c.received_at).limit(limit))


def deferred(pipeline: Pipeline, queue: Queue, *, limit: int = 100) -> list[Batch]:
    """Batches that wait for whoever sees to them before a run is asked for, oldest first."""
    table = catalog.batches
    query = sa.select(table).where(table.c.queue == queue, table.c.consumed_at.is_(None), _is_deferred())
    return _batches(pipeline, query.order_by(table.c.received_at).limit(limit))


def put_off(connection: sa.Connection, queues: Sequence[Queue], until: dt.datetime) -> None:
    """Let sensors ask for runs of what is deferred from another time on. The caller holds a write transaction."""
    table = catalog.batches
    which = sa.and_(table.c.queue.in_(queues), table.c.consumed_at.is_(None), _is_deferred())
    connection.execute(table.update().where(which).values(next_request_at=until))


def _is_deferred() -> sa.ColumnElement[bool]:
    table, moment = catalog.batches, now()
    # Null, as for those whose first request leaves with their tick, is neither before nor after.
    later = table.c.next_request_at.between(moment, moment + LONGEST_DEFERRAL)
    return sa.and_(table.c.requests == 0, table.c.next_request_at.is_not(None), later)


def due(pipeline: Pipeline, queue: Queue, *, limit: int = 50) -> list[Batch]:
    """Pending batches whose next request is due, the longest due first: one that fails again and again falls behind."""
    table = catalog.batches
    moment = now()
    # One that no clock of ours put off for so long: it has been set back since.
    is_lost = sa.and_(table.c.requests == 0, table.c.next_request_at > moment + LONGEST_DEFERRAL)
    is_due = sa.or_(table.c.next_request_at.is_(None), table.c.next_request_at <= moment, is_lost)
    query = sa.select(table).where(table.c.queue == queue, table.c.consumed_at.is_(None), is_due)
    return _batches(pipeline, query.order_by(table.c.next_request_at.nulls_first(), table.c.received_at).limit(limit))


def requested(pipeline: Pipeline, batches: Iterable[Batch], *, counted: bool = True) -> None:
    """Note that runs of batches were asked for, or looked at and found under way, and when to look again.

    5 s after the first request, doubled by each, an hour at most.
    """
    table = catalog.batches
    with pipeline.index.transaction() as connection:
        for batch in batches:
            number = batch.requests + counted
            later = now() + dt.timedelta(seconds=min(3_600, 5 * 2 ** min(number - 1, 10)) if counted else 5)
            change = table.update().where(table.c.batch_id == batch.batch_id)
            connection.execute(change.values(requests=number, next_request_at=later))


def of_day(pipeline: Pipeline, queue: Queue, day: str) -> list[Batch]:
    """Every batch of one arrival day, consumed or not, oldest first."""
    table = catalog.batches
    query = sa.select(table).where(table.c.queue == queue, table.c.day == day).order_by(table.c.received_at)
    return _batches(pipeline, query)


def find(pipeline: Pipeline, batch_id: str) -> Batch:
    """One batch by its id. Raises PermanentError when the catalog does not know it."""
    found = _batches(pipeline, sa.select(catalog.batches).where(catalog.batches.c.batch_id == batch_id))
    if not found:
        raise PermanentError(f"No inbox batch {batch_id}; run the sweep if the catalog was restored from an older copy")
    return found[0]


def read(pipeline: Pipeline, batch: Batch) -> list[Message]:
    """The messages of a batch, as they came."""
    body = pipeline.aws.s3.get_object(Bucket=pipeline.settings.lake_bucket, Key=batch.object_key)["Body"].read()
    lines = [json.loads(line) for line in body.decode().split("\n") if line]
    return [Message(line["messageId"], line["body"]) for line in lines]


def consume(connection: sa.Connection, batch: Batch, seq: int) -> None:
    """Mark a batch as consumed, inside the commit that makes its contents true."""
    done = catalog.batches.update().where(catalog.batches.c.batch_id == batch.batch_id)
    connection.execute(done.values(consumed_at=now(), consumed_seq=seq))


def finish(pipeline: Pipeline, batch: Batch) -> None:
    """Mark a batch as consumed in a commit of its own: what it asked for is true already. Again is harmless."""
    try:
        commit_ = pipeline.index.commit(batch_id=batch.batch_id, kind=batch.queue, run_id=pipeline.run_id)
        with commit_ as commit:
            consume(commit.connection, batch, commit.seq)
    except AlreadyCommittedError:
        return


def _batches(pipeline: Pipeline, query: sa.Select[tuple[object, ...]]) -> list[Batch]:
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(query).mappings()
        names = Batch.__dataclass_fields__
        return [Batch(**({name: row[name] for name in names} | {"queue": Queue(row["queue"])})) for row in rows]
