"""Inbox batches that no commit has consumed. Belongs here: listing them and saying where to look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    import sqlalchemy as sa

LISTED = 1_000
SHOWN = 10


@dataclass(frozen=True)
class Pending:
    """One batch: received, written to the inbox, and not true yet."""

    queue: str
    batch_id: str
    age_seconds: float
    requests: int
    """Runs that the sensor asked for so far."""
    next_request_at: dt.datetime | None
    """When it asks again, if no run has consumed the batch by then."""


def pending(engine: sa.Engine) -> list[Pending]:
    """Pending batches, oldest first; the oldest thousand if there are more."""
    import sqlalchemy as sa

    from ahi.clock import now
    from ahi.index.catalog import batches

    oldest = sa.select(batches).where(batches.c.consumed_at.is_(None)).order_by(batches.c.received_at).limit(LISTED)
    at = now()
    with engine.connect() as connection:
        return [
            Pending(row.queue, row.batch_id, round((at - row.received_at).total_seconds(), 1), row.requests or 0,
                    row.next_request_at)
            for row in connection.execute(oldest)
        ]  # fmt: skip


def phrases(found: Sequence[Pending]) -> list[str]:
    """A phrase for each queue that has pending batches, with the run tag under which Dagster's UI shows the oldest."""
    from ahi.cli.common import counted

    said = []
    for queue in sorted({batch.queue for batch in found}):
        own = [batch for batch in found if batch.queue == queue]
        if left := [batch for batch in own if not batch.requests and batch.next_request_at]:
            said.append(
                f"{counted(len(left), 'inbox batch', 'inbox batches')} of {queue} left to a run of archive "
                f"shards, the oldest for {left[0].age_seconds:.0f} s"
            )
        if not (own := [batch for batch in own if batch not in left]):
            continue
        oldest, most = own[0], max(batch.requests for batch in own)
        said.append(
            f"{counted(len(own), 'inbox batch', 'inbox batches')} of {queue} not consumed, the oldest for "
            f"{oldest.age_seconds:.0f} s, asked for {counted(most, 'time', 'times')} at most "
            f"(Dagster runs with tag ahi/batch={oldest.batch_id})"
        )
    return said
