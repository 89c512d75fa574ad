"""Every fault does what docs/emulator.md says, and goes away."""

from __future__ import annotations

import time
import urllib.error

import pytest
from botocore.exceptions import ClientError
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import make_object


@pytest.fixture
def faulty(imaging):
    yield imaging
    imaging.stack.reset()


def kinds(stack, queue="IMAGE_SET"):
    return [m["detail-type"] for m in stack.drain(queue)]


def test_events_are_dropped(faulty):
    faulty.stack.fault("drop_events", detail_type="Image Set *", times=1)
    faulty.run({"a": make_object(), "b": make_object()})
    assert kinds(faulty.stack) == ["Image Set Created"]
    assert len(kinds(faulty.stack, "IMPORT")) == 3


def test_events_are_repeated(faulty):
    faulty.stack.fault("duplicate_events", detail_type="Import Job Completed", copies=3)
    faulty.run({"a": make_object()})
    assert kinds(faulty.stack, "IMPORT").count("Import Job Completed") == 3
    assert kinds(faulty.stack) == ["Image Set Created"]


def test_events_are_delayed(faulty):
    faulty.stack.fault("delay_events", detail_type="Image Set Created", seconds=0.7)
    faulty.run({"a": make_object()})
    assert kinds(faulty.stack) == []
    assert wait_for(lambda: kinds(faulty.stack), what="the event") == ["Image Set Created"]


def test_events_are_shuffled(faulty):
    faulty.stack.fault("shuffle_events", detail_type="Image Set *", seconds=1.5, seed=3)
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    for _ in range(4):
        faulty.run({"a": make_object(**shared)})
    got = []
    wait_for(lambda: len(got) >= 4 or got.extend(faulty.stack.drain("IMAGE_SET")), what="four events")
    versions = [m["detail"]["imageSetVersion"] for m in got]
    assert sorted(versions) == ["1", "2", "3", "4"]
    assert versions != sorted(versions)


def test_the_first_attempts_of_every_call_are_throttled(faulty):
    client = faulty.stack.client("medical-imaging", retries={"max_attempts": 0})
    faulty.stack.fault("throttle", first=2)
    for operation in (client.get_datastore, client.list_dicom_import_jobs, client.search_image_sets):
        for _ in range(2):
            with pytest.raises(client.exceptions.ThrottlingException):
                operation(datastoreId=faulty.datastore)
        assert operation(datastoreId=faulty.datastore)


def test_every_second_call_is_throttled(faulty):
    client = faulty.stack.client("medical-imaging", retries={"max_attempts": 0})
    faulty.stack.fault("throttle", operation="Get*", every=2)
    seen = []
    for _ in range(6):
        try:
            client.get_datastore(datastoreId=faulty.datastore)
            seen.append(200)
        except client.exceptions.ThrottlingException as error:
            seen.append(error.response["ResponseMetadata"]["HTTPStatusCode"])
    assert seen == [200, 429] * 3


def test_s3_and_sqs_are_throttled_too(faulty):
    stack = faulty.stack
    s3, sqs = (stack.client(name, retries={"max_attempts": 0}) for name in ("s3", "sqs"))
    stack.fault("throttle", service="s3", operation="GetObject", first=1)
    stack.fault("throttle", service="sqs", operation="ReceiveMessage", first=1)
    s3.put_object(Bucket=stack.env["AHI_LAKE_BUCKET"], Key="k", Body=b"1")
    with pytest.raises(ClientError, match="SlowDown"):
        s3.get_object(Bucket=stack.env["AHI_LAKE_BUCKET"], Key="k")
    assert s3.get_object(Bucket=stack.env["AHI_LAKE_BUCKET"], Key="k")["Body"].read() == b"1"
    with pytest.raises(ClientError, match="RequestThrottled"):
        sqs.receive_message(QueueUrl=stack.env["AHI_IMPORT_QUEUE_URL"])
    assert sqs.receive_message(QueueUrl=stack.env["AHI_IMPORT_QUEUE_URL"], WaitTimeSeconds=0)


def test_documented_rates(make_aws_stack):
    stack = make_aws_stack(LOCAL_AWS_RATE_LIMITS="on")
    client = stack.client("medical-imaging", retries={"max_attempts": 0})
    refused = 0
    for _ in range(60):
        try:
            client.get_datastore(datastoreId=stack.env["AHI_DATASTORE_ID"])
        except client.exceptions.ThrottlingException:
            refused += 1
    assert 0 < refused <= 40
    stack.control("POST", "rate-limits", {"enabled": False})
    assert all(client.get_datastore(datastoreId=stack.env["AHI_DATASTORE_ID"]) for _ in range(30))


