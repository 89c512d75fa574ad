"""Token buckets in the catalog, so that every run together stays below a service's rate.

Belongs here: taking a token. Does not belong here: which call needs one.
"""

from __future__ import annotations

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog


def take(connection: sa.Connection, bucket: str, *, rate: float, burst: float) -> float:
    """Take one token. Returns 0.0 when it was there, else the seconds until the next (and takes nothing).

    `rate` is tokens a second, `burst` the most that can be saved up. The caller holds a write transaction.
    """
    table, moment = catalog.pacing, now()
    row = connection.execute(sa.select(table).where(table.c.bucket == bucket)).mappings().first()
    if row is None:
        connection.execute(table.insert().values(bucket=bucket, tokens=burst - 1, updated_at=moment))
        return 0.0
    # A clock that was set back must not take tokens away.
    elapsed = max(0.0, (moment - row["updated_at"]).total_seconds())
    tokens = min(burst, row["tokens"] + elapsed * rate)
    if tokens < 1:
        return float((1 - tokens) / rate)
    change = table.update().where(table.c.bucket == bucket)
    connection.execute(change.values(tokens=tokens - 1, updated_at=moment))
    return 0.0
