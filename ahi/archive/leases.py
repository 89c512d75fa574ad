"""Which run has a shard, how a run lets go of one, and what is left for the next.

Belongs here: leases, and what a shard is left as. Does not belong here: what a run does with it
(`ahi.archive.imports`).
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi.archive import jobs
from ahi.clock import now
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import ShardState
from ahi.index.engine import UNNOTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ahi.index.store import Index
    from ahi.pipeline import Pipeline


def take(pipeline: Pipeline, shard_keys: Sequence[str]) -> list[str]:
    """Take or renew the leases of shards. Returns those that another run holds."""
    table, moment, refused = c.archive_shards, now(), list[str]()
    until = moment + dt.timedelta(seconds=pipeline.settings.archive_lease_seconds)
    me = pipeline.run_id or ""
    with pipeline.index.transaction() as connection:
        for keys in chunked(shard_keys, 500):
            some = table.c.shard_key.in_(keys)
            free = sa.or_(table.c.lease_until.is_(None), table.c.lease_until <= moment, table.c.run_id == me)
            # Each run does this every second: what analysts see of the table changes only when a shard is taken anew.
            is_new = sa.or_(
                table.c.run_id.is_distinct_from(me),
                table.c.parked_at.is_not(None),
                table.c.state == ShardState.CANCELLED,
            )
            new = connection.execute(sa.select(table.c.shard_key).where(some, free, is_new)).scalars().all()
            renewed = table.update().where(some, free).values(lease_until=until)
            connection.execute(renewed, execution_options={UNNOTED: True})
            if new:
                which = table.c.shard_key.in_(new)
                again = sa.and_(which, table.c.state == ShardState.CANCELLED)
                connection.execute(table.update().where(again).values(state=ShardState.STARTED, message=None))
                connection.execute(table.update().where(which).values(run_id=me, parked_at=None))
            query = sa.select(table.c.shard_key).where(some, sa.or_(table.c.run_id.is_(None), table.c.run_id != me))
            refused += connection.execute(query).scalars().all()
    return refused


def renew(pipeline: Pipeline, shard_keys: Sequence[str]) -> list[str]:
    """Renew the leases of shards that this run has not let go of. Returns those that another run has taken.

    Unlike `take` it takes nothing: what was closed or left meanwhile stays free.
    """
    table, me, lost = c.archive_shards, pipeline.run_id or "", list[str]()
    with pipeline.index.transaction() as connection:
        until = now() + dt.timedelta(seconds=pipeline.settings.archive_lease_seconds)
        for keys in chunked(shard_keys, 500):
            some = table.c.shard_key.in_(keys)
            held = sa.and_(some, table.c.run_id == me, table.c.lease_until.is_not(None))
            renewed = table.update().where(held).values(lease_until=until)
            connection.execute(renewed, execution_options={UNNOTED: True})
            lost += connection.execute(sa.select(table.c.shard_key).where(some, table.c.run_id != me)).scalars()
    return lost


def park(pipeline: Pipeline, shard_keys: Sequence[str]) -> None:
    """Leave shards whose archive is paused, at once: from its resumption on another run may have them.

    Also one that another run held, which may have been killed: it goes on in any case.
    """
    jobs.unplan(pipeline, shard_keys)
    table = c.archive_shards
    with pipeline.index.transaction() as connection:
        for some in chunked(shard_keys, 500):
            open_ = sa.and_(table.c.shard_key.in_(some), table.c.state != ShardState.DONE)
            connection.execute(table.update().where(open_).values(parked_at=now()))
            _free(connection, sa.and_(table.c.shard_key.in_(some), table.c.run_id == (pipeline.run_id or "")))


def let_go(pipeline: Pipeline, shard_keys: Sequence[str], messages: Mapping[str, str]) -> None:
    """Free what a run still holds at its end, and note that it was taken back, and why where it stalled."""
    table, me = c.archive_shards, pipeline.run_id or ""
    jobs.unplan(pipeline, shard_keys, held_by=me)
    with pipeline.index.transaction() as connection:
        for key in shard_keys:
            mine = sa.and_(table.c.shard_key == key, table.c.run_id == me)
            connection.execute(table.update().where(mine).values(message=messages.get(key)))
            _free(connection, mine)


def let_go_of_silent(pipeline: Pipeline, *, moment: dt.datetime, late: dt.datetime) -> tuple[int, int]:
    """Leave shards in place of runs that are gone, as those would have at their end, or parked if they are paused.

    One transaction asks and does it all: a run that takes such a shard just before keeps its jobs, but for those of a
    paused archive, which it must not start; one that does just after plans them again.

    Args:
        pipeline: The pipeline.
        moment: Leases of paused archives that ended before are nobody's.
        late: The same for all others.

    Returns:
        How many planned jobs were taken back, and how many shards were left.
    """
    table, planned, index = c.archive_shards, catalog.jobs, pipeline.index
    paused = table.c.archive_id.in_(sa.select(c.archives.c.archive_id).where(c.archives.c.paused_at.is_not(None)))
    silent = sa.or_(table.c.lease_until <= late, sa.and_(paused, table.c.lease_until <= moment))
    waits = sa.select(table.c.shard_key).where(sa.or_(paused, silent, table.c.lease_until.is_(None)))
    of_waiting = sa.and_(planned.c.shard_key.in_(waits), jobs.is_planned())
    gone = sa.select(table.c.shard_key).where(silent, table.c.state != ShardState.DONE)
    with index.engine.connect() as connection:
        is_calm = not connection.execute(sa.select(planned.c.job_key).where(of_waiting).limit(1)).first()
        if is_calm and not connection.execute(gone.limit(1)).first():
            return 0, 0
    with index.commit(kind="planned", run_id=pipeline.run_id) as commit:
        taken_back = jobs.take_back(commit, of_waiting)
        keys = commit.connection.execute(gone).scalars().all()
        for some in chunked(keys, 500):
            left = table.c.shard_key.in_(some)
            commit.connection.execute(table.update().where(left, paused).values(parked_at=now()))
            _free(commit.connection, left)
    return taken_back, len(keys)


def resumed(index: Index) -> dict[str, dt.datetime]:
    """Shards that were left while their archive was paused, which it is no more, with the time since when they wait."""
    table, archives = c.archive_shards, c.archives
    query = sa.select(table.c.shard_key, table.c.parked_at, archives.c.resumed_at).where(
        table.c.parked_at.is_not(None),
        table.c.state != ShardState.DONE,
        archives.c.archive_id == table.c.archive_id,
        archives.c.paused_at.is_(None),
    )
    with index.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {row.shard_key: max(filter(None, (row.parked_at, row.resumed_at))) for row in rows}


def _free(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    table = c.archive_shards
    connection.execute(table.update().where(which).values(lease_until=None), execution_options={UNNOTED: True})
    started = sa.and_(which, table.c.state == ShardState.STARTED)
    connection.execute(table.update().where(started).values(state=ShardState.CANCELLED))
