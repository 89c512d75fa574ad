"""Objects of a shard that the ledger had before, by another way: an upload, or another archive.

Belongs here: whether those are through. Does not belong here: bringing them there, which whatever entered them does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi import ledger
from ahi.archive.shards import read_shard
from ahi.clock import now
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import IN_FLIGHT, JOBS_UNDER_WAY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ahi.pipeline import Pipeline


@dataclass(frozen=True)
class Known:
    """Known objects of a shard, in numbers."""

    final: int
    on_their_way: int
    left: int
    """Those that are on their way in shards that no run is at: they wait for a person."""


def count_final(connection: sa.Connection, object_ids: Iterable[str]) -> int:
    """How many of some objects are in a final state."""
    table, number = catalog.objects, 0
    for some in chunked(sorted(object_ids), 500):
        query = sa.select(sa.func.count()).where(table.c.object_id.in_(some), table.c.state.not_in(IN_FLIGHT))
        number += connection.execute(query).scalar_one()
    return number


def known(pipeline: Pipeline, shard_key: str) -> Known:
    """Count the objects that a shard names and something else entered. Reads its manifest."""
    table, shards, jobs = catalog.objects, c.archive_shards, catalog.jobs
    ids = {ledger.object_id_of(one.bucket, one.key, None, one.etag) for one in read_shard(pipeline, shard_key)}
    at_work = sa.or_(
        table.c.shard_key.is_(None),
        sa.exists().where(shards.c.shard_key == table.c.shard_key, shards.c.lease_until > now()),
        sa.exists().where(jobs.c.job_key == table.c.job_key, jobs.c.state.in_(JOBS_UNDER_WAY)),
    )
    others = table.c.shard_key.is_distinct_from(shard_key)
    open_ = table.c.state.in_(IN_FLIGHT)
    final = on_their_way = left = 0
    with pipeline.index.engine.connect() as connection:
        for some in chunked(sorted(ids), 500):
            count = sa.select(sa.func.count()).where(table.c.object_id.in_(some), others)
            final += connection.execute(count.where(sa.not_(open_))).scalar_one()
            on_their_way += connection.execute(count.where(open_)).scalar_one()
            left += connection.execute(count.where(open_, sa.not_(at_work))).scalar_one()
    return Known(final, on_their_way, left)
