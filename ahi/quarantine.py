"""Quarantine: items that cannot be used, kept with their reason.

Belongs here: entering one. Does not belong here: its bytes, which stay where they are in the lake.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ahi.reasons import Reason


@dataclass(frozen=True)
class Item:
    """Something we could not use: where it came from, why, and where its bytes lie."""

    source: str
    reason: Reason
    text: str
    evidence: str
    """Lake key, with `#` and the message id for a line of an inbox object."""


def enter(connection: sa.Connection, items: Iterable[Item], batch_id: str | None) -> int:
    """Insert items that quarantine does not have yet. Returns how many were new."""
    table, added = catalog.quarantine, 0
    for item in items:
        # The message id, not the batch: a redelivered message may come in another batch and is one item.
        origin = item.evidence.rsplit("#", 1)[-1]
        item_id = hashlib.sha256(f"{item.source}\0{origin}\0{item.text}".encode()).hexdigest()[:32]
        if connection.execute(sa.select(table.c.item_id).where(table.c.item_id == item_id)).first():
            continue
        values = {"reason_code": item.reason, "reason_text": item.text, "evidence": item.evidence}
        row = {"item_id": item_id, "source": item.source, "batch_id": batch_id, "first_seen": now(), **values}
        connection.execute(table.insert().values(row))
        added += 1
    return added
