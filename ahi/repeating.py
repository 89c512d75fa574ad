"""Work that is done again and again beside something that takes long, such as keeping a lease.

Belongs here: the thread. Does not belong here: what is kept (`ahi.chain`, `ahi.archive.keeping`).
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def repeating(work: Callable[[], bool], *, every_seconds: float, name: str) -> Iterator[None]:
    """Do some work every so many seconds, in a thread of its own, for as long as the block lasts.

    The first time is after those seconds. A thread has nobody to raise to: the work keeps what goes wrong to itself, or
    tells it otherwise.

    Args:
        work: What to do. Returns whether it is to be done again.
        every_seconds: Between two times.
        name: Of the thread.
    """
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(every_seconds) and work():
            pass

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
