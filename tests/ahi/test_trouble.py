"""Trouble on the real stack: processes killed, messages repeated, shuffled and lost, services that fail.

The contract under test is the first promise: whatever happens, the tables end as those of a calm run.
"""

from __future__ import annotations

import json
import random

import pytest

from ahi import inbox
from ahi.closure import closure
from ahi.inbox import Queue
from ahi.pipeline import connect

KILL = "import os, signal\ndef die(*args, **kwargs):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
KILLED = -9


CALM: dict[str, list[str]] = {}


@pytest.fixture
def calm(make_site):
    """Tables of a calm run, made once, and the site that trouble then comes to."""
    if not CALM:
        quiet = make_site()
        quiet.send()
        assert quiet.drive().closes
        CALM.update(quiet.tables())
    return CALM, make_site()


def test_killed_between_inbox_write_and_acknowledge(calm):
    expected, site = calm
    sqs, url = site.stack.client("sqs"), site.stack.env["AHI_UPLOAD_QUEUE_URL"]
    before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "1"})
    site.send()
    code = "from ahi import inbox\ninbox.acknowledge = die\ninbox.collect(pipeline, 'uploads', listen_seconds=0)\n"
    site.run(KILL + code, expect=KILLED)
    assert len(inbox.pending(site.pipeline, Queue.UPLOADS)) == 1
    assert site.drive().closes
    sqs.set_queue_attributes(QueueUrl=url, Attributes=before)
    assert site.tables() == expected


def test_killed_between_start_and_its_record(calm):
    expected, site = calm
    site.send()
    site.collect()
    code = (
        "from ahi import chain, imports, inbox, uploads\nchain.submitted = die\n"
        "[uploads.process(pipeline, batch) for batch in inbox.pending(pipeline, 'uploads')]\n"
        "imports.advance(pipeline)\n"
    )
    site.run(KILL + code, expect=KILLED)
    assert len(site.stack.calls("StartDICOMImportJob")) == 1
    site.stack.wait_for(lambda: site.sweep() and site.drive().at_rest, what="recovery")
    assert len(site.stack.calls("StartDICOMImportJob")) == 1
    assert site.tables() == expected


@pytest.mark.parametrize("where", ["ahi.inbox.consume", "ahi.ledger.enter", "ahi.quarantine.enter"])
def test_killed_in_mid_commit_of_uploads(calm, where):
    expected, site = calm
    site.send()
    site.collect()
    module, name = where.rsplit(".", 1)
    code = f"import {module}\n{module}.{name} = die\nfrom ahi import inbox, uploads\n"
    code += "[uploads.process(pipeline, batch) for batch in inbox.pending(pipeline, 'uploads')]\n"
    site.run(KILL + code, expect=KILLED)
    assert site.ledger() == []
    site.drive()
    assert site.tables() == expected


def test_killed_in_mid_commit_of_rows(calm):
    expected, site = calm
    site.send()
    site.collect()
    site.work()
    site.stack.wait_for(lambda: site.collect() and inbox.pending(site.pipeline, Queue.IMAGE_SET_EVENTS))
    code = (
        "from ahi import inbox, indexing, image_sets, service_events\nindexing._shown = die\n"
        "for batch in inbox.pending(pipeline, 'image_set_events'):\n"
        "    opened = service_events.open_batch(pipeline, batch)\n"
        "    image_sets.sight(pipeline, [event.image_set_id for event in opened.image_sets])\n"
        "    indexing.catch_up(pipeline, [batch])\n"
    )
    site.run(KILL + code, expect=KILLED)
    reads = len(site.stack.calls("GetImageSetMetadata"))
    site.drive()
    assert site.tables() == expected
    assert len(site.stack.calls("GetImageSetMetadata")) == reads


def test_every_message_three_times_and_shuffled(calm):
    expected, site = calm
    site.stack.fault("duplicate_events", copies=3)
    site.stack.fault("shuffle_events", seconds=0.3, seed=7)
    sqs, url = site.stack.client("sqs"), site.stack.env["AHI_UPLOAD_QUEUE_URL"]
    site.send()
    bodies = [body for body in site.stack.drain_raw("UPLOAD") for _ in range(3)]
    random.Random(7).shuffle(bodies)
    for body in bodies:
        sqs.send_message(QueueUrl=url, MessageBody=body)
        if len(bodies) % 7 == 0:
            site.collect()
    assert site.drive().closes
    assert site.tables() == expected


