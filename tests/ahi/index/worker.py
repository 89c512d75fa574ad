"""One process of the trouble tests, started by them: a writer, the upkeep or a reader. Not a test itself.

A story is a list of deliveries about shared image sets, the same for every writer; each tells it in an order of its
own, with repeats, as queues deliver. Each batch also brings a pair of image sets of its own, one in each of its files,
by which a reader tells half a batch from a whole one.
"""

from __future__ import annotations

import datetime as dt
import random
import signal
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.index.engine import WRITE
from ahi.index.query import IndexNotPublishedError, query
from ahi.index.store import AlreadyCommitted, Head, Index

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from multiprocessing.connection import Connection
    from pathlib import Path

AT = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
SYNCED = "files synced, not begun"
BEFORE_COMMIT, IN_COMMIT = "before COMMIT", "in COMMIT"
INSIDE = ("begun", "heads raised", "deletions made", BEFORE_COMMIT, IN_COMMIT)
"""Points of a transaction, in order."""
PAUSED = "paused: "
WRONG = "wrong: "

Delivery = tuple[str, int]
Pause = tuple[str, int]
"""A point, and from which batch on to stay there until killed."""
PAIR = {"series": "/left", "instances": "/right"}
"""The image set that only this table has: a file is live or not as a whole, so both in one would tell nothing."""


