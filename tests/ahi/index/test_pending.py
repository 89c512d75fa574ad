"""Header rows are shown until their document is, and never both."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.index.catalog import ObjectState
from ahi.index.pending import read_pending
from ahi.index.store import Index
from tests.ahi.index.conftest import SERIES, STUDY


def shown(index: Index, view: str = "instances") -> dict[str, str]:
    index.publish()
    rows = index.query(f"SELECT SOPInstanceUID, row_source FROM {view}").rows
    assert len(dict(rows)) == len(rows), "each instance once"
    return {str(uid).removeprefix(f"{SERIES}."): str(source) for uid, source in rows}


@pytest.mark.parametrize("state", list(ObjectState))
def test_an_object_is_shown_once_in_every_state(
    index: Index, change, upload, index_documents, state: ObjectState
) -> None:
    """By its header until its document is indexed, whichever of results and document comes first; then by that."""
    waits = state not in (ObjectState.FAILED, ObjectState.SET_ASIDE)
    upload("1", "2", state=state)
    early = {"1": "header", "2": "header"} if waits else {}
    assert (shown(index), shown(index, "instances_all")) == (early, early)
    assert index.query("SELECT n_instances, row_source FROM series").rows == ([(2, "header")] if waits else [])
    index_documents("1")
    part = {"1": "document"} | ({"2": "header"} if waits else {})
    assert shown(index) == part
    expected = [(SERIES, "document", 1, 1 if waits else 0)]
    assert index.query("SELECT SeriesInstanceUID, row_source, n_instances, n_pending FROM series").rows == expected
    change("1", state="imported", image_set_id="i", indexed=True)
    assert shown(index) == part
    assert index.query("SELECT count(*) FROM headers").rows == [(2,)]
    assert index.query("SELECT count(*), any_value(closes) FROM objects, closure").rows == [(2, True)]


def test_nothing_pending_leaves_no_trace_in_the_views(index: Index, change, upload, index_documents) -> None:
    upload("1", state="imported")
    index_documents("1")
    change("1", image_set_id="i", indexed=True)
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


def test_only_header_files_that_hold_pending_objects_are_read(index: Index, change, upload) -> None:
    for number in range(4):
        upload(str(number))
    change("0", "1", "3", state="failed")
    assert shown(index) == {"2": "header"}
    sql = "SELECT sql FROM duckdb_views() WHERE view_name = 'headers_pending'"
    assert str(index.query(sql).rows[0][0]).count(".parquet") == 1


def test_studies_and_patients_say_where_their_rows_come_from(index: Index, upload, index_documents) -> None:
    upload("1", series="1.2.8", StudyDescription="Head")
    index.publish()
    assert index.query("SELECT row_source, StudyDescription FROM studies").rows == [("header", "Head")]
    index_documents("1", "2")
    index.publish()
    columns = "row_source, NumberOfStudyRelatedSeries, NumberOfStudyRelatedInstances, n_pending"
    assert index.query(f"SELECT {columns} FROM studies").rows == [("both", 2, 3, 0)]
    assert index.query("SELECT row_source, n_series, n_pending FROM patients").rows == [("both", 2, 0)]


def test_what_is_pending_beside_a_document_is_counted(index: Index, upload, index_documents) -> None:
    """Each instance once, beside the primary image set only, and no longer when its document comes."""
    upload("1", "2", "3")
    upload("3", prefix="again")
    index_documents("1")
    index_documents("9", is_primary=False, image_set_id="other")
    index.publish()
    counts = "is_primary, n_instances, n_pending"
    assert index.query(f"SELECT {counts} FROM series").rows == [(True, 1, 2)]
    assert index.query(f"SELECT {counts} FROM series_all ORDER BY ALL").rows == [(False, 1, 0), (True, 1, 2)]
    assert index.query("SELECT NumberOfStudyRelatedInstances, n_pending FROM studies").rows == [(1, 2)]
    now_ = "(SELECT max(committed_at) FROM index_versions)"
    assert index.query(f"SELECT n_instances, n_pending FROM series_as_of({now_})").rows == [(1, None)]
    plans = [str(index.query(f"EXPLAIN SELECT {one} FROM series GROUP BY ALL").rows) for one in ("Rows", "n_pending")]
    assert ["pending_series" in plan for plan in plans] == [False, True], "a join for a column that nobody asked for"
    index_documents("1", "2", "3", version=2)
    index.publish()
    assert index.query(f"SELECT {counts} FROM series").rows == [(True, 3, 0)]


def test_what_is_pending_is_counted_by_study_and_store(index: Index, upload, index_documents) -> None:
    """Some senders give series of two studies one UID, and an index may have rows of a store used before."""
    upload("1", "2")
    index_documents("1")
    index_documents("8", image_set_id="other study", StudyInstanceUID="9.9")
    index_documents("9", image_set_id="other store", datastore_id="before")
    index.publish()
    rows = index.query("SELECT image_set_id, n_pending FROM series").rows
    assert dict(rows) == {"i": 1, "other study": 0, "other store": 0}


def test_a_document_of_another_store_hides_nothing_that_is_pending(index: Index, upload, index_documents) -> None:
    """An index may have rows of a store used before, and the same objects go into another one now."""
    index_documents("1", "2")
    index.datastore_id = "now"
    upload("1", "2", "3")
    index.publish()
    sql = "SELECT datastore_id, row_source, {} FROM {} GROUP BY ALL ORDER BY ALL"
    expected = [("now", "header", 3), ("store", "document", 2)]
    assert index.query(sql.format("count(*)", "instances")).rows == expected
    assert index.query(sql.format("sum(n_instances)", "series")).rows == expected
    assert index.query("SELECT sum(n_pending) FROM series").rows == [(0,)]


def test_two_uploads_of_one_instance_are_one_row(index: Index, upload) -> None:
    upload("1", prefix="old", PatientID="A")
    upload("1", prefix="new", PatientID="B")
    assert shown(index) == {"1": "header"}
    assert index.query("SELECT PatientID, n_instances, mixed_attrs FROM series").rows == [("B", 1, None)]


def test_objects_of_a_deleted_image_set_are_not_shown_by_their_headers(index: Index, change, upload) -> None:
    upload("1")
    change("1", state="imported", image_set_id="i")
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


def test_differences_between_header_and_document(index: Index, change, upload, index_documents) -> None:
    upload("1", StudyDescription="HEAD", Modality="CT ", ImageType=["ORIGINAL", "PRIMARY "], SeriesNumber=3)
    upload("2", StudyDescription="HEAD", ImageType=None)
    index_documents("1", "2", StudyDescription="Head", SeriesNumber=4, mixed_attrs=["SeriesNumber"])
    change("1", "2", state="imported", image_set_id="i", indexed=True)
    index.publish()
    sql = "SELECT object_id, attribute, header_value, document_value FROM differences"
    rows = index.query(f"{sql} WHERE StudyInstanceUID = '{STUDY}' ORDER BY ALL").rows
    image_type = ("1", "ImageType", "[ORIGINAL, 'PRIMARY ']", None)
    assert rows == [image_type, *((name, "StudyDescription", "HEAD", "Head") for name in "12")]
    assert index.query(f"{sql} WHERE SeriesInstanceUID = '9.9'").rows == []