def test_version_2_before_version_1(site):
    """Events of two versions, the newer first: the newer wins, whatever is read when."""
    site.send(["pydicom/CT2/17106"])
    site.drive()
    old = site.rows("SELECT image_set_id FROM series")[0][0]
    site.send(["pydicom/CT2/17136"])
    site.drive()
    assert site.rows("SELECT max(image_set_version) FROM series") == [(2,)]
    event = (
        '{"id": "late-1", "detail-type": "Image Set Created", "source": "aws.medical-imaging", '
        f'"detail": {{"imagesetId": "{old}", "imageSetVersion": "1", "datastoreId": "{site.datastore_id}"}}}}'
    )
    site.stack.client("sqs").send_message(QueueUrl=site.stack.env["AHI_IMAGE_SET_QUEUE_URL"], MessageBody=event)
    site.drive()
    assert site.rows("SELECT image_set_version, n_instances FROM series") == [(2, 2)]
    assert site.rows("SELECT count(*) FROM instances") == [(2,)]


def test_both_versions_unread_and_the_newer_first(site):
    """Events of versions 1 and 2 lie in the queue in the wrong order when anybody looks."""
    for number, name in enumerate(("17106", "17136"), 1):
        site.send([f"pydicom/CT2/{name}"])
        site.stack.wait_for(lambda number=number: imported(site) == number)
    events: list[str] = []

    def both():
        events.extend(body for body in site.stack.drain_raw("IMAGE_SET") if site.datastore_id in body)
        return len(events) == 2

    site.stack.wait_for(both, what="two events")
    versions = {body: json.loads(body)["detail"]["imageSetVersion"] for body in events}
    assert sorted(versions.values()) == ["1", "2"]
    for body in sorted(events, key=versions.__getitem__, reverse=True):
        site.stack.client("sqs").send_message(QueueUrl=site.stack.env["AHI_IMAGE_SET_QUEUE_URL"], MessageBody=body)
        inbox.collect(site.pipeline, Queue.IMAGE_SET_EVENTS, listen_seconds=0)
        site.work()
        site.pipeline.index.publish()
        assert site.rows("SELECT image_set_version, n_instances FROM series") == [(2, 2)]
    assert site.drive().closes
    assert site.rows("SELECT count(*), max(image_set_version) FROM instances_all") == [(2, 2)]


def imported(site):
    """How many objects are, after work on everything but events of image sets."""
    for queue in (Queue.UPLOADS, Queue.IMPORT_EVENTS):
        inbox.collect(site.pipeline, queue, listen_seconds=0)
    site.work()
    return sum(row["state"] == "imported" for row in site.ledger())


def test_a_slow_reader_of_version_1_does_not_win(site):
    """A document of version 1 that is committed after version 2 stays out."""
    from ahi import image_sets, indexing

    site.send(["pydicom/CT2/17106"])
    site.collect()
    site.work()
    site.stack.wait_for(lambda: site.collect() and inbox.pending(site.pipeline, Queue.IMAGE_SET_EVENTS))
    image_set_id = site.stack.client("medical-imaging").search_image_sets(datastoreId=site.datastore_id)[
        "imageSetsMetadataSummaries"
    ][0]["imageSetId"]
    slow = connect(site.settings)
    image_sets.sight(slow, [image_set_id])
    (chunk,) = indexing._newest_kept(slow, indexing.catalog.sightings.c.pending)
    assert [kept.version for kept in chunk] == [1]
    site.send(["pydicom/CT2/17136"])
    site.drive()
    indexing._index(slow, chunk, indexing.IndexReport(), replace=False)
    site.pipeline.index.publish()
    assert site.rows("SELECT image_set_version, n_instances FROM series") == [(2, 2)]
    assert site.rows("SELECT count(*) FROM instances_all") == [(2,)]


