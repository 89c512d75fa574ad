"""Token buckets in the catalog, so that every run together stays below a service's rate.

Belongs here: taking a token. Does not belong here: which call needs one.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.index.store import Index

BLOCK = 10
"""Tokens that a process takes at a time: a write transaction for each call would cost more than the call."""


@dataclass(frozen=True)
class Want:
    """One token of a bucket that a call needs."""

    bucket: str
    rate: float
    """Tokens a second."""
    burst: float = 1.0
    """The most that can be saved up."""


def take_all(connection: sa.Connection, wants: Sequence[Want]) -> float:
    """Take one token of each bucket, or none of any. Returns 0.0 when all were there, else the seconds until they are.

    The caller holds a write transaction.
    """
    found = [(want, _level(connection, want.bucket, want.rate, want.burst)) for want in wants]
    wait = max(((1 - tokens) / want.rate for want, (tokens, _) in found), default=0.0)
    if wait > 0:
        return wait
    for want, (tokens, is_new) in found:
        _set(connection, want.bucket, tokens - 1, is_new=is_new)
    return 0.0


def take(connection: sa.Connection, bucket: str, *, rate: float, burst: float, tokens_wanted: int = 1) -> float:
    """Take tokens. Returns 0.0 when they were there, else the seconds until they are (and takes nothing).

    `rate` is tokens a second, `burst` the most that can be saved up, at least `tokens_wanted`. The caller holds a write
    transaction.
    """
    tokens, is_new = _level(connection, bucket, rate, burst)
    if tokens < tokens_wanted:
        return float((tokens_wanted - tokens) / rate)
    _set(connection, bucket, tokens - tokens_wanted, is_new=is_new)
    return 0.0


def restart(connection: sa.Connection, bucket: str, *, in_seconds: float = 0.0) -> None:
    """Fill a bucket from now on, or from a later moment. The caller holds a write transaction."""
    table, moment = catalog.pacing, now() + dt.timedelta(seconds=in_seconds)
    connection.execute(table.update().where(table.c.bucket == bucket).values(updated_at=moment))


def _level(connection: sa.Connection, bucket: str, rate: float, burst: float) -> tuple[float, bool]:
    """Tokens in a bucket now, and whether it is a new one."""
    table = catalog.pacing
    row = connection.execute(sa.select(table).where(table.c.bucket == bucket)).mappings().first()
    if row is None:
        return burst, True
    # A clock that was set back must not take tokens away.
    elapsed = max(0.0, (now() - row["updated_at"]).total_seconds())
    return min(burst, row["tokens"] + elapsed * rate), False


def _set(connection: sa.Connection, bucket: str, tokens: float, *, is_new: bool) -> None:
    table = catalog.pacing
    if is_new:
        connection.execute(table.insert().values(bucket=bucket, tokens=tokens, updated_at=now()))
    else:
        connection.execute(table.update().where(table.c.bucket == bucket).values(tokens=tokens, updated_at=now()))


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
