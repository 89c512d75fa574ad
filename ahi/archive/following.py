"""What a run of shards does about HealthImaging's events of archives while it is at work.

Belongs here: results, documents and rows of what archives import, brought in by a run that is there anyway. Does not
belong here: telling events of archives from others (`ahi.archive.events`), and what is done about either, which is the
same (`ahi.results`, `ahi.image_sets`, `ahi.indexing`).

A run costs a second of CPU for one event or for many, and while an archive comes in there are many. So sensors ask for
no run of theirs as long as somebody follows; what nobody has seen to in time gets its run as any other (`ahi.inbox`).
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked
from sqlalchemy.exc import SQLAlchemyError

from ahi import image_sets, inbox, indexing, results, service_events
from ahi.archive.events import FOLLOWED
from ahi.aws import error_code
from ahi.clock import now
from ahi.closure import not_indexed
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.indexing import IndexReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ahi.events import ImageSetEvent
    from ahi.pipeline import Pipeline

LOOKS = 200
"""Image sets looked up before the lease is renewed."""

PUBLISH_SECONDS = 10.0
"""The least time between two publications: nobody waits for a single object of an archive."""

REST_SECONDS = 60.0
"""How long nobody follows after something went wrong: what is there gets runs, with their retries and their errors."""

ANY = 0
"""Stands for a version that nobody named: the image set is looked up in any case."""


@dataclass
class Seen:
    """What was brought in, in numbers, since somebody asked."""

    results: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    rows: IndexReport = field(default_factory=IndexReport)
    troubles: list[str] = field(default_factory=list)
    """Kinds of errors after which events were left to runs."""


class Follower:
    """Sees to events of archives, unless another does. One of all runs does at a time, by a lease."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._until: dt.datetime | None = None
        self._rests_until = self._published_at = 0.0
        self._is_published = True
        self._seen, self._lock = Seen(), threading.Lock()
        self._breaks_off = threading.Event()

    def look(self) -> None:
        """See to what there is."""
        if time.monotonic() < self._rests_until:
            return
        with self._resting():
            if self._hold():
                self._bring_in()
                if time.monotonic() - self._published_at >= PUBLISH_SECONDS:
                    self._publish()

    def break_off(self) -> None:
        """End a look under way soon. What it has not come to is left to whoever follows, or to runs."""
        self._breaks_off.set()

    def leave(self) -> None:
        """Show analysts what was brought in, and let another follow."""
        with self._resting():
            self._publish()
            self._let_go()

    def seen(self) -> Seen:
        """What was brought in since this was asked last."""
        with self._lock:
            seen, self._seen = self._seen, Seen()
        return seen

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Whatever goes wrong, the run goes on with its shards, and what was not seen to gets runs of its own."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - those runs meet the same, and say so
            self._rests_until = time.monotonic() + REST_SECONDS
            with self._lock:
                self._seen.troubles.append(error_code(error) or type(error).__name__)
            with suppress(SQLAlchemyError):
                self._let_go()

    def _publish(self) -> None:
        if not self._is_published:
            self._pipeline.index.publish()
            self._published_at, self._is_published = time.monotonic(), True

    def _let_go(self) -> None:
        if self._until:
            mine = sa.and_(catalog.leases.c.name == FOLLOWED, catalog.leases.c.until == self._until)
            with self._pipeline.index.transaction() as connection:
                connection.execute(catalog.leases.delete().where(mine))
            self._until = None

    def _hold(self) -> bool:
        """Take the lease, or keep it. Returns whether we have it."""
        table, moment = catalog.leases, now()
        lasts = dt.timedelta(seconds=self._pipeline.settings.archive_lease_seconds)
        if self._until and self._until - moment > lasts / 2:
            return True
        mine, until = table.c.name == FOLLOWED, self._until
        # Asked every second by every run, it takes the lock of writers only when there is something to take.
        with self._pipeline.index.engine.connect() as connection:
            held = connection.execute(sa.select(table.c.until).where(mine)).scalar_one_or_none()
        self._until = None
        if held and held > moment and held != until:
            return False
        with self._pipeline.index.transaction() as connection:
            if connection.execute(sa.select(table.c.until).where(mine)).scalar_one_or_none() != held:
                return False
            change = table.update().where(mine) if held else table.insert()
            connection.execute(change.values(name=FOLLOWED, until=moment + lasts))
        self._until = moment + lasts
        return True

    def _bring_in(self) -> None:
        """Jobs' events and results first: they say whose an image set is, and name it too."""
        pipeline, told = self._pipeline, Counter[str]()
        of_jobs = inbox.deferred(pipeline, Queue.IMPORT_EVENTS)
        for batch in of_jobs:
            opened = service_events.open_batch(pipeline, batch)
            told += opened.counts + results.follow(pipeline, opened.import_jobs)
        counts, settled = results.settle_ended(pipeline, of_archives=True)
        for batch in of_jobs:
            inbox.finish(pipeline, batch)
        of_image_sets, events = inbox.deferred(pipeline, Queue.IMAGE_SET_EVENTS), Counter[str]()
        wanted = _named(pipeline, settled)
        for batch in of_image_sets:
            opened = service_events.open_batch(pipeline, batch)
            events += opened.counts
            for event in opened.image_sets:
                _want(wanted, event)
        for some in chunked(_news(pipeline, wanted), LOOKS):
            if self._breaks_off.is_set() or not self._hold():
                return  # who follows then sees the same
            events += image_sets.sight(pipeline, some)
        rows = indexing.catch_up(pipeline, of_image_sets)
        if told + counts + events or rows.documents or rows.deleted:
            self._is_published = False
            with self._lock:
                self._seen.results += told + counts
                self._seen.documents += events
                self._seen.rows += rows


