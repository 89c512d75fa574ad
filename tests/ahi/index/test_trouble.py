"""Several processes at once, and processes killed in the middle: what analysts see stays right.

Each story runs on both catalogs. The short one is for every run of the tests; the long one is a drill.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from ahi.index import catalog as c
from tests.ahi.index.worker import PAUSED, POINTS, WRONG, Story, open_index, read, run, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ahi.index.store import Index

FORK = multiprocessing.get_context("fork")
WRITERS = 4
SECONDS = 120.0
SHORT = Story()
LONG = Story(image_sets=20, versions=5)

pytestmark = pytest.mark.both_catalogs


class Child:
    """A forked process and what it says."""

    seed = 0
    is_doomed = False
    rest: int | None = None
    """Batches that it may yet acknowledge before it is killed; None: it is not killed for that."""

    def __init__(self, *what: object) -> None:
        self.told, say = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=run, args=(say, *what), daemon=True)
        self.process.start()
        say.close()

    def line(self) -> str:
        """Its next word; empty when it has ended."""
        assert self.told.poll(SECONDS), "It says nothing."
        try:
            return str(self.told.recv())
        except EOFError:
            return ""

    def kill(self) -> list[str]:
        """End it as the system would; gives what it had said and nobody had heard yet."""
        self.process.kill()
        self.process.join()
        said = []
        while word := self.line():
            said.append(word)
        return said


@contextmanager
def child(*what: object) -> Iterator[Child]:
    started = Child(*what)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.join()


@dataclass
class Crowd:
    """Four writers at once, killed `kills` times in all and begun anew from the start of their stories.

    Half of the kills are where we choose, before, in or after a transaction; the others wherever the writer is. A
    writer that is done while kills are left makes room for one that tells the story in another order.
    """

    root: Path
    url: str
    story: Story
    kills: int
    planned: int = 0
    killed: int = 0
    seeds: list[int] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def work(self) -> None:
        writers = [self.begin(self.new_seed()) for _ in range(WRITERS)]
        while writers:
            ready = wait([writer.told for writer in writers], SECONDS)
            assert ready, "No writer says anything."
            for writer in [writer for writer in writers if writer.told in ready]:
                word = writer.line()
                assert not word.startswith(WRONG), word
                self.heard.add(word)
                if word == PAUSED or writer.rest == 0:
                    writers.remove(writer)
                    self.heard |= set(writer.kill())
                    self.killed += 1
                    writers.append(self.begin(writer.seed))
                elif not word:
                    writer.process.join()
                    assert writer.process.exitcode == 0
                    writers.remove(writer)
                    if writer.is_doomed:  # but has never come to its point
                        self.planned -= 1
                        writers.append(self.begin(self.new_seed()))
                elif writer.rest is not None:
                    writer.rest -= 1
        self.heard -= {PAUSED, ""}

    def new_seed(self) -> int:
        self.seeds.append(len(self.seeds))
        return self.seeds[-1]

    def begin(self, seed: int) -> Child:
        is_doomed, exact = self.planned < self.kills, self.planned % 2 == 0
        at = self.chance.randrange(len(self.story.batches(seed)) // 2)
        pause = (POINTS[self.planned // 2 % len(POINTS)], at) if is_doomed and exact else None
        writer = Child("write", self.root, self.url, self.story, seed, pause)
        writer.seed, writer.is_doomed, writer.rest = seed, is_doomed, at if is_doomed and not exact else None
        self.planned += is_doomed
        return writer


def shown(index: Index) -> dict[str, tuple[int, int]]:
    index.publish()
    assert read(index.root) == ""
    rows = index.query(
        "SELECT image_set_id, (max(image_set_version), count(*)) FROM instances GROUP BY ALL ORDER BY ALL"
    ).rows
    return {str(name): pair for name, pair in rows}  # type: ignore[misc]


def assert_nothing_is_left(index: Index, story: Story) -> None:
    """After upkeep the disk holds the files that the catalog knows, whatever was killed before."""
    index.grace_seconds = 0
    index.compact()
    index.publish()
    index.expire()
    assert shown(index) == story.expected()
    with index.snapshot() as connection:
        known = set(connection.scalars(sa.select(c.files.c.path)))
    assert {path.relative_to(index.root).as_posix() for path in index.root.glob("data/*/*/*.parquet")} == known
    assert not list(index.root.glob(".index-*"))


@pytest.mark.parametrize(
    ("story", "kills"), [(SHORT, 6), pytest.param(LONG, 20, marks=pytest.mark.drill)], ids=["short", "long"]
)
def test_four_writers_killed_in_their_commits_beside_a_keeper_and_a_reader(
    tmp_path: Path, template: Path, catalog_url: str, story: Story, kills: int
) -> None:
    root = tmp_path / "index"
    index = open_index(root, catalog_url)
    shutil.copy(template, root)
    with ExitStack() as stack:
        keeper = stack.enter_context(child("keep", root, catalog_url, 60))
        reader = stack.enter_context(child("watch", root, catalog_url))
        crowd = Crowd(root, catalog_url, story, kills)
        crowd.work()
        kept, looked = keeper.kill(), reader.kill()
    assert [word for word in kept + looked if word.startswith(WRONG)] == []
    assert {"kept", "looked"} <= {*kept, *looked}
    assert shown(index) == story.expected()
    batches = {batch_id for seed in crowd.seeds for batch_id, _ in story.batches(seed)}
    with index.snapshot() as connection:
        committed = list(connection.scalars(sa.select(c.commits.c.batch_id).where(c.commits.c.kind == "test")))
        heads = connection.execute(sa.select(c.heads.c.image_set_id, c.heads.c.version, c.heads.c.deleted_at)).all()
    assert crowd.killed == kills
    assert crowd.heard <= set(committed)
    assert sorted(committed) == sorted(batches)
    assert {name: version for name, version, gone in heads if not gone} == dict.fromkeys(
        story.expected(), story.versions
    )
    assert_nothing_is_left(index, story)


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.drill)])
def test_a_keeper_killed_in_compaction_publication_and_expiry(
    tmp_path: Path, template: Path, catalog_url: str, kills: int
) -> None:
    root = tmp_path / "index"
    index = open_index(root, catalog_url)
    shutil.copy(template, root)
    for batch_id, deliveries in SHORT.batches(1):
        tell(index, batch_id, deliveries)
    assert shown(index) == SHORT.expected()
    for number in range(kills):
        for part in range(6):
            tell(index, f"more{number}.{part}", SHORT.deliveries()[part * 5 : part * 5 + 5])
        before = files(root)
        with child("keep", root, catalog_url, 0) as keeper:
            assert keeper.line() == "begun"
            while number % 2 == 0 and not keeper.told.poll() and files(root) <= before:
                pass  # until it is in the middle of something
            if number % 2:
                keeper.line()
            assert not [word for word in keeper.kill() if word.startswith(WRONG)]
        assert read(root) == ""
        assert shown(index) == SHORT.expected()
    assert_nothing_is_left(index, SHORT)


def files(root: Path) -> set[Path]:
    return set(root.rglob("*.parquet")) | set(root.glob(".index-*"))
