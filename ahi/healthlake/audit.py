"""When what happened: times per file and batch, which are only ever added, and what was late.

Belongs here: entries, hops between them, breaches of the time that the law gives (42 CFR 422.119(b)(1): one business
day after receipt). Does not belong here: which days count (`ahi.healthlake.business_days`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.freshness import Hop
from ahi.healthlake import made_good
from ahi.healthlake.business_days import load_calendar
from ahi.index import catalog
from ahi.index.catalog_fhir import BatchState, fhir_audit, fhir_batches, fhir_failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ahi.pipeline import Pipeline


class What(StrEnum):
    """Kinds of entries. Beside them stand HealthLake's own detail-types."""

    RECEIVED = "received"
    PLANNED = "planned"
    FROZEN = "frozen"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    ENDED = "ended"
    SETTLED = "settled"
    STOPPED = "stopped"
    CONTINUED = "continued"
    HELD = "held"
    RELEASED = "released"
    MOVED = "moved"
    AGAIN = "again"
    DISMISSED = made_good.DISMISSED


@dataclass(frozen=True)
class Entry:
    """One thing that happened."""

    what: str
    at: dt.datetime | None = None
    """None: now."""
    batch_id: str | None = None
    file_id: str | None = None
    job_id: str | None = None
    note: str | None = None


def note(connection: sa.Connection, entries: Iterable[Entry]) -> None:
    """Add entries. A trigger of the table keeps everybody from changing or deleting one."""
    moment = now()
    rows = [{**vars(entry), "at": entry.at or moment, "observed_at": moment} for entry in entries]
    if rows:
        connection.execute(fhir_audit.insert(), rows)


HOPS = (
    ("received to planned", What.RECEIVED, What.PLANNED),
    ("planned to frozen", What.PLANNED, What.FROZEN),
    ("frozen to submitted", What.FROZEN, What.SUBMITTED),
    ("submitted to ended", What.SUBMITTED, What.ENDED),
    ("ended to settled", What.ENDED, What.SETTLED),
    ("received to settled", What.RECEIVED, What.SETTLED),
)


def hops(engine: sa.Engine, *, days: float = 30.0) -> list[Hop]:
    """Percentiles of the time between stations of batches that were settled in the last days."""
    table, since = fhir_audit, now() - dt.timedelta(days=days)
    last = sa.select(table.c.batch_id, table.c.what, sa.func.min(table.c.at).label("first"))
    last = last.add_columns(sa.func.max(table.c.at).label("last")).where(table.c.batch_id.is_not(None))
    recent = sa.select(fhir_batches.c.batch_id).where(fhir_batches.c.settled_at >= since)
    seen: dict[str, dict[str, tuple[dt.datetime, dt.datetime]]] = {}
    with engine.connect() as connection:
        query = last.where(table.c.batch_id.in_(recent)).group_by(table.c.batch_id, table.c.what)
        for row in connection.execute(query):
            seen.setdefault(row.batch_id, {})[row.what] = (row.first, row.last)
    found = []
    for name, start, end in HOPS:
        spans = sorted(
            (times[end][1] - times[start][0]).total_seconds()
            for times in seen.values()
            if start in times and end in times
        )
        if spans:
            found.append(Hop(name, len(spans), _at(spans, 0.5), _at(spans, 0.95), _at(spans, 0.99)))
    return found


def _at(ordered: Sequence[float], share: float) -> float:
    return max(0.0, ordered[min(len(ordered) - 1, int(share * len(ordered)))])


def gaps(engine: sa.Engine, *, limit: int = 1_000) -> list[float]:
    """Seconds from the end of each job to the start of the next, newest first, by the service's times and ours."""
    table = catalog.jobs
    query = sa.select(table.c.submitted_at, table.c.ended_at).where(table.c.service == "healthlake")
    query = query.where(table.c.submitted_at.is_not(None)).order_by(table.c.submitted_at.desc()).limit(limit)
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    pairs = zip(rows[1:], rows, strict=False)
    return [(after[0] - before[1]).total_seconds() for before, after in pairs if before[1] is not None]


@dataclass(frozen=True)
class Breach:
    """A batch whose contents were not ingested in time."""

    batch_id: str
    received_at: dt.datetime
    deadline: dt.datetime
    ingested_at: dt.datetime | None
    """None: not yet."""
    business_days: int
    """Business days it took, or has taken so far."""


def breaches(pipeline: Pipeline, *, moment: dt.datetime | None = None) -> list[Breach]:
    """Batches that were ingested after their deadline, or have passed it and are not whole in, oldest first.

    A line that was refused, here or there, is not ingested. What is sent in its place has a batch of its own, with the
    receipt of the first. What others carry in the place of a batch that failed is theirs, and what a person dismissed
    is nobody's.
    """
    settings, at = pipeline.settings, moment or now()
    calendar = load_calendar(settings.business_calendar, settings.business_time_zone)
    found = []
    for batch_id, received, ingested in _receipts(pipeline.index.engine):
        deadline = calendar.deadline(received, settings.breach_business_days)
        end = ingested or at
        if end > deadline:
            took = calendar.business_days_between(received, end)
            found.append(Breach(batch_id, received, deadline, ingested, took))
    return found


def _receipts(engine: sa.Engine) -> list[tuple[str, dt.datetime, dt.datetime | None]]:
    """Each batch with its receipt and the end of the job that took it in; a batch of nothing has no end to wait for."""
    jobs, table, failed = catalog.jobs, fhir_batches, fhir_failures
    lacks = sa.exists().where(
        failed.c.batch_id == table.c.batch_id, failed.c.resolved_at.is_(None), failed.c.resubmitted_in.is_(None)
    )
    is_in = sa.and_(table.c.state == BatchState.SETTLED, sa.not_(lacks)).label("is_in")
    query = (
        sa.select(table.c.batch_id, table.c.received_at, is_in, table.c.settled_at, jobs.c.ended_at)
        .join(jobs, jobs.c.job_key == table.c.job_key, isouter=True)
        .where(sa.not_(made_good.is_dismissed()))
        .where(sa.or_(table.c.state != BatchState.FAILED, sa.not_(made_good.is_superseded())))
        .order_by(table.c.received_at, table.c.batch_id)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    return [(row.batch_id, row.received_at, (row.ended_at or row.settled_at) if row.is_in else None) for row in rows]