@contextmanager
def following(pipeline: Pipeline) -> Iterator[Follower]:
    """See to events of archives, in a thread of its own, for as long as the block lasts.

    A look that is under way at the end is finished, since it brings in what the block waited for; after an error, or
    when a person cancels the run, it is broken off.
    """
    follower, is_over = Follower(pipeline), threading.Event()

    def follow() -> None:
        while not is_over.wait(pipeline.settings.archive_poll_seconds):
            follower.look()

    thread = threading.Thread(target=follow, name="following", daemon=True)
    thread.start()
    try:
        yield follower
    except BaseException:
        follower.break_off()
        raise
    finally:
        is_over.set()
        thread.join()
        follower.leave()


def show_settled(pipeline: Pipeline, job_keys: Sequence[str]) -> tuple[Counter[str], IndexReport]:
    """Look up and index image sets that settled jobs name, without waiting for their events.

    While somebody follows, the events of uploads' image sets are theirs too, and an upload waits for no archive.
    """
    wanted = _named(pipeline, job_keys)
    looked = image_sets.sight(pipeline, _news(pipeline, wanted))
    return looked, indexing.catch_up(pipeline, only=wanted)


def _named(pipeline: Pipeline, job_keys: Sequence[str]) -> dict[str, int]:
    """Image sets that hold objects of settled jobs and that the index does not show, with the version to look for."""
    table, wanted = catalog.objects, dict[str, int]()
    columns = (table.c.image_set_id, sa.func.max(table.c.image_set_version))
    with pipeline.index.engine.connect() as connection:
        for some in chunked(job_keys, 500):
            query = sa.select(*columns).where(table.c.job_key.in_(some), not_indexed())
            rows = connection.execute(query.group_by(table.c.image_set_id))
            wanted |= {str(image_set_id): version or ANY for image_set_id, version in rows}
    return wanted


def _want(wanted: dict[str, int], event: ImageSetEvent) -> None:
    """Add what an event tells of."""
    before, is_deletion = wanted.get(event.image_set_id), event.detail_type.startswith("Image Set Delet")
    version = ANY if is_deletion or event.version is None or before == ANY else event.version
    wanted[event.image_set_id] = max(version, before or version) if version else ANY


def _news(pipeline: Pipeline, wanted: Mapping[str, int]) -> list[str]:
    """Those of some image sets that have not been seen in the version wanted."""
    seen = image_sets.seen_versions(pipeline, wanted)
    return sorted(one for one, version in wanted.items() if version == ANY or version > seen.get(one, 0))
