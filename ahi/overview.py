"""What a look at the index should tell: arrivals by day and modality, freshness by hop, casts that failed.

Belongs here: the numbers. Does not belong here: how they are drawn (`ahi_assets.pictures`). No value of a header is
among them except a modality that looks like one: these numbers stand where anybody may read them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.freshness import Hop, percentiles
from ahi.index import catalog

if TYPE_CHECKING:
    from ahi.index.store import Index

DAYS = 14
"""Arrival days that are shown."""

MODALITIES = 7
"""Modalities with a colour of their own; the rest are `other`."""

OTHER = "other"
# Defined terms of Modality (PS3.3 C.7.3.1.1.1) are two to eight capitals and digits; nothing else is shown.
_TERM = re.compile(r"[A-Z][A-Z0-9]{1,7}")


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
        total[_shown(modality)] += number
    del total[OTHER]
    named = {name for name, _ in total.most_common(MODALITIES)}
    arrivals = {day: Counter[str]() for day in days}
    for day, modality, number in rows:
        name = _shown(modality)
        arrivals[day][name if name in named else OTHER] += number
    return arrivals


def _shown(modality: str | None) -> str:
    return modality if modality and _TERM.fullmatch(modality) else OTHER


def _cast_failures(index: Index) -> dict[str, int]:
    found = index.query(
        "SELECT keyword, count(*)::BIGINT AS failed FROM ("
        "SELECT unnest(cast_failures).keyword AS keyword FROM series_all UNION ALL "
        "SELECT unnest(cast_failures).keyword FROM instances_all) GROUP BY ALL ORDER BY failed DESC, keyword LIMIT 12"
    )
    return {str(keyword): int(str(number)) for keyword, number in found.rows}
