"""Every fault does what docs/emulator.md says, and goes away."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ResponseStreamingError
from pydicom.uid import generate_uid

from local_aws.fault_names import DETAIL_TYPES, OPERATIONS
from local_aws.healthlake.events import API_CALL, DATASTORE_TYPES, JOB_TYPES
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


def test_documented_rates(faulty):
    stack = faulty.stack
    client = stack.client("medical-imaging", retries={"max_attempts": 0})
    stack.control("POST", "rate-limits", {"enabled": True})
    try:
        codes = attempts(client, faulty.datastore, 60)
    finally:
        stack.control("POST", "rate-limits", {"enabled": False})
    assert set(codes) == {"", "ThrottlingException"}
    # A burst of 20, and 10 a second.
    assert codes[:20] == [""] * 20
    assert attempts(client, faulty.datastore, 30) == [""] * 30


def test_an_answer_is_lost_after_the_work(faulty):
    client = faulty.stack.client("medical-imaging", retries={"max_attempts": 0})
    faulty.stack.fault("lose_response", operation="Start*")
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


def test_faults_are_listed_removed_and_misspelt(faulty):
    stack = faulty.stack
    name = stack.fault("hold_jobs")
    assert [f["id"] for f in stack.control("GET", "faults")["faults"]] == [name]
    stack.control("DELETE", f"faults/{name}")
    assert stack.control("GET", "faults")["faults"] == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"kind": "no_such"}, "hold_jobs"),
        ({}, "hold_jobs"),
        ([], "A fault is an object"),
        ({"kind": ["hold_jobs"]}, "Unknown kind"),
        ({"kind": "hold_jobs", "colour": 1}, "hold_jobs has the fields service, times"),
        ({"kind": "hold_jobs", "times": "1"}, "times is a whole number of 0 or more, or null"),
        ({"kind": "hold_jobs", "times": True}, "times is a whole number"),
        ({"kind": "hold_jobs", "times": -1}, "times is a whole number"),
        ({"kind": "late_manifest", "seconds": None}, "seconds is a number of 0 or more"),
        ({"kind": "late_manifest", "seconds": 1e300}, "seconds is a number of 0 or more"),
        ({"kind": "fail_job", "manifest": 1}, "manifest is true or false"),
        ({"kind": "fail_job", "message": 1}, "message is a text"),
        ({"kind": "hold_jobs", "times": 0}, "times is 1 or more"),
        ({"kind": "duplicate_events", "copies": 101}, "between 1 and 100"),
        ({"kind": "duplicate_events", "copies": 0}, "between 1 and 100"),
        *(
            ({"kind": kind, "detail_type": "Image Set Creatd"}, "No event has the detail-type Image Set Creatd")
            for kind in ("drop_events", "duplicate_events", "delay_events", "shuffle_events")
        ),
        ({"kind": "throttle"}, "first or every"),
        ({"kind": "throttle", "service": "ec2", "first": 1}, "service is"),
        ({"kind": "fail_call", "operation": "GetImgSet"}, "No operation is called GetImgSet"),
        ({"kind": "fail_call", "when": "during"}, "when is"),
        ({"kind": "fail_call", "error": "Oops"}, "error is one of"),
        ({"kind": "fail_call", "probability": 2}, "probability lies between"),
    ],
)
def test_a_misspelt_fault_is_refused_with_what_is_right(aws_stack, wrong, text):
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        aws_stack.control("POST", "faults", wrong)
    assert text in json.loads(error.value.read())["message"]
    error.value.close()
    assert aws_stack.control("GET", "faults")["faults"] == []


def test_the_control_api_says_what_there_is(faulty):
    about = faulty.stack.control("GET", "")
    with urllib.request.urlopen(f"{faulty.stack.env['AWS_ENDPOINT_URL']}/_local_aws", timeout=10) as answer:
        assert json.loads(answer.read())["faults"] == about["faults"]
    kinds = {f["kind"]: f for f in about["faults"]}
    assert kinds["fail_call"]["fields"]["when"] == "before"
    assert all(f["does"] for f in kinds.values())
    assert "POST /_local_aws/clock" in about["calls"]
    assert about["settings"]["rate_limits"] is False


def test_the_table_of_faults_is_complete(faulty):
    page = (Path(__file__).resolve().parents[2] / "docs" / "emulator.md").read_text()
    about = faulty.stack.control("GET", "")
    assert [f["kind"] for f in about["faults"] if f"\n| `{f['kind']}` |" not in page] == []


def test_the_names_of_operations_are_those_of_the_model():
    from local_aws.protocol.restjson import load_model

    assert set(load_model("medical-imaging").operation_names) < set(OPERATIONS)


JOB_EVENTS = [f"{kind} Job {status}" for kind in ("Import", "Export") for status in JOB_TYPES.values()]
LAKE_EVENTS = (*DATASTORE_TYPES.values(), *JOB_EVENTS, API_CALL)


def test_the_names_of_events_are_those_of_the_developer_guide():
    samples = json.loads((Path(__file__).parents[1] / "data/healthimaging/ahi-events.devguide.json").read_text())
    assert {sample["detail-type"] for sample in samples} | set(LAKE_EVENTS) == set(DETAIL_TYPES)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dicomweb_call_fails_as_well(faulty, when):
    faulty.stack.fault("fail_call", operation="SearchDICOM*", when=when, error="NotAcceptableException")
    url = f"{faulty.stack.env['AWS_ENDPOINT_URL']}/datastore/{faulty.datastore}/studies"
    with pytest.raises(urllib.error.HTTPError, match="406") as error:
        urllib.request.urlopen(url, timeout=10)
    error.value.close()
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200


def attempts(client, datastore, count):
    """Codes of so many GetDatastore calls, without retries; "" for a success."""
    out = []
    for _ in range(count):
        try:
            client.get_datastore(datastoreId=datastore)
            out.append("")
        except ClientError as error:
            out.append(error.response["Error"]["Code"])
    return out


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDeniedException", 403),
        ("ServiceQuotaExceededException", 402),
        ("ThrottlingException", 429),
        ("UnrecognizedClientException", 403),
        ("ServiceUnavailableException", 503),
    ],
)
def test_the_third_call_fails_with_the_error_that_was_asked_for(faulty, code, status):
    client = faulty.stack.client("medical-imaging", retries={"max_attempts": 0})
    faulty.stack.fault("fail_call", operation="Get*", n=3, error=code, times=2)
    faulty.stack.control("DELETE", "log")
    assert attempts(client, faulty.datastore, 6) == ["", "", code, code, "", ""]
    assert [c["status"] for c in faulty.stack.calls("GetDatastore")] == [200, 200, status, status, 200, 200]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_call_fails_before_or_after_its_work(faulty, when):
    client = faulty.stack.client("medical-imaging", retries={"max_attempts": 0})
    name = f"failed-{when}"
    faulty.stack.fault("fail_call", operation="CreateDatastore", when=when)
    with pytest.raises(client.exceptions.InternalServerException):
        client.create_datastore(datastoreName=name)
    made = [d for d in client.list_datastores()["datastoreSummaries"] if d["datastoreName"] == name]
    assert len(made) == (when == "after")
    for store in made:
        client.delete_datastore(datastoreId=store["datastoreId"])


def test_random_failures_are_those_of_the_seed(faulty):
    client = faulty.stack.client("medical-imaging", retries={"max_attempts": 0})
    seen = []
    for _ in range(2):
        faulty.stack.fault("fail_call", operation="GetDatastore", probability=0.5, seed=5, times=None)
        seen.append(attempts(client, faulty.datastore, 20))
        faulty.stack.control("DELETE", "faults")
    assert seen[0] == seen[1]
    assert 0 < seen[0].count("") < 20


def test_an_answer_breaks_off(faulty):
    image_set = faulty.run({"a": make_object()}).success[0]["importResponse"]["imageSetId"]
    faulty.stack.fault("cut_answers", operation="GetImageSetMetadata")
    answer = faulty.api.get_image_set_metadata(datastoreId=faulty.datastore, imageSetId=image_set)
    with pytest.raises(ResponseStreamingError):
        answer["imageSetMetadataBlob"].read()
    assert faulty.document(image_set)["ImageSetID"] == image_set


def test_a_job_gets_stuck_until_it_is_released(faulty):
    faulty.stack.fault("stuck_jobs", times=1)
    stuck = faulty.start(faulty.put({"a": make_object()}))["jobId"]
    wait_for(lambda: faulty.job(stuck)["jobStatus"] == "IN_PROGRESS", what="the job's start")
    # Only one was to get stuck; the clock does not free it.
    assert faulty.run({"a": make_object()}).job["jobStatus"] == "COMPLETED"
    assert faulty.job(stuck)["jobStatus"] == "IN_PROGRESS"
    faulty.stack.control("POST", "release")
    assert faulty.ended(stuck)["jobStatus"] == "COMPLETED"


def test_a_job_is_as_slow_as_it_is_told(faulty):
    faulty.stack.fault("slow_jobs", seconds=3600, times=1)
    job = faulty.start(faulty.put({"a": make_object()}))["jobId"]
    wait_for(lambda: faulty.job(job)["jobStatus"] == "IN_PROGRESS", what="the job's start")
    faulty.stack.control("POST", "clock", {"advance": 3000})
    assert faulty.job(job)["jobStatus"] == "IN_PROGRESS"
    faulty.stack.control("POST", "clock", {"advance": 600})
    assert faulty.ended(job)["jobStatus"] == "COMPLETED"


def test_events_are_shuffled_across_jobs_and_image_sets(faulty):
    """Of one seed, in one order: jobs and image sets share it."""
    sqs, events = faulty.stack.client("sqs"), faulty.stack.client("events")
    url = sqs.create_queue(QueueName="all-events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all-events", EventPattern=json.dumps({"source": ["aws.medical-imaging"]}))
    events.put_targets(Rule="all-events", Targets=[{"Id": "1", "Arn": arn}])
    orders = []
    try:
        for _ in range(2):
            faulty.stack.fault("shuffle_events", seconds=3600, seed=2)
            faulty.run({"a": make_object()})
            faulty.stack.control("POST", "clock", {"advance": 3600})
            got: list[str] = []

            def arrived(got=got):
                for m in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=m["ReceiptHandle"])
                    got.append(json.loads(m["Body"])["detail-type"])
                return len(got) == 4

            wait_for(arrived, what="four events")
            orders.append(got)
            faulty.stack.control("DELETE", "faults")
    finally:
        events.remove_targets(Rule="all-events", Ids=["1"])
        events.delete_rule(Name="all-events")
        sqs.delete_queue(QueueUrl=url)
    assert orders[0] == orders[1]
    happened = ["Import Job Submitted", "Import Job In Progress", "Image Set Created", "Import Job Completed"]
    assert sorted(orders[0]) == sorted(happened)
    assert orders[0] != happened


def test_faults_can_be_there_from_the_start(make_aws_stack):
    stack = make_aws_stack(LOCAL_AWS_FAULTS='[{"kind": "fail_call", "operation": "GetDatastore", "times": 1}]')
    client = stack.client("medical-imaging", retries={"max_attempts": 0})
    assert attempts(client, stack.env["AHI_DATASTORE_ID"], 2) == ["InternalServerException", ""]


def test_the_log_names_calls(faulty):
    faulty.run({"a": make_object()})
    calls = faulty.stack.calls(service="medical-imaging")
    assert calls[0]["operation"] == "StartDICOMImportJob"
    assert {"service", "operation", "time", "seconds", "status", "bytes", "source"} == set(calls[0])
    assert faulty.stack.calls("PutObject", service="s3")
    assert faulty.stack.calls("GetObject", service="s3", source="inside")
