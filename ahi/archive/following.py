"""What a run of shards does about HealthImaging's events while it is at work.

Belongs here: results, documents and rows of what archives import, brought in by a run that is there anyway. Does not
belong here: which events are left to it (`ahi.archive.events`), and what is done about them, which is the same as
elsewhere (`ahi.results`, `ahi.image_sets`, `ahi.indexing`).

A run costs a second of CPU for one event or for many, and while an archive comes in there are many. So sensors ask for
no run of theirs as long as somebody follows; when nobody does any more, they get runs as any other (`ahi.inbox`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi import image_sets, inbox, indexing, leases, results, service_events
from ahi.archive.events import FOLLOWED, QUEUES
from ahi.aws import in_words
from ahi.clock import now
from ahi.closure import explained_image_sets, is_explained, not_indexed
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.indexing import IndexReport

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping

    from ahi.index.publish import Publication
    from ahi.pipeline import Pipeline

LOOKS = 100
"""Image sets looked up, then indexed, at a time."""

BATCHES = 10
"""Batches of image set events taken up in one look."""

AWAITED = 1_000
"""Image sets of uploads brought in by one run, at most; their events or the next run bring in the rest."""

PUBLISH_SECONDS = 30.0
"""The least time between two publications: nobody waits for a single object of an archive, and runs of uploads, which
publish what there is, would wait for one under way."""

REST_SECONDS = 60.0
"""How long nobody follows after something went wrong: what is there gets runs, with their retries and their errors."""

LATE_SECONDS = 30.0
"""The most between two looks for results that are not there yet."""

LOOK_SECONDS = 300.0
"""A look that takes longer hangs, and has let go of its events."""

ANY = 2**31
"""Stands for a version that nobody named: higher than any, so the image set is looked up in any case."""


@dataclass
class Seen:
    """What was brought in, in numbers, since somebody asked."""

    results: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    rows: IndexReport = field(default_factory=IndexReport)
    publication: Publication | None = None
    troubles: list[str] = field(default_factory=list)
    """What went wrong, in words without contents; the events concerned were left to runs, the results wait."""


@dataclass(frozen=True)
class Shown:
    """What an upload's results brought in."""

    looked: Counter[str]
    """Counts of `image_sets.sight`."""
    rows: IndexReport
    trouble: str | None
    """Why some could not be looked at, in words without contents: they wait for their events, or the next attempt."""


