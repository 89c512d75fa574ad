"""The ledger: which version of a key counts, whatever the order in which its events come."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest
import sqlalchemy as sa

from ahi import ledger
from ahi.clock import now
from ahi.events import ObjectRemoved
from ahi.index import catalog
from ahi.index.store import Index


@pytest.fixture
def index(tmp_path):
    return Index(tmp_path / "index", f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def row(version: str, sequencer: str, state: str = "ready", landed: float = 0.0) -> dict[str, object]:
    moment = now()
    return {
        "object_id": ledger.object_id_of("b", "k", version, None),
        "bucket": "b",
        "key": "k",
        "version_id": version,
        "sequencer": sequencer,
        "state": state,
        "state_since": moment,
        "attempts": 0,
        "day": "2026-11-21",
        "landed_at": moment + dt.timedelta(seconds=landed),
    }


def states(index):
    query = sa.select(catalog.objects.c.version_id, catalog.objects.c.state)
    with index.engine.connect() as connection:
        return dict(connection.execute(query).all())


@pytest.mark.parametrize("order", list(itertools.permutations(["1", "2", "3"])))
def test_the_highest_sequencer_counts_in_any_order(index, order):
    for version in order:
        with index.commit(kind="test") as commit:
            ledger.enter(commit, [row(version, f"00{version}")])
    assert states(index) == {"1": "set_aside", "2": "set_aside", "3": "ready"}


def test_what_is_imported_stays_so_when_it_is_overwritten(index):
    with index.commit(kind="test") as commit:
        ledger.enter(commit, [row("1", "001", "imported"), row("2", "002")])
    assert states(index) == {"1": "imported", "2": "ready"}


def test_without_sequencers_the_later_upload_counts(index):
    with index.commit(kind="test") as commit:
        ledger.enter(commit, [row("1", "", landed=5), row("2", "00FF", landed=0)])
    assert states(index) == {"1": "ready", "2": "set_aside"}


@pytest.mark.parametrize(("sequencer", "expected"), [("003", "set_aside"), ("001", "ready")])
def test_a_removal_reaches_what_came_before_it(index, sequencer, expected):
    with index.commit(kind="test") as commit:
        ledger.enter(commit, [row("1", "002")])
        ledger.remove(commit, [ObjectRemoved("b", "k", None, sequencer, now())])
    assert states(index) == {"1": expected}


def test_removing_an_old_version_leaves_the_new_one_alone(index):
    with index.commit(kind="test") as commit:
        ledger.enter(commit, [row("1", "001"), row("2", "002")])
        ledger.remove(commit, [ObjectRemoved("b", "k", "1", "003", now())])
    assert states(index) == {"1": "set_aside", "2": "ready"}


def test_a_listed_version_wins_within_the_same_second(index):
    moment = now().replace(microsecond=300_000)
    with index.commit(kind="test") as commit:
        event = row("1", "001") | {"landed_at": moment}
        listed = row("2", "") | {"landed_at": moment.replace(microsecond=0)}
        ledger.enter(commit, [event, listed])
    assert states(index) == {"1": "set_aside", "2": "ready"}


def test_identity_tells_versions_and_etags_apart():
    ids = {
        ledger.object_id_of(*values)
        for values in (("b", "k", "1", "e"), ("b", "k", "2", "e"), ("b", "k", None, "e"), ("b", "k", "null", "f"))
    }
    assert len(ids) == 4
    assert ledger.object_id_of("b", "k", None, '"e"') == ledger.object_id_of("b", "k", "null", "e")


@pytest.mark.parametrize(("stated", "completeness"), [(None, "unknown"), (4, "partial"), (3, "complete"), (2, "over")])
def test_an_association_says_whether_what_its_manifest_states_has_come(index, stated, completeness):
    states = {"a": "held", "b": "held", "no DICOM": "failed", "overwritten": "set_aside"}
    rows = [
        row("1", "1", state) | {"object_id": name, "key": f"associations/1/{name}", "batch_id": "batch"}
        for name, state in states.items()
    ]
    beside = row("1", "1") | {"object_id": "beside", "key": "associations/10/c", "batch_id": "batch"}
    with index.commit(kind="test") as commit:
        ledger.enter(commit, [*rows, beside])
        assert ledger.release(commit, "b", "associations/1/", association=True, stated=stated) == 2
    index.publish()
    asked = "SELECT upload_id, landed, expected_objects, completeness FROM uploads ORDER BY landed"
    assert index.query(asked).rows == [
        ("batch", 1, None, "unknown"),
        ("associations/1/", 4, stated, completeness),
    ]


@pytest.mark.parametrize(
    ("associations", "loose", "expected"),
    [
        ({"1": (["A", "A"], 2)}, [], {"A": (2, "complete")}),
        ({"1": (["A", "A"], 3)}, [], {"A": (3, "partial")}),
        ({"1": (["A", "A"], 1)}, [], {"A": (1, "over")}),
        ({"1": (["A", "A"], None)}, [], {"A": (None, "unknown")}),
        ({"1": (["A"], 1), "2": (["A", "A"], 3)}, [], {"A": (4, "partial")}),
        ({"1": (["A"], 1), "2": (["A"], None)}, [], {"A": (None, "unknown")}),
        ({"1": (["A"], 1)}, ["A"], {"A": (None, "unknown")}),
        ({"1": (["A", "B"], 2)}, [], {"A": (None, "unknown"), "B": (None, "unknown")}),
        ({"1": (["A", None], 2)}, [], {"A": (2, "partial")}),
    ],
)
def test_what_is_stated_of_an_association_of_one_study_is_stated_of_the_study(index, associations, loose, expected):
    keys = {f"associations/{name}/{n}": study for name, (one, _) in associations.items() for n, study in enumerate(one)}
    keys |= {f"loose/{n}": study for n, study in enumerate(loose)}
    rows = [
        row("1", "1", "held" if study else "failed") | {"object_id": key, "key": key, "StudyInstanceUID": study}
        for key, study in keys.items()
    ]
    with index.commit(kind="test") as commit:
        ledger.enter(commit, rows)
        for name, (_, stated) in associations.items():
            ledger.release(commit, "b", f"associations/{name}/", association=True, stated=stated)
    index.publish()
    found = index.query("SELECT StudyInstanceUID, expected_objects, completeness FROM study_closure").rows
    assert {study: (stated, verdict) for study, stated, verdict in found} == expected


def test_one_prefix_in_two_buckets_is_two_associations(index):
    rows = [
        row("1", "1", "held")
        | {"object_id": bucket, "bucket": bucket, "key": "associations/1/a", "StudyInstanceUID": study}
        for bucket, study in (("b", "A"), ("c", "B"))
    ]
    with index.commit(kind="test") as commit:
        ledger.enter(commit, rows)
        for bucket, stated in (("b", 1), ("c", 2)):
            ledger.release(commit, bucket, "associations/1/", association=True, stated=stated)
    index.publish()
    asked = "SELECT StudyInstanceUID, expected_objects, completeness FROM study_closure ORDER BY 1"
    assert index.query(asked).rows == [("A", 1, "complete"), ("B", 2, "partial")]
