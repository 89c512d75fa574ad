"""Patient keys of header rows after a change of the secret."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest

from ahi import ledger
from ahi.clock import now
from ahi.documents import patient_key_function
from ahi.header_keys import remake_header_keys
from ahi.index.store import Index

OLD, NEW = patient_key_function(b"old"), patient_key_function(b"new")


@pytest.fixture
def index(tmp_path):
    return Index(tmp_path / "index", f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def pipeline_of(index, secret="new"):
    return SimpleNamespace(index=index, run_id="run", settings=SimpleNamespace(patient_key_secret=secret))


def header(object_id, patient, key):
    return {
        "object_id": object_id,
        "PatientID": patient,
        "patient_key": key,
        "SOPInstanceUID": f"1.{object_id}",
        "StudyDate": dt.date(2026, 1, 2),
        "StudyTime": dt.time(1, 2, 3, 400),
        "PixelSpacing": [0.5, 0.25],
        "cast_failures": [{"keyword": "PatientSize", "vr": "DS", "raw": "x", "reason": "not a decimal number"}],
        "received_at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    }


def land(index, batch_id, rows, day="2026-01-02"):
    file = index.write("headers", rows, batch_id=batch_id)
    with index.commit(batch_id=batch_id, kind="uploads", files=[file]) as commit:
        common = {"bucket": "b", "state": "ready", "state_since": now(), "day": day, "attempts": 0}
        ids = [row["object_id"] for row in rows]
        entered = [{"object_id": name, "key": name, **common, "header_seq": commit.seq} for name in ids]
        ledger.enter(commit, [{**row, "sequencer": None, "landed_at": now()} for row in entered])


def shown(index):
    index.publish()
    rows = index.query("SELECT * EXCLUDE (batch_id, indexed_at, dagster_run_id) FROM headers ORDER BY object_id")
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]


def test_rows_get_the_key_of_today_and_keep_everything_else(index):
    land(index, "one", [header("a", "P1", OLD(None, "P1")), header("b", "", OLD(None, "x")), header("c", "P2", None)])
    land(index, "two", [header("d", "P1", NEW(None, "P1"))])
    before = shown(index)
    assert remake_header_keys(pipeline_of(index)) == 3
    after = shown(index)
    assert [row["patient_key"] for row in after] == [NEW(None, "P1"), None, NEW(None, "P2"), NEW(None, "P1")]
    assert [row | {"patient_key": None} for row in after] == [row | {"patient_key": None} for row in before]
    assert remake_header_keys(pipeline_of(index)) == 0


def test_rows_that_do_not_count_do_not_come_back(index):
    land(index, "one", [header("a", "P1", OLD(None, "P1")), header("b", "P1", OLD(None, "P1"))])
    with index.commit(kind="test") as commit:
        commit.bury_headers(["a"])
    assert remake_header_keys(pipeline_of(index)) == 1
    assert [row["object_id"] for row in shown(index)] == ["b"]
    assert remake_header_keys(pipeline_of(index)) == 0


def test_only_rows_of_the_days_asked_for_are_made_anew(index):
    land(index, "one", [header("a", "P1", OLD(None, "P1"))])
    land(index, "two", [header("b", "P1", OLD(None, "P1"))], day="2026-01-03")
    assert remake_header_keys(pipeline_of(index), ["2026-01-03"]) == 1
    assert [row["patient_key"] for row in shown(index)] == [OLD(None, "P1"), NEW(None, "P1")]
    assert remake_header_keys(pipeline_of(index), ["2026-01-04"]) == 0
