"""Errors that say whether to try again. Belongs here: that distinction.

Does not belong here: what is wrong with one object, which is no error but a row of the ledger or of quarantine.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


TROUBLED_SECONDS = 600.0
"""How long one thing may fail for what passes by itself, before that is this thing's own trouble."""


class PermanentError(Exception):
    """It would fail in the same way again until a person changes something; the text names what."""


class Setbacks:
    """Errors of single items, kept until every item has had its turn: one bad job must not hold up the others.

    Attributes:
        first: The error to raise in the end, if any.
    """

    def __init__(self, ends_all: Callable[[Exception], bool]) -> None:
        """`ends_all` tells the errors that the next item would meet as well; those are raised at once."""
        self.first: Exception | None = None
        self._ends_all = ends_all

    @contextmanager
    def spared(self) -> Iterator[None]:
        """The work on one item."""
        try:
            yield
        except Exception as error:
            if self._ends_all(error):
                raise
            self.first = self.first or error

    def settle(self) -> None:
        """Raise the first error there was."""
        if self.first is not None:
            raise self.first


class Troubles:
    """Since when single things fail for what may pass by itself, by their keys: none is waited for without end."""

    def __init__(self) -> None:
        """Nothing is in trouble."""
        self._since: dict[str, float] = {}
        self._times = Counter[str]()

    def note(self, key: str) -> None:
        """It failed, and is tried again later."""
        self._since.setdefault(key, time.monotonic())
        self._times[key] += 1

    def forget(self, key: str) -> None:
        """It is well again."""
        self._since.pop(key, None)
        self._times.pop(key, None)

    def is_past_help(self, key: str, *, fewest_times: int = 1) -> bool:
        """Whether it has failed for so long, and as often at least, that waiting will not mend it."""
        often = self._times[key] >= fewest_times
        return often and time.monotonic() - self._since[key] > TROUBLED_SECONDS
