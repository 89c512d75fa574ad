"""Which events are left to a run of archives, and that they come to a run of their own if it does not see to them."""

from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest

from ahi import inbox
from ahi.archive.events import FOLLOWED, left_to_follower
from ahi.clock import now
from ahi.import_service import SERVICE
from ahi.inbox import Message, Queue
from ahi.index import catalog
from ahi.index.catalog import JobState


def message(name: str, detail_type: str, **detail: object) -> Message:
    body = {"id": str(uuid.uuid4()), "detail-type": detail_type, "source": "aws.medical-imaging", "detail": detail}
    return Message(name, json.dumps(body))


def job(name: str, job_id: str = "", job_name: str = "") -> Message:
    return message(name, "Import Job Completed", jobId=job_id, jobName=job_name, jobStatus="COMPLETED")


MESSAGES = [
    job("archive's job", job_id="1" * 32),
    job("archive's job before the answer to its start", job_id="9" * 32, job_name="of-archive"),
    job("upload's job", job_id="2" * 32),
    job("job of others", job_id="3" * 32),
    message("image set", "Image Set Created", imageSetId="a" * 32, imageSetVersion="1"),
    message("image set that goes", "Image Set Deleting", imageSetId="a" * 32, imageSetVersion="1"),
    message("data store", "Data Store Created", datastoreId="e" * 32),
    Message("nonsense", "{"),
]
FOLLOWED_ONES = {
    "archive's job",
    "archive's job before the answer to its start",
    "image set",
}


def test_what_is_left_to_who_follows_is_told_by_the_ledger(site):
    common = {"service": SERVICE, "state": JobState.SUBMITTED, "planned_at": now(), "day": "2026-11-22"}
    common |= {"datastore_id": "d", "in_place": False, "n_objects": 1, "n_bytes": 1}
    common |= {"input_uri": "s3://a/", "output_uri": "s3://b/"}
    rows = [
        common | {"job_key": "of-archive", "job_id": "1" * 32, "shard_key": "old-00001"},
        common | {"job_key": "of-upload", "job_id": "2" * 32, "shard_key": None},
    ]
    with site.pipeline.index.transaction() as connection:
        connection.execute(catalog.jobs.insert(), rows)
    assert left_to_follower(site.pipeline, MESSAGES) == set(), "nobody follows"
    with site.pipeline.index.transaction() as connection:
        connection.execute(catalog.leases.insert().values(name=FOLLOWED, until=now() + dt.timedelta(minutes=1)))
    assert left_to_follower(site.pipeline, MESSAGES) == FOLLOWED_ONES


def waits(messages):
    return {message.message_id for message in messages if message.body.startswith("later")}


def bodies(site, batches) -> list[list[str]]:
    return [sorted(message.body for message in inbox.read(site.pipeline, batch)) for batch in batches]


@pytest.mark.parametrize(
    ("sent", "asked_for", "left"),
    [
        (["later 1", "later 2"], [], [["later 1", "later 2"]]),
        (["now 1", "later 1"], [["now 1"]], [["later 1"]]),
        (["now 1"], [["now 1"]], []),
    ],
)
def test_what_may_wait_is_a_batch_of_its_own_for_which_no_run_is_asked_in_time(make_site, sent, asked_for, left):
    site = make_site(archive_gather_seconds=0.5, linger_seconds=0)
    pipeline, queue = site.pipeline, Queue.IMAGE_SET_EVENTS
    site.stack.drain_raw("IMAGE_SET")
    url = site.stack.env["AHI_IMAGE_SET_QUEUE_URL"]
    for body in sent:
        site.stack.client("sqs").send_message(QueueUrl=url, MessageBody=body)
    batch = inbox.collect(pipeline, queue, listen_seconds=1, may_wait=waits, wait_seconds=2)
    assert bodies(site, [batch] if batch else []) == asked_for
    assert bodies(site, inbox.deferred(pipeline, queue)) == left
    assert bodies(site, inbox.due(pipeline, queue)) == bodies(site, inbox.pending(pipeline, queue, with_deferred=False))
    assert bodies(site, inbox.due(pipeline, queue)) == asked_for
    assert inbox.collect(pipeline, queue, listen_seconds=0, may_wait=waits) is None, "the queue has forgotten them"
    site.stack.wait_for(lambda: len(inbox.due(pipeline, queue)) == len(asked_for + left))
    assert inbox.deferred(pipeline, queue) == []
