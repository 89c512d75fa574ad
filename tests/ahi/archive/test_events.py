"""Which events an upload waits for while archives are imported; the others gather, so that one run has many."""

from __future__ import annotations

import json
import uuid

import pytest

from ahi import inbox
from ahi.archive.events import of_archives
from ahi.clock import now
from ahi.import_service import SERVICE
from ahi.inbox import Message, Queue
from ahi.index import catalog
from ahi.index.catalog import JobState, ObjectState

ARCHIVED, UPLOADED, SHARED, UNKNOWN = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)


def message(name: str, detail_type: str, **detail: object) -> Message:
    body = {"id": str(uuid.uuid4()), "detail-type": detail_type, "source": "aws.medical-imaging", "detail": detail}
    return Message(name, json.dumps(body))


def job(name: str, job_id: str = "", job_name: str = "") -> Message:
    return message(name, "Import Job Completed", jobId=job_id, jobName=job_name, jobStatus="COMPLETED")


def image_set(name: str, image_set_id: str) -> Message:
    return message(name, "Image Set Created", imageSetId=image_set_id, imageSetVersion="1")


MESSAGES = [
    job("archive's job", job_id="1" * 32),
    job("archive's job before the answer to its start", job_id="9" * 32, job_name="of-archive"),
    job("upload's job", job_id="2" * 32),
    job("job of others", job_id="3" * 32),
    image_set("archive's image set", ARCHIVED),
    image_set("upload's image set", UPLOADED),
    image_set("image set of both", SHARED),
    image_set("image set of nobody yet", UNKNOWN),
    message("data store", "Data Store Created", datastoreId="e" * 32),
    Message("nonsense", "{"),
]
OF_ARCHIVES = {"archive's job", "archive's job before the answer to its start", "archive's image set"}


@pytest.mark.parametrize(
    ("state", "more"), [(JobState.SUBMITTED, {"image set of nobody yet"}), (JobState.SETTLED, set())]
)
def test_what_no_upload_waits_for_is_told_by_the_ledger(site, state, more):
    common = {"service": SERVICE, "state": state, "planned_at": now(), "day": "2026-11-22", "datastore_id": "d"}
    common |= {"input_uri": "s3://a/", "output_uri": "s3://b/", "in_place": False, "n_objects": 1, "n_bytes": 1}
    rows = [
        common | {"job_key": "of-archive", "job_id": "1" * 32, "shard_key": "old-00001"},
        common | {"job_key": "of-upload", "job_id": "2" * 32, "shard_key": None},
    ]
    sets = [(ARCHIVED, "old-00001"), (UPLOADED, None), (SHARED, None), (SHARED, "old-00001")]
    with site.pipeline.index.transaction() as connection:
        connection.execute(catalog.jobs.insert(), rows)
        for number, (image_set_id, shard_key) in enumerate(sets):
            values = {"object_id": f"{number}", "bucket": "b", "key": f"{number}", "state": ObjectState.IMPORTED}
            values |= {"image_set_id": image_set_id, "shard_key": shard_key, "state_since": now(), "attempts": 1}
            values |= {"landed_at": now(), "day": "2026-11-22"}
            connection.execute(catalog.objects.insert().values(values))
    assert of_archives(site.pipeline, MESSAGES) == OF_ARCHIVES | more


def waits(messages):
    return {message.message_id for message in messages if message.body.startswith("later")}


@pytest.fixture
def tick(make_site):
    site = make_site(archive_gather_seconds=1, linger_seconds=0)
    sqs, url = site.stack.client("sqs"), site.stack.env["AHI_IMAGE_SET_QUEUE_URL"]

    def one(*bodies: str, listen_seconds: float = 1.0) -> list[str]:
        """Bodies that a tick makes a batch of when these come to the queue."""
        for body in bodies:
            sqs.send_message(QueueUrl=url, MessageBody=body)
        batch = inbox.collect(site.pipeline, Queue.IMAGE_SET_EVENTS, listen_seconds=listen_seconds, may_wait=waits)
        return sorted(message.body for message in inbox.read(site.pipeline, batch)) if batch else []

    site.stack.drain_raw("IMAGE_SET")
    return one


def test_what_may_wait_is_one_batch_when_its_time_is_over(tick):
    assert tick("later 1", "later 2") == ["later 1", "later 2"]
    assert tick() == []


def test_what_may_not_wait_takes_nothing_along_until_the_queue_has_given_it_thrice(tick):
    assert tick("now 1", "later 1") == ["now 1"]
    assert tick(listen_seconds=0) == [], "it is not to be seen for the rest of the time it may wait"
    assert tick("now 2", listen_seconds=2) == ["now 2"]
    seen: list[str] = []
    while "later 1" not in seen:
        seen += tick("now 3", listen_seconds=2)
    assert seen.count("later 1") == 1
