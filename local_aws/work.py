"""Operations that go on after their answer: image sets LOCKED until a time, then settled once, also after a kill.

Belongs here: the table of what is under way, settling it in its time, the limit of how much may be. Does not
belong here: what an operation does (`healthimaging/{updates,copies,datastores}.py`, `healthlake/datastores.py`).
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import FailChange
from local_aws.inprocess import StoppedError
from local_aws.protocol.errors import ServiceError

if TYPE_CHECKING:
    import threading

    from local_aws.bus import Entry
    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.outbox import Outbox
    from local_aws.state import State


log = logging.getLogger(__name__)

# Writes the end of an operation and returns its events; runs inside a transaction, so it is short.
Finish = Callable[[], "list[Entry]"]
# Gets what the operation has remembered and why it failed (None: it did not, yet), and does the long part of it.
Settle = Callable[[dict[str, Any], str | None], Finish]
Begun = str


# Operations that can fail after their answer.
FAILING = frozenset({"update", "copy"})


class ChangeFailedError(Exception):
    """An operation on an image set failed after its answer; the text becomes the `message` of its version."""


class Work:
    """What is under way. Safe from several threads; the clock's thread settles it."""

    def __init__(self, store: State, clock: Clock, merging: threading.Lock, outbox: Outbox, faults: Faults) -> None:
        self._store = store
        self._clock = clock
        # The lock of the one writer of image sets.
        self.merging = merging
        self._outbox = outbox
        self._faults = faults
        self._settlers: dict[str, tuple[Settle, float]] = {}
        self._closing = False

    def register(self, kind: str, settle: Settle, seconds: float) -> None:
        """Say how operations of a kind end, and how many seconds after their begin."""
        self._settlers[kind] = (settle, seconds)

    def allow(self, kind: str, most: int) -> None:
        """Refuse one more operation of a kind when too many are under way.

        Raises:
            ServiceError: ServiceQuotaExceededException, ThrottlingException for a delete.
        """
        running = self._store.rows("SELECT count(*) AS n FROM work WHERE kind = ?", (kind,))[0]["n"]
        if running >= most:
            # The model gives DeleteImageSet no ServiceQuotaExceededException.
            code = "ThrottlingException" if kind == "delete" else "ServiceQuotaExceededException"
            raise ServiceError(code, f"{running} operations of this kind are running already.")

    def begin(self, kind: str, remembered: dict[str, Any], entries: list[Entry]) -> Begun:
        """Remember an operation and its first events; call it inside the transaction that locks its image sets."""
        name = uuid.uuid4().hex
        due = self._clock.now() + self._settlers[kind][1]
        self._store.put("work", {"id": name, "kind": kind, "due": due, "body": remembered})
        self._store.add_to_outbox(entries)
        return name

    def go_on(self, begun: Begun) -> None:
        """Send the first events and settle the operation when its time comes; call it after the transaction."""
        self._outbox.send()
        self.schedule(begun)

    def schedule(self, name: str) -> None:
        """Settle an operation that is remembered when its time comes."""
        rows = self._store.rows("SELECT due FROM work WHERE id = ?", (name,))
        if rows:
            self._clock.call_later(rows[0]["due"] - self._clock.now(), lambda: self._settle(name))

    def resume(self) -> None:
        """Take up what a stop or a kill interrupted."""
        for row in self._store.rows("SELECT id FROM work ORDER BY due"):
            self.schedule(row["id"])

    def close(self) -> None:
        """Settle nothing more; what is under way is taken up at the next start."""
        self._closing = True

    # -- the end -------------------------------------------------------------------------------------------------------

    def _settle(self, name: str) -> None:
        rows = [] if self._closing else self._store.rows("SELECT * FROM work WHERE id = ?", (name,))
        if not rows:
            return
        kind, body = rows[0]["kind"], json.loads(rows[0]["body"])
        broken = self._faults.take(FailChange, lambda fault: kind in FAILING and fault.operation in {"*", kind})
        try:
            self._end(name, kind, body, broken.message if broken else None)
        except ChangeFailedError as error:
            self._give_up(name, kind, body, str(error))
        except StoppedError:
            return
        except Exception:
            if not self._closing:
                log.exception("an operation on an image set broke: %s", kind)
                self._give_up(name, kind, body, "INTERNAL_ERROR: the operation broke.")

    def _give_up(self, name: str, kind: str, body: dict[str, Any], message: str) -> None:
        if not self._store.rows("SELECT 1 FROM work WHERE id = ?", (name,)):
            return  # it is true already, and history is not rewritten
        try:
            self._end(name, kind, body, message)
        except StoppedError:
            return
        except Exception:
            log.exception("an operation on an image set broke, and so did its failure: %s", kind)

    def _end(self, name: str, kind: str, body: dict[str, Any], message: str | None) -> None:
        with self.merging:
            finish = self._settlers[kind][0](body, message)
            self._faults.reach("settled")
            with self._store.transaction():
                self._store.add_to_outbox(finish())
                self._store.execute("DELETE FROM work WHERE id = ?", (name,))
        self._faults.reach("told")
        self._outbox.send()
