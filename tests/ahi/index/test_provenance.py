"""Rows with the object that they came from, and what that went through."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from ahi.clock import now
from ahi.index import catalog as c

if TYPE_CHECKING:
    from ahi.index.store import Index

STUDY, SERIES = "1.2", "1.2.9"
WHERE = (
    "SELECT SOPInstanceUID, row_source, image_set_id, object_id, import_job_id, size_bytes FROM instances_provenance"
)


def put_job(index: Index, job_key: str, job_id: str) -> None:
    values = {"service": "medical-imaging", "state": "settled", "day": "2026-11-21", "datastore_id": "store"}
    values |= {"input_uri": "s3://in", "output_uri": "s3://out", "in_place": False, "planned_at": now()}
    with index.commit(kind="job") as commit:
        row = {"job_key": job_key, "job_id": job_id, "n_objects": 1, "n_bytes": 1, "starts": 1, **values}
        commit.connection.execute(c.jobs.insert().values(**row))


def test_an_instance_has_its_object_before_and_after_its_document_comes(
    index: Index, upload, index_documents, change
) -> None:
    """Also between the two, when results and document are read one before the other."""
    upload("1", "2")
    put_job(index, "key", "job")

    def shown() -> list[tuple[object, ...]]:
        index.publish()
        return [row[1:] for row in index.query(f"{WHERE} ORDER BY SOPInstanceUID").rows]

    assert shown() == [("header", None, name, None, None) for name in "12"]
    change("1", "2", job_key="key", state="importing", size_bytes=7)
    assert shown() == [("header", None, name, "job", 7) for name in "12"]
    change("1", "2", state="imported", image_set_id="i")
    assert shown() == [("header", None, name, "job", 7) for name in "12"]
    index_documents("1", "2")
    change("1", "2", indexed=True)
    assert shown() == [("document", "i", name, "job", 7) for name in "12"]


def test_each_image_set_has_the_objects_that_went_into_it(index: Index, upload, index_documents, change) -> None:
    """The newest of two uploads; none for what HealthImaging made itself, or for what failed."""
    upload("1", prefix="old")
    upload("1", prefix="new")
    upload("1", prefix="other")
    upload("1", prefix="bad", state="failed")
    upload("1", prefix="over", state="set_aside")
    index_documents("1", "made there")
    index_documents("1", is_primary=False, image_set_id="conflict")
    hour = dt.timedelta(hours=1)
    change("old1", state="imported", image_set_id="i", indexed=True, landed_at=now() - hour, size_bytes=1)
    change("new1", state="imported", image_set_id="i", indexed=True, size_bytes=2)
    change("other1", state="imported", image_set_id="conflict", indexed=True, size_bytes=4)
    change("bad1", "over1", image_set_id="i", landed_at=now() + hour, indexed=True)
    index.publish()
    rows = index.query(f"{WHERE} ORDER BY image_set_id, SOPInstanceUID").rows
    assert [(row[2], row[3]) for row in rows] == [("conflict", "other1"), ("i", "new1"), ("i", None)]
    sums = "SELECT image_set_id, n_objects, size_bytes FROM series_provenance ORDER BY 1"
    assert index.query(sums).rows == [("conflict", 1, 4), ("i", 2, 3)]
    assert index.query("SELECT image_set_ids, n_objects, size_bytes FROM studies_provenance").rows == [(["i"], 3, 7)]


def test_sums_name_uploads_jobs_days_and_times(index: Index, upload, index_documents, change) -> None:
    upload("1", "2", "3")
    early, late = (dt.datetime(2026, 11, day, 12, tzinfo=dt.UTC) for day in (20, 21))
    for number, (moment, job) in enumerate([(late, "b"), (early, "a"), (late, "b")], 1):
        put_job(index, f"key {number}", job)
        times = {"received_at": moment, "submitted_at": moment, "job_ended_at": moment, "day": f"{moment:%Y-%m-%d}"}
        place = {"association_prefix": "associations/1/", "batch_id": "batch"} if number < 3 else {"batch_id": "batch"}
        change(str(number), state="imported", image_set_id="i", job_key=f"key {number}", indexed=True, **times, **place)
    index_documents("1", "2", "3")
    index.publish()
    expected = {
        "n_objects": 3,
        "upload_ids": ["associations/1/", "batch"],
        "import_job_ids": ["a", "b"],
        "partition_keys": ["2026-11-20", "2026-11-21"],
        "first_received_at": early,
        "last_received_at": late,
        "import_started_at": early,
        "imported_at": late,
    }
    for view in ("series_provenance", "studies_provenance"):
        (row,) = index.query(f"FROM {view}").dicts()
        assert {name: row[name] for name in expected} == expected, view
        assert row["published_at"] is not None
    (row,) = index.query("FROM instances_provenance WHERE SOPInstanceUID = '1.2.9.1'").dicts()
    assert (row["source_uri"], row["partition_key"], row["upload_id"]) == ("s3://b/1", "2026-11-21", "associations/1/")


def test_an_object_of_a_deleted_image_set_is_of_nothing_that_is_shown(
    index: Index, upload, index_documents, change
) -> None:
    """Not of the header of an earlier upload either, if it was deleted before it was indexed."""
    upload("1")
    upload("1", prefix="later")
    upload("2", series="1.2.8")
    change("later1", state="imported", image_set_id="gone")
    index_documents("7", image_set_id="gone")
    with index.commit(kind="bury") as commit:
        commit.bury("store", "gone", version=None, reason="deleted", at=now())
    index.publish()
    assert {row[3] for row in index.query(WHERE).rows} == {"1", "2"}
    assert index.query("SELECT sum(n_objects) FROM series_provenance").rows == [(2,)]
    assert index.query("SELECT n_objects FROM studies_provenance").rows == [(2,)]


def test_rows_without_upload_job_or_object_say_none(index: Index, upload, index_documents, change) -> None:
    upload("1", series="1.2.8")
    upload("2")
    change("2", state="imported", image_set_id="i", indexed=True, shard_key="shard")
    index_documents("2")
    index_documents("3", image_set_id="made there", SeriesInstanceUID="1.2.7")
    index.publish()
    shown = "image_set_id, n_objects, size_bytes, upload_ids, import_job_ids"
    rows = index.query(f"SELECT {shown} FROM series_provenance ORDER BY ALL").rows
    nothing = (None, None, None)
    assert rows == [("i", 1, *nothing), ("made there", 0, *nothing), (None, 1, *nothing)]
    assert index.query("SELECT image_set_ids FROM studies_provenance").rows == [(["i", "made there"],)]
    assert index.query("SELECT upload_id, shard_key FROM instances_provenance WHERE object_id = '2'").rows == [
        (None, "shard")
    ]


def test_a_study_of_headers_has_no_image_sets(index: Index, upload) -> None:
    upload("1")
    index.publish()
    assert index.query("SELECT image_set_ids, n_objects FROM studies_provenance").rows == [(None, 1)]


def test_objects_are_told_apart_by_study(index: Index, upload, index_documents, change) -> None:
    upload("1")
    upload("1", prefix="other", StudyInstanceUID="9.9")
    change("other1", StudyInstanceUID="9.9")
    index.publish()
    rows = index.query("SELECT StudyInstanceUID, object_id FROM instances_provenance ORDER BY 1").rows
    assert rows == [("1.2", "1"), ("9.9", "other1")]
    assert index.query("SELECT n_objects FROM series_provenance").rows == [(1,), (1,)]
