"""AS OF and differences between moments against a model in memory, before and after compaction."""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING

import duckdb
import pytest
import sqlalchemy as sa

from ahi.index import catalog as c

if TYPE_CHECKING:
    from collections.abc import Callable

    from ahi.index.store import Index

State = dict[str, tuple[int, str]]
"""Version and modality of each image set that is shown."""


@pytest.fixture
def story(index: Index, put: Callable[..., object]) -> Callable[[int, int], list[tuple[dt.datetime, State]]]:
    """Commit at random as queues deliver; give each commit's time and what has counted since then."""

    def tell(seed: int, steps: int) -> list[tuple[dt.datetime, State]]:
        chance, now = random.Random(seed), dict[str, tuple[int, str]]()
        deleted: set[str] = set()
        moments: list[tuple[dt.datetime, State]] = []
        for step in range(steps):
            name, version = chance.choice("abcd"), chance.randint(1, 4)
            kind = chance.choice(["put"] * 5 + ["again", "bury", "compact", "expire"])
            if kind == "bury":
                with index.commit(kind="bury") as commit:
                    commit.bury("store", name, version=None, reason="gone", at=commit.committed_at)
                deleted.add(name)
                now.pop(name, None)
            elif kind in ("put", "again"):
                modality, replace = chance.choice(["CT", "MR"]), kind == "again"
                put(f"{seed}.{step}", {name: version}, Modality=modality, replace=replace)
                old = now.get(name, (0, ""))[0]
                if name not in deleted and (version > old or (replace and version == old)):
                    now[name] = (version, modality)
            else:
                index.publish()
                index.compact() if kind == "compact" else index.expire()
                continue
            moments.append((newest(index), dict(now)))
        return moments

    return tell


def as_of(connection: duckdb.DuckDBPyConnection, moment: dt.datetime) -> State:
    sql = "SELECT image_set_id, image_set_version, Modality FROM series_all_as_of(?::TIMESTAMPTZ)"
    rows = connection.execute(sql, [moment]).fetchall()
    assert len({row[0] for row in rows}) == len(rows)
    counts = connection.execute(
        "SELECT image_set_id, count(*) FROM instances_all_as_of(?::TIMESTAMPTZ) GROUP BY ALL", [moment]
    ).fetchall()
    assert dict(counts) == {name: version for name, version, _ in rows}, "version v has v instances"
    return {name: (version, modality) for name, version, modality in rows}


def diff(connection: duckdb.DuckDBPyConnection, first: dt.datetime, last: dt.datetime) -> dict[str, tuple[str, object]]:
    sql = "SELECT image_set_id, change, changes FROM series_diff(?::TIMESTAMPTZ, ?::TIMESTAMPTZ)"
    return {name: (change, changes) for name, change, changes in connection.execute(sql, [first, last]).fetchall()}


def newest(index: Index) -> dt.datetime:
    """Time of the newest commit."""
    with index.snapshot() as connection:
        at = connection.scalar(sa.select(sa.func.max(c.commits.c.committed_at)))
    assert at is not None
    return at


def expected(before: State, after: State) -> dict[str, tuple[str, object]]:
    """What a diff must say. The fixture's series has its version as n_instances."""
    found: dict[str, tuple[str, object]] = {}
    for name in before.keys() | after.keys():
        if name not in before or name not in after:
            found[name] = ("added" if name in after else "deleted", None)
        elif before[name] != after[name]:
            sides = zip(("n_instances", "Modality"), map(str, before[name]), map(str, after[name]), strict=True)
            found[name] = ("changed", sorted(side for side in sides if side[1] != side[2]))
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.drill) for seed in (1, 2, 3))])
def test_every_past_moment_is_as_it_was(index: Index, story, seed: int) -> None:
    index.compact_files = 3
    moments = story(seed, 22)
    chance = random.Random(seed)
    pairs = [sorted(chance.sample(range(len(moments)), 2)) for _ in range(6)]
    for tidied in (False, True):
        if tidied:
            index.compact_files = 2
            index.compact()
            index.publish()
            index.expire()
        index.publish()
        with duckdb.connect(str(index.path), read_only=True) as connection:
            for moment, state in moments:
                assert as_of(connection, moment) == state, (tidied, moment)
            assert as_of(connection, moments[0][0] - dt.timedelta(microseconds=1)) == {}
            for first, last in pairs:
                found = diff(connection, moments[first][0], moments[last][0])
                flat = {
                    name: (change, changes and sorted(tuple(one.values()) for one in changes))
                    for name, (change, changes) in found.items()
                }
                assert flat == expected(moments[first][1], moments[last][1]), (tidied, first, last)
            current = connection.execute("SELECT image_set_id, image_set_version, Modality FROM series_all").fetchall()
        assert {name: (version, modality) for name, version, modality in current} == moments[-1][1]


