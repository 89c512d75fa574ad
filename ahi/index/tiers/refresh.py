"""The tiers of a deployment. Belongs here: its secret and its policy, from the settings. The work is `build`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ahi.index.tiers.build import build_tier
from ahi.index.tiers.rules import LOWER, Dates, Policy
from ahi.patients import secret_of

if TYPE_CHECKING:
    from pathlib import Path

    from ahi.index.tiers.build import TierReport
    from ahi.pipeline import Pipeline
    from ahi.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """What the operator decided.

    Raises:
        ValueError: The file of reviewed values is not what it should be.
    """
    reviewed = _reviewed(settings.tier_terms) if settings.tier_terms else {}
    return Policy(Dates(settings.deidentified_dates), reviewed)


def _reviewed(path: Path) -> dict[str, frozenset[str]]:
    try:
        found = json.loads(path.read_text("utf-8"))
        return {str(column): frozenset(map(str, values)) for column, values in found.items()}
    except (AttributeError, OSError, TypeError, ValueError) as error:
        message = f"AHI_TIER_TERMS must name a JSON file {{column: [value, ...]}}; {path.name}: {type(error).__name__}."
        raise ValueError(message) from None


def refresh_tiers(pipeline: Pipeline) -> list[TierReport]:
    """Bring every lower tier up to date with the last commit."""
    policy, secret = policy_of(pipeline.settings), secret_of(pipeline)
    return [build_tier(pipeline.index, tier, secret, policy) for tier in LOWER]
