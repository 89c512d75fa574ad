"""What of an archive did not go in, by reason and by maker. Belongs here: that count.

Does not belong here: single objects, which the report names (`ahi.archive.report`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import ObjectState

if TYPE_CHECKING:
    from ahi.index.store import Index

MOST = 20
"""Lines shown: a maker with a fault of its own is among the first."""


@dataclass(frozen=True)
class Trouble:
    """Objects that failed for one reason and come from one maker's devices."""

    reason_code: str
    manufacturer: str | None
    """Manufacturer (0008,0070) from the header; None: it could not be read."""
    objects: int


def trouble(index: Index, archive_id: str) -> list[Trouble]:
    """Failed objects of an archive by reason and maker, the most first."""
    table, shards = catalog.objects, c.archive_shards
    of_archive = sa.select(shards.c.shard_key).where(shards.c.archive_id == archive_id)
    number = sa.func.count()
    query = (
        sa.select(table.c.reason_code, table.c.Manufacturer, number)
        .where(table.c.shard_key.in_(of_archive), table.c.state == ObjectState.FAILED)
        .group_by(table.c.reason_code, table.c.Manufacturer)
        .order_by(number.desc(), table.c.reason_code)
    )
    with index.engine.connect() as connection:
        return [Trouble(*row) for row in connection.execute(query.limit(MOST))]
