"""The way of an emulated service to the default event bus.

Belongs here: an event's envelope and its delivery. Does not belong here: the details of a service's events
(`healthimaging/events.py`, `healthlake/events.py`), when they are sent (`outbox.py`), rules and queues: ministack
delivers by the rules of the template.
"""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

from local_aws.inprocess import on_loop
from local_aws.ministack_bridge import put_aws_events

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from local_aws.clock import Clock
    from local_aws.settings import LocalSettings

log = logging.getLogger(__name__)

Entry = dict[str, Any]


class Bus:
    """Puts events of one service on the bus, from any thread."""

    def __init__(self, source: str, settings: LocalSettings, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._source = source
        self._settings = settings
        self._loop = loop
        self._clock = clock

    def entry(self, detail_type: str, resource: str, detail: dict[str, Any]) -> Entry:
        """An event, not yet sent. Its id and time are made here, once: however often it is sent, it is the same."""
        resources = [resource] if resource else []
        entry = {
            "Source": self._source,
            "DetailType": detail_type,
            "Resources": resources,
            "Detail": json.dumps(detail),
        }
        return entry | {"Time": int(self._clock.now()), "Id": str(uuid.uuid4())}

    def put(self, entries: Sequence[Entry]) -> list[int]:
        """Put events on the bus, in this order. Returns the places of those that it refused."""
        return on_loop(self._put(entries), self._loop) if entries else []

    async def _put(self, entries: Sequence[Entry]) -> list[int]:
        refused = []
        for place, entry in enumerate(entries):
            try:
                put_aws_events([entry], self._settings.account, self._settings.region)
            except Exception:
                log.exception("the bus refused an event: %s", entry["DetailType"])
                refused.append(place)
        return refused
