"""The time of the embedded AWS: the machine's, plus what a test has advanced it by.

Belongs here: now, waiting, advancing. Does not belong here: what happens at a time.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

# threading refuses to wait for longer than some centuries; a stuck job waits in such pieces.
_LONGEST_WAIT = 86_400.0


class Clock:
    """A clock that can be put forward. Safe from several threads.

    Timestamps, call rates, durations of jobs and of LOCKED windows all ask here, so that a test of
    90 days takes a moment.
    """

    def __init__(self, offset: float = 0.0, file: Path | None = None) -> None:
        """Start at the machine's time plus an offset.

        Args:
            offset: Seconds ahead of the machine.
            file: Where the offset is kept over restarts; what stands there wins over `offset`.
        """
        self._file = file
        self._offset = float(file.read_text()) if file is not None and file.exists() else offset
        self._moved = threading.Condition()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._caller: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def offset(self) -> float:
        """Seconds this clock is ahead of the machine's."""
        return self._offset

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time() + self._offset

    def advance(self, seconds: float) -> None:
        """Put the clock forward; who waits for a time that has come wakes up.

        Raises:
            ValueError: `seconds` is negative: time does not go back.
        """
        if seconds < 0:
            raise ValueError("The clock goes forward only: give seconds of zero or more.")
        with self._moved:
            self._offset += seconds
            if self._file is not None:
                temporary = self._file.with_suffix(".new")
                temporary.write_text(repr(self._offset))
                temporary.replace(self._file)
            self._moved.notify_all()

    def wait_until(self, moment: float, stop: threading.Event) -> bool:
        """Wait until `now()` is at least `moment`. False when `stop` was set first (whoever sets it calls `wake`)."""
        with self._moved:
            while not stop.is_set():
                left = moment - self.now()
                if left <= 0:
                    return True
                self._moved.wait(min(left, _LONGEST_WAIT))
        return False

    def wake(self) -> None:
        """Let all who wait look at their stop event."""
        with self._moved:
            self._moved.notify_all()

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something once `seconds` have passed, in a thread of the clock's. Not after `close`."""
        with self._moved:
            heapq.heappush(self._calls, (self.now() + seconds, next(self._order), call))
            if self._caller is None:
                self._caller = threading.Thread(target=self._call_all, name="clock", daemon=True)
                self._caller.start()
            self._moved.notify_all()

    def close(self) -> None:
        """Drop the calls that are still to come, and let all who wait look at their stop event."""
        self._closed.set()
        self.wake()
        if self._caller is not None:
            self._caller.join(5)

    def _call_all(self) -> None:
        while (call := self._due()) is not None:
            try:
                call()
            except Exception:
                if not self._closed.is_set():
                    log.exception("a call of the clock broke")

    def _due(self) -> Callable[[], None] | None:
        """The next call, once its time has come; None when the clock is closed."""
        with self._moved:
            while not self._closed.is_set():
                left = self._calls[0][0] - self.now() if self._calls else _LONGEST_WAIT
                if left <= 0:
                    return heapq.heappop(self._calls)[2]
                self._moved.wait(min(left, _LONGEST_WAIT))
        return None
