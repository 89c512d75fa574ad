"""What a person sets while an archive is imported. Belongs here: pause, resume, rate.

Does not belong here: obeying them, which every claim of a job does inside its transaction (`ahi.archive.jobs`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog_archives as c

if TYPE_CHECKING:
    from ahi.index.store import Index


def pause(index: Index, archive_id: str) -> None:
    """Start nothing more of an archive, in any run. Jobs that run go on, and their results come in."""
    _set(index, archive_id, paused_at=now())


def resume(index: Index, archive_id: str) -> None:
    """Go on where the pause began."""
    _set(index, archive_id, paused_at=None, resumed_at=now())


def set_rate(index: Index, archive_id: str, starts_per_second: float | None) -> None:
    """Start an archive's jobs at a rate, below the service's; None: at the service's quota."""
    if starts_per_second is not None and not 0 < starts_per_second < math.inf:  # and NaN is neither
        raise PermanentError("A rate is more than 0 jobs a second; to start none, pause the archive")
    _set(index, archive_id, rate=starts_per_second)


def _set(index: Index, archive_id: str, **values: object) -> None:
    table = c.archives
    with index.transaction() as connection:
        if not connection.execute(table.update().where(table.c.archive_id == archive_id).values(**values)).rowcount:
            raise PermanentError(f"No archive {archive_id}: `ahi archive list` names those there are")
