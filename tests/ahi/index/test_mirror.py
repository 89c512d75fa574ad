from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index import fold, mirror, publish, slices

if TYPE_CHECKING:
    from ahi.index.store import Index

MOMENT = dt.datetime(2026, 11, 21, 23, 59, tzinfo=dt.UTC)
VIEWS = {"objects": c.objects, "import_jobs": c.jobs, "events": c.events, "quarantine": c.quarantine}


def job(name: str, **values: object) -> dict[str, object]:
    return {
        "job_key": name,
        "service": "medical-imaging",
        "state": "planned",
        "day": "2026-11-21",
        "datastore_id": "store",
        "input_uri": "i",
        "output_uri": "o",
        "in_place": False,
        "n_objects": 1,
        "n_bytes": 1,
        "planned_at": MOMENT,
    } | values


def event(name: str, at: dt.datetime | None = MOMENT) -> dict[str, object]:
    return {"event_id": name, "detail_type": "t", "batch_id": "b", "outcome": "used", "occurred_at": at}


def item(name: str) -> dict[str, object]:
    values = {"source": "uploads", "reason_code": "EMPTY", "reason_text": "x", "evidence": "k:1"}
    return {"item_id": name, "first_seen": MOMENT, **values}


def assert_shown(index: Index) -> None:
    """What analysts see is what the catalog has, each row once."""
    for view, table in VIEWS.items():
        columns = [column for column in table.columns if column.name != "seq"]
        names = ", ".join(f'"{column.name}"' for column in columns)
        seen = sorted(index.query(f"SELECT {names} FROM {view}").rows)
        with index.snapshot() as connection:
            expected = sorted(tuple(row) for row in connection.execute(sa.select(*columns)))
        assert seen == expected, view


def live(index: Index, name: str) -> list[sa.Row[tuple[object, ...]]]:
    with index.snapshot() as connection:
        query = sa.select(c.files).where(c.files.c.table_name == name, c.files.c.retired_seq.is_(None))
        return list(connection.execute(query.order_by(c.files.c.path)))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "DELTA_ROWS", 10)
    monkeypatch.setattr(mirror, "CHUNK_ROWS", 7)


