"""What nearly every operation of HealthLake needs, in one hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.healthlake.events import Events
    from local_aws.healthlake.store import Store
    from local_aws.inprocess import Caller
    from local_aws.outbox import Outbox
    from local_aws.settings import LocalSettings


@dataclass(frozen=True)
class Shared:
    """Switches, state, time, trouble, events, and the other services of this server."""

    settings: LocalSettings
    store: Store
    clock: Clock
    faults: Faults
    events: Events
    outbox: Outbox
    caller: Caller