def test_a_deleted_image_set_leaves_every_table(site):
    site.send(["pydicom/CT2/17106", "pydicom/rtplan.dcm"])
    site.drive()
    (doomed,) = site.rows("SELECT image_set_id FROM series WHERE Modality = 'CT'")[0]
    imaging = site.stack.client("medical-imaging")
    imaging.delete_image_set(datastoreId=site.datastore_id, imageSetId=doomed)
    site.stack.wait_for(lambda: site.drive().at_rest and site.rows("SELECT count(*) FROM series") == [(1,)])
    for view in ("series_all", "instances_all", "frames"):
        assert site.rows(f"SELECT count(*) FROM {view} WHERE image_set_id = '{doomed}'") == [(0,)]
    assert site.rows("SELECT count(*) FROM patients") == [(1,)]


def test_a_shrunken_image_set_keeps_no_ghosts(site):
    site.send([f"pydicom/CT2/{name}" for name in ("17106", "17136", "17166")])
    site.drive()
    image_set_id, study, series = site.rows("SELECT image_set_id, StudyInstanceUID, SeriesInstanceUID FROM series")[0]
    (sop,) = site.rows("SELECT SOPInstanceUID FROM instances ORDER BY 1 LIMIT 1")[0]
    removal = {"SchemaVersion": 1.1, "Study": {"Series": {series: {"Instances": {sop: {}}}}}}
    assert study
    site.stack.client("medical-imaging").update_image_set_metadata(
        datastoreId=site.datastore_id,
        imageSetId=image_set_id,
        latestVersionId="1",
        force=True,
        updateImageSetMetadataUpdates={"DICOMUpdates": {"removableAttributes": json.dumps(removal).encode()}},
    )
    site.stack.wait_for(lambda: site.drive().at_rest and site.rows("SELECT count(*) FROM instances_all") == [(2,)])
    assert site.rows("SELECT n_instances, image_set_version FROM series") == [(2, 2)]


@pytest.mark.parametrize(
    "faults",
    [
        [("fail_job", {})],
        [("fail_job", {"manifest": True})],
        [("fail_files", {})],
        [("late_manifest", {"seconds": 2.5})],
        [("lose_response", {})],
        [("lock_metadata", {"times": 3})],
        [("throttle", {"first": 2})],
        [("throttle", {"service": service, "first": 1}) for service in ("medical-imaging", "s3", "sqs")],
    ],
    ids=str,
)
def test_a_service_that_misbehaves(calm, faults):
    expected, site = calm
    for kind, values in faults:
        site.stack.fault(kind, **values)
    site.send()
    site.stack.wait_for(lambda: site.drive().at_rest, what="rest")
    assert site.tables() == expected


def test_all_files_failed_for_good_is_partial_not_silent(site):
    """COMPLETED with every file refused: each object fails with HealthImaging's own words."""
    site.stack.fault("fail_files", exception_type="ValidationException", message="DICOM attribute X does not exist")
    site.send(["pydicom/CT2/17106", "pydicom/rtplan.dcm"])
    closure = site.drive()
    assert (closure.failed, closure.closes) == (2, True)
    assert {row["reason_text"] for row in site.ledger()} == {"DICOM attribute X does not exist"}


@pytest.mark.parametrize("lost", ["Import Job *", "Image Set *", "*"])
def test_lost_events_are_found_by_the_sweep(calm, lost):
    expected, site = calm
    site.stack.fault("drop_events", detail_type=lost)
    site.send()
    if lost == "*":
        site.stack.drain("UPLOAD")
    site.collect()
    site.work()

    def found() -> bool:
        site.sweep()
        site.collect()
        site.work()
        return bool(site.ledger()) and closure(site.pipeline.index.engine).at_rest

    site.stack.wait_for(found, what="the sweep to find it")
    site.drive()
    assert site.tables() == expected


def test_a_lost_deletion_is_found_by_the_sweep(site):
    site.send(["pydicom/CT2/17106", "pydicom/rtplan.dcm"])
    site.drive()
    site.stack.fault("drop_events", detail_type="Image Set *")
    (doomed,) = site.rows("SELECT image_set_id FROM series WHERE Modality = 'CT'")[0]
    site.stack.client("medical-imaging").delete_image_set(datastoreId=site.datastore_id, imageSetId=doomed)

    def gone() -> bool:
        site.sweep()
        return site.drive().at_rest and site.rows("SELECT count(*) FROM series") == [(1,)]

    site.stack.wait_for(gone, what="the deletion")


