"""The time of the embedded AWS: the machine's, plus what a test has advanced it by.

Belongs here: now, waiting, advancing. Does not belong here: what happens at a time.
"""

from __future__ import annotations

import threading
import time


class Clock:
    """A clock that can be put forward. Safe from several threads.

    Timestamps, call rates, durations of jobs and of LOCKED windows all ask here, so that a test of
    90 days takes a moment.
    """

    def __init__(self, offset: float = 0.0) -> None:
        self._offset = offset
        self._moved = threading.Condition()

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
            self._moved.notify_all()

    def wait_until(self, moment: float, stop: threading.Event) -> bool:
        """Wait until `now()` is at least `moment`. False when `stop` was set first (whoever sets it calls `wake`)."""
        with self._moved:
            while not stop.is_set():
                left = moment - self.now()
                if left <= 0:
                    return True
                self._moved.wait(left)
        return False

    def wake(self) -> None:
        """Let all who wait look at their stop event."""
        with self._moved:
            self._moved.notify_all()
