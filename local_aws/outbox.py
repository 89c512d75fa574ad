"""The one sender of events: what is true is told in order, also after a stop, and never fails the work.

Belongs here: the outbox's order, what faults do to it, trying again. Does not belong here: the shape of events and the
bus (`bus.py`).
"""

from __future__ import annotations

import json
import logging
import random
import threading
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from local_aws.fault_base import EventFault
from local_aws.fault_kinds import DelayEvents, DropEvents, DuplicateEvents, RefuseEvents, ShuffleEvents
from local_aws.inprocess import StoppedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_aws.bus import Bus, Entry
    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.state import State

F = TypeVar("F", bound=EventFault)
log = logging.getLogger(__name__)

# How long an event waits that the bus refused.
RETRY_SECONDS = 1.0
# What faults did to an event stands in its row, so that a stop loses nothing: when it is due, how often, in what order.
_COLUMNS = {"due": "REAL", "copies": "INTEGER", "same_id": "INTEGER", "seed": "INTEGER"}


class Outbox:
    """Sends what stands in the store's outbox. Safe from several threads."""

    def __init__(self, store: State, bus: Bus, faults: Faults, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._faults = faults
        self._clock = clock
        self._sending = threading.Lock()
        there = {row["name"] for row in store.rows("PRAGMA table_info(outbox)")}
        for name, kind in _COLUMNS.items():
            if name not in there:
                store.execute(f"ALTER TABLE outbox ADD COLUMN {name} {kind}")

    def resume(self) -> None:
        """Send what a stop or a kill left, each event in its time."""
        for row in self._store.rows("SELECT DISTINCT due FROM outbox WHERE due IS NOT NULL"):
            self._clock.call_later(row["due"] - self._clock.now(), self.send)
        self.send()

    def send(self) -> None:
        """Send what is due. Call it after the transaction, never inside; it raises nothing."""
        try:
            with self._sending:
                self._plan()
                self._send_due()
        except StoppedError:
            return
        except Exception:
            log.exception("events wait in the outbox")
            self._clock.call_later(RETRY_SECONDS, self.send)

    # -- what the faults have with new events ---------------------------------------------------------------------

    def _taken(self, cls: type[F], entry: Entry) -> F | None:
        return self._faults.take(cls, lambda fault: fault.matches(entry["Source"], entry["DetailType"]))

    def _plan(self) -> None:
        if not self._faults.listing():
            return
        for row in self._store.rows("SELECT number, entry FROM outbox WHERE due IS NULL ORDER BY number"):
            entry = json.loads(row["entry"])
            if self._taken(DropEvents, entry):
                self._store.clear_outbox([row["number"]])
                continue
            twice = self._taken(DuplicateEvents, entry)
            shuffle = self._taken(ShuffleEvents, entry)
            delay = None if shuffle else self._taken(DelayEvents, entry)
            due = self._gathered(shuffle.seconds) if shuffle else self._in(delay.seconds) if delay else 0.0
            copies, same_id = (twice.copies, twice.same_id) if twice else (1, True)
            self._store.execute(
                "UPDATE outbox SET due = ?, copies = ?, same_id = ?, seed = ? WHERE number = ?",
                (due, copies, same_id, shuffle.seed if shuffle else None, row["number"]),
            )

    def _in(self, seconds: float) -> float:
        # The moment first: a call that comes a hair before it would find nothing due, and none would come after.
        due = self._clock.now() + seconds
        self._clock.call_later(seconds, self.send)
        return due

    def _gathered(self, seconds: float) -> float:
        """When those are released that are being gathered to be shuffled."""
        found = self._store.rows(
            "SELECT due FROM outbox WHERE seed IS NOT NULL AND due > ? LIMIT 1", (self._clock.now(),)
        )
        return float(found[0]["due"]) if found else self._in(seconds)

    # -- delivery -------------------------------------------------------------------------------------------------

    def _send_due(self) -> None:
        rows = self._store.rows(
            "SELECT * FROM outbox WHERE due IS NULL OR due <= ? ORDER BY number", (self._clock.now(),)
        )
        shuffled = [copy for row in rows if row["seed"] is not None for copy in _copies(row)]
        if shuffled:
            seed = next(row["seed"] for row in rows if row["seed"] is not None)
            random.Random(seed).shuffle(shuffled)  # noqa: S311 -- an order, not a secret
        self._deliver([*shuffled, *(copy for row in rows if row["seed"] is None for copy in _copies(row))])

    def _deliver(self, entries: Sequence[tuple[int, Entry]]) -> None:
        if not entries:
            return
        struck = {n for n, entry in entries if self._taken(RefuseEvents, entry)}
        wanted = [(number, entry) for number, entry in entries if number not in struck]
        refused = struck | {wanted[n][0] for n in self._bus.put([entry for _, entry in wanted])}
        self._store.clear_outbox(list({number for number, _ in entries} - refused))
        if refused:
            log.warning("%d events were refused and are sent again", len(refused))
            due = self._in(RETRY_SECONDS)
            for number in refused:
                self._store.execute("UPDATE outbox SET due = ?, seed = NULL WHERE number = ?", (due, number))


def _copies(row: Any) -> list[tuple[int, Entry]]:
    """An event as often as it is delivered: the same one, or others of the same detail."""
    entry = json.loads(row["entry"])
    more = range(1, row["copies"] or 1)
    again = [entry if row["same_id"] else entry | {"Id": str(uuid.uuid4())} for _ in more]
    return [(row["number"], one) for one in (entry, *again)]