def success_files(s3, bucket):
    found = s3.list_objects_v2(Bucket=bucket, Prefix="jobs/").get("Contents", [])
    return [entry["Key"] for entry in found if entry["Key"].endswith("success.ndjson")]


def test_results_in_the_guides_own_spelling_and_a_broken_line(site):
    """`True` as the developer guide prints it is read; a line that cannot be read sends its file into another job."""
    site.send(["pydicom/CT2/17106", "pydicom/rtplan.dcm"])
    site.collect()
    site.work()
    s3, bucket = site.stack.client("s3"), site.stack.env["AHI_LAKE_BUCKET"]
    (key,) = site.stack.wait_for(lambda: success_files(s3, bucket))
    good, _other = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode().splitlines()
    s3.put_object(Bucket=bucket, Key=key, Body=good.replace("true", "True") + '\n{"inputFile": \n')
    assert site.drive().imported == 2
    assert site.rows("SELECT reason_code FROM quarantine") == [("RESULT_NOT_UNDERSTOOD",)]
    assert len(site.stack.calls("StartDICOMImportJob")) == 2


def test_result_lines_that_come_after_the_manifest_are_waited_for(site):
    site.send(["pydicom/CT2/17106"])
    site.collect()
    site.work()
    s3, bucket = site.stack.client("s3"), site.stack.env["AHI_LAKE_BUCKET"]
    (key,) = site.stack.wait_for(lambda: success_files(s3, bucket))
    lines = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.delete_object(Bucket=bucket, Key=key)
    for _ in range(2):
        site.collect()
        site.work()
    assert {row["state"] for row in site.ledger()} == {"importing"}
    s3.put_object(Bucket=bucket, Key=key, Body=lines)
    assert site.drive().imported == 1
    assert len(site.stack.calls("StartDICOMImportJob")) == 1


def test_one_object_that_s3_will_not_give_does_not_hold_up_its_batch(site):
    site.send(["pydicom/rtplan.dcm"])
    bucket = site.stack.env["AHI_LANDING_BUCKET"]
    entry = {"key": "in/odd.dcm", "size": 9, "eTag": "e", "versionId": "not a version", "sequencer": "1"}
    s3 = {"bucket": {"name": bucket}, "object": entry}
    record = {"eventName": "ObjectCreated:Put", "eventTime": "2026-11-21T10:00:00Z", "s3": s3}
    url = site.stack.env["AHI_UPLOAD_QUEUE_URL"]
    site.stack.client("sqs").send_message(QueueUrl=url, MessageBody=json.dumps({"Records": [record]}))
    closure = site.drive()
    assert (closure.imported, closure.failed) == (1, 1)


def test_several_runs_that_hear_of_one_version_read_it_once(site):
    from concurrent.futures import ThreadPoolExecutor

    from ahi import image_sets

    site.send(["pydicom/CT2/17106"])
    site.collect()
    site.work()
    imaging = site.stack.client("medical-imaging")

    def there():
        return imaging.search_image_sets(datastoreId=site.datastore_id)["imageSetsMetadataSummaries"]

    (found,) = site.stack.wait_for(there)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: image_sets.sight(connect(site.settings), [found["imageSetId"]]), range(4)))
    assert len(site.stack.calls("GetImageSetMetadata")) == 1


def test_a_deletion_that_was_none_is_undone(site):
    from ahi import image_sets, indexing

    site.send(["pydicom/CT2/17106"])
    site.drive()
    (image_set_id,) = site.rows("SELECT image_set_id FROM series")[0]
    with site.pipeline.index.transaction() as connection:
        image_sets._note(connection, site.pipeline, image_set_id, version=1, gone=True)
    indexing.catch_up(site.pipeline)
    site.pipeline.index.publish()
    assert site.rows("SELECT count(*) FROM series_all") == [(0,)]
    image_sets.sight(site.pipeline, [image_set_id])
    indexing.catch_up(site.pipeline)
    site.pipeline.index.publish()
    assert site.rows("SELECT count(*) FROM instances") == [(1,)]
