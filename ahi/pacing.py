"""Token buckets in the catalog, so that every run together stays below a service's rate.

Belongs here: taking a token. Does not belong here: which call needs one.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog

if TYPE_CHECKING:
    from ahi.index.store import Index

BLOCK = 10
"""Tokens that a process takes at a time: a write transaction for each call would cost more than the call."""


def take(connection: sa.Connection, bucket: str, *, rate: float, burst: float, tokens_wanted: int = 1) -> float:
    """Take tokens. Returns 0.0 when they were there, else the seconds until they are (and takes nothing).

    `rate` is tokens a second, `burst` the most that can be saved up, at least `tokens_wanted`. The caller holds a write
    transaction.
    """
    table, moment = catalog.pacing, now()
    row = connection.execute(sa.select(table).where(table.c.bucket == bucket)).mappings().first()
    if row is None:
        connection.execute(table.insert().values(bucket=bucket, tokens=burst - tokens_wanted, updated_at=moment))
        return 0.0
    # A clock that was set back must not take tokens away.
    elapsed = max(0.0, (moment - row["updated_at"]).total_seconds())
    tokens = min(burst, row["tokens"] + elapsed * rate)
    if tokens < tokens_wanted:
        return float((tokens_wanted - tokens) / rate)
    change = table.update().where(table.c.bucket == bucket)
    connection.execute(change.values(tokens=tokens - tokens_wanted, updated_at=moment))
    return 0.0


class Pace:
    """The pace of one kind of call, for the threads of one process. Tokens come from the catalog in small blocks."""

    def __init__(self, index: Index, bucket: str, *, rate: float) -> None:
        self._index, self._bucket, self._rate = index, bucket, rate
        self._stock = 0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next call may be made."""
        with self._lock:
            while not self._stock:
                block = max(1, min(BLOCK, int(self._rate)))
                with self._index.transaction() as connection:
                    burst = max(float(block), self._rate)
                    seconds = take(connection, self._bucket, rate=self._rate, burst=burst, tokens_wanted=block)
                if seconds:
                    time.sleep(seconds)
                else:
                    self._stock = block
            self._stock -= 1
