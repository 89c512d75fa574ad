"""What a look at the index should tell: arrivals by day and modality, freshness by hop, casts that failed.

Belongs here: the numbers. Does not belong here: how they are drawn (`ahi_assets.pictures`). No value of a header is
among them except a modality that is one: these numbers stand where anybody may read them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.freshness import Hop, percentiles
from ahi.index import catalog
from ahi.modalities import OTHER, modality_shown

if TYPE_CHECKING:
    from ahi.index.store import Index

DAYS = 14
"""Arrival days that are shown."""

MODALITIES = 7
"""Modalities with a colour of their own; the rest are `other`."""


@dataclass(frozen=True)
class Overview:
    """Numbers of one moment."""

    arrivals: dict[str, Counter[str]]
    """Objects by arrival day, then by modality."""
    hops: list[Hop]
    cast_failures: dict[str, int]
    """Values that did not fit their column, by keyword; most first."""


def overview(index: Index) -> Overview:
    """Count. The ledger's part is of the last days only; failed casts are those of the published index."""
    return Overview(_arrivals(index), percentiles(index.engine), _cast_failures(index))


def _arrivals(index: Index) -> dict[str, Counter[str]]:
    table = catalog.objects
    with index.engine.connect() as connection:
        # Each day is one step into the index of days.
        newest = sa.select(table.c.day).distinct().order_by(table.c.day.desc()).limit(DAYS)
        days = sorted(connection.execute(newest).scalars())
        counted = sa.select(table.c.day, table.c.Modality, sa.func.count()).where(table.c.day.in_(days))
        rows = connection.execute(counted.group_by(table.c.day, table.c.Modality)).all()
    total = Counter[str]()
    for _, modality, number in rows:
        total[modality_shown(modality)] += number
    del total[OTHER]
    named = {name for name, _ in total.most_common(MODALITIES)}
    arrivals = {day: Counter[str]() for day in days}
    for day, modality, number in rows:
        name = modality_shown(modality)
        arrivals[day][name if name in named else OTHER] += number
    return arrivals


def _cast_failures(index: Index) -> dict[str, int]:
    found = index.query(
        "SELECT keyword, count(*)::BIGINT AS failed FROM cast_failures "
        "GROUP BY keyword ORDER BY failed DESC, keyword LIMIT 12"
    )
    return {str(keyword): int(str(number)) for keyword, number in found.rows}
