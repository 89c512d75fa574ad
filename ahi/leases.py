"""Leases: what one process does at a time, until it lets go or has been silent for too long.

Belongs here: taking, keeping and letting go of one by name. Does not belong here: what is done under it, and which run
has a shard of an archive (`ahi.archive.leases`).
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog

if TYPE_CHECKING:
    from ahi.index.store import Index

_LONGEST = dt.timedelta(minutes=5)
"""One that would last longer was taken by a clock that has been set back since, and counts as free."""


def take(
    connection: sa.Connection, name: str, *, seconds: float, ours: dt.datetime | None = None
) -> dt.datetime | None:
    """Take a lease, or keep it. The caller holds a write transaction.

    Args:
        connection: To the catalog.
        name: What it is for.
        seconds: How long it lasts unless it is kept.
        ours: What taking it gave last, of who has it already.

    Returns:
        Until when it is ours; None: another has it.
    """
    table, moment = catalog.leases, now()
    until = moment + dt.timedelta(seconds=seconds)
    held = connection.execute(sa.select(table.c.until).where(table.c.name == name)).scalar_one_or_none()
    if held is not None and held != ours and moment < held <= moment + _LONGEST:
        return None
    if held is None:
        connection.execute(table.insert().values(name=name, until=until))
    else:
        connection.execute(table.update().where(table.c.name == name).values(until=until))
    return until


def let_go(connection: sa.Connection, name: str, *, ours: dt.datetime | None = None) -> bool:
    """Free a lease; with `ours` only if it is still that one. Returns whether it was. In a write transaction."""
    table = catalog.leases
    which = table.c.name == name if ours is None else sa.and_(table.c.name == name, table.c.until == ours)
    return connection.execute(table.delete().where(which)).rowcount > 0


def holder_until(index: Index, name: str) -> dt.datetime | None:
    """Until when somebody has a lease; None: it is free. Takes no lock."""
    table, moment = catalog.leases, now()
    held = sa.select(table.c.until).where(
        table.c.name == name, table.c.until > moment, table.c.until <= moment + _LONGEST
    )
    with index.engine.connect() as connection:
        return connection.execute(held).scalar_one_or_none()
