"""AS OF and differences between moments against a model in memory, before and after compaction."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING

import duckdb
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ahi.index import catalog as c
from ahi.index.columns import Column, Table, Tier
from ahi.index.history import KEYS, counted, key_of, macros, touched
from ahi.index.registry import TABLES
from ahi.index.store import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


SET = {"datastore_id": "store", "image_set_id": "a", "image_set_version": 1, "is_primary": True}


@pytest.fixture
def explode(index: Index) -> Callable[..., dt.datetime]:
    """Commit one version of an image set with rows of any tables, in any order; gives the commit's time."""

    def commit(batch_id: str, chance: random.Random, **tables: list[dict[str, object]]) -> dt.datetime:
        files = []
        for name, given_rows in tables.items():
            rows = [SET | row for row in given_rows]
            chance.shuffle(rows)
            cut = chance.randint(0, len(rows))
            files += [index.write(name, part, batch_id=batch_id) for part in (rows[:cut], rows[cut:]) if part]
        with index.commit(batch_id=batch_id, kind="index", files=files) as commit:
            commit.raise_heads([Head("store", "a", 1, True, "1", "1.2", 1)], replace=True)
            return commit.committed_at

    return commit


def exploded(value: str = "v") -> dict[str, list[dict[str, object]]]:
    """Rows as sequences make them: many under one path, some of them equal in all columns."""
    own = {"SeriesInstanceUID": "1.2", "SOPInstanceUID": "1.2.3", "level": "instance"}
    place = own | {"sequence_path": "ASequence"}
    elements = [place | {"tag": "00291001", "creator": "C", "value_text": f"{value}{n % 7}"} for n in range(12)]
    return {
        "private_elements": elements,
        "object_references": [place | {"ReferencedSOPInstanceUID": f"1.{n % 9}", "n_references": n} for n in range(30)],
        "codes": [place | {"keyword": "ASequence", "code": f"{n % 3}", "meaning": f"{n % 5}"} for n in range(20)],
    }


def test_rows_made_anew_have_not_changed(index: Index, explode) -> None:
    """As `ahi reindex` writes them: the same rows in new files, in any order, with ties and equal ones."""
    index.compact_files = 3
    chance = random.Random(7)
    moments = [explode(f"b{number}", chance, **exploded()) for number in range(4)]
    index.compact()
    moments.append(explode("b4", chance, **exploded()))
    last = explode("b5", chance, **(exploded() | {"private_elements": exploded("w")["private_elements"][:11]}))
    index.publish()
    with duckdb.connect(str(index.path), read_only=True) as connection:
        for attempt in range(10):
            span = [moments[0], moments[1 + attempt % 4]]
            # All tables cost a second.
            for name in (*exploded(), *(("",) if attempt < len(moments) - 1 else ())):
                macro = f"{name}_diff".strip("_")
                found = connection.execute(f"FROM {macro}(?::TIMESTAMPTZ, ?::TIMESTAMPTZ)", span).fetchall()
                assert found == [], macro
    sql = "FROM private_elements_diff(?::TIMESTAMPTZ, ?::TIMESTAMPTZ) ORDER BY ALL"
    answers = [index.query(sql, [moment, last]).rows for moment in moments for _ in range(2)]
    assert all(answer == answers[0] for answer in answers)
    assert Counter(row[0] for row in answers[0]) == {"changed": 11, "deleted": 1}


def test_touched_names_every_table_with_a_difference(index: Index, explode) -> None:
    index.compact_files = 2
    chance = random.Random(3)
    before = explode("b0", chance, **exploded())
    # What is gone is told by no commit's tables: its rows went with a version that has none of them.
    emptied = explode("b1", chance, codes=exploded()["codes"])
    with index.commit(kind="bury") as commit:
        commit.bury("store", "a", version=None, reason="gone", at=before)
        gone = commit.committed_at
    for _ in range(2):
        index.publish()
        for first, last, expected in (
            (before, emptied, ["codes", "object_references", "private_elements"]),
            (emptied, gone, ["codes"]),
            (gone, gone + dt.timedelta(days=1), []),
        ):
            rows = index.query(touched(TABLES), [first, last]).rows
            assert [row[0] for row in rows] == expected
            span, sums = [first, last], dict[tuple[object, object], object]()
            for name, *numbers in index.query(counted(expected), span).rows if expected else ():
                sums |= {(name, change): n for change, n in zip(("added", "changed", "deleted"), numbers, strict=True)}
            counts = index.query("FROM diff(?::TIMESTAMPTZ, ?::TIMESTAMPTZ)", span).rows
            assert {(name, change): n for name, change, n in counts} == {key: n for key, n in sums.items() if n}
        index.compact()
        index.expire()


