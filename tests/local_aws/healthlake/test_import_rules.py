"""What an import does to the resources that are there, by the level of validation, and by quotas and other choices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AwsStack, wait_for
from tests.local_aws.healthlake.conftest import Lake, listen, make_lake, ndjson, patient, study
from tests.local_aws.healthlake.fhir import Fhir


def test_importing_again_makes_a_new_version_and_finds_by_the_new_values(lake):
    lake.run({"a.ndjson": ndjson(patient("a", gender="male"), patient("b"))})
    again = lake.run({"a.ndjson": ndjson(patient("a", gender="female"))})
    fhir = Fhir(lake)
    assert fhir.call("GET", "Patient/a").headers["etag"] == 'W/"2"'
    assert fhir.call("GET", "Patient/a/_history/1").body["gender"] == "male"
    assert fhir.find("Patient", gender="male").ids == []
    assert fhir.find("Patient", gender="female").ids == ["a"]
    [line] = lake.lines(again, "SUCCESS/a.ndjson")
    assert line["UpdateResourceResponse"]["statusCode"] == 200


def test_of_two_lines_with_one_id_the_last_stays(lake):
    job = lake.run({"a.ndjson": ndjson(patient("a", gender="male"), patient("a", gender="female"))})
    assert job["JobStatus"] == "COMPLETED"
    answer = Fhir(lake).call("GET", "Patient/a")
    assert (answer.body["gender"], answer.headers["etag"]) == ("female", 'W/"2"')


PROFILE = {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"]}


def test_levels_of_validation(lake):
    claims = patient("claims", meta=PROFILE)
    wrong = study("wrong", "p", status="complete")
    found = {}
    for level in ("strict", "structure-only", "minimal"):
        job = lake.run({"a.ndjson": ndjson(claims, wrong, patient("good"))}, ValidationLevel=level)
        assert job["ValidationLevel"] == level
        results = lake.results(job)
        folders = ("SUCCESS", "FAILURE", "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES")
        found[level] = [len(results.get(f"{folder}/a.ndjson", b"").splitlines()) for folder in folders]
    assert found == {"strict": [1, 2, 0], "structure-only": [2, 1, 0], "minimal": [2, 0, 1]}
    assert Fhir(lake).call("GET", "ImagingStudy/wrong").status == 200


def test_lines_end_as_they_like(lake):
    body = b"\xef\xbb\xbf" + ndjson(patient("a")).replace(b"\n", b"\r\n") + b"\n  \n" + ndjson(patient("b")).rstrip()
    job = lake.run({"a.ndjson": body})
    assert (job["JobStatus"], lake.manifest(job)["numberOfResourcesScanned"]) == ("COMPLETED", 2)
    assert [line["lineId"] for line in lake.lines(job, "SUCCESS/a.ndjson")] == [1, 4]


# -- the other choices ------------------------------------------------------------------------------------------------

OTHER = {
    "QUEUE_SCOPE": "datastore",
    "ALWAYS_QUEUED": "on",
    "MAX_QUEUED_JOBS": "0",
    "QUEUE_FULL_ERROR": "ValidationException",
    "START_SECONDS": "32",
    "DATASTORE_SECONDS": "900",
    "NOT_ACTIVE_ERROR": "ResourceNotFoundException",
    "IDEMPOTENCY_MISMATCH": "first",
    "MANIFEST_NAME": "both",
    "LINE_BASE": "0",
    "DUPLICATE_WINS": "first",
    "JSON_BLOB": "string",
    "LIST_ORDER": "oldest",
    "PAGE_SIZE": "2",
    "SEARCH_LAG_SECONDS": "3600",
    "API_EVENTS": "all",
    "MAX_FILES_PER_JOB": "2",
    "MAX_BYTES_PER_JOB": "600",
    "MAX_BYTES_PER_FILE": "400",
    "MAX_DATASTORES": "2",
}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """HealthLake with all other choices, and low quotas."""
    stack = started(tmp_path_factory.mktemp("other") / "home", OTHER)
    yield make_lake(stack)
    stack.stop()


THIRD = {
    "CONCURRENT_JOBS": "2",
    "LIST_ORDER": "shuffled",
    "LIST_SIZE": "8",
    "DUPLICATE_WINS": "random",
    "MANIFEST_NAME": "manifest.json",
    "SECONDS_PER_GB": "100000000",
    "EXPORT_SECONDS": "60",
    "MAX_REST_BYTES": "200",
    "API_EVENTS": "none",
}


def started(home: Path, choices: dict[str, str]) -> AwsStack:
    return AwsStack(home, {f"LOCAL_AWS_FHIR_{name}": value for name, value in choices.items()}).start()


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """HealthLake with the choices that are left."""
    stack = started(tmp_path_factory.mktemp("third") / "home", THIRD)
    yield make_lake(stack)
    stack.stop()


def advanced(lake: Lake, job_id: str) -> dict:
    """State of a job at its end, where it takes half a minute until it begins."""

    def ended() -> object:
        lake.stack.control("POST", "clock", {"advance": 32})
        return "EndTime" in (job := lake.job(job_id)) and job

    return dict(wait_for(ended, what="the job"))


def test_the_other_choices(other):
    told = listen(other.stack)
    body = ndjson(patient("a", gender="male"), b"{", patient("a", gender="female"), patient("b"), patient("c"))
    request = other.request(other.upload({"a.ndjson": body}), ClientToken="one")
    job_id = other.api.start_fhir_import_job(**request)["JobId"]
    assert other.job(job_id)["JobStatus"] == "QUEUED"
    assert other.api.start_fhir_import_job(**request | {"JobName": "another"})["JobId"] == job_id
    with pytest.raises(other.api.exceptions.ValidationException, match="queued already"):
        other.start(request["InputDataConfig"]["S3Uri"])
    job = advanced(other, job_id)
    assert (job["EndTime"] - job["SubmitTime"]).total_seconds() >= 32
    assert told.types(job_id, 4)[:2] == ["Import Job Submitted", "Import Job Queued"]
    calls = [e["detail"]["eventName"] for e in told.read() if e["detail-type"] == "AWS API Call via CloudTrail"]
    assert calls == ["StartFHIRImportJob"] * 2
    assert {"Manifest.json", "manifest.json"} < set(other.results(job))
    [failure] = other.lines(job, "FAILURE/a.ndjson")
    assert failure["lineId"] == 1
    assert '"OperationOutcome"' in failure["UpdateResourceResponse"]["jsonBlob"]
    fhir = Fhir(other)
    assert fhir.find("Patient").ids == []
    other.stack.control("POST", "clock", {"advance": 3600})
    assert [len(page) for page in fhir.pages("Patient")] == [2, 1]
    assert fhir.call("GET", "Patient/a").body["gender"] == "male"


def test_each_data_store_may_have_slots_of_its_own_and_takes_its_time(other):
    first = other.datastore
    second = other.api.create_fhir_datastore(DatastoreTypeVersion="R4")["DatastoreId"]
    with pytest.raises(other.api.exceptions.ValidationException, match="data stores already"):
        other.api.create_fhir_datastore(DatastoreTypeVersion="R4")
    uri = other.upload({"a.ndjson": ndjson(patient())})
    with pytest.raises(other.api.exceptions.ResourceNotFoundException):
        other.start(uri, DatastoreId=second)
    other.stack.control("POST", "clock", {"advance": 900})

    def status() -> str:
        told = other.api.describe_fhir_datastore(DatastoreId=second)
        return str(told["DatastoreProperties"]["DatastoreStatus"])

    wait_for(lambda: status() == "ACTIVE", what="the data store")
    other.stack.fault("stuck_jobs", service="healthlake")
    jobs = {store: other.start(uri, DatastoreId=store) for store in (first, second)}
    other.stack.control("POST", "clock", {"advance": 32})
    for store, job in jobs.items():
        other.datastore = store
        wait_for(lambda job=job: other.job(job)["JobStatus"] == "IN_PROGRESS", what="both at once")
    other.stack.control("POST", "release")
    for store, job in jobs.items():
        other.datastore = store
        assert other.ended(job)["JobStatus"] == "COMPLETED"
    other.datastore = first


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({f"{n}.ndjson": ndjson(patient()) for n in range(3)}, "number of files"),
        ({f"{n}.ndjson": ndjson(patient(), patient(language="x" * 200)) for n in range(2)}, "size of the files"),
        ({"a.ndjson": ndjson(*(patient() for _ in range(8)))}, "size of a file"),
    ],
)
def test_quotas_fail_the_job_with_a_message(other, files, text):
    job = advanced(other, other.start(other.upload(files)))
    assert (job["JobStatus"], text in job["Message"]) == ("FAILED", True)


def test_lists_in_no_order_and_two_jobs_at_a_time(third):
    third.stack.fault("stuck_jobs", service="healthlake")
    uri = third.upload({"a.ndjson": ndjson(patient())})
    jobs = [third.start(uri) for _ in range(10)]
    wait_for(lambda: third.job(jobs[1])["JobStatus"] == "IN_PROGRESS", what="two at once")
    assert [third.job(job)["JobStatus"] for job in jobs[2:]] == ["QUEUED"] * 8
    assert third.job(jobs[0])["JobProgressReport"]["TotalNumberOfResourcesImported"] == 0
    page = third.api.list_fhir_import_jobs(DatastoreId=third.datastore)
    more = third.api.list_fhir_import_jobs(DatastoreId=third.datastore, NextToken=page["NextToken"])
    ids = [[job["JobId"] for job in one["ImportJobPropertiesList"]] for one in (page, more)]
    assert (len(ids[0]), sorted(ids[0] + ids[1])) == (8, sorted(jobs))
    assert ids[0] not in (jobs[:1:-1], jobs[:8])
    third.stack.control("POST", "release")
    assert advanced(third, jobs[-1])["JobProgressReport"]["TotalNumberOfResourcesImported"] == 1


def test_what_is_drawn_or_takes_time_by_its_size(third):
    told = listen(third.stack)
    names = [f"p{number}" for number in range(20)]
    body = ndjson(*(patient(name, gender=gender) for gender in ("male", "female") for name in names))
    job = advanced(third, third.start(third.upload({"a.ndjson": body})))
    assert (job["EndTime"] - job["SubmitTime"]).total_seconds() >= 0.1 * len(body)
    assert set(third.results(job)) == {"manifest.json", "SUCCESS/a.ndjson"}
    fhir = Fhir(third)
    assert {fhir.call("GET", f"Patient/{name}").body["gender"] for name in names} == {"male", "female"}
    assert fhir.call("PUT", "Patient/big", patient("big", language="x" * 200)).status == 413
    assert fhir.call("PUT", "Patient/small", patient("small")).status == 201
    output = {"S3Configuration": {"S3Uri": f"s3://{third.bucket}/exports", "KmsKeyId": "alias/key"}}
    role = "arn:aws:iam::123456789012:role/export"
    here = {"DatastoreId": third.datastore}
    export = third.api.start_fhir_export_job(**here, OutputDataConfig=output, DataAccessRoleArn=role)["JobId"]

    def exported() -> object:
        third.stack.control("POST", "clock", {"advance": 10})
        found = third.api.describe_fhir_export_job(**here, JobId=export)["ExportJobProperties"]
        return "EndTime" in found and found

    ended = dict(wait_for(exported, what="the export"))
    assert (ended["EndTime"] - ended["SubmitTime"]).total_seconds() >= 60
    told.of(export, 3)
    assert not [event for event in told.read() if "CloudTrail" in event["detail-type"]]