class Follower:
    """Sees to events, unless another does. One of all runs does at a time, by a lease."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._until: dt.datetime | None = None
        self._leasing = threading.Lock()
        self._began: float | None = None
        self._rests_until = self._settles_at = self._settle_pause = 0.0
        self._published_at, self._is_published = 0.0, True
        self._settled = list[str]()
        """Settled jobs whose image sets have not all been brought in."""
        self._seen, self._seen_at, self._telling = Seen(), 0.0, threading.Lock()
        self._breaks_off = threading.Event()

    def look(self) -> None:
        """See to what there is. Raises nothing: what goes wrong is told by `seen`, and nobody follows for a while."""
        if time.monotonic() < self._rests_until:
            return
        self._began = time.monotonic()
        with self._resting():
            if self._hold():
                self._see_to_jobs()
                self._see_to_image_sets()
                self._publish(after_seconds=PUBLISH_SECONDS)
        self._began = None

    def keep(self) -> None:
        """Keep the lease, if we have it, while a look takes its time, unless it hangs."""
        if self._until and (self._began is None or time.monotonic() - self._began < LOOK_SECONDS):
            with self._resting():
                self._hold(only_ours=True)

    def break_off(self) -> None:
        """End a look under way soon. What it has not come to is left to whoever follows, or to runs."""
        self._breaks_off.set()

    def leave(self) -> None:
        """Show analysts what was brought in, and let another follow."""
        with self._resting():
            self._publish()
        with self._resting():
            self._let_go()

    def seen(self, *, after_seconds: float = 0.0) -> Seen | None:
        """What was brought in since this was asked last; None within some seconds of that."""
        moment = time.monotonic()
        if after_seconds and moment - self._seen_at < after_seconds:
            return None
        with self._telling:
            seen, self._seen, self._seen_at = self._seen, Seen(), moment
        return seen

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Whatever goes wrong, the run goes on with its shards, and what was not seen to gets runs of its own."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - those runs meet the same, and say so
            self._trouble(error)
            # First, so that nothing keeps or takes the lease meanwhile.
            self._rests_until = time.monotonic() + REST_SECONDS
            try:
                self._let_go()
            except Exception as another:  # noqa: BLE001 - the lease ends by itself
                self._trouble(another)

    def _trouble(self, error: Exception) -> None:
        said = in_words(error)
        with self._telling:
            if said not in self._seen.troubles:
                self._seen.troubles.append(said)

    def _add(
        self,
        *,
        results: Counter[str] | None = None,
        documents: Counter[str] | None = None,
        rows: IndexReport | None = None,
    ) -> None:
        with self._telling:
            self._seen.results += results or Counter()
            self._seen.documents += documents or Counter()
            self._seen.rows += rows or IndexReport()
        if results or (rows and (rows.documents or rows.deleted)):
            self._is_published = False

    def _publish(self, *, after_seconds: float = 0.0) -> None:
        if self._is_published or time.monotonic() - self._published_at < after_seconds:
            return
        if after_seconds and self._seconds_since_publication() < after_seconds:
            return  # another run has, and would wait for us next time
        publication = self.pipeline.index.publish()
        self._published_at, self._is_published = time.monotonic(), True
        with self._telling:
            self._seen.publication = publication

    def _seconds_since_publication(self) -> float:
        newest = sa.select(sa.func.max(catalog.publications.c.published_at))
        with self.pipeline.index.engine.connect() as connection:
            at = connection.execute(newest).scalar_one_or_none()
        return (now() - at).total_seconds() if at else float("inf")

    def _hold(self, *, only_ours: bool = False) -> bool:
        """Take the lease, or keep it, and with it all that was deferred. Returns whether we have it."""
        index, seconds = self.pipeline.index, self.pipeline.settings.archive_lease_seconds
        with self._leasing:
            # In a look, the lease may have been given up by who keeps it.
            if time.monotonic() < self._rests_until or (only_ours and not self._until):
                return False
            if self._until and seconds / 2 < (self._until - now()).total_seconds() <= seconds:
                return True
            # Asked every second by every run, it takes the lock of writers only when there is something to take.
            if leases.holder_until(index, FOLLOWED) not in (None, self._until):
                self._until = None
                return False
            with index.transaction() as connection:
                until = leases.take(connection, FOLLOWED, seconds=seconds, ours=self._until)
                if until:
                    inbox.put_off(connection, QUEUES, until)
            self._until = until
            return until is not None

    def _let_go(self) -> None:
        """Free the lease, and let sensors ask for runs of what was deferred."""
        with self._leasing:
            ours, self._until = self._until, None
            if ours:
                with self.pipeline.index.transaction() as connection:
                    if leases.let_go(connection, FOLLOWED, ours=ours):
                        inbox.put_off(connection, QUEUES, now())

    def _see_to_jobs(self) -> None:
        """Jobs first: their results say what became of objects, and name the image sets."""
        for batch in inbox.deferred(self.pipeline, Queue.IMPORT_EVENTS):
            if self._breaks_off.is_set():
                return
            opened = service_events.open_batch(self.pipeline, batch)
            self._add(results=opened.counts + results.follow(self.pipeline, opened.import_jobs))
            inbox.finish(self.pipeline, batch)
            self._settles_at = self._settle_pause = 0.0
        if time.monotonic() < self._settles_at:
            return
        try:
            counts, settled = results.settle_ended(self.pipeline, of_archives=True)
        except Exception as error:  # noqa: BLE001 - its job stays ended; image sets must not wait for it
            self._trouble(error)
            counts, settled = Counter(manifests_awaited=1), []
        self._settled += settled
        is_late = counts.pop("manifests_awaited", 0) and not settled
        self._settle_pause = min(LATE_SECONDS, max(1.0, 2 * self._settle_pause)) if is_late else 0.0
        self._settles_at = time.monotonic() + self._settle_pause
        self._add(results=+counts)

    def _see_to_image_sets(self) -> None:
        """Image sets that results name, and that events tell of, each chunk looked up and indexed at once."""
        pipeline, settled = self.pipeline, list(self._settled)
        batches = inbox.deferred(pipeline, Queue.IMAGE_SET_EVENTS, limit=BATCHES)
        wanted = _named(pipeline, settled)
        for batch in batches:
            opened = service_events.open_batch(pipeline, batch)
            self._add(documents=opened.counts)
            for event in opened.image_sets:
                _want(wanted, event.image_set_id, event.version)
        for some in chunked(_news(pipeline, wanted), LOOKS):
            if self._breaks_off.is_set() or not self._hold():
                return  # the batches are not finished, and what results name is awaited by the sweep, too
            looked, trouble = image_sets.sight_some(pipeline, some)
            self._add(documents=looked, rows=indexing.catch_up(pipeline, only=some))
            if trouble:
                raise trouble[0]
            self._see_to_jobs()
            self._publish(after_seconds=PUBLISH_SECONDS)
        self._add(rows=indexing.catch_up(pipeline, batches))
        self._settled = self._settled[len(settled) :]


@contextmanager
def following(follower: Follower) -> Iterator[None]:
    """Let a follower see to events, in a thread of its own, for as long as the block lasts.

    At its end there is one more look, since what the block waited for may just have come; after an error, or when a
    person cancels the run, a look under way is broken off.
    """
    settings, is_over, is_through = follower.pipeline.settings, threading.Event(), threading.Event()

    def follow() -> None:
        while not is_over.wait(settings.archive_poll_seconds):
            follower.look()

    def keep() -> None:
        while not is_through.wait(settings.archive_lease_seconds / 4):
            follower.keep()

    threads = [threading.Thread(target=each, name=each.__name__, daemon=True) for each in (follow, keep)]
    for thread in threads:
        thread.start()
    looking, keeping = threads
    try:
        yield
        is_over.set()
        looking.join()
        # The last results may have been read at the end of a look.
        follower.look()
    except BaseException:
        follower.break_off()
        raise
    finally:
        try:
            is_over.set()
            looking.join()
        finally:
            is_through.set()
            keeping.join()
            follower.leave()


def show_uploads(pipeline: Pipeline) -> Shown:
    """Look up and index the image sets that results of uploads name, without waiting for their events.

    While somebody follows, events of uploads' image sets are left to it too, and an upload waits for no archive. What
    an earlier attempt left is among them, since the ledger says what is not indexed.
    """
    table, verdict, wanted = catalog.objects, explained_image_sets(), dict[str, int]()
    query = (
        sa.select(table.c.image_set_id, sa.func.max(table.c.image_set_version))
        .select_from(table.outerjoin(verdict, verdict.c.image_set_id == table.c.image_set_id))
        .where(not_indexed(), table.c.shard_key.is_(None), sa.not_(is_explained(verdict)))
        .group_by(table.c.image_set_id)
        .order_by(sa.func.max(table.c.settled_at).desc())
        .limit(AWAITED)
    )
    with pipeline.index.engine.connect() as connection:
        for image_set_id, version in connection.execute(query):
            _want(wanted, image_set_id, version)
    looked, troubles = image_sets.sight_some(pipeline, _news(pipeline, wanted))
    rows = indexing.catch_up(pipeline, only=wanted)
    return Shown(looked, rows, in_words(troubles[0]) if troubles else None)


def _named(pipeline: Pipeline, job_keys: Iterable[str]) -> dict[str, int]:
    """Image sets that hold objects of settled jobs and that the index does not show, with the version to look for."""
    table, wanted = catalog.objects, dict[str, int]()
    columns = (table.c.image_set_id, sa.func.max(table.c.image_set_version))
    with pipeline.index.engine.connect() as connection:
        for some in chunked(job_keys, 500):
            query = sa.select(*columns).where(table.c.job_key.in_(some), not_indexed())
            for image_set_id, version in connection.execute(query.group_by(table.c.image_set_id)):
                _want(wanted, image_set_id, version)
    return wanted


def _want(wanted: dict[str, int], image_set_id: str, version: int | None) -> None:
    wanted[image_set_id] = max(wanted.get(image_set_id, 0), ANY if version is None else version)


def _news(pipeline: Pipeline, wanted: Mapping[str, int]) -> list[str]:
    """Those of some image sets that have not been seen in the version wanted."""
    seen = image_sets.seen_versions(pipeline, wanted)
    return sorted(one for one, version in wanted.items() if version > seen.get(one, 0))
