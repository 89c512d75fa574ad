from __future__ import annotations

import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from ahi.index import catalog as c
from ahi.index.engine import insert_missing
from ahi.index.store import Index

if TYPE_CHECKING:
    from pathlib import Path


def url(root: Path) -> str:
    return f"sqlite:///{root / 'catalog.sqlite'}"


def test_making_an_index_opens_no_lasting_connection(tmp_path: Path) -> None:
    index = Index(tmp_path / "deep" / "index", url(tmp_path / "deep" / "index"))
    assert index.engine.pool.status() == "NullPool"


def test_many_may_make_the_same_index_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=Index, args=(tmp_path, url(tmp_path))) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    with Index(tmp_path, url(tmp_path)).snapshot() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(c.commits)) == 0
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_forked_process_uses_the_index_of_its_parent(index: Index, put, shown) -> None:
    put("parent", {"a": 1})
    shown()

    def child(number: int) -> None:
        put(f"child{number}", {"a": number + 2, f"b{number}": 1})
        index.publish()

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(number,)) for number in range(2)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
    assert [process.exitcode for process in children] == [0, 0]
    assert shown() == {"a": (3, 3), "b0": (1, 1), "b1": (1, 1)}


def test_a_reader_sees_one_commit_and_blocks_no_writer(index: Index, put) -> None:
    count = sa.select(sa.func.count()).select_from(c.commits)
    put("one", {"a": 1})
    with index.snapshot() as reader:
        assert reader.scalar(count) == 1
        put("two", {"a": 2})
        assert reader.scalar(count) == 1
    with index.snapshot() as reader:
        assert reader.scalar(count) == 2


def test_writers_take_turns(index: Index) -> None:
    """Each reads, then writes what it read plus one: without turns, some would read the same."""
    with index.transaction() as connection:
        connection.execute(c.state.insert().values(name="n", value="0"))

    def add(_: int) -> None:
        with index.transaction() as connection:
            value = connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == "n"))
            connection.execute(c.state.update().where(c.state.c.name == "n").values(value=str(int(value or 0) + 1)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    with index.snapshot() as connection:
        assert connection.scalar(sa.select(c.state.c.value)) == "40"


def test_what_is_there_already_is_left_as_it_is(index: Index) -> None:
    with index.transaction() as connection:
        insert_missing(connection, c.state, [{"name": "a", "value": "1"}])
        insert_missing(connection, c.state, [{"name": "a", "value": "2"}, {"name": "b", "value": "3"}])
        insert_missing(connection, c.state, [])
        assert dict(connection.execute(sa.select(c.state.c.name, c.state.c.value)).fetchall()) == {"a": "1", "b": "3"}  # type: ignore[arg-type]


def test_a_time_without_zone_is_refused(index: Index) -> None:
    import datetime as dt

    naive = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - the point of the test
    with index.transaction() as connection, pytest.raises(sa.exc.StatementError, match="time zone"):
        connection.execute(c.publications.insert().values(seq=1, published_at=naive))


def test_the_catalog_opens_in_plain_sqlite(index: Index, put) -> None:
    if index.engine.dialect.name != "sqlite":
        pytest.skip("The catalog is another database")
    put("one", {"a": 1})
    connection = sqlite3.connect(index.root / "catalog.sqlite")
    assert connection.execute("SELECT kind FROM commits").fetchall() == [("test",)]
    connection.close()
