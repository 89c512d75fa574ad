"""What changed between two moments, by table: rows made anew have not, and equal rows are counted."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ahi.index.columns import Column, Table, Tier
from ahi.index.history import KEYS, counted, key_of, macros, touched
from ahi.index.registry import TABLES
from ahi.index.store import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ahi.index.store import Index

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
