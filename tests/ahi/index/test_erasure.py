"""Deletion takes rows out of every current view at once; erasure takes them out of every file and of the catalog."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

import duckdb
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.columns import Tier
from ahi.index.erasure import Erased, due, erase
from ahi.index.store import Head
from ahi.index.tiers.build import build_tier
from ahi.proof import Sought, prove

if TYPE_CHECKING:
    from ahi.index.store import Index

SECRET, OTHER = "1.2.840.99.7", "1.2.840.99.8"
KEY = b"key of the tests"


def take_in(
    index: Index, image_set_id: str, study: str, version: int, *, objects: tuple[str, ...] = (), instance: int = 1
) -> None:
    """One version of an image set with two instances, and header rows and ledger rows of some objects of one."""
    batch_id, series = f"{image_set_id}.{version}", f"{study}.1"
    base = {"datastore_id": "store", "image_set_id": image_set_id, "image_set_version": version, "is_primary": True}
    base |= {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    instances = [base | {"SOPInstanceUID": f"{series}.{number}"} for number in (1, 2)]
    headers = [
        {
            "object_id": name,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "SOPInstanceUID": f"{series}.{instance}",
        }
        for name in objects
    ]
    files = [
        index.write("series", [base | {"PatientName": f"NAME^{study}"}], batch_id=batch_id),
        index.write("instances", instances, batch_id=batch_id),
        index.write("headers", headers, batch_id=batch_id),
    ]
    with index.commit(batch_id=batch_id, kind="test", files=files) as commit:
        commit.raise_heads([Head("store", image_set_id, version, True, study, series, 2, patient_key=f"k{study}")])
        for row in headers:
            state = next((one for one in ("failed", "held") if row["object_id"].startswith(one)), "imported")
            values = row | {"bucket": "b", "key": f"in/{study}/x", "etag": f"e{study}", "state": state}
            values |= {
                "state_since": now(),
                "landed_at": now(),
                "day": "2026-11-21",
                "attempts": 0,
                "job_key": f"job of {image_set_id}",
            }
            values |= {"header_seq": commit.seq, "indexed_seq": commit.seq, "changed_seq": commit.seq}
            values |= {"image_set_id": image_set_id if state == "imported" else None}
            commit.connection.execute(c.objects.insert().values(**values))


def delete(index: Index, image_set_id: str) -> None:
    with index.commit(kind="bury") as commit:
        commit.bury("store", image_set_id, version=None, reason="deleted", at=now())


def holding(index: Index, word: str) -> list[str]:
    """Every place below the index's folder, decoded, and every table of the catalog with a word in it."""
    found = []
    with duckdb.connect() as connection:
        for path in sorted(index.root.rglob("*.parquet")):
            sql = f"SELECT count(*) FROM read_parquet('{path}') t WHERE contains(t::VARCHAR, '{word}')"
            if connection.execute(sql).fetchall() != [(0,)]:
                found.append(path.relative_to(index.root).as_posix().rpartition("/")[0])
    with duckdb.connect(str(index.path), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'internal'").fetchall()
        for (name,) in names:
            sql = f"SELECT count(*) FROM internal.\"{name}\" t WHERE contains(t::VARCHAR, '{word}')"
            found += [name] if connection.execute(sql).fetchall() != [(0,)] else []
    with index.snapshot() as connection:
        for table in c.metadata.sorted_tables:
            if any(word in str(tuple(row)) for row in connection.execute(sa.select(table))):
                found.append(table.name)
    return found


@pytest.fixture
def archive(index: Index) -> Index:
    """Two studies, each image set in two versions; some in history files, some not; the catalog's rows in slices."""
    index.compact_files = 2
    take_in(index, "a", SECRET, 1, objects=("o1", "failed1"))
    take_in(index, "b", OTHER, 1, objects=("o2", "failed2"))
    index.publish()
    take_in(index, "a", SECRET, 2)
    index.compact()
    take_in(index, "a", SECRET, 3)
    index.publish()
    return index


def test_a_deletion_takes_rows_out_of_every_current_view_at_once(archive: Index) -> None:
    delete(archive, "a")
    archive.publish()
    for view in ("series_all", "instances_all", "headers", "studies", "patients"):
        rows = archive.query(f'FROM "{view}"').rows
        assert rows, view
        if view == "headers":
            # An object that failed is in no image set: it stays until its instance is erased.
            rows = [row for row in rows if "failed1" not in row]
        assert SECRET not in str(rows), view
    assert archive.query("SELECT count(*) FROM series_history WHERE image_set_id = 'a'").rows == [(3,)]


def test_erasure_leaves_nothing_but_what_counts(archive: Index) -> None:
    delete(archive, "a")
    assert due(archive, now() - dt.timedelta(days=1)) == []
    image_sets = due(archive, now())
    assert image_sets == [("store", "a")]
    before = archive.query("SELECT landed, failed, imported, closes FROM closure").rows
    assert {place.kind for place in prove(archive, SECRET, secret=KEY) if place.n} == {"catalog", "file", "table"}
    assert [place for place in prove(archive, SECRET[:-2], secret=KEY) if place.n] == [], "a part of a longer UID"
    done = erase(archive, image_sets)
    assert (done.image_sets, done.objects) == (1, 2)
    assert done.rows == 3 + 6 + 2
    archive.publish()
    archive.expire()
    assert holding(archive, SECRET) == []
    assert [place for place in prove(archive, SECRET, secret=KEY) if place.n] == []
    assert [place for place in prove(archive, OTHER, secret=KEY) if place.n and place.kind == "file"]
    assert archive.query("SELECT landed, failed, imported, closes FROM closure").rows == before
    assert archive.query("SELECT object_id, erased_at IS NOT NULL FROM objects ORDER BY 1").rows == [
        ("failed1", True),
        ("failed2", False),
        ("o1", True),
        ("o2", False),
    ]
    assert archive.query("SELECT image_set_id, StudyInstanceUID, erased_at IS NOT NULL FROM tombstones").rows == [
        ("a", None, True)
    ]
    assert archive.query("SELECT count(*) FROM series_history").rows == [(1,)]
    assert archive.query("SELECT count(*) FROM instances").rows == [(2,)]
    assert archive.query("SELECT count(*) FROM headers").rows == [(2,)]
    assert due(archive, now()) == []
    assert erase(archive, []) == Erased()


def test_rows_that_come_after_erasure_are_erased_too(archive: Index) -> None:
    delete(archive, "a")
    erase(archive, due(archive, now()))
    take_in(archive, "a", SECRET, 9, objects=("late",))
    archive.publish()
    assert SECRET not in str(archive.query("FROM series_all").rows)
    image_sets = due(archive, now())
    assert image_sets == [("store", "a")]
    erase(archive, image_sets)
    archive.publish()
    archive.expire()
    assert holding(archive, SECRET) == []
    assert due(archive, now()) == []


def test_an_erasure_that_was_killed_goes_on(archive: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    delete(archive, "a")
    for step in ("merge", "_empty", "_rewrite_mirrors"):
        with monkeypatch.context() as patch:
            patch.setattr(f"ahi.index.erasure.{step}", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                erase(archive, due(archive, now()))
    erase(archive, due(archive, now()))
    archive.publish()
    archive.expire()
    assert holding(archive, SECRET) == []
    assert archive.query("SELECT count(*) FROM instances").rows == [(2,)]


def test_an_image_set_that_came_back_meanwhile_stays(archive: Index) -> None:
    with archive.commit(kind="bury") as commit:
        commit.bury("store", "a", version=3, reason="deleted", at=now())
    delete(archive, "b")
    image_sets = due(archive, now())
    take_in(archive, "a", SECRET, 4)
    asked: list[object] = []
    done = erase(archive, image_sets, delete_documents=lambda *image_set: asked.append(image_set))
    archive.publish()
    assert (done.image_sets, asked) == (1, [("store", "b", None)])
    assert archive.query("SELECT image_set_id, image_set_version FROM series_all").rows == [("a", 4)]
    assert archive.query("SELECT count(*) FROM instances").rows == [(2,)]


@pytest.mark.both_catalogs
@pytest.mark.parametrize("end", ["failed", "set_aside", "imported"])
def test_a_copy_on_its_way_is_erased_when_it_has_ended_in_no_image_set(index: Index, end: str) -> None:
    take_in(index, "a", SECRET, 1, objects=("o1", "held1"))
    delete(index, "a")
    assert erase(index, due(index, now())).objects == 0
    assert due(index, now()) == [], "until it has ended, nothing is to be done"
    with index.commit(kind="test") as commit:
        place = {"image_set_id": "c" if end == "imported" else None, "state": end, "changed_seq": commit.seq}
        commit.connection.execute(c.objects.update().where(c.objects.c.object_id == "held1").values(place))
    assert due(index, now()) == [("store", "a")]
    assert erase(index, due(index, now())).objects == (1 if end == "imported" else 2)
    if end == "imported":
        assert "objects" in holding(index, SECRET)
        delete(index, "c")
        assert erase(index, due(index, now())) == Erased(1, 1, 1, 1)
    index.publish()
    index.expire()
    assert (holding(index, SECRET), due(index, now())) == ([], [])


@pytest.mark.parametrize("instance", [1, 2])
def test_a_copy_is_spared_only_while_its_own_instance_is_in_an_image_set(index: Index, instance: int) -> None:
    """That the series lives on in another image set spares none: that one's deletion would not ask for the copy."""
    take_in(index, "a", SECRET, 1, objects=("o1", "failed1"))
    take_in(index, "b", SECRET, 1, objects=("o2",), instance=instance)
    done = []
    for image_set_id in ("a", "b"):
        delete(index, image_set_id)
        done.append(erase(index, due(index, now())).objects)
    index.publish()
    index.expire()
    assert done == ([1, 2] if instance == 1 else [2, 1])
    assert (holding(index, SECRET), due(index, now())) == ([], [])


def test_nothing_that_a_sender_wrote_is_left_in_the_ledger(archive: Index) -> None:
    """A name may stand in any element, also in one that says what sort of object it is."""
    sent = ["key", *(column.name for column in c.objects.columns if column.comment == "From its header")]
    assert {"Modality", "Manufacturer", "SOPClassUID", "TransferSyntaxUID"} < set(sent)
    with archive.commit(kind="test") as commit:
        mine = c.objects.update().where(c.objects.c.object_id.in_(("o1", "failed1")))
        keep = {"SeriesInstanceUID", "SOPInstanceUID"}
        values = {name: "ROE^JANE" for name in sent if name not in keep}
        commit.connection.execute(mine.values(changed_seq=commit.seq, **values))
    archive.publish()
    delete(archive, "a")
    erase(archive, due(archive, now()))
    archive.publish()
    archive.expire()
    assert (holding(archive, "ROE^JANE"), holding(archive, SECRET)) == ([], [])


@pytest.mark.both_catalogs
def test_what_comes_while_an_erasure_is_at_work_is_erased_by_the_next(archive: Index) -> None:
    with archive.commit(kind="bury") as commit:
        commit.bury("store", "a", version=3, reason="deleted", at=now())
    asked: list[object] = []

    def delete_documents(*image_set: object) -> None:
        asked.append(image_set)
        take_in(archive, "a", SECRET, 4)

    erase(archive, due(archive, now()), delete_documents=delete_documents)
    # One whose deletion does not cover the new version, and is final now.
    assert due(archive, now()) == [("store", "a")]
    erase(archive, due(archive, now()), delete_documents=lambda *image_set: asked.append(image_set))
    archive.publish()
    archive.expire()
    assert asked == [("store", "a", 3), ("store", "a", None)]
    assert (holding(archive, SECRET), due(archive, now())) == ([], [])


def test_no_byte_of_it_is_left_in_the_catalog(archive: Index) -> None:
    delete(archive, "a")
    with archive.snapshot() as connection:
        connection.execute(sa.select(c.state)).fetchall()
        connection.rollback()
        # The last connection that closes removes the log: with this one, only the erasure can have emptied it.
        erase(archive, due(archive, now()))
        for path in archive.root.glob("catalog.sqlite*"):
            assert SECRET.encode() not in path.read_bytes(), path.name


def test_the_proof_knows_the_name_of_a_uid_in_the_tiers(archive: Index) -> None:
    build_tier(archive, Tier.DEIDENTIFIED, KEY)
    delete(archive, "a")
    erase(archive, due(archive, now()))
    archive.publish()
    archive.expire()
    for uid in (SECRET, f"{SECRET}.1", f"{SECRET}.1.2"):
        assert {place.name.split("/")[0] for place in prove(archive, uid, secret=KEY) if place.counts and place.n} == {
            "tiers"
        }, uid
    archive.publish()
    for _ in range(2):  # files are retired, and then removed
        build_tier(archive, Tier.DEIDENTIFIED, KEY)
    assert [place for place in prove(archive, SECRET, secret=KEY) if place.n] == []


WHOLE = """7.7.7.1|7.7.7.1.|.7.7.7.1|..7.7.7.1..|a7.7.7.1|a.7.7.7.1|in/7.7.7.1.dcm|in/CT.7.7.7.1|in/CT.7.7.7.1.tmp
in/.7.7.7.1|in/CT.7.7.7.1.|in/a1.b.7.7.7.1/1|{"uid":"7.7.7.1"}|{'uid': .7.7.7.1}|2.7.7.7.1 7.7.7.1"""
LONGER = """7.7.7.10|17.7.7.1|2.7.7.7.1|7.7.7.1.2|in/CT.2.7.7.7.1.tmp|in/CT.7.7.7.1.2.tmp|.2.7.7.7.1|7.7.7.1.0.dcm"""


@pytest.mark.parametrize("engine", ["Python", "DuckDB", "Arrow"])
def test_a_uid_is_found_inside_names(engine: str) -> None:
    def finds(uid: str, text: str) -> bool:
        pattern = Sought(uid, {}).pattern
        if engine == "Python":
            return bool(re.search(pattern, text))
        if engine == "Arrow":
            return bool(pc.match_substring_regex(text, pattern).as_py())
        with duckdb.connect() as connection:
            return connection.execute("SELECT regexp_matches(?, ?)", [text, pattern]).fetchall() == [(True,)]

    whole = [text for line in WHOLE.splitlines() for text in line.split("|")]
    longer = LONGER.split("|")
    assert [text for text in whole if not finds("7.7.7.1", text)] == []
    assert [text for text in longer if finds("7.7.7.1", text)] == []
    assert [text for text in whole + longer for uid in ("7.7.7", "7.7.1") if finds(uid, text)] == []


def test_nothing_is_expected_of_what_an_erasure_leaves_of_an_association(index: Index) -> None:
    """Two of four objects would be partial for ever, and of one study all of a sudden."""
    prefix = "associations/1/"
    for image_set_id, study in (("kept", OTHER), ("gone", SECRET)):
        take_in(index, image_set_id, study, 1, objects=(f"{image_set_id} a", f"{image_set_id} b"))
    with index.commit(kind="test") as commit:
        for number, object_id in enumerate(commit.connection.scalars(sa.select(c.objects.c.object_id)).all()):
            values = {"key": f"{prefix}{number}", "association_prefix": prefix, "stated_objects": 4}
            mine = c.objects.update().where(c.objects.c.object_id == object_id)
            commit.connection.execute(mine.values(changed_seq=commit.seq, **values))
    closure = "SELECT StudyInstanceUID, landed, expected_objects, completeness FROM study_closure ORDER BY 1"
    uploads = "SELECT landed, expected_objects, completeness FROM uploads ORDER BY landed"
    index.publish()
    assert index.query(uploads).rows == [(4, 4, "complete")]
    unknown = (None, "unknown")
    assert index.query(closure).rows == [(SECRET, 2, *unknown), (OTHER, 2, *unknown)]
    delete(index, "gone")
    erase(index, due(index, now()))
    assert index.query(closure).rows == [(OTHER, 2, *unknown)]
    assert index.query(uploads).rows == [(2, *unknown), (2, *unknown)]
