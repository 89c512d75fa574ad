"""Wire forms of messages: S3 notifications, association manifests, HealthImaging's own sample events."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi.events import (
    AssociationClosed,
    DataStoreEvent,
    ImageSetEvent,
    ImportJobEvent,
    ObjectCreated,
    ObjectRemoved,
    UnknownEvent,
    Unreadable,
    newer,
    parse_service_event,
    parse_upload,
)
from ahi.reasons import Reason

DEVGUIDE = Path(__file__).parents[1] / "data" / "healthimaging" / "ahi-events.devguide.json"


def samples():
    """The 19 events of the developer guide."""
    found = json.loads(DEVGUIDE.read_text())
    events = found if isinstance(found, list) else next(v for v in found.values() if isinstance(v, list))
    return [e.get("event", e) for e in events]


def record(name: str = "ObjectCreated:Put", **entry: object) -> dict[str, object]:
    entry = {"key": "in/a.dcm", "size": 5, "eTag": "e", "versionId": "v1", "sequencer": "00A1", **entry}
    s3 = {"bucket": {"name": "landing"}, "object": entry}
    return {"eventName": name, "eventTime": "2026-11-21T10:00:00.123Z", "s3": s3}


def test_every_event_of_the_developer_guide_is_understood():
    kinds = {event["detail-type"]: type(parse_service_event(json.dumps(event))) for event in samples()}
    assert len(kinds) == 19
    for detail_type, kind in kinds.items():
        expected = {"Import": ImportJobEvent, "Image": ImageSetEvent, "Data": DataStoreEvent}[detail_type.split()[0]]
        assert kind is expected, detail_type


@pytest.mark.parametrize("spelling", ["imageSetId", "imagesetId", None])
@pytest.mark.parametrize(("version", "parsed"), [("2", 2), (2, 2), (None, None)])
def test_both_spellings_and_optional_version(spelling, version, parsed):
    detail = {"datastoreId": "d", **({spelling: "i" * 32} if spelling else {})}
    detail |= {"imageSetVersion": version} if version is not None else {}
    arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/d/imageset/{'i' * 32}"
    body = {"id": "e1", "detail-type": "Image Set Created", "detail": detail, "resources": [arn]}
    event = parse_service_event(json.dumps(body))
    assert isinstance(event, ImageSetEvent)
    assert (event.image_set_id, event.version) == ("i" * 32, parsed)


def test_an_unknown_detail_type_is_kept_as_such():
    body = {"id": "e1", "detail-type": "Image Set Teleported", "detail": {"imageSetId": "x"}}
    assert isinstance(parse_service_event(json.dumps(body)), UnknownEvent)


def test_an_s3_message_may_hold_several_records_with_encoded_keys():
    keys = ["in/a+b%2Bc.DCM", "in/%C3%BC%E5%B1%B1/x", "k" * 1_024]
    found = parse_upload(json.dumps({"Records": [record(key=key) for key in keys]}))
    assert [item.key for item in found] == ["in/a b+c.DCM", "in/ü山/x", "k" * 1_024]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "landing"}', []),
        (json.dumps({"Records": [record()]}), [ObjectCreated]),
        (json.dumps({"Records": [record("ObjectCreated:CompleteMultipartUpload")]}), [ObjectCreated]),
        (json.dumps({"Records": [record("ObjectRemoved:DeleteMarkerCreated")]}), [ObjectRemoved]),
        (json.dumps({"Records": [record("LifecycleExpiration:Delete")]}), [ObjectRemoved]),
        (json.dumps({"Records": [record("ObjectRestore:Post")]}), [Unreadable]),
        (json.dumps({"Records": [record(key="")]}), [Unreadable]),
        (json.dumps({"Records": [record(key="a%00b")]}), [Unreadable]),
        (json.dumps({"Records": [record(key="\ud800")]}), [Unreadable]),
        (json.dumps({"Records": [{}, record()]}), [Unreadable, ObjectCreated]),
        (json.dumps({"Records": [None]}), [Unreadable]),
        ('{"associationId": "a", "bucket": "landing", "prefix": "associations/a/"}', [AssociationClosed]),
        ('{"associationId": "a", "bucket": "landing", "prefix": "associations/a"}', [Unreadable]),
        ('{"hello": 1}', [Unreadable]),
        ("[]", [Unreadable]),
        ("", [Unreadable]),
    ],
)
def test_upload_messages(body, expected):
    assert [type(item) for item in parse_upload(body)] == expected


def test_s3_through_eventbridge_has_plain_keys():
    detail = {"bucket": {"name": "b"}, "object": {"key": "in/a b+c", "size": 1, "sequencer": "1", "version-id": "v"}}
    body = {"source": "aws.s3", "detail-type": "Object Created", "time": "2026-11-21T10:00:00Z", "detail": detail}
    (item,) = parse_upload(json.dumps(body))
    assert isinstance(item, ObjectCreated)
    assert (item.key, item.version_id) == ("in/a b+c", "v")


def test_a_delete_marker_is_of_the_key_and_a_version_of_itself():
    marker, version = (
        parse_upload(json.dumps({"Records": [record(f"ObjectRemoved:{name}")]}))[0]
        for name in ("DeleteMarkerCreated", "Delete")
    )
    assert (marker.version_id, version.version_id) == (None, "v1")


def test_an_image_set_id_that_cannot_be_one_is_unreadable():
    body = {"id": "e1", "detail-type": "Image Set Created", "detail": {"imageSetId": "not-an-id"}}
    assert isinstance(parse_service_event(json.dumps(body)), Unreadable)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("00A2", "00A1", True), ("A2", "00A1", True), ("00a2", "00A1", True), ("9", "00A1", False), ("A", "A", False)],
)
def test_sequencers_are_compared_as_padded_hex(one, other, expected):
    assert newer(one, other) is expected


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: (
            st.lists(c)
            | st.dictionaries(
                st.sampled_from(["Records", "detail", "detail-type", "id", "s3", "prefix", "associationId", "source"])
                | st.text(),
                c,
            )
        ),
    ).map(json.dumps)
)
def test_no_message_raises(body):
    for item in parse_upload(body):
        assert not isinstance(item, Unreadable) or item.reason in Reason
    parse_service_event(body)
