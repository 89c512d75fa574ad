"""Import jobs: what is read, what becomes of each line, what is written, what is told."""

from __future__ import annotations

import re

import pytest

from tests.local_aws.healthlake.conftest import ndjson, patient, study

CHECK_FILE = "out/.healthlake_write_access_check_file.temp"
MANIFEST = {
    *("inputDataConfig", "outputDataConfig", "successOutput", "failureOutput", "numberOfScannedFiles"),
    *("numberOfFilesImported", "sizeOfScannedFilesInMB", "sizeOfDataImportedSuccessfullyInMB"),
    *("numberOfResourcesScanned", "numberOfResourcesImportedSuccessfully", "numberOfResourcesWithCustomerError"),
    "numberOfResourcesWithServerError",
}


def test_results_in_the_documented_layout(lake):
    uri = lake.upload({"v1-0/Patient.ndjson": ndjson(patient("a"), patient("b")), "notes.txt": b"no"})
    job = lake.ended(lake.start(uri, JobName="batch 7"))
    assert (job["JobStatus"], job["JobName"], job["ValidationLevel"]) == ("COMPLETED", "batch 7", "strict")
    folder = job["JobOutputDataConfig"]["S3Configuration"]["S3Uri"]
    assert folder == f"s3://{lake.bucket}/out/{lake.datastore}-FHIR_IMPORT-{job['JobId']}/"
    assert set(lake.results(job)) == {"Manifest.json", "SUCCESS/v1-0/Patient.ndjson"}
    assert lake.s3.head_object(Bucket=lake.bucket, Key=CHECK_FILE)["ContentLength"] == 0
    manifest = lake.manifest(job)
    assert set(manifest) == MANIFEST
    assert manifest["inputDataConfig"] == {"s3Uri": uri}
    assert manifest["outputDataConfig"] == {"s3Uri": folder, "encryptionKeyID": "alias/key"}
    assert (manifest["numberOfScannedFiles"], manifest["numberOfResourcesImportedSuccessfully"]) == (1, 2)
    report = job["JobProgressReport"]
    assert (report["TotalNumberOfResourcesScanned"], report["TotalNumberOfScannedNonFhirFiles"]) == (2, 1)
    assert [line["resourceId"] for line in lake.lines(job, "SUCCESS/v1-0/Patient.ndjson")] == ["a", "b"]


BAD_LINES = {
    "json": (b"{", "Invalid JSON found in input file"),
    "two resources": (b'{"resourceType":"Patient"} {}', "Invalid JSON found in input file"),
    "list": (b"[]", "Invalid JSON found in input file"),
    "type": ({"resourceType": "Patient123", "id": "x"}, "'resourceType' failed to satisfy constraint"),
    "type that is not taken": ({"resourceType": "Basic", "id": "x"}, "'resourceType' failed to satisfy constraint"),
    "no id": ({"resourceType": "Patient"}, "Missing required id field in resource json"),
    "id": (patient("a_b"), "[A-Za-z0-9-.]{1,64}"),
    "property": (patient("x", **{"@telecom": []}), "Unrecognised property '@telecom'"),
    "null": (patient("x", gender=None), "null is not allowed"),
    "empty": (patient("x", name=[]), "must not be empty"),
    "code": (patient("x", gender="M"), "not in the value set"),
    "cardinality": (study("x", "p", status=None), "minimum required = 1, but only found 0"),
    "list that is none": (patient("x", name={"family": "a"}), "must be an Array"),
    "date of DICOM": (patient("x", birthDate="19700101"), "birthDate: Not a valid date"),
    "series": (study("x", "p", series=[{"uid": "1.2"}]), "series.modality: minimum required"),
    "uid": (study("x", "p", series=[{"uid": "urn:oid:1.2", "modality": {"code": "CT"}}]), "uid: Not a valid id"),
}


def test_each_bad_line_has_its_documented_diagnostic(lake):
    lines = [patient("good"), b"", *(line for line, _ in BAD_LINES.values()), patient("last")]
    job = lake.run({"Mixed.ndjson": ndjson(*lines)})
    assert job["JobStatus"] == "COMPLETED_WITH_ERRORS"
    failures = {f["lineId"]: f for f in lake.lines(job, "FAILURE/Mixed.ndjson")}
    assert list(failures) == list(range(3, 3 + len(BAD_LINES)))
    for number, (name, (_, text)) in enumerate(BAD_LINES.items(), 3):
        answer = failures[number]["UpdateResourceResponse"]
        assert answer["statusCode"] == 400
        assert answer["jsonBlob"]["resourceType"] == "OperationOutcome"
        assert any(text in issue["diagnostics"] for issue in answer["jsonBlob"]["issue"]), name
    manifest = lake.manifest(job)
    assert (manifest["numberOfResourcesScanned"], manifest["numberOfResourcesWithCustomerError"]) == (18, 16)
    assert job["JobProgressReport"]["TotalNumberOfResourcesImported"] == 2
    assert failures[6]["resourceId"] == "x"


def test_events_of_an_import_in_the_documented_form(lake, told):
    uri = lake.upload({"a.ndjson": ndjson(patient(), b"{")})
    job = lake.ended(lake.start(uri))
    events = told.of(job["JobId"], 3)
    assert [e["detail-type"] for e in events] == [
        "Import Job Submitted",
        "Import Job In Progress",
        "Import Job Completed With Errors",
    ]
    last = events[-1]
    assert last["source"] == "aws.healthlake"
    assert last["resources"] == [f"arn:aws:healthlake:us-east-1:123456789012:datastore/fhir/{lake.datastore}"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", last["time"])
    submitted = job["SubmitTime"].isoformat(timespec="milliseconds")[:19]
    assert last["detail"].pop("submitTime").startswith(submitted)
    assert last["detail"] == {
        "jobId": job["JobId"],
        "datastoreId": lake.datastore,
        "inputDataConfig": {"s3Uri": uri},
    }


def test_an_empty_prefix_fails_the_job(lake):
    job = lake.run({"readme.txt": b"nothing"})
    assert (job["JobStatus"], "No .ndjson files" in job["Message"]) == ("FAILED", True)
    assert lake.results(job) == {}


@pytest.mark.parametrize("name", ["InputDataConfig", "JobOutputDataConfig"])
def test_a_bucket_that_is_not_there_is_refused(lake, name):
    there = lake.request(lake.upload({"a.ndjson": ndjson(patient())}))
    gone = "s3://no-such-bucket-anywhere/x/"
    config = {"S3Uri": gone} if name == "InputDataConfig" else {"S3Configuration": {"S3Uri": gone, "KmsKeyId": "k"}}
    with pytest.raises(lake.api.exceptions.ValidationException, match="location"):
        lake.api.start_fhir_import_job(**there | {name: config})
