"""Header rows are shown until their document is, and never both."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.catalog import ObjectState
from ahi.index.pending import read_pending
from ahi.index.store import Head, Index

STUDY, SERIES = "1.2", "1.2.9"


@pytest.fixture
def upload(index: Index):
    """Commit header rows of objects named by their SOP instance, in one state."""
    index.datastore_id = "store"

    def commit(*names: str, state: str = "ready", series: str = SERIES, prefix: str = "", **values: object) -> None:
        batch_id = f"up:{prefix}{'.'.join(names)}"
        rows = [
            {"object_id": f"{prefix}{name}", "StudyInstanceUID": STUDY, "SeriesInstanceUID": series}
            | {"SOPInstanceUID": f"{series}.{name}", "Modality": "CT", "patient_key": "k", "PatientID": "P"}
            | values
            for name in names
        ]
        with index.commit(batch_id=batch_id, kind="up", files=[index.write("headers", rows, batch_id=batch_id)]) as one:
            ledger = [
                {name: row[name] for name in ("object_id", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
                | {"bucket": "b", "key": row["object_id"], "state": state, "state_since": now(), "day": "2026-11-21"}
                | {"landed_at": now(), "header_seq": one.seq, "changed_seq": one.seq, "attempts": 0}
                for row in rows
            ]
            one.connection.execute(c.objects.insert(), ledger)

    return commit


@pytest.fixture
def index_documents(index: Index):
    """Commit an image set of the series with some instances, as HealthImaging's document gives it."""

    def commit(*names: str, version: int = 1, is_primary: bool = True, image_set_id: str = "i", **values: object):
        batch_id = f"doc:{image_set_id}{version}"
        base = {"datastore_id": "store", "image_set_id": image_set_id, "image_set_version": version}
        base |= {"is_primary": is_primary, "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
        series = [base | {"Modality": "CT", "patient_key": "k", "n_instances": len(names), "PatientID": "P"} | values]
        files = [
            index.write("series", series, batch_id=batch_id),
            index.write("instances", [base | {"SOPInstanceUID": f"{SERIES}.{x}"} for x in names], batch_id=batch_id),
        ]
        with index.commit(batch_id=batch_id, kind="doc", files=files) as one:
            one.raise_heads([Head("store", image_set_id, version, is_primary, STUDY, SERIES, len(names))])

    return commit


def change(index: Index, *object_ids: str, indexed: bool = False, **values: object) -> None:
    with index.commit(kind="change") as commit:
        values |= {"indexed_seq": commit.seq} if indexed else {}
        some = c.objects.update().where(c.objects.c.object_id.in_(object_ids))
        commit.connection.execute(some.values(changed_seq=commit.seq, **values))


def shown(index: Index, view: str = "instances") -> dict[str, str]:
    index.publish()
    rows = index.query(f"SELECT SOPInstanceUID, row_source FROM {view}").rows
    assert len(dict(rows)) == len(rows), "each instance once"
    return {str(uid).removeprefix(f"{SERIES}."): str(source) for uid, source in rows}


@pytest.mark.parametrize("state", list(ObjectState))
def test_an_object_is_shown_once_in_every_state(index: Index, upload, index_documents, state: ObjectState) -> None:
    """By its header until its document is indexed, whichever of results and document comes first; then by that."""
    waits = state not in (ObjectState.FAILED, ObjectState.SET_ASIDE)
    upload("1", "2", state=state)
    early = {"1": "header", "2": "header"} if waits else {}
    assert (shown(index), shown(index, "instances_all")) == (early, early)
    assert index.query("SELECT n_instances, row_source FROM series").rows == ([(2, "header")] if waits else [])
    index_documents("1")
    part = {"1": "document"} | ({"2": "header"} if waits else {})
    assert shown(index) == part
    assert index.query("SELECT SeriesInstanceUID, row_source FROM series").rows == [(SERIES, "document")]
    change(index, "1", state="imported", image_set_id="i", indexed=True)
    assert shown(index) == part
    assert index.query("SELECT count(*) FROM headers").rows == [(2,)]
    assert index.query("SELECT count(*), any_value(closes) FROM objects, closure").rows == [(2, True)]


def test_nothing_pending_leaves_no_trace_in_the_views(index: Index, upload, index_documents) -> None:
    upload("1", state="imported")
    index_documents("1")
    change(index, "1", image_set_id="i", indexed=True)
    shown(index)
    sql = "SELECT sql FROM duckdb_views() WHERE view_name LIKE '%_current%'"
    assert not [text for (text,) in index.query(sql).rows if "UNION" in str(text) or "headers" in str(text)]
    assert index.query("SELECT * FROM duckdb_tables() WHERE table_name = 'pending'").rows == []


def test_what_is_pending_is_found_by_an_index(index: Index) -> None:
    asked: list[Any] = []
    sa.event.listen(index.engine, "before_cursor_execute", lambda *event: asked.append(event[2:4]))
    with index.snapshot() as connection:
        read_pending(connection)
        if connection.dialect.name != "sqlite":
            return
        plans = [str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[-1][0]}", asked[-1][1])]
    assert not [plan for plan in plans if plan.startswith("SCAN")]
    assert [plan for plan in plans if "ix_objects_unindexed" in plan]


def test_only_header_files_that_hold_pending_objects_are_read(index: Index, upload) -> None:
    for number in range(4):
        upload(str(number))
    change(index, "0", "1", "3", state="failed")
    assert shown(index) == {"2": "header"}
    sql = "SELECT sql FROM duckdb_views() WHERE view_name = 'headers_pending'"
    assert str(index.query(sql).rows[0][0]).count(".parquet") == 1


def test_studies_and_patients_say_where_their_rows_come_from(index: Index, upload, index_documents) -> None:
    upload("1", series="1.2.8", StudyDescription="Head")
    index.publish()
    assert index.query("SELECT row_source, StudyDescription FROM studies").rows == [("header", "Head")]
    index_documents("1", "2")
    index.publish()
    columns = "row_source, NumberOfStudyRelatedSeries, NumberOfStudyRelatedInstances"
    assert index.query(f"SELECT {columns} FROM studies").rows == [("both", 2, 3)]
    assert index.query("SELECT row_source, n_series FROM patients").rows == [("both", 2)]


def test_two_uploads_of_one_instance_are_one_row(index: Index, upload) -> None:
    upload("1", prefix="old", PatientID="A")
    upload("1", prefix="new", PatientID="B")
    assert shown(index) == {"1": "header"}
    assert index.query("SELECT PatientID, n_instances, mixed_attrs FROM series").rows == [("B", 1, None)]


def test_objects_of_a_deleted_image_set_are_not_shown_by_their_headers(index: Index, upload) -> None:
    upload("1")
    change(index, "1", state="imported", image_set_id="i")
    with index.commit(kind="bury") as commit:
        commit.bury("store", "i", version=None, reason="deleted", at=now())
    assert shown(index) == {}


def test_a_series_of_headers_shows_what_they_agree_on(index: Index, upload) -> None:
    upload("1", "2", InstanceNumber=1, ImageType=["ORIGINAL", "PRIMARY"], PixelSpacing=[1.0, 2.0])
    upload("3", InstanceNumber=4, ImageType=["DERIVED", "LOCALIZER"], Modality="MR", Rows=512)
    index.publish()
    (row,) = index.query("FROM series").dicts()
    expected = {"Modality": None, "mixed_attrs": ["Modality"], "Rows": 512, "ImageType": ["ORIGINAL", "PRIMARY"]}
    expected |= {"n_instances": 3, "instance_number_gaps": 2, "is_original": True, "is_localizer": True}
    expected |= {"pixel_spacing_row_mm": 1.0, "pixel_spacing_col_mm": 2.0, "datastore_id": "store", "is_primary": None}
    assert {name: row[name] for name in expected} == expected


def test_differences_between_header_and_document(index: Index, upload, index_documents) -> None:
    upload("1", StudyDescription="HEAD", Modality="CT ", ImageType=["ORIGINAL", "PRIMARY "], SeriesNumber=3)
    upload("2", StudyDescription="HEAD", ImageType=None)
    index_documents("1", "2", StudyDescription="Head", SeriesNumber=4, mixed_attrs=["SeriesNumber"])
    change(index, "1", "2", state="imported", image_set_id="i", indexed=True)
    index.publish()
    sql = "SELECT object_id, attribute, header_value, document_value FROM differences"
    rows = index.query(f"{sql} WHERE StudyInstanceUID = '{STUDY}' ORDER BY ALL").rows
    image_type = ("1", "ImageType", "[ORIGINAL, 'PRIMARY ']", None)
    assert rows == [image_type, *((name, "StudyDescription", "HEAD", "Head") for name in "12")]
    assert index.query(f"{sql} WHERE SeriesInstanceUID = '9.9'").rows == []
