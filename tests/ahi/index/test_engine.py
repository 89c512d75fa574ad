from __future__ import annotations

import multiprocessing
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from ahi.closure import closure, overdue
from ahi.errors import PermanentError
from ahi.freshness import percentiles
from ahi.index import catalog as c
from ahi.index.engine import insert_missing, open_engine, write_transaction
from ahi.index.store import Index

if TYPE_CHECKING:
    from pathlib import Path


def url(root: Path) -> str:
    return f"sqlite:///{root / 'catalog.sqlite'}"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_the_locked_driver_serves_a_plain_url(scheme: str) -> None:
    engine = open_engine(f"{scheme}://user:secret@host/db?sslmode=require")
    assert (engine.dialect.driver, engine.url.password) == ("psycopg2", "secret")


def test_a_missing_driver_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(PermanentError, match=r"psycopg2 .* pip install 'ahi-pipeline\[postgres\]'") as raised:
        open_engine("postgresql://user:secret@host/db")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["mysql://user:secret@host/db", "catalog.sqlite", "not a URL"])
def test_what_no_catalog_can_be_is_refused(url: str) -> None:
    with pytest.raises(PermanentError, match="AHI_CATALOG_URL") as raised:
        open_engine(url)
    assert "secret" not in str(raised.value)


def test_a_writer_on_postgresql_is_safe_from_its_server_s_defaults(postgresql: str) -> None:
    """Under REPEATABLE READ it would wait for its turn, and then read what was true before."""
    writer = sa.make_url(postgresql).update_query_dict({"options": "-cdefault_transaction_isolation=serializable"})
    with write_transaction(open_engine(writer.render_as_string(hide_password=False))) as connection:
        shown = ("transaction_isolation", "lock_timeout", "idle_in_transaction_session_timeout")
        found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in shown]
    assert found == ["read committed", "30s", "1min"]


def test_making_an_index_opens_no_lasting_connection(tmp_path: Path) -> None:
    index = Index(tmp_path / "deep" / "index", url(tmp_path / "deep" / "index"))
    assert index.engine.pool.status() == "NullPool"


@pytest.mark.both_catalogs
def test_many_may_make_the_same_index_at_once(tmp_path: Path, catalog_url: str) -> None:
    (tmp_path / "index").mkdir()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=Index, args=(tmp_path / "index", catalog_url)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    with Index(tmp_path / "index", catalog_url).snapshot() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(c.commits)) == 0
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_an_index_that_is_there_is_opened_while_another_process_writes(tmp_path: Path) -> None:
    first = Index(tmp_path, url(tmp_path))
    with first.transaction() as connection:
        connection.execute(c.state.insert().values(name="n", value="0"))
        second = Index(tmp_path, url(tmp_path))
    with second.snapshot() as connection:
        assert connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == "n")) == "0"


@pytest.mark.both_catalogs
def test_a_catalog_of_earlier_code_is_brought_up_to_date(index: Index, catalog_url: str) -> None:
    with index.transaction() as connection:
        for statement in (
            "DROP INDEX ix_jobs_seq",
            "ALTER TABLE jobs DROP COLUMN seq",
            "ALTER TABLE jobs DROP COLUMN starts",
            """INSERT INTO jobs (job_key, service, state, day, datastore_id, input_uri, output_uri, in_place,
            n_objects, n_bytes, planned_at)
            VALUES ('j', 'medical-imaging', 'planned', '2026-11-21', 's', 'i', 'o', FALSE, 1, 1, 1)""",
            "DROP INDEX ix_objects_landed",
            "CREATE INDEX ix_objects_landed ON objects (landed_at, key)",
            "CREATE INDEX ix_objects_old ON objects (etag)",
            "UPDATE state SET value = 'older'",
        ):
            connection.execute(sa.text(statement))
    index = Index(index.root, catalog_url)
    with index.snapshot() as connection:
        found = {x["name"]: x["column_names"] for x in sa.inspect(connection).get_indexes("objects")}
        assert connection.execute(sa.select(c.jobs.c.job_key, c.jobs.c.starts)).all() == [("j", 0)]
    assert found == {str(x.name): [column.name for column in x.columns] for x in c.objects.indexes}
    with index.commit(kind="test"):
        pass
    index.publish()
    assert index.query("SELECT job_key FROM import_jobs").rows == [("j",)]


def test_the_questions_of_the_clock_do_not_scan_the_ledger(index: Index) -> None:
    if index.engine.dialect.name != "sqlite":
        pytest.skip("plans of SQLite")
    asked: list[tuple[str, object]] = []

    @sa.event.listens_for(index.engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        asked.append((statement, parameters))

    closure(index.engine)
    overdue(index.engine, after_seconds=60)
    percentiles(index.engine)
    sa.event.remove(index.engine, "before_cursor_execute", note)
    plans: dict[str, str] = {}
    with index.snapshot() as connection:
        for statement, parameters in asked:
            if statement.startswith("SELECT") and "FROM objects" in statement:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                plans[statement] = " / ".join(row.detail for row in rows)
    assert len(plans) >= 5
    scans = {text: plan for text, plan in plans.items() if "SCAN objects" in plan and "COVERING" not in plan}
    assert scans == {}
    text = "\n".join(plans.values())
    for name in ("ix_objects_state_since (state=? AND state_since<?)", "ix_objects_unindexed", "ix_objects_landed"):
        assert name in text


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


@pytest.mark.both_catalogs
def test_a_reader_sees_one_commit_and_blocks_no_writer(index: Index, put) -> None:
    count = sa.select(sa.func.count()).select_from(c.commits)
    put("one", {"a": 1})
    with index.snapshot() as reader:
        assert reader.scalar(count) == 1
        put("two", {"a": 2})
        assert reader.scalar(count) == 1
    with index.snapshot() as reader:
        assert reader.scalar(count) == 2


@pytest.mark.both_catalogs
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
        assert connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == "n")) == "40"


@pytest.mark.both_catalogs
def test_what_is_there_already_is_left_as_it_is(index: Index) -> None:
    with index.transaction() as connection:
        insert_missing(connection, c.state, [{"name": "a", "value": "1"}])
        insert_missing(connection, c.state, [{"name": "a", "value": "2"}, {"name": "b", "value": "3"}])
        insert_missing(connection, c.state, [])
        found = sa.select(c.state.c.name, c.state.c.value).where(c.state.c.name.in_(["a", "b"]))
        assert dict(connection.execute(found).fetchall()) == {"a": "1", "b": "3"}  # type: ignore[arg-type]


@pytest.mark.both_catalogs
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