def test_keys_are_columns_of_their_tables() -> None:
    for name, table in TABLES.items():
        assert {*key_of(table)} <= {column.name for column in table.columns}, name
        assert "StudyInstanceUID" not in key_of(table), "an image set whose study was changed is the same"
    assert KEYS.keys() <= TABLES.keys()


NAMES = ("image_set_id", "a", "b", "c")
SMALL = Table(
    "small",
    "Few columns.",
    tuple(Column(name, "VARCHAR", "", Tier.DEIDENTIFIED) for name in (*NAMES, "batch_id")),
    "image_set_id",
    ("a",),
)
BOUNDS = ("2026-01-02 00:00Z", "2026-01-04 00:00Z")
SPANS = {
    "stays": ("2026-01-01", None),
    "goes": ("2026-01-01", "2026-01-03"),
    "comes": ("2026-01-03", None),
    "came and went": ("2026-01-03", "2026-01-03 12:00:00"),
    "was gone": ("2026-01-01", "2026-01-02"),
    "comes later": ("2026-01-05", None),
}
Values = tuple[str | None, ...]


@pytest.fixture(scope="module")
def small() -> Iterator[duckdb.DuckDBPyConnection]:
    """A history of one table in memory, with the macros of the published file."""
    with duckdb.connect(config={"threads": 2}) as connection:
        columns = ", ".join(f"{name} VARCHAR" for name in (*NAMES, "batch_id"))
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE TABLE small_history ({columns}, valid_from TIMESTAMPTZ, valid_to TIMESTAMPTZ)")
        for signature, sql, _ in macros({"small": SMALL}, []):
            connection.execute(f"CREATE MACRO {signature} AS TABLE {sql}")
        yield connection


def by_nulls_last(values: Values) -> list[tuple[bool, str]]:
    return [(value is None, value or "") for value in values]


def reference(rows: Sequence[tuple[str, Values]]) -> list[tuple[object, ...]]:
    """What a difference must say: multisets, and lists in order."""
    went, came = (Counter(values for kind, values in rows if kind == one) for one in ("goes", "comes"))
    sides = [sorted(side.elements(), key=by_nulls_last) for side in (went - came, came - went)]
    grouped = [{key: list(found) for key, found in groupby(side, key=lambda one: one[:2])} for side in sides]
    answer: list[tuple[object, ...]] = []
    for key in grouped[0].keys() | grouped[1].keys():
        for old, new in zip_longest(grouped[0].get(key, []), grouped[1].get(key, [])):
            if old is None or new is None:
                answer.append(("added" if old is None else "deleted", *key, None))
            else:
                pairs = zip(NAMES[2:], old[2:], new[2:], strict=True)
                changes = [dict(zip(("attribute", "before", "after"), one, strict=True)) for one in pairs]
                answer.append(("changed", *key, [one for one in changes if one["before"] != one["after"]]))
    return sorted(answer, key=repr)


few = st.sampled_from(["x", "y", None])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["goes", "goes", "goes", "comes", "comes", "comes", *SPANS]),
            st.tuples(st.sampled_from("st"), few, few, few),
        ),
        max_size=24,
    ),
    chance=st.randoms(use_true_random=False),
)
def test_differences_are_those_of_multisets(
    small: duckdb.DuckDBPyConnection, rows: list[tuple[str, Values]], chance: random.Random
) -> None:
    wanted = reference(rows)
    for _ in range(2):
        chance.shuffle(rows)
        small.execute("DELETE FROM small_history")
        written = [one for kind, values in rows for one in (*values, str(chance.random()), *SPANS[kind])]
        if written:
            marks = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(rows))
            small.execute(f"INSERT INTO small_history VALUES {marks}", written)
        found = small.execute("FROM small_diff(?, ?)", BOUNDS).fetchall()
        assert sorted(found, key=repr) == wanted
        counts = small.execute("SELECT change, n_rows FROM small_diff_counts(?, ?)", BOUNDS).fetchall()
        assert dict(counts) == Counter(row[0] for row in wanted)
        assert small.execute("SELECT change, n_rows FROM diff(?, ?)", BOUNDS).fetchall() == counts
