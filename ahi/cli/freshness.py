"""How long objects take, hop by hop. Belongs here: percentiles over the ledger's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.index import catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

HOPS = (
    ("arrival to sensor", "landed_at", "received_at"),
    ("sensor to header row", "received_at", "header_at"),
    ("header row to published", "header_at", "header_published_at"),
    ("header row to job started", "header_at", "submitted_at"),
    ("job started to job ended", "submitted_at", "job_ended_at"),
    ("job ended to result read", "job_ended_at", "settled_at"),
    ("result read to image set row", "settled_at", "indexed_at"),
    ("image set row to published", "indexed_at", "published_at"),
    ("ARRIVAL TO HEADER QUERYABLE", "landed_at", "header_published_at"),
    ("ARRIVAL TO IMAGE SET QUERYABLE", "landed_at", "published_at"),
)
NEWEST = 10_000


@dataclass(frozen=True)
class Hop:
    """One hop's durations in seconds."""

    name: str
    n: int
    p50: float | None
    p95: float | None
    p99: float | None


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile of ordered values, or None of none."""
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)] if ordered else None


def hops(engine: sa.Engine, newest: int = NEWEST) -> list[Hop]:
    """Percentiles of each hop over the objects that arrived last.

    Args:
        engine: Of the catalog.
        newest: How many objects.
    """
    names = sorted({name for _, start, end in HOPS for name in (start, end)})
    columns = [catalog.objects.c[name] for name in names]
    latest = sa.select(*columns).order_by(catalog.objects.c.landed_at.desc()).limit(newest)
    with engine.connect() as connection:
        rows = [row._mapping for row in connection.execute(latest)]  # noqa: SLF001 (SQLAlchemy's public name for it)
    return [_hop(name, [(row[start], row[end]) for row in rows]) for name, start, end in HOPS]


def _hop(name: str, times: list[tuple[object, object]]) -> Hop:
    import datetime as dt

    seconds = sorted(
        (end - start).total_seconds()
        for start, end in times
        if isinstance(start, dt.datetime) and isinstance(end, dt.datetime)
    )
    return Hop(name, len(seconds), *(percentile(seconds, share) for share in (0.5, 0.95, 0.99)))
