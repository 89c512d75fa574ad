"""The time, with its zone. Belongs here: now. Does not belong here: formatting for people."""

from __future__ import annotations

import datetime as dt


def now() -> dt.datetime:
    """The current moment in UTC."""
    return dt.datetime.now(dt.UTC)


def day_of(moment: dt.datetime) -> str:
    """The UTC day of a moment as `YYYY-MM-DD`, which is a partition key."""
    return moment.astimezone(dt.UTC).date().isoformat()
