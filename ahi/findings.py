"""Findings: what the sweep puts into the inbox, and how it remembers where it was.

Belongs here: a finding as a message, when the same one may be told again, places and intervals of looks. Does not
belong here: looking (`ahi.sweep`, `ahi.search`).
"""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from ahi import inbox
from ahi.clock import now
from ahi.inbox import Message, Queue
from ahi.index import catalog
from ahi.index.engine import insert_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ahi.pipeline import Pipeline

T = TypeVar("T")

CHUNK = 1_000
"""Findings in one inbox batch."""

LOOKUP = 500
"""Ids in one question to the catalog."""

DAY_MINUTES = 24 * 60
DETAIL_TYPE = "Image Set Updated"


@dataclass(frozen=True)
class Look:
    """When a sweep looks, and how patient it is."""

    moment: dt.datetime
    late: dt.datetime
    """What is younger is left to its event."""
    thorough: bool = False
    """Look at everything now, and tell again what was told before."""


@dataclass(frozen=True)
class ImageSetFinding:
    """An image set to be looked at."""

    image_set_id: str
    version: int
    """Version that HealthImaging shows; 0 when that is the question."""
    since: dt.datetime
    """Since when it has been worth finding. It sets the pace at which the finding is repeated."""


def turn(age: dt.timedelta) -> str:
    """Which telling of a finding is due at an age: one each at 1, 2, 4, 8 ... minutes, then one each day."""
    minutes = max(1.0, age.total_seconds() / 60)
    return str(int(math.log2(minutes))) if minutes < DAY_MINUTES else f"d{int(minutes // DAY_MINUTES)}"


def tell(pipeline: Pipeline, look: Look, findings: Iterable[ImageSetFinding]) -> int:
    """Put image sets into the inbox like events of the service, unless that was done in this turn. Returns how many.

    The `events` table remembers what was told. It is written last: a crash before it tells twice, never not at all.
    """
    told = 0
    for some in chunked(findings, CHUNK):
        by_id = {_event_id(look, finding): finding for finding in some}
        fresh = by_id.keys() - _told(pipeline, list(by_id))
        if not fresh:
            continue
        messages = [_message(pipeline, look, event_id, by_id[event_id]) for event_id in sorted(fresh)]
        batch = inbox.keep(pipeline, Queue.IMAGE_SET_EVENTS, messages)
        shared = {"detail_type": DETAIL_TYPE, "occurred_at": look.moment, "batch_id": batch.batch_id, "outcome": "used"}
        rows = [{"event_id": event_id, "subject": by_id[event_id].image_set_id, **shared} for event_id in fresh]
        with pipeline.index.transaction() as connection:
            insert_missing(connection, catalog.events, rows)
        told += len(fresh)
    return told


def _event_id(look: Look, finding: ImageSetFinding) -> str:
    """It names the turn, so the same finding is told again in the next; and in every thorough look."""
    when = f"{finding.since:%Y%m%dT%H%M%S}:{turn(look.moment - finding.since)}"
    if look.thorough:
        when = f"{look.moment:%Y%m%dT%H%M%S.%f}"
    return f"sweep:{finding.image_set_id}:{finding.version}:{when}"


def _message(pipeline: Pipeline, look: Look, event_id: str, finding: ImageSetFinding) -> Message:
    detail = {"imageSetId": finding.image_set_id, "datastoreId": pipeline.settings.datastore_id}
    if finding.version:
        detail["imageSetVersion"] = str(finding.version)
    event = {"id": event_id, "source": "ahi.sweep", "detail-type": DETAIL_TYPE, "detail": detail}
    return Message(event_id, json.dumps({**event, "time": look.moment.isoformat()}))


def _told(pipeline: Pipeline, event_ids: Sequence[str]) -> set[str]:
    table, found = catalog.events, set[str]()
    with pipeline.index.engine.connect() as connection:
        for some in chunked(event_ids, LOOKUP):
            found |= set(connection.execute(sa.select(table.c.event_id).where(table.c.event_id.in_(some))).scalars())
    return found


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of at most `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def due(pipeline: Pipeline, name: str, interval_seconds: float, moment: dt.datetime) -> bool:
    """Whether an interval has passed since a look was last `done`."""
    last = place(pipeline, f"{name}:done")
    return last is None or moment - dt.datetime.fromisoformat(last) >= dt.timedelta(seconds=interval_seconds)


def done(pipeline: Pipeline, name: str) -> None:
    """A look has seen everything: its interval counts from now, and its next pass begins at the head."""
    remember(pipeline, name, None)
    remember(pipeline, f"{name}:done", now().isoformat())


def place(pipeline: Pipeline, name: str) -> str | None:
    """Where a look was when it was cut off; None at the head."""
    table = catalog.state
    with pipeline.index.engine.connect() as connection:
        value: str | None = connection.execute(
            sa.select(table.c.value).where(table.c.name == f"sweep:{name}")
        ).scalar_one_or_none()
    return value or None


def remember(pipeline: Pipeline, name: str, value: str | None) -> None:
    """Set the place of a look, unless it is there already."""
    if place(pipeline, name) == value:
        return
    table, row = catalog.state, f"sweep:{name}"
    with pipeline.index.transaction() as connection:
        change = table.update().where(table.c.name == row).values(value=value or "")
        if connection.execute(change).rowcount == 0:
            connection.execute(table.insert().values(name=row, value=value or ""))
