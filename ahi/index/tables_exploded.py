"""Tables made from the inside of sequences. Belongs here: their columns.

Does not belong here: their rows (`ahi.exploded`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ahi.index.columns import Table

EXPLODED: tuple[Table, ...] = ()
