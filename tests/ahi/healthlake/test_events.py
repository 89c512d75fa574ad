"""HealthLake's events in their wire forms, and a batch of them."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ahi import inbox
from ahi.events import Unreadable
from ahi.healthlake.events import HealthLakeEvent, open_batch, parse_healthlake_event
from ahi.inbox import Message, Queue
from ahi.index import catalog

STORE = "0123456789abcdef0123456789abcdef"
JOB = "f6d73be6fa8388548ae5d0870914a0ad"


def event(detail_type: str, detail: dict[str, object], event_id: str = "e1") -> str:
    at = {"time": "2026-11-21T10:10:09Z", "source": "aws.healthlake"}
    return json.dumps({"version": "0", "id": event_id, "detail-type": detail_type, "detail": detail, **at})


IMPORT = {
    "jobId": JOB,
    "submitTime": "2026-11-21T10:08:46.283Z",
    "datastoreId": STORE,
    "inputDataConfig": {"s3Uri": "s3://bucket/batches/000123/"},
}
CALL = {
    "eventSource": "healthlake.amazonaws.com",
    "eventName": "UpdateResource",
    "requestParameters": {"datastoreId": STORE, "resourceType": "Patient"},
    "responseElements": {"statusCode": 200},
    "additionalEventData": {"resourceId": "p1"},
}


@pytest.mark.parametrize(
    "word", ["Submitted", "Queued", "In Progress", "Completed", "Completed With Errors", "Failed", "New"]
)
def test_whatever_happens_to_an_import_job_is_worth_a_look(word):
    found = parse_healthlake_event(event(f"Import Job {word}", IMPORT))
    assert isinstance(found, HealthLakeEvent)
    assert (found.is_import, found.job_id, found.input_uri) == (True, JOB, "s3://bucket/batches/000123/")


def test_through_sns_without_raw_delivery():
    body = json.dumps({"Type": "Notification", "Message": event("Import Job Completed", IMPORT)})
    found = parse_healthlake_event(body)
    assert isinstance(found, HealthLakeEvent)
    assert found.job_id == JOB


@pytest.mark.parametrize(
    "body", ["", "[]", "{", "1", '{"detail-type": "x"}', '{"detail-type": 1, "detail": {}}', event("x", {}, "")]
)
def test_what_is_no_event(body):
    assert isinstance(parse_healthlake_event(body), Unreadable)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_json_breaks_the_parser(value):
    for body in (json.dumps(value), event("Import Job Completed", {"jobId": value, "inputDataConfig": value})):
        parse_healthlake_event(body)


def test_events_of_resources_exports_and_stores_are_recorded(chain):
    bodies = [
        event("AWS API Call via CloudTrail", CALL, "e1"),
        event(
            "Export Job Completed",
            {"jobId": "x1", "datastoreId": STORE, "outputDataConfig": {"s3Uri": "s3://b/"}},
            "e2",
        ),
        event("Data Store Active", {"datastoreId": STORE}, "e3"),
        event("Import Job Completed", IMPORT, "e4"),
        event("Import Job Completed", IMPORT, "e4"),
        "not json",
    ]
    messages = [Message(f"m{number}-{chain.bucket}", body) for number, body in enumerate(bodies)]
    batch = inbox.keep(chain.pipeline, Queue.HEALTHLAKE_EVENTS, messages)
    for _ in range(2):
        opened = open_batch(chain.pipeline, batch)
        assert [one.job_id for one in opened.import_jobs] == [JOB]
    table = catalog.events
    rows = chain.rows(sa.select(table.c.detail_type, table.c.subject, table.c.outcome).order_by(table.c.event_id))
    assert [tuple(row.values()) for row in rows] == [
        ("AWS API Call via CloudTrail: UpdateResource", "Patient/p1", "recorded"),
        ("Export Job Completed", "x1", "recorded"),
        ("Data Store Active", STORE, "recorded"),
        ("Import Job Completed", JOB, "used"),
    ]
    assert len(chain.rows(sa.select(catalog.quarantine))) == 1