@dataclass(frozen=True)
class Story:
    """What there is to tell: every version of every image set, deletions (0), and those of early versions (-version).

    The last come late or not; the newest version outlives them in any case.
    """

    image_sets: int = 8
    versions: int = 4
    deleted: tuple[str, ...] = ("3", "5")
    outlived: tuple[str, ...] = ("2", "6")

    def deliveries(self) -> list[Delivery]:
        told = [(str(n), version) for n in range(self.image_sets) for version in range(1, self.versions + 1)]
        early = [(name, -version) for name in self.outlived for version in range(1, self.versions)]
        return told + [(name, 0) for name in self.deleted] + early

    def expected(self) -> dict[str, tuple[int, int]]:
        """Version and instance rows by image set when all is told: version v has v instances."""
        names = {str(n) for n in range(self.image_sets)} - set(self.deleted)
        return dict.fromkeys(names, (self.versions, self.versions))

    def batches(self, seed: int) -> list[tuple[str, list[Delivery]]]:
        """The whole story in an order of one's own, with 20 % of batches twice."""
        chance, told = random.Random(seed), self.deliveries()
        chance.shuffle(told)
        batches = [(f"w{seed}-{start}", told[start : start + 4]) for start in range(0, len(told), 4)]
        batches += chance.sample(batches, len(batches) // 5)
        chance.shuffle(batches)
        return batches


def open_index(root: Path, url: str) -> Index:
    return Index(root, url, compact_files=6, grace_seconds=60)


def run(say: Connection, role: str, root: Path, url: str, *rest: object) -> None:
    """What a process does."""
    try:
        {"write": write, "keep": keep, "watch": watch}[role](say.send, open_index(root, url), *rest)  # type: ignore[operator]
    except BaseException:
        say.send(WRONG + traceback.format_exc())
        raise


def write(say: Callable[[str], None], index: Index, story: Story, seed: int, pause: Pause | None) -> None:
    """Tell the story, say each batch when it is true, and merge files as a run does that publishes."""
    number = 0

    def pass_by(point: str) -> None:
        if not pause or pause[0] != point or pause[1] > number:
            return
        say(PAUSED + point)
        if point != IN_COMMIT:
            signal.pause()
        # The system ends the process at some moment of COMMIT, wherever it is in the database's code.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, random.Random(seed + number).uniform(0.0001, 0.003))

    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get(WRITE):
            pass_by(SYNCED)

    def commit(_: sa.Connection) -> None:
        pass_by(BEFORE_COMMIT)
        pass_by(IN_COMMIT)

    # Before the engine's own, which sends BEGIN.
    sa.event.listen(index.engine, "begin", begin, insert=True)
    sa.event.listen(index.engine, "commit", commit)
    for number, (batch_id, deliveries) in enumerate(story.batches(seed)):  # noqa: B007 - read by `pass_by`
        tell(index, batch_id, deliveries, pass_by)
        say(batch_id)
        index.compact_batches()


def tell(
    index: Index,
    batch_id: str,
    deliveries: list[Delivery],
    pass_by: Callable[[str], None] = lambda _: None,
    tables: Collection[str] = tuple(PAIR),
) -> None:
    """Commit one batch, as the pipeline does: the highest version of an image set in it, and deletions.

    With fewer `tables` only half of it, which nothing but a broken commit could leave.
    """
    versions = [delivery for delivery in deliveries if delivery[1] > 0]
    highest = {name: max(v for other, v in versions if other == name) for name, _ in versions}
    rows = {"series": [row(name, version) for name, version in highest.items()]}
    rows["instances"] = [
        instance_row(name, version, number) for name, version in highest.items() for number in range(version)
    ]
    for table, end in PAIR.items():
        highest[f"{batch_id}{end}"] = 1
        rows[table].append(row(batch_id + end, 1) if table == "series" else instance_row(batch_id + end, 1, 0))
    files = [index.write(table, rows[table], batch_id=batch_id) for table in tables]
    try:
        with index.commit(batch_id=batch_id, kind="test", files=files) as commit:
            pass_by(INSIDE[0])
            commit.raise_heads(
                [Head("s", name, version, True, "1", name, version) for name, version in highest.items()]
            )
            pass_by(INSIDE[1])
            for name, version in dict.fromkeys(deliveries).keys() - versions:
                commit.bury("s", name, version=-version or None, reason="deleted", at=AT)
            pass_by(INSIDE[2])
    except AlreadyCommitted:
        pass


def row(name: str, version: int) -> dict[str, object]:
    return {
        "datastore_id": "s",
        "image_set_id": name,
        "image_set_version": version,
        "is_primary": True,
        "StudyInstanceUID": "1",
        "SeriesInstanceUID": f"1.{name}",
        "Modality": "CT",
    }


def instance_row(name: str, version: int, number: int) -> dict[str, object]:
    own = {"SOPInstanceUID": f"{name}.{number}", "InstanceNumber": number}
    return {key: value for key, value in row(name, version).items() if key != "Modality"} | own


def keep(say: Callable[[str], None], index: Index, grace_seconds: float) -> None:
    """Compact, publish and expire for ever."""
    index.grace_seconds = grace_seconds
    while True:
        say("begun")
        index.compact()
        index.publish()
        index.expire()
        say("kept")
        time.sleep(0.05)  # leave the processors to the writers; nothing waits for this


def watch(say: Callable[[str], None], index: Index) -> None:
    """Look for ever; stop with a sentence at the first thing that cannot be."""
    while not (wrong := read(index.root)):
        say("looked")
        time.sleep(0.05)
    say(WRONG + wrong)


HALVES = """
    SELECT batch_id, s.image_set_id, i.image_set_id
    FROM (SELECT batch_id, image_set_id FROM series WHERE contains(image_set_id, '/')) s
    FULL JOIN (SELECT batch_id, image_set_id FROM instances WHERE contains(image_set_id, '/')) i USING (batch_id)
    WHERE s.image_set_id IS NULL OR i.image_set_id IS NULL
"""


def read(root: Path) -> str:
    """Look once; a sentence if what is shown cannot be."""
    sql = """
        SELECT image_set_id, s.image_set_version, count(*) OVER (PARTITION BY image_set_id), i.n, i.version
        FROM series s FULL JOIN (
            SELECT image_set_id, count(*) AS n, max(image_set_version) AS version FROM instances GROUP BY ALL
        ) i USING (image_set_id)
        WHERE NOT contains(image_set_id, '/')
    """
    try:
        rows = query(root / "index.duckdb", sql).rows
        halves = query(root / "index.duckdb", HALVES).rows
    except IndexNotPublishedError:
        return ""
    for name, version, heads, instances, instance_version in rows:
        if heads != 1 or instances != version or instance_version != version:
            return f"image set {name}: version {version}, {heads} rows, {instances} instances of {instance_version}"
    return f"half a batch: {halves}" if halves else ""
