"""Several processes at once, and processes killed in the middle: what analysts see stays right."""

from __future__ import annotations

import runpy
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from ahi.index import catalog as c

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ahi.index.store import Index

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture
def worker() -> dict[str, Any]:
    return runpy.run_path(str(WORKER))


@pytest.fixture(autouse=True)
def same_catalog(catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not catalog_url.startswith("sqlite"):
        monkeypatch.setenv("WORKER_CATALOG", catalog_url)


@contextmanager
def process(role: str, root: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, str(WORKER), role, str(root), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def shown(index: Index, worker: dict[str, Any]) -> dict[str, tuple[int, int]]:
    index.publish()
    assert worker["read"](index.root) == ""
    rows = index.query(
        "SELECT image_set_id, (max(image_set_version), count(*)) FROM instances GROUP BY ALL ORDER BY ALL"
    ).rows
    return {str(name): pair for name, pair in rows}  # type: ignore[misc]


def test_four_writers_a_keeper_and_a_reader(tmp_path: Path, template: Path, worker: dict[str, Any]) -> None:
    shutil.copy(template, tmp_path)
    with process("keep", tmp_path, 60) as keeper, process("watch", tmp_path, 0) as reader:
        writers = [
            subprocess.Popen(
                [sys.executable, str(WORKER), "write", str(tmp_path), str(seed)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for seed in range(4)
        ]
        ended = [(child.communicate(timeout=120), child.returncode) for child in writers]
        assert [(text[1], code) for text, code in ended] == [("", 0)] * 4
        assert keeper.poll() is None
        assert reader.poll() is None
        reader.kill()
        looked, wrong = reader.communicate()
    assert wrong == ""
    assert looked.count("looked") > 0
    index = worker["open_index"](tmp_path)
    assert shown(index, worker) == worker["expected"]()
    with index.snapshot() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(c.commits.c.kind == "test")) == 4 * 9


def test_writers_killed_in_their_commits_lose_nothing_they_acknowledged(
    tmp_path: Path, template: Path, worker: dict[str, Any]
) -> None:
    shutil.copy(template, tmp_path)
    acknowledged: set[str] = set()
    for seed in range(4):
        with process("write", tmp_path, seed) as child:
            for _ in range(seed):
                acknowledged.add(first_line(child).strip())
            first_line(child)
            child.send_signal(signal.SIGKILL)
    index = worker["open_index"](tmp_path)
    with index.snapshot() as connection:
        committed = set(connection.scalars(sa.select(c.commits.c.batch_id)))
    assert acknowledged - {""} <= committed
    index.publish()
    assert worker["read"](tmp_path) == ""
    worker["write"](tmp_path, 0)
    assert shown(index, worker) == worker["expected"]()


def test_a_keeper_killed_in_compaction_publication_and_expiry(
    tmp_path: Path, template: Path, worker: dict[str, Any]
) -> None:
    shutil.copy(template, tmp_path)
    worker["write"](tmp_path, 1)
    index = worker["open_index"](tmp_path)
    assert shown(index, worker) == worker["expected"]()
    for number in range(4):
        for part in range(6):
            worker["tell"](index, f"more{number}.{part}", worker["story"]()[part * 5 : part * 5 + 5])
        with process("keep", tmp_path, 0) as child:
            if number % 2:
                first_line(child)
            else:
                _wait_for_work(child, tmp_path)
            child.send_signal(signal.SIGKILL)
        assert worker["read"](tmp_path) == ""
        assert shown(index, worker) == worker["expected"]()
    index.grace_seconds = 0
    index.compact()
    index.publish()
    index.expire()
    assert shown(index, worker) == worker["expected"]()
    with index.snapshot() as connection:
        known = set(connection.scalars(sa.select(c.files.c.path)))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("data/*/*/*.parquet")} == known
    assert not list(tmp_path.glob(".index-*"))


def _wait_for_work(child: subprocess.Popen[str], root: Path) -> None:
    """Until a file appears that was not there: the keeper is in the middle of something."""
    before = set(root.rglob("*.parquet")) | set(root.glob(".index-*"))
    while child.poll() is None and not (set(root.rglob("*.parquet")) | set(root.glob(".index-*"))) - before:
        pass
