"""What a person chooses about a plan. Belongs here: names of choices, at no cost to a command that only offers them."""

from __future__ import annotations

from enum import StrEnum


class Screen(StrEnum):
    """Which headers are read before a plan is made."""

    NONE = "none"
    DOUBTFUL = "doubtful"
    """Of objects whose name or size is not that of an image."""
    ALL = "all"


class Period(StrEnum):
    """When a line of the bill is paid."""

    ONCE = "once"
    FIRST_MONTH = "month 1"
    LATER_MONTHS = "later month"
    EACH_MONTH = "each month"