def test_an_answer_is_lost_after_the_work(faulty):
    client = faulty.stack.client("medical-imaging", retries={"max_attempts": 0})
    faulty.stack.fault("lose_response", operation="StartDICOMImportJob")
    request = {
        "datastoreId": faulty.datastore,
        "dataAccessRoleArn": faulty.stack.env["AHI_IMPORT_ROLE_ARN"],
        "inputS3Uri": faulty.put({"a": make_object()}),
        "outputS3Uri": f"s3://{faulty.stack.env['AHI_LAKE_BUCKET']}/jobs/",
        "clientToken": "lost-once",
    }
    with pytest.raises(client.exceptions.InternalServerException):
        client.start_dicom_import_job(**request)
    job = client.start_dicom_import_job(**request)["jobId"]
    assert faulty.ended(job)["jobStatus"] == "COMPLETED"
    assert kinds(faulty.stack, "IMPORT").count("Import Job Submitted") == 1


@pytest.mark.parametrize("manifest", [False, True])
def test_a_job_fails(faulty, manifest):
    faulty.stack.fault("fail_job", message="DICOM import job has failed.", manifest=manifest)
    outcome = faulty.run({"a": make_object()})
    assert (outcome.job["jobStatus"], outcome.job["message"]) == ("FAILED", "DICOM import job has failed.")
    assert bool(outcome.manifest) == manifest
    assert kinds(faulty.stack, "IMPORT")[-1] == "Import Job Failed"
    assert faulty.run({"a": make_object()}).job["jobStatus"] == "COMPLETED"


@pytest.mark.parametrize("kind", ["InternalServerException", "ValidationException"])
def test_a_job_completes_with_every_file_failed(faulty, kind):
    faulty.stack.fault("fail_files", exception_type=kind)
    outcome = faulty.run({"a": make_object(), "b": make_object()})
    assert outcome.job["jobStatus"] == "COMPLETED"
    counts = [outcome.manifest[f"numberOfFilesWith{who}Error"] for who in ("Customer", "Server")]
    assert counts == ([0, 2] if kind == "InternalServerException" else [2, 0])
    assert outcome.manifest["numberOfImportedFiles"] == 0
    assert outcome.success == []
    assert {f["exception"]["exceptionType"] for f in outcome.failure} == {kind}
    assert kinds(faulty.stack) == []


def test_a_manifest_comes_late(faulty):
    faulty.stack.fault("late_manifest", seconds=0.7)
    job = faulty.ended(faulty.start(faulty.put({"a": make_object()}))["jobId"])
    assert job["jobStatus"] == "COMPLETED"
    assert faulty.result(job, "job-output-manifest.json") is None
    assert wait_for(lambda: faulty.result(job, "job-output-manifest.json"), what="the manifest")
    assert len(faulty.lines(job, "SUCCESS/success.ndjson")) == 1


def test_jobs_are_held_and_released(faulty):
    faulty.stack.fault("hold_jobs")
    job = faulty.start(faulty.put({"a": make_object()}))["jobId"]
    assert faulty.job(job)["jobStatus"] == "SUBMITTED"
    faulty.stack.control("POST", "release")
    assert faulty.ended(job)["jobStatus"] == "COMPLETED"


def test_fresh_metadata_is_locked(faulty):
    outcome = faulty.run({"a": make_object()})
    image_set = outcome.success[0]["importResponse"]["imageSetId"]
    faulty.stack.fault("lock_metadata")
    with pytest.raises(faulty.api.exceptions.ConflictException):
        faulty.document(image_set)
    assert faulty.document(image_set)


def test_an_import_takes_the_time_it_is_told(make_aws_stack):
    from tests.local_aws.conftest import Imaging

    imaging = Imaging(make_aws_stack(LOCAL_AWS_IMPORT_SECONDS="0.5"))
    before = time.time()
    job = imaging.ended(imaging.start(imaging.put({"a": make_object()}))["jobId"])
    assert time.time() - before >= 0.5
    assert (job["endedAt"] - job["submittedAt"]).total_seconds() >= 0.5


def test_faults_are_listed_removed_and_misspelt(faulty):
    stack = faulty.stack
    name = stack.fault("hold_jobs")
    assert [f["id"] for f in stack.control("GET", "faults")["faults"]] == [name]
    stack.control("DELETE", f"faults/{name}")
    assert stack.control("GET", "faults")["faults"] == []
    for wrong in ({"kind": "no_such"}, {"kind": "hold_jobs", "colour": 1}, {}):
        with pytest.raises(urllib.error.HTTPError) as error:
            stack.control("POST", "faults", wrong)
        assert error.value.code == 400
        assert b"hold_jobs" in error.value.read() or "colour" in wrong
        error.value.close()


def test_the_log_names_calls(faulty):
    faulty.run({"a": make_object()})
    calls = faulty.stack.calls(service="medical-imaging")
    assert calls[0]["operation"] == "StartDICOMImportJob"
    assert {"service", "operation", "time", "seconds", "status", "bytes", "source"} == set(calls[0])
    assert faulty.stack.calls("PutObject", service="s3")
    assert faulty.stack.calls("GetObject", service="s3", source="inside")
