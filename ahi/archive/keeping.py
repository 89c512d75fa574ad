"""Keeps the shards of a run its own while one of its rounds takes long, as copies and reading headers may.

Belongs here: the thread that renews leases and notes progress between two rounds. Does not belong here: leases
themselves (`ahi.archive.leases`), samples (`ahi.archive.progress`), and the lease of events (`ahi.archive.following`).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ahi.archive import leases
from ahi.archive.forecast import SAMPLE_SECONDS
from ahi.archive.progress import sample
from ahi.repeating import repeating

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ahi.archive.entry import Shard
    from ahi.pipeline import Pipeline


class Keeper:
    """Keeps what a run holds. The run says what that is in each round, having renewed the leases itself."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._shards: Sequence[Shard] = ()
        self._lost = frozenset[str]()
        self._renewed_at = time.monotonic()
        self._failing: tuple[float, Exception] | None = None

    def hold(self, shards: Sequence[Shard]) -> None:
        """Keep these shards from now on, whose leases were renewed a moment ago."""
        self._shards, self._lost, self._failing = tuple(shards), frozenset(), None
        self._renewed_at = time.monotonic()

    def lost(self) -> frozenset[str]:
        """Those that another run has taken since. Raises what has kept us from renewing for as long as a lease."""
        failing, patience = self._failing, self._pipeline.settings.archive_lease_seconds
        if failing and time.monotonic() - failing[0] > patience:
            raise failing[1]
        return self._lost

    def keep(self, *, unless_within: float) -> None:
        """Renew leases and note progress, unless the run did within some seconds. What goes wrong is told by `lost`.

        The catalog of SQLite has one writer, who may keep us waiting: the next time may do.
        """
        if not self._shards or time.monotonic() - self._renewed_at < unless_within:
            return
        held = self._shards
        try:
            lost = leases.renew(self._pipeline, [shard.shard_key for shard in held])
            sample(self._pipeline, {shard.archive_id for shard in held if shard.shard_key not in lost})
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to; the run asks
            self._failing = self._failing or (time.monotonic(), error)
        else:
            self._lost, self._failing = frozenset(lost), None


@contextmanager
def keeping(pipeline: Pipeline) -> Iterator[Keeper]:
    """Keep what a run holds, in a thread of its own, for as long as the block lasts."""
    keeper = Keeper(pipeline)
    seconds = min(SAMPLE_SECONDS, pipeline.settings.archive_lease_seconds / 4)

    def keep() -> bool:
        keeper.keep(unless_within=seconds)
        return True

    with repeating(keep, every_seconds=seconds, name="keep shards"):
        yield keeper
