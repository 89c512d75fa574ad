"""Freshness: how long each hop from arrival to a queryable row takes.

Belongs here: percentiles of the hops over objects that arrived lately. Does not belong here: which hops there are (the
view `freshness`, in `ahi.index.operational`), and the clock of an object, which each stage writes into the ledger.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog
from ahi.index.operational import HOPS

SAMPLE = 20_000
"""Newest objects that percentiles are taken over."""


@dataclass(frozen=True)
class Hop:
    """One hop, in seconds."""

    name: str
    count: int
    p50: float
    p95: float
    p99: float


def percentiles(engine: sa.Engine, *, within: dt.timedelta = dt.timedelta(days=1)) -> list[Hop]:
    """Percentiles of each hop that any object which landed within a time from now has made."""
    table, cutoff = catalog.objects, now() - within
    names = sorted({name for pair in HOPS.values() for name in pair})
    # Microseconds as they are stored: making times of them would cost more than the query.
    query = sa.select(*(sa.type_coerce(table.c[name], sa.BigInteger) for name in names))
    # An archive waits in its bucket until a person says so: that is no delay of ours.
    query = (
        query.where(table.c.landed_at >= cutoff, table.c.shard_key.is_(None))
        .order_by(table.c.landed_at.desc())
        .limit(SAMPLE)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    moments = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    hops = []
    for name, (start, end) in HOPS.items():
        pairs = zip(moments[start], moments[end], strict=True)
        seconds = sorted((at - since) / 1e6 for since, at in pairs if since is not None and at is not None)
        if seconds:
            hops.append(Hop(name, len(seconds), *(_at(seconds, share) for share in (0.5, 0.95, 0.99))))
    return hops


def _at(ordered: list[float], share: float) -> float:
    """Nearest-rank percentile of sorted values."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100) * len(ordered) // 100) - 1))]
