"""What nearly every operation needs, in one hand.

Belongs here: the parts that all share. Does not belong here: what only some need; that they are given by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.healthimaging.events import Events
    from local_aws.healthimaging.store import Store
    from local_aws.settings import LocalSettings


@dataclass(frozen=True)
class Shared:
    """Switches, state, time, trouble, and the shape of events."""

    settings: LocalSettings
    store: Store
    clock: Clock
    faults: Faults
    events: Events