def test_history_of_a_row_has_no_gap_and_no_overlap(index: Index, put) -> None:
    index.compact_files = 2
    for version in (1, 2, 3):
        put(f"b{version}", {"a": version})
        if version == 2:
            index.compact()
    index.publish()
    rows = index.query("SELECT image_set_version, valid_from, valid_to FROM series_history ORDER BY 1").rows
    assert [row[0] for row in rows] == [1, 2, 3]
    assert [row[2] for row in rows] == [rows[1][1], rows[2][1], None]
    times = [row[0] for row in index.query("SELECT committed_at FROM index_versions ORDER BY seq").rows]
    assert times == sorted(set(times))  # type: ignore[type-var]
    assert index.query("SELECT n_rows, n_files, tables FROM index_versions WHERE batch_id = 'b2'").rows == [
        (3, 2, ["instances", "series"])
    ]


def test_versions_that_lost_at_once_never_were(index: Index, put) -> None:
    index.compact_files = 2
    put("new", {"a": 2})
    put("late", {"a": 1})
    for _ in range(2):
        index.publish()
        assert index.query("SELECT image_set_version FROM series_history").rows == [(2,)]
        index.compact()


def test_summaries_and_headers_as_of(index: Index, put) -> None:
    put("one", {"a": 2}, patient_key="p")
    row = {"object_id": "o", "SOPInstanceUID": "1"}
    with index.commit(batch_id="h", kind="h", files=[index.write("headers", [row], batch_id="h")]) as commit:
        first = commit.committed_at
    with index.commit(kind="bury") as commit:
        commit.bury("store", "a", version=None, reason="gone", at=first)
        commit.discard("headers", [])
    index.publish()
    at = f"TIMESTAMPTZ '{first.isoformat()}'"
    assert index.query(f"SELECT NumberOfStudyRelatedInstances, row_source FROM studies_as_of({at})").rows == [
        (2, "document")
    ]
    assert index.query(f"SELECT n_series FROM patients_as_of({at})").rows == [(1,)]
    assert index.query(f"SELECT object_id FROM headers_as_of({at})").rows == [("o",)]
    assert index.query("FROM studies_as_of(now())").rows == []
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{index.path}' AS idx (READ_ONLY)")
        asked = "SELECT NumberOfStudyRelatedInstances FROM idx.studies_as_of({}, db := 'idx')"
        assert connection.execute(asked.format(at)).fetchall() == [(2,)]
        changed = f"SELECT count(*) FROM idx.series_diff({at}, now(), db := 'idx')"
        assert connection.execute(changed).fetchall() == [(1,)]
    counts = index.query(f"SELECT table_name, change, n_rows FROM diff({at}, now()) ORDER BY 1").rows
    assert counts == [
        (name, "deleted", n) for name, n in (("instances", 2), ("patients", 1), ("series", 1), ("studies", 1))
    ]


def test_studies_and_patients_change_with_their_series(index: Index, put) -> None:
    """Rows without PatientID are of patients of their own, and have no key to be told apart by."""
    put("one", {"a": 1}, StudyDescription="knee", patient_key="p", StudyInstanceUID="1")
    put("two", {"b": 1, "c": 1}, StudyDescription="hip", patient_key=None, StudyInstanceUID="2")
    put("three", {"d": 1}, patient_key=None, StudyInstanceUID="3")
    first = newest(index)
    put("anew", {"d": 1}, replace=True, patient_key=None, StudyInstanceUID="3")
    put("more", {"a": 2, "e": 3}, StudyDescription="knee left", patient_key="p", StudyInstanceUID="1")
    put("side", {"x": 5}, is_primary=False, patient_key="p", StudyInstanceUID="1")
    put("new", {"f": 1}, patient_key="q", StudyInstanceUID="4")
    with index.commit(kind="bury") as commit:
        for name in "bc":
            commit.bury("store", name, version=None, reason="gone", at=first)
    last = newest(index)
    for _ in range(2):
        index.publish()
        span, sql = [first, last], "FROM {}_diff(?::TIMESTAMPTZ, ?::TIMESTAMPTZ) ORDER BY ALL"
        *others, (_, _, uid, changes) = sorted(
            index.query(sql.format("studies"), span).rows, key=lambda row: row[2] == "1"
        )
        assert sorted(others) == [("added", "store", "4", None), ("deleted", "store", "2", None)]  # type: ignore[type-var]
        told = {one["attribute"]: (one["before"], one["after"]) for one in changes}  # type: ignore[attr-defined]
        assert (uid, told) == (
            "1",
            {
                "NumberOfStudyRelatedInstances": ("1", "5"),
                "NumberOfStudyRelatedSeries": ("1", "2"),
                "StudyDescription": ("knee", "knee left"),
            },
        )
        patients = [row[:3] for row in index.query(sql.format("patients"), span).rows]
        assert patients == [("added", "store", "q"), ("changed", "store", "p"), ("deleted", "store", None)]
        counts = index.query("FROM diff(?::TIMESTAMPTZ, ?::TIMESTAMPTZ)", span).rows
        found = {(name, change): n for name, change, n in counts if name in ("studies", "patients")}
        assert found == {(name, one): 1 for name in ("studies", "patients") for one in ("added", "changed", "deleted")}
        with duckdb.connect() as connection:
            connection.execute(f"ATTACH '{index.path}' AS idx (READ_ONLY)")
            asked = "SELECT change FROM idx.studies_diff(?::TIMESTAMPTZ, ?::TIMESTAMPTZ, db := 'idx') ORDER BY ALL"
            assert connection.execute(asked, span).fetchall() == [("added",), ("changed",), ("deleted",)]
        index.compact_files = 2
        index.compact()


