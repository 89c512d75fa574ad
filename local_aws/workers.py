"""The threads that run import jobs: so many at a time, in the order of their submission.

Belongs here: threads. Does not belong here: what a job does (`imports.py`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


class Workers:
    """Runs calls, each in a thread, `most` of them at a time. One that only waits for somebody else does not count."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._busy = 0
        self._closed = False

    def submit(self, call: Callable[[], None]) -> None:
        """Run something once a thread is free. Not after `close`."""
        with self._lock:
            if not self._closed:
                self._waiting.append(call)
                self._staff()

    @contextlib.contextmanager
    def parked(self) -> Iterator[None]:
        """The calling worker waits: meanwhile another call may run in its place."""
        with self._lock:
            self._busy -= 1
            self._staff()
        try:
            yield
        finally:
            with self._lock:
                # One too many for a moment: who ends next takes no further call.
                self._busy += 1

    def close(self) -> None:
        """Start nothing more, and wait for what runs."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            running = list(self._threads)
        for thread in running:
            thread.join()

    def _staff(self) -> None:
        while self._waiting and self._busy < self._most:
            thread = threading.Thread(target=self._run, args=(self._waiting.popleft(),), name="import", daemon=True)
            self._busy += 1
            self._threads.add(thread)
            thread.start()

    def _run(self, call: Callable[[], None]) -> None:
        while True:
            try:
                call()
            except BaseException:
                log.exception("an import broke")
            with self._lock:
                if not self._waiting or self._busy > self._most:
                    self._busy -= 1
                    self._threads.discard(threading.current_thread())
                    return
                call = self._waiting.popleft()
