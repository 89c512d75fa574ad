from __future__ import annotations

import datetime as dt
from itertools import permutations

import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.store import AlreadyCommitted, Head, Index

AT = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def count(index: Index, table: sa.Table) -> int:
    with index.snapshot() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.mark.both_catalogs
def test_a_batch_is_committed_once(index: Index, put, shown) -> None:
    put("one", {"a": 1})
    with pytest.raises(AlreadyCommitted, match="one"):
        put("one", {"a": 2})
    assert shown() == {"a": (1, 1)}


@pytest.mark.both_catalogs
def test_an_exception_leaves_nothing(index: Index, series_row) -> None:
    file = index.write("series", [series_row("a")], batch_id="one")

    def fail() -> None:
        with index.commit(batch_id="one", kind="test", files=[file]) as commit:
            commit.raise_heads([Head("store", "a", 1, True, None, None, 1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [count(index, table) for table in (c.commits, c.files, c.heads, c.dead)] == [0, 0, 0, 0]


def test_a_file_of_another_batch_is_refused(index: Index, series_row) -> None:
    file = index.write("series", [series_row("a")], batch_id="one")
    with pytest.raises(ValueError, match="another batch"), index.commit(batch_id="two", kind="test", files=[file]):
        pass
    assert count(index, c.commits) == 0


def test_an_image_set_comes_once_in_a_commit(index: Index) -> None:
    head = Head("store", "a", 1, True, None, None, 1)
    with index.commit(kind="test") as commit:
        commit.raise_heads([head])
        with pytest.raises(ValueError, match="twice"):
            commit.raise_heads([head])


@pytest.mark.parametrize(
    ("versions", "replace", "expected"),
    [
        ((1, 2), False, (2, "b2")),
        ((2, 1), False, (2, "b1")),
        ((2, 2), False, (2, "b1")),
        ((2, 2), True, (2, "b2")),
        ((2, 1), True, (2, "b1")),
    ],
)
def test_the_newer_version_is_shown(index: Index, put, shown, versions, replace, expected) -> None:
    for number, version in enumerate(versions, 1):
        winners = put(f"b{number}", {"a": version}, replace=replace)
        assert [head.version for head in winners] == ([version] if number == 1 or expected[1] == "b2" else [])
    assert shown() == {"a": (expected[0], expected[0])}
    assert index.query("SELECT batch_id FROM series").rows == [(expected[1],)]


def test_a_shrunken_image_set_keeps_no_orphan(index: Index, put, shown) -> None:
    put("one", {"a": 5, "b": 5})
    put("two", {"a": 6})
    assert shown() == {"a": (6, 6), "b": (5, 5)}


# Deliveries of one image set's story in every order, twice each: (version read) or (deletion up to version).
@pytest.mark.parametrize("deletion", [None, 2, 1])
def test_every_order_of_versions_and_deletion_gives_the_same_index(index: Index, deletion: int | None) -> None:
    orders = list(permutations(["v1", "v2", "v3", "delete"]))
    for step in range(8):
        # One image set for each order; a step of all of them is one commit.
        files = [index.write("series", [{"image_set_id": "any"}], batch_id=f"{step}")]
        with index.commit(batch_id=f"{step}", kind="test", files=files) as commit:
            for number, order in enumerate(orders):
                what = order[step % 4]
                if what == "delete":
                    commit.bury("store", f"{number}", version=deletion, reason="gone", at=AT)
                else:
                    version = int(what[1])
                    commit.raise_heads([Head("store", f"{number}", version, True, "1", "2", version)])
    with index.snapshot() as connection:
        heads = connection.execute(sa.select(c.heads)).fetchall()
        dead = set(connection.execute(sa.select(c.dead.c.table_name, c.dead.c.row_key, c.dead.c.batch_id)))
    assert len(heads) == len(orders)
    for head in heads:
        assert (("series", head.image_set_id, head.batch_id) in dead) == (head.deleted_at is not None)
    outcomes = {(x.version, x.n_instances, x.deleted_at, x.delete_reason, x.deleted_version) for x in heads}
    assert outcomes == {(3, 3, AT, "gone", None) if deletion is None else (3, 3, None, None, None)}


@pytest.mark.both_catalogs
def test_a_deletion_before_any_version_holds(index: Index, put, shown) -> None:
    with index.commit(kind="test") as commit:
        commit.bury("store", "a", version=1, reason="gone", at=AT)
        commit.bury("store", "b", version=None, reason="gone", at=AT)
    assert put("one", {"a": 1, "b": 7, "c": 1}) == [Head("store", "c", 1, True, "1.2.3", "1.2.3.c", 1)]
    assert shown() == {"c": (1, 1)}
    assert index.query("SELECT image_set_id, version, n_instances FROM image_sets WHERE deleted_at = ?", [AT]).rows == [
        ("a", 1, 1),
        ("b", 7, 7),
    ]
    put("two", {"a": 2})
    assert shown() == {"a": (2, 2), "c": (1, 1)}


def header(object_id: str) -> dict[str, object]:
    return {"object_id": object_id, "SOPInstanceUID": object_id, "SOPClassUID": "1.2"}


def put_headers(index: Index, batch_id: str, *object_ids: str, replace: bool = False) -> set[str]:
    """What an upload batch does: header rows, then the ledger."""
    file = index.write("headers", [header(object_id) for object_id in object_ids], batch_id=batch_id)
    with index.commit(batch_id=batch_id, kind="uploads", files=[file]) as commit:
        winners = commit.raise_headers(object_ids, replace=replace)
        for object_id in winners:
            values = {"header_seq": commit.seq, "changed_seq": commit.seq}
            if not commit.connection.execute(
                c.objects.update().where(c.objects.c.object_id == object_id).values(values)
            ).rowcount:
                commit.connection.execute(
                    c.objects.insert().values(
                        object_id=object_id,
                        bucket="b",
                        key="k",
                        state="ready",
                        state_since=now(),
                        day="2026-11-21",
                        **values,
                    )
                )
        return winners


@pytest.mark.both_catalogs
def test_an_object_announced_twice_has_one_header_row(index: Index) -> None:
    assert put_headers(index, "one", "x", "y") == {"x", "y"}
    assert put_headers(index, "two", "y", "z") == {"z"}
    index.publish()
    rows = index.query("SELECT object_id, batch_id FROM headers ORDER BY ALL").rows
    assert rows == [("x", "one"), ("y", "one"), ("z", "two")]
    assert put_headers(index, "three", "y", replace=True) == {"y"}
    with index.commit(kind="test") as commit:
        commit.bury_headers(["x", "nobody"])
    index.publish()
    assert index.query("SELECT object_id, batch_id FROM headers ORDER BY ALL").rows == [("y", "three"), ("z", "two")]


def test_discarded_rows_of_a_batch_do_not_count(index: Index) -> None:
    file = index.write("headers", [header("x"), header("y")], batch_id="one")
    with index.commit(batch_id="one", kind="test", files=[file]) as commit:
        commit.discard("headers", ["x"])
    index.publish()
    assert index.query("SELECT object_id FROM headers").rows == [("y",)]


@pytest.mark.both_catalogs
def test_rows_of_events_get_the_number_of_the_commit(index: Index) -> None:
    with index.commit(kind="test") as commit:
        commit.connection.execute(c.events.insert().values(event_id="e", detail_type="t", batch_id="b", outcome="used"))
        seq = commit.seq
    with index.snapshot() as connection:
        assert connection.scalar(sa.select(c.events.c.seq)) == seq


def test_an_image_set_whose_id_another_data_store_has_is_refused(index: Index, put) -> None:
    """Rows are told apart by that id alone: a deletion in one store would reach both."""
    put("one", {"a": 1})
    head = Head("other store", "a", 1, is_primary=True, study_uid="1", series_uid="1.1", n_instances=1)
    with pytest.raises(ValueError, match="two data stores"), index.commit(kind="test") as commit:
        commit.raise_heads([head])