def test_an_unknown_patient_who_comes_is_not_another_who_goes(index: Index, put) -> None:
    """Each study without PatientID is of a patient of its own, and so it is in differences."""
    put("one", {"a": 1}, PatientName="A", patient_key=None, StudyInstanceUID="1")
    put("two", {"c": 1}, PatientName="C", patient_key=None, StudyInstanceUID="3")
    first = newest(index)
    with index.commit(kind="bury") as commit:
        commit.bury("store", "a", version=None, reason="gone", at=first)
    put("three", {"b": 1}, PatientName="B", patient_key=None, StudyInstanceUID="2")
    put("four", {"c": 2}, PatientName="C^D", patient_key=None, StudyInstanceUID="3")
    index.publish()
    span = [first, newest(index)]
    sql = "SELECT change, patient_key, StudyInstanceUID FROM patients_diff(?::TIMESTAMPTZ, ?::TIMESTAMPTZ) ORDER BY ALL"
    assert index.query(sql, span).rows == [("added", None, "2"), ("changed", None, "3"), ("deleted", None, "1")]
    counts = "SELECT change, n_rows FROM patients_diff_counts(?::TIMESTAMPTZ, ?::TIMESTAMPTZ) ORDER BY ALL"
    assert index.query(counts, span).rows == [("added", 1), ("changed", 1), ("deleted", 1)]


def test_differences_are_of_the_image_sets_that_the_view_shows(index: Index, put) -> None:
    put("one", {"a": 1, "b": 1})
    first = newest(index)
    put("aside", {"a": 2, "x": 1}, is_primary=False)
    put("more", {"b": 2})
    index.publish()
    sql = "SELECT image_set_id, change FROM series_diff(?::TIMESTAMPTZ, now(){}) ORDER BY 1"
    assert index.query(sql.format(""), [first]).rows == [("a", "deleted"), ("b", "changed")]
    everything = index.query(sql.format(", all_sets := true"), [first]).rows
    assert everything == [("a", "changed"), ("b", "changed"), ("x", "added")]
    shown, before = (index.query(f"SELECT count(*) FROM series_as_of({at})").rows for at in ("now()", f"'{first}'"))
    assert (before, shown) == ([(2,)], [(1,)])


def test_macros_say_that_headers_are_not_in_a_past_moment(index: Index) -> None:
    index.publish()
    comments = index.query("SELECT function_name, comment FROM duckdb_functions() WHERE function_name LIKE '%_as_of'")
    of = {name: str(comment) for name, comment in comments.rows}
    for name in ("studies", "patients", "series", "instances_all"):
        assert "headers_as_of" in of[f"{name}_as_of"], name


def test_only_tables_with_rows_of_a_batch_get_dead_keys(index: Index, put) -> None:
    put("one", {"a": 1})
    put("two", {"a": 2})
    with index.snapshot() as connection:
        rows = connection.execute(sa.select(c.dead.c.table_name).order_by(c.dead.c.table_name)).scalars().all()
    assert rows == ["instances", "series"]


def test_a_clock_that_goes_back_leaves_commits_in_order(index: Index, put, monkeypatch: pytest.MonkeyPatch) -> None:
    put("one", {"a": 1})
    monkeypatch.setattr("ahi.index.store.now", lambda: dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    put("two", {"a": 2})
    index.publish()
    assert index.query("SELECT valid_from < valid_to FROM series_history WHERE valid_to IS NOT NULL").rows == [(True,)]


def test_a_merge_moves_small_history_files_together(index: Index, put) -> None:
    index.compact_files = 2
    for version in range(1, 7):
        put(f"b{version}", {"a": version})
        index.compact()
    with index.snapshot() as connection:
        of_series = sa.and_(c.files.c.table_name == "series_history", c.files.c.retired_seq.is_(None))
        assert (connection.scalar(sa.select(sa.func.count()).select_from(c.files).where(of_series)) or 0) < 3
    index.publish()
    assert index.query("SELECT count(*), count(valid_to) FROM series_history").rows == [(6, 5)]
