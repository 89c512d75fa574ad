"""Findings: what the sweep puts into the inbox, and how it remembers where it was.

Belongs here: a finding as a message, when the same one may be told again, places and intervals of looks. Does not
belong here: looking (`ahi.sweep`, `ahi.search`).
"""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi import inbox
from ahi.clock import now
from ahi.inbox import Message, Queue
from ahi.index import catalog
from ahi.index.engine import insert_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ahi.pipeline import Pipeline

CHUNK = 1_000
"""Findings in one inbox batch."""

LOOKUP = 500
"""Ids in one question to the catalog."""

DAY_MINUTES = 24 * 60
REMEMBERED_DAYS = 7
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


def turns(age: dt.timedelta) -> list[str]:
    """The turns of telling a finding up to an age, the present one last: at 1, 2, 4, 8 ... minutes, then each day."""
    minutes = max(1.0, age.total_seconds() / 60)
    days = int(minutes // DAY_MINUTES)
    doublings = [str(n) for n in range(int(math.log2(min(minutes, DAY_MINUTES))) + 1)]
    return doublings + [f"d{n}" for n in range(max(1, days - REMEMBERED_DAYS), days + 1)]


def tell(pipeline: Pipeline, look: Look, findings: Iterable[ImageSetFinding]) -> int:
    """Put image sets into the inbox like events of the service. Returns how many.

    Not those that were told in this turn, or earlier in a batch that no run has worked off yet. The `events` table
    remembers what was told. It is written last: a crash before it tells twice, never not at all.
    """
    told = 0
    for some in chunked(findings, CHUNK):
        by_id = _fresh(pipeline, look, some)
        if not by_id:
            continue
        messages = [_message(pipeline, look, event_id, by_id[event_id]) for event_id in sorted(by_id)]
        batch = inbox.keep(pipeline, Queue.IMAGE_SET_EVENTS, messages)
        shared = {"detail_type": DETAIL_TYPE, "occurred_at": look.moment, "batch_id": batch.batch_id, "outcome": "used"}
        rows = [{"event_id": event_id, "subject": by_id[event_id].image_set_id, **shared} for event_id in by_id]
        with pipeline.index.transaction() as connection:
            insert_missing(connection, catalog.events, rows)
        told += len(by_id)
    return told


def _event_ids(look: Look, finding: ImageSetFinding) -> list[str]:
    """One for each turn of a finding so far, the present one last. A thorough look has a turn of its own."""
    name = f"sweep:{finding.image_set_id}:{finding.version}"
    if look.thorough:
        return [f"{name}:{look.moment:%Y%m%dT%H%M%S.%f}"]
    return [f"{name}:{finding.since:%Y%m%dT%H%M%S}:{turn}" for turn in turns(look.moment - finding.since)]


def _fresh(pipeline: Pipeline, look: Look, some: Sequence[ImageSetFinding]) -> dict[str, ImageSetFinding]:
    """Findings to be told now, by the id of their present turn."""
    ids = {finding: _event_ids(look, finding) for finding in some}
    events, batches, told, waiting = catalog.events, catalog.batches, set[str](), set[str]()
    query = sa.select(events.c.event_id, batches.c.consumed_at).join(batches, batches.c.batch_id == events.c.batch_id)
    with pipeline.index.engine.connect() as connection:
        for part in chunked([event_id for one in ids.values() for event_id in one], LOOKUP):
            for event_id, consumed_at in connection.execute(query.where(events.c.event_id.in_(part))):
                (told if consumed_at else waiting).add(event_id)
    return {one[-1]: f for f, one in ids.items() if one[-1] not in told and waiting.isdisjoint(one)}


def _message(pipeline: Pipeline, look: Look, event_id: str, finding: ImageSetFinding) -> Message:
    detail = {"imageSetId": finding.image_set_id, "datastoreId": pipeline.settings.datastore_id}
    if finding.version:
        detail["imageSetVersion"] = str(finding.version)
    event = {"id": event_id, "source": "ahi.sweep", "detail-type": DETAIL_TYPE, "detail": detail}
    return Message(event_id, json.dumps({**event, "time": look.moment.isoformat()}))


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
