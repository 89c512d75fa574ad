"""Events: from S3 to the upload queue, from HealthImaging through the rules to the other two."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path

import pytest

from tests.local_aws.conftest import make_object

DEVGUIDE = Path(__file__).parents[1] / "data" / "healthimaging" / "ahi-events.devguide.json"
ENVELOPE = {"version", "id", "source", "account", "time", "region", "resources", "detail-type", "detail"}
# Fields of `detail` in the developer guide's 19 samples; imageSetId stands there as imagesetId.
JOB_DETAIL = {"imagingVersion", "datastoreId", "jobId", "jobName", "jobStatus", "inputS3Uri", "outputS3Uri"}
IMAGE_SET_DETAIL = {
    *("imagingVersion", "isPrimary", "imageSetVersion", "datastoreId", "imageSetId", "imageSetState"),
    "imageSetWorkflowStatus",
}


def test_uploads_overwrites_and_deletes_reach_the_queue(imaging):
    stack = imaging.stack
    s3, bucket = stack.client("s3"), stack.env["AHI_LANDING_BUCKET"]
    key = "ward 7/ü+b&c.dcm"
    for body in (b"1", b"22"):
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    s3.delete_object(Bucket=bucket, Key=key)
    records = [r for m in stack.drain("UPLOAD") for r in m["Records"]]
    assert [r["eventName"] for r in records] == [
        "ObjectCreated:Put",
        "ObjectCreated:Put",
        "ObjectCreated:Copy",
        "ObjectRemoved:DeleteMarkerCreated",
    ]
    assert urllib.parse.unquote_plus(records[0]["s3"]["object"]["key"]) == key
    assert [r["s3"]["object"].get("size") for r in records[:2]] == [1, 2]
    assert len({r["s3"]["object"]["versionId"] for r in records}) == 4


def test_an_import_tells_of_job_and_image_sets(imaging):
    outcome = imaging.run({"a.dcm": make_object()})
    jobs = [m for m in imaging.stack.drain("IMPORT") if "jobId" in m["detail"]]
    [image_set] = imaging.stack.drain("IMAGE_SET")
    kinds = {j["detail-type"]: j for j in jobs}
    assert set(kinds) == {"Import Job Submitted", "Import Job In Progress", "Import Job Completed"}
    done = kinds["Import Job Completed"]
    assert set(done) == ENVELOPE
    assert set(done["detail"]) == JOB_DETAIL
    account, region = imaging.stack.env["AWS_ACCESS_KEY_ID"], imaging.stack.env["AWS_REGION"]
    store = f"arn:aws:medical-imaging:{region}:{account}:datastore/{imaging.datastore}"
    assert done["resources"] == [store]
    assert done["detail"]["outputS3Uri"] == outcome.job["outputS3Uri"]
    summary = outcome.manifest["imageSetsSummary"][0]
    assert image_set["resources"] == [f"{store}/imageset/{summary['imageSetId']}"]
    assert image_set["detail-type"] == "Image Set Created"
    assert set(image_set["detail"]) == IMAGE_SET_DETAIL
    assert image_set["detail"] == {
        "imagingVersion": "1.0",
        "datastoreId": imaging.datastore,
        "imageSetId": summary["imageSetId"],
        "isPrimary": True,
        "imageSetVersion": "1",
        "imageSetState": "ACTIVE",
        "imageSetWorkflowStatus": "CREATED",
    }


def test_the_switches_of_what_is_undocumented(slow):
    body = make_object()
    first = slow.run({"a.dcm": body})
    slow.run({"a.dcm": body})
    events = slow.stack.drain("IMAGE_SET")
    assert [e["detail-type"] for e in events] == ["Image Set Created"] * 2
    assert set(events[0]["detail"]) == (IMAGE_SET_DETAIL | {"imagesetId"}) - {
        "imageSetId",
        "isPrimary",
        "imageSetVersion",
    }
    assert slow.stack.drain("IMPORT")[-1]["detail"]["outputS3Uri"].endswith("/jobs/")
    assert slow.result(first.job, "WARNING/warning.ndjson") == b""
    image_set = first.success[0]["importResponse"]["imageSetId"]
    slow.api.delete_image_set(datastoreId=slow.datastore, imageSetId=image_set)
    slow.pass_time()
    slow.gone(image_set)


def test_users_cannot_speak_for_aws(imaging):
    entry = {"Source": "aws.medical-imaging", "DetailType": "Image Set Created", "Detail": "{}"}
    answer = imaging.stack.client("events").put_events(Entries=[entry])
    assert answer["Entries"][0]["ErrorCode"] == "NotAuthorizedForSourceException"


@pytest.fixture
def bus(imaging):
    """Reads every event of HealthImaging by a rule and a queue of its own."""
    events, sqs = imaging.stack.client("events"), imaging.stack.client("sqs")
    url = sqs.create_queue(QueueName="everything")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="everything", EventPattern=json.dumps({"source": ["aws.medical-imaging"]}))
    events.put_targets(Rule="everything", Targets=[{"Id": "1", "Arn": arn}])

    def read():
        found = []
        while got := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            for message in got:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(json.loads(message["Body"]))
        return found

    yield read
    events.remove_targets(Rule="everything", Ids=["1"])
    events.delete_rule(Name="everything")
    sqs.delete_queue(QueueUrl=url)


def provoke_everything(imaging):
    """One of each of the 19."""
    api, stack = imaging.api, imaging.stack
    stack.fault("fail_datastore")
    for name in ("fails", "works"):
        store = api.create_datastore(datastoreName=name)["datastoreId"]
        api.delete_datastore(datastoreId=store)
    stack.fault("fail_job")
    imaging.ended(imaging.start(imaging.put({"a": make_object()}))["jobId"])
    image_set = imaging.run({"a": make_object()}).manifest["imageSetsSummary"][0]["imageSetId"]
    wanted = {"datastoreId": imaging.datastore, "imageSetId": image_set}
    text = json.dumps({"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": "x"}}}).encode()

    def settled(name=image_set):
        stack.wait_for(lambda: imaging.get(name)["imageSetState"] != "LOCKED", what="the image set")

    for version, fails in (("1", False), ("2", True)):
        if fails:
            stack.fault("fail_change", operation="update")
        updates = {"DICOMUpdates": {"updatableAttributes": text}}
        api.update_image_set_metadata(**wanted, latestVersionId=version, updateImageSetMetadataUpdates=updates)
        settled()
    for fails in (False, True):
        if fails:
            stack.fault("fail_change", operation="copy")
        made = api.copy_image_set(
            datastoreId=imaging.datastore,
            sourceImageSetId=image_set,
            copyImageSetInformation={"sourceImageSet": {"latestVersionId": "3"}},
        )
        settled(made["destinationImageSetProperties"]["imageSetId"])
        settled()
    api.delete_image_set(**wanted)
    settled()


def test_all_nineteen_are_those_of_the_developer_guide(imaging, bus):
    samples = {e["detail-type"]: e for e in json.loads(DEVGUIDE.read_text())}
    assert len(samples) == 19
    provoke_everything(imaging)
    seen = {}
    imaging.stack.wait_for(
        lambda: seen.update({e["detail-type"]: e for e in bus()}) or set(seen) >= set(samples), what="all 19"
    )
    assert set(seen) == set(samples)
    for kind, sample in samples.items():
        event, detail = seen[kind], dict(sample["detail"])
        if "imagesetId" in detail:  # the developer guide's spelling; EVENT_ID_KEY has the choice
            detail["imageSetId"] = detail.pop("imagesetId")
        assert set(event) == set(sample), kind
        assert set(event["detail"]) == set(detail), kind
        assert {k: type(v) for k, v in event["detail"].items()} == {k: type(v) for k, v in detail.items()}, kind
        for key, value in detail.items():
            if key.endswith(("Status", "State")) or key == "imagingVersion":
                assert event["detail"][key] == value, kind
        assert event["version"] == sample["version"]
        assert event["source"] == sample["source"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["time"])
        form = re.sub(r"[0-9a-f]{32}", "[0-9a-f]{32}", sample["resources"][0])
        assert re.fullmatch(
            re.sub(r":[a-z0-9-]+:\d{12}:", f":{event['region']}:{event['account']}:", form), event["resources"][0]
        )


def test_the_template_routes_every_documented_event(imaging):
    names = [e["detail-type"] for e in json.loads(DEVGUIDE.read_text())]
    rules = [json.loads(r["EventPattern"]) for r in imaging.stack.client("events").list_rules()["Rules"]]
    prefixes = tuple(p["prefix"] for r in rules for p in r.get("detail-type", ()) if isinstance(p, dict))
    assert len(set(names)) == 19
    assert [n for n in names if not n.startswith(prefixes)] == []


def test_a_refused_event_changes_nothing_and_comes_later(imaging):
    """What is true is true, whether or not the bus takes its event: it stands in the outbox and is sent again."""
    for kind in ("Import Job Completed", "Image Set Created", "Image Set Updated"):
        imaging.stack.fault("refuse_events", detail_type=kind)
    job = imaging.run({"a": make_object()})
    assert job.job["jobStatus"] == "COMPLETED"
    image_set = job.success[0]["importResponse"]["imageSetId"]
    text = json.dumps({"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientName": "NEW^NAME"}}}).encode()
    imaging.api.update_image_set_metadata(
        datastoreId=imaging.datastore,
        imageSetId=image_set,
        latestVersionId="1",
        updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": text}},
    )
    told = []
    wanted = {"Import Job Completed", "Image Set Created", "Image Set Updated"}

    def all_there():
        told.extend(e["detail-type"] for queue in ("IMPORT", "IMAGE_SET") for e in imaging.stack.drain(queue))
        return wanted <= set(told)

    imaging.stack.wait_for(all_there, what="the refused events")
    assert all(told.count(kind) == 1 for kind in wanted)
    assert imaging.get(image_set)["imageSetWorkflowStatus"] == "UPDATED"
    assert imaging.document(image_set)["Patient"]["DICOM"]["PatientName"] == "NEW^NAME"
    assert imaging.job(job.job["jobId"])["jobStatus"] == "COMPLETED"


@pytest.mark.parametrize(("same", "ids"), [(True, 1), (False, 3)])
def test_a_repeated_event_is_the_same_one(imaging, same, ids):
    imaging.stack.fault("duplicate_events", detail_type="Import Job Completed", copies=3, same_id=same)
    imaging.run({"a": make_object()})
    told = [e for e in imaging.stack.drain("IMPORT") if e["detail-type"] == "Import Job Completed"]
    assert (len(told), len({e["id"] for e in told}), len({e["time"] for e in told})) == (3, ids, 1)