@pytest.mark.parametrize(("seed", "catalog_url"), [(0, "sqlite"), (1, "postgresql")], indirect=["catalog_url"])
def test_any_order_of_changes_publications_and_upkeep_shows_each_row_once(
    index: Index, land, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(fold, "MAX_SLICES", 2)
    monkeypatch.setattr(slices, "BULK_ROWS", 18)
    chance, folds = random.Random(seed), 0
    for number in range(10):
        day = f"2026-11-{20 + chance.randrange(3)}"
        land(*(f"{day}-{chance.randrange(60)}" for _ in range(chance.choice([3, 20, 20]))), day=day, header=True)
        with index.commit(kind="test") as commit:
            commit.connection.execute(c.jobs.insert(), [job(f"{number}-{k}", day=day) for k in range(4)])
            at = chance.choice([None, MOMENT, MOMENT + dt.timedelta(minutes=2)])
            commit.connection.execute(c.events.insert(), [event(f"{number}-{k}", at) for k in range(9)])
            commit.connection.execute(c.quarantine.insert(), [item(f"{number}-{k}") for k in range(2)])
        with index.transaction() as connection:
            some = c.jobs.c.job_key.like(f"{chance.randrange(number + 1)}-%")
            connection.execute(c.jobs.update().where(some).values(state="claimed", claimed_at=now()))
        index.publish()
        assert_shown(index)
        if chance.random() < 0.4:
            folds += index.compact().files_in
            index.publish()
            index.expire()
            assert_shown(index)
    assert folds > 0


def test_every_change_of_a_job_is_in_the_next_publication(index: Index) -> None:
    def seen() -> tuple[object, ...]:
        index.publish()
        (row,) = index.query("SELECT state, message, settled_at FROM import_jobs WHERE job_key = 'j'").rows
        return row

    def change(**values: object) -> None:
        with index.transaction() as connection:
            connection.execute(c.jobs.update().where(c.jobs.c.job_key == "j").values(**values))

    with index.commit(kind="test") as commit:
        commit.connection.execute(c.jobs.insert(), [job("j"), *(job(f"other{k}") for k in range(30))])
    assert seen() == ("planned", None, None)
    assert [mirror.is_slice(row) for row in live(index, "jobs")] == [True]
    for state in ("claimed", "planned", "claimed", "submitted", "ended"):
        change(state=state)
        assert seen() == (state, None, None)
        assert not index.publish().is_new
    index.compact()
    assert [mirror.is_slice(row) for row in live(index, "jobs")] == [False]
    assert seen() == ("ended", None, None)
    with index.commit(kind="test") as commit:
        commit.connection.execute(c.jobs.update().values(state="settled", settled_at=MOMENT, message="all"))
    assert seen() == ("settled", "all", MOMENT)
    change(message="later")
    assert seen() == ("settled", "later", MOMENT)
    with index.transaction() as connection:
        connection.execute(c.jobs.insert().values(**job("new")))
        connection.execute(c.quarantine.insert().values(**item("q")))
    index.publish()
    assert_shown(index)


def test_a_live_publication_reads_and_writes_what_changed_and_not_the_rest(
    index: Index, land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is counted in rows read from the catalog: seconds would be those of the machine."""
    read: dict[str, list[int]] = {}
    parts = mirror.read_parts

    def counted(connection, table, *where):
        for part in parts(connection, table, *where):
            read.setdefault(table.name, []).append(part.num_rows)
            yield part

    monkeypatch.setattr(publish, "read_parts", counted)
    monkeypatch.setattr(slices, "read_parts", counted)
    monkeypatch.setattr(mirror, "CHUNK_ROWS", 100)
    land(*(f"o{number}" for number in range(700)), header=True)
    with index.commit(kind="test") as commit:
        commit.connection.execute(c.jobs.insert(), [job(f"j{number}") for number in range(500)])
        commit.connection.execute(c.events.insert(), [event(f"e{number}") for number in range(500)])
        commit.connection.execute(c.quarantine.insert(), [item(f"q{number}") for number in range(500)])
    index.publish()
    assert max(max(numbers) for numbers in read.values()) <= mirror.CHUNK_ROWS, "no table is in memory as a whole"
    for state in ("importing", "imported"):
        read.clear()
        land(*(f"o{number}" for number in range(5)), "new", state=state)
        with index.commit(kind="test") as commit:
            commit.connection.execute(c.jobs.update().where(c.jobs.c.job_key == "j7").values(state=state))
        index.publish()
        # All commits that no slice has yet: one for each publication, at most `DELTA_ROWS`.
        assert sum(read.pop("commits")) <= slices.DELTA_ROWS
        assert {name: sum(numbers) for name, numbers in read.items()} == {"objects": 6, "jobs": 1}
        assert_shown(index)
        read.clear()
        index.compact()
        assert read == {}, "upkeep works from files"


def test_upkeep_rewrites_only_the_days_that_changed_and_keeps_publishing_times(index: Index, land) -> None:
    for day in ("2026-11-20", "2026-11-21"):
        land(*(f"{day}-{number}" for number in range(30)), day=day, header=True)
    first = index.publish()
    index.compact()
    days = {row.path.split("/")[2]: row.path for row in live(index, "objects")}
    assert set(days) == {"2026-11-20", "2026-11-21"}
    land(*(f"2026-11-21-{number}" for number in range(20)), day="2026-11-21", state="imported", header=True)
    index.publish()
    index.compact()
    index.publish()
    after = {row.path.split("/")[2]: row.path for row in live(index, "objects")}
    assert (after["2026-11-20"], set(after)) == (days["2026-11-20"], set(days))
    assert after["2026-11-21"] != days["2026-11-21"]
    assert index.query("SELECT DISTINCT header_published_at FROM objects").rows == [(first.published_at,)]
    assert_shown(index)


@pytest.mark.both_catalogs
def test_a_bulk_is_published_from_a_file_that_stays_for_its_readers(
    index: Index, land, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "BULK_ROWS", 20)
    land(*(f"o{number}" for number in range(30)), header=True)
    with index.transaction() as connection:
        connection.execute(c.jobs.insert(), [job(f"j{number}") for number in range(30)])
    first = index.publish()
    deltas = index.query(
        "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE '%delta' AND estimated_size > 0"
    ).rows
    assert deltas == [("commits_delta",)]
    assert index.query("SELECT rows_by_table['objects'] FROM index_info").rows == [(30,)]
    assert index.query("SELECT DISTINCT header_published_at FROM objects").rows == [(first.published_at,)]
    assert [row.n_rows for row in live(index, "objects")] == [30]
    assert live(index, "jobs") == [], "no commit has numbered them yet"
    stored = set(index.root.glob("data/objects/*/*.parquet"))
    index.expire()
    assert_shown(index)
    land("new", "o7", header=True)
    index.publish()
    index.expire()
    assert len(stored - set(index.root.glob("data/objects/*/*.parquet"))) == 1
    assert_shown(index)


def test_slices_beside_a_large_base_become_one(index: Index, land, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MAX_SLICES", 2)
    land(*(f"o{number}" for number in range(500)))
    index.publish()
    index.compact()
    (base,) = live(index, "objects")
    for turn in range(3):
        land(*(f"o{number}" for number in range(turn, turn + 12)), state=["held", "importing", "imported"][turn])
        index.publish()
    assert len(live(index, "objects")) == 4
    index.compact()
    index.publish()
    assert [(row.path == base.path, row.n_rows) for row in live(index, "objects")] == [(True, 500), (False, 14)]
    assert_shown(index)
    assert index.compact().files_in == 0
