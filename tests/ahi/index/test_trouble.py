"""Several processes at once, and processes killed in the middle: what analysts see stays right.

Each story runs on both catalogs. The short one is for every run of the tests; the long one is a drill.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from ahi.index import catalog as c
from tests.ahi.index.worker import INSIDE, PAIR, PAUSED, SYNCED, WRONG, Story, open_index, read, run, tell
from tests.forked import ForkServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ahi.index.store import Index

# Forks of a process that is begun for this and never makes an index: they inherit none, and start as fast as forks.
SERVER = ForkServer(
    *("tests.ahi.index.worker", "ahi.index.columnar", "ahi.index.compaction", "ahi.index.publish"),
    *("arro3.io", "duckdb", "psycopg2", "pyarrow.parquet"),
)
WRITERS = 4
SECONDS = 120.0
SHORT = Story()
LONG = Story(image_sets=20, versions=5)

pytestmark = pytest.mark.both_catalogs


class Child:
    """A process and what it says."""

    seed = 0
    point = ""
    """Where it will be killed."""

    def __init__(self, *what: object) -> None:
        self.told, say = multiprocessing.Pipe(duplex=False)
        self.process = SERVER.start(run, say, *what)
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
        self.process.wait(SECONDS)
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
        started.process.wait(SECONDS)


@dataclass
class Crowd:
    """Four writers at once, killed at points of their transactions and begun anew from the start of their stories.

    A writer that is done before it came to its point makes room for one that tells the story in another order.
    """

    root: Path
    url: str
    story: Story
    to_kill: list[str]
    killed: Counter[str] = field(default_factory=Counter)
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
                if word.startswith(PAUSED):
                    writers.remove(writer)
                    self.heard |= set(writer.kill())
                    self.killed[word.removeprefix(PAUSED)] += 1
                    writers.append(self.begin(writer.seed))
                elif word:
                    self.heard.add(word)
                else:
                    assert writer.process.wait(SECONDS) == 0
                    writers.remove(writer)
                    if writer.point:
                        self.to_kill.append(writer.point)
                        writers.append(self.begin(self.new_seed()))

    def new_seed(self) -> int:
        self.seeds.append(len(self.seeds))
        return self.seeds[-1]

    def begin(self, seed: int) -> Child:
        point = self.to_kill.pop(0) if self.to_kill else ""
        at = self.chance.randrange(len(self.story.batches(seed)) // 2)
        writer = Child("write", self.root, self.url, self.story, seed, (point, at) if point else None)
        writer.seed, writer.point = seed, point
        return writer


def shown(index: Index) -> dict[str, tuple[int, int]]:
    """Version and instances of each image set of the story; the pairs of batches are whole, or `read` says so."""
    index.publish()
    assert read(index.root) == ""
    rows = index.query(
        "SELECT image_set_id, (max(image_set_version), count(*)) FROM instances "
        "WHERE NOT contains(image_set_id, '/') GROUP BY ALL ORDER BY ALL"
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


def points(n: int) -> list[str]:
    """Where to kill `n` times: once before BEGIN, and at each point of a transaction in turn."""
    return [SYNCED, *(INSIDE[number % len(INSIDE)] for number in range(n - 1))]


@pytest.mark.parametrize(
    ("story", "kills"), [(SHORT, 6), pytest.param(LONG, 21, marks=pytest.mark.drill)], ids=["short", "long"]
)
def test_four_writers_killed_in_their_commits_beside_a_keeper_and_a_reader(
    tmp_path: Path, template: Path, catalog_url: str, story: Story, kills: int
) -> None:
    root = tmp_path / "index"
    root.mkdir()
    shutil.copy(template, root)
    with ExitStack() as stack:
        keeper = stack.enter_context(child("keep", root, catalog_url, 60))
        reader = stack.enter_context(child("watch", root, catalog_url))
        crowd = Crowd(root, catalog_url, story, points(kills))
        crowd.work()
        kept, looked = keeper.kill(), reader.kill()
    assert [word for word in kept + looked if word.startswith(WRONG)] == []
    assert {"kept", "looked"} <= {*kept, *looked}
    index = open_index(root, catalog_url)
    assert shown(index) == story.expected()
    batches = {batch_id for seed in crowd.seeds for batch_id, _ in story.batches(seed)}
    with index.snapshot() as connection:
        committed = list(connection.scalars(sa.select(c.commits.c.batch_id).where(c.commits.c.kind == "test")))
        heads = connection.execute(sa.select(c.heads.c.image_set_id, c.heads.c.version, c.heads.c.deleted_at)).all()
    assert crowd.killed == Counter(points(kills))
    assert crowd.heard <= set(committed)
    assert sorted(committed) == sorted(batches)
    pairs = {f"{batch_id}{end}": 1 for batch_id in batches for end in PAIR.values()}
    assert {name: version for name, version, gone in heads if not gone} == pairs | dict.fromkeys(
        story.expected(), story.versions
    )
    for table, end in PAIR.items():
        ends = index.query(f"SELECT image_set_id FROM {table} WHERE contains(image_set_id, '/')").rows
        assert sorted(ends) == sorted((f"{batch_id}{end}",) for batch_id in batches)
    assert_nothing_is_left(index, story)


@pytest.mark.parametrize("table", PAIR)
@pytest.mark.parametrize(("deliveries", "seen"), [([], "half a batch: "), ([("7", 2)], "image set 7: ")])
def test_the_reader_sees_half_a_batch(
    tmp_path: Path, template: Path, catalog_url: str, table: str, deliveries: list[tuple[str, int]], seen: str
) -> None:
    """The stories prove nothing unless a half would be told: here one is made on purpose."""
    index = open_index(tmp_path / "index", catalog_url)
    shutil.copy(template, index.root)
    tell(index, "whole", [("1", 1), *deliveries])
    index.publish()
    assert read(index.root) == ""
    newer = [(name, version + 1) for name, version in deliveries]
    tell(index, "half", newer, tables=[table])
    index.publish()
    assert read(index.root).startswith(seen)


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
