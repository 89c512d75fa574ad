"""Closure over ledgers made by hand: what counts as what, and that asking stays cheap."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.closure import closure, overdue
from ahi.freshness import percentiles
from ahi.index import catalog
from ahi.index.store import Index

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def index(tmp_path):
    return Index(tmp_path / "index", f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def enter(index, n=1, **values):
    """Rows of the ledger, two hours old."""
    at = now() - 2 * HOUR
    shared = {"bucket": "b", "key": "k", "state_since": at, "landed_at": at, "day": "2026-11-21", "attempts": 0}
    with index.transaction() as connection:
        taken = connection.execute(sa.select(sa.func.count()).select_from(catalog.objects)).scalar_one()
        rows = [{"object_id": f"o{taken + i}", **shared, **values} for i in range(n)]
        connection.execute(catalog.objects.insert(), rows)


def sight(index, image_set_id, **values):
    row = {"datastore_id": "d", "version": 1, "gone": False, "seen_at": now(), "pending": False, **values}
    with index.transaction() as connection:
        connection.execute(catalog.sightings.insert().values(image_set_id=image_set_id, **row))


def test_counts(index):
    for state, n in (("held", 1), ("ready", 2), ("importing", 3)):
        enter(index, n, state=state)
    enter(index, 4, state="failed", reason_code="BROKEN")
    enter(index, 5, state="set_aside", reason_code="SUPERSEDED")
    enter(index, 6, state="imported", image_set_id="i", indexed_seq=1)
    counted = closure(index.engine)
    assert (counted.landed, counted.in_flight, counted.failed, counted.set_aside, counted.imported) == (21, 6, 4, 5, 6)
    assert (counted.closes, counted.at_rest, counted.not_indexed, counted.unreadable) == (True, False, 0, 0)


@pytest.mark.parametrize("state", ["failed", "set_aside"])
def test_an_end_without_a_reason_does_not_close(index, state):
    enter(index, state=state)
    assert (closure(index.engine).unexplained, closure(index.engine).closes) == (1, False)


def test_a_state_that_is_none_of_ours_does_not_close(index):
    enter(index, state="lost")
    assert not closure(index.engine).closes


@pytest.mark.parametrize(
    ("sighting", "version", "expected"),
    [
        (None, 1, "not_indexed"),
        ({}, 1, "not_indexed"),
        ({"gone": True}, 1, "neither"),
        ({"gone": True, "unreadable_version": 1}, 1, "neither"),
        ({"unreadable_version": 1}, 1, "unreadable"),
        ({"unreadable_version": 1}, None, "unreadable"),
        ({"unreadable_version": 2, "version": 2}, 1, "unreadable"),
        # A newer version than the unreadable one is there, or holds the object: it may well be understood.
        ({"unreadable_version": 1, "version": 2}, 1, "not_indexed"),
        ({"unreadable_version": 1}, 2, "not_indexed"),
    ],
)
def test_why_an_imported_object_is_not_in_the_index(index, sighting, version, expected):
    enter(index, state="imported", image_set_id="i", image_set_version=version)
    if sighting is not None:
        sight(index, "i", **sighting)
        sight(index, "another", gone=True)
    counted = closure(index.engine)
    found = {"not_indexed": counted.not_indexed, "unreadable": counted.unreadable}
    assert found == {name: int(name == expected) for name in found}
    assert counted.at_rest == (expected != "not_indexed")
    late = overdue(index.engine, after_seconds=3_600)
    assert [item.state for item in late] == (["imported"] if expected == "not_indexed" else [])


def test_overdue_are_the_oldest_of_all_kinds(index):
    for hours, state in ((5, "imported"), (4, "held"), (3, "importing"), (2, "ready"), (0, "ready"), (9, "failed")):
        enter(index, state=state, state_since=now() - hours * HOUR, reason_code="BROKEN")
    assert [item.state for item in overdue(index.engine, after_seconds=3_600)] == [
        *("imported", "held", "importing", "ready")
    ]
    assert [item.state for item in overdue(index.engine, after_seconds=3_600, limit=2)] == ["imported", "held"]


def test_percentiles_of_hops(index):
    start = now() - HOUR
    for seconds in range(1, 101):
        enter(index, state="imported", landed_at=start, published_at=start + dt.timedelta(seconds=seconds))
    enter(index, state="ready", landed_at=start)
    enter(index, state="imported", landed_at=now() - 30 * HOUR, published_at=now())
    (hop,) = percentiles(index.engine)
    assert (hop.name, hop.count, hop.p50, hop.p95, hop.p99) == ("arrival to queryable", 100, 50.0, 95.0, 99.0)


def test_every_question_goes_by_an_index(index):
    """No plan reads the rows of the whole ledger: only the count by state goes through all of an index."""
    asked = []
    sa.event.listen(index.engine, "before_cursor_execute", lambda *event: asked.append(event[2:4]))
    closure(index.engine)
    overdue(index.engine, after_seconds=1)
    percentiles(index.engine)
    plans = []
    with index.engine.connect() as connection:
        for statement, parameters in [one for one in asked if one[0].startswith("SELECT")]:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans += [(statement, row[3]) for row in rows]
    whole = [(text, plan) for text, plan in plans if plan.startswith("SCAN objects")]
    assert [plan for _, plan in whole] == ["SCAN objects USING COVERING INDEX ix_objects_state_since"]
    assert "GROUP BY objects.state" in whole[0][0]
    used = {plan.split(" INDEX ")[1].split()[0] for _, plan in plans if " objects USING " in plan}
    assert used == {"ix_objects_state_since", "ix_objects_unindexed", "ix_objects_landed"}
