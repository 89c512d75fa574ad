"""The control plane: every operation, data stores, tags, exports, modelled errors, and requests that are spoilt."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from local_aws.protocol.restjson import load_model
from tests.conftest import wait_for
from tests.local_aws.healthlake.conftest import ndjson, patient
from tests.local_aws.healthlake.fhir import Fhir

MODEL = load_model("healthlake")
ZERO = "0" * 32
ROLE = "arn:aws:iam::123456789012:role/export"
# Data transformation is a preview, and a restore needs what a backup is; see docs/emulator-healthlake.md.
NOT_EMULATED = {
    name for name in MODEL.operation_names if "Transformation" in name or name == "UpdateProfileWithAgent"
} | {"RestoreFHIRDatastore"}
EMULATED = sorted(set(MODEL.operation_names) - NOT_EMULATED)


def export(lake) -> dict[str, Any]:
    """Export everything; returns the state of the job at its end."""
    output = {"S3Configuration": {"S3Uri": f"s3://{lake.bucket}/exports", "KmsKeyId": "alias/key"}}
    job = lake.api.start_fhir_export_job(DatastoreId=lake.datastore, OutputDataConfig=output, DataAccessRoleArn=ROLE)

    def ended() -> Any:
        answer = lake.api.describe_fhir_export_job(DatastoreId=lake.datastore, JobId=job["JobId"])
        return "EndTime" in answer["ExportJobProperties"] and answer["ExportJobProperties"]

    return dict(wait_for(ended, what="the export"))


def test_every_operation_answers(lake):
    api = lake.api
    made = api.create_fhir_datastore(
        DatastoreTypeVersion="R4", DatastoreName="story", Tags=[{"Key": "a", "Value": "1"}]
    )
    lake.datastore = here = made["DatastoreId"]
    assert re.fullmatch("[0-9a-f]{32}", here)
    assert made["DatastoreEndpoint"].endswith(f"/datastore/{here}/r4/")
    one = {"DatastoreId": here}
    told = api.describe_fhir_datastore(**one)["DatastoreProperties"]
    assert (told["DatastoreStatus"], told["DatastoreName"], told["DatastoreTypeVersion"]) == ("ACTIVE", "story", "R4")
    listed = api.list_fhir_datastores(Filter={"DatastoreName": "story", "DatastoreStatus": "ACTIVE"})
    assert [s["DatastoreId"] for s in listed["DatastorePropertiesList"]] == [here]
    assert (
        api.update_fhir_datastore(DatastoreName="renamed", **one)["DatastoreProperties"]["DatastoreName"] == "renamed"
    )
    arn = told["DatastoreArn"]
    api.tag_resource(ResourceARN=arn, Tags=[{"Key": "b", "Value": "2"}])
    api.untag_resource(ResourceARN=arn, TagKeys=["a"])
    assert api.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "b", "Value": "2"}]
    job = lake.run({"a.ndjson": ndjson(patient("a"))})
    assert [j["JobId"] for j in api.list_fhir_import_jobs(**one)["ImportJobPropertiesList"]] == [job["JobId"]]
    assert export(lake)["JobStatus"] == "COMPLETED"
    assert len(api.list_fhir_export_jobs(**one)["ExportJobPropertiesList"]) == 1
    assert api.delete_fhir_datastore(**one)["DatastoreStatus"] == "DELETING"
    with pytest.raises(api.exceptions.ResourceNotFoundException):
        api.describe_fhir_datastore(**one)
    called = {
        call["operation"] for call in lake.stack.calls() if call["service"] == "healthlake" and call["status"] == 200
    }
    assert set(EMULATED) <= called


def test_what_is_exported_is_what_was_imported(lake, told):
    lake.run(
        {"a.ndjson": ndjson(*(patient(f"p{n}") for n in range(5)), {"resourceType": "Endpoint", "id": "x"} | ENDPOINT)}
    )
    fhir = Fhir(lake)
    fhir.call("DELETE", "Patient/p3")
    job = export(lake)
    results = lake.results(job)
    names = sorted(name for name in results if name != "manifest.json")
    assert [re.sub(r"-\d{19}-\d+-\d+", "", name) for name in names] == [
        "Endpoint/Endpoint.ndjson",
        "Patient/Patient.ndjson",
    ]
    found = [json.loads(line) for line in results[names[1]].splitlines()]
    assert [resource["id"] for resource in found] == ["p0", "p1", "p2", "p4"]
    assert found[0] == fhir.call("GET", "Patient/p0").body
    folder = job["OutputDataConfig"]["S3Configuration"]["S3Uri"]
    assert folder == f"s3://{lake.bucket}/exports/{lake.datastore}-FHIR_EXPORT-{job['JobId']}/"
    types = told.types(job["JobId"], 3)
    assert types == ["Export Job Submitted", "Export Job In Progress", "Export Job Completed"]
    assert told.of(job["JobId"])[0]["detail"]["outputDataConfig"] == {"s3Uri": f"s3://{lake.bucket}/exports"}


ENDPOINT = {
    "status": "active",
    "connectionType": {"code": "dicom-wado-rs"},
    "payloadType": [{"text": "DICOM"}],
    "address": "https://example.org/dicomweb",
}


def test_events_of_a_data_store(lake, told):
    here = lake.new_datastore()
    lake.api.delete_fhir_datastore(DatastoreId=here)

    def mine() -> Any:
        found = [e for e in told.read() if e["detail"].get("datastoreId") == here]
        return found if len(found) == 4 else None

    events = wait_for(mine, what="the events")
    kinds = ["Data Store Creating", "Data Store Active", "Data Store Deleting", "Data Store Deleted"]
    assert [e["detail-type"] for e in events] == kinds
    assert set(events[0]["detail"]) == {"datastoreId", "datastoreName", "datastoreTypeVersion", "datastoreEndpoint"}


def test_a_data_store_with_a_running_job_stays(lake):
    lake.stack.fault("hold_jobs", service="healthlake")
    job = lake.start(lake.upload({"a.ndjson": ndjson(patient())}))
    with pytest.raises(lake.api.exceptions.ConflictException):
        lake.api.delete_fhir_datastore(DatastoreId=lake.datastore)
    lake.stack.control("POST", "release")
    lake.ended(job)


def test_a_data_store_that_fails(lake):
    lake.stack.fault("fail_datastore", service="healthlake")
    lake.new_datastore()
    told = lake.api.describe_fhir_datastore(DatastoreId=lake.datastore)["DatastoreProperties"]
    assert (told["DatastoreStatus"], told["ErrorCause"]["ErrorCategory"]) == ("CREATE_FAILED", "RETRYABLE_ERROR")
    with pytest.raises(lake.api.exceptions.ValidationException, match="not ACTIVE"):
        lake.start("s3://any-bucket/x/")


WRONG = {
    "JobOutputDataConfig": [{"S3Configuration": {"S3Uri": "http://x", "KmsKeyId": "k"}}],
    "InputDataConfig": [{"S3Uri": "s3://Bucket/x"}, {"S3Uri": "s3://b"}],
    "DataAccessRoleArn": ["arn:aws:iam::12:role/x", "arn:aws:iam::123456789012:user/import"],
    "JobName": ["a" * 65, "a;b"],
    "ClientToken": ["a_b", "a" * 65],
    "ValidationLevel": ["loose"],
}


def test_the_constraints_of_the_model_are_kept(lake):
    right = lake.request(lake.upload({"a.ndjson": ndjson(patient())}))
    with closing(lake.stack.client("healthlake", parameter_validation=False)) as client:
        for name, values in WRONG.items():
            for value in values:
                with pytest.raises(client.exceptions.ValidationException, match=name):
                    client.start_fhir_import_job(**right | {name: value})
        with pytest.raises(client.exceptions.ValidationException, match="KmsKeyId"):
            client.start_fhir_import_job(**right | {"JobOutputDataConfig": {"S3Configuration": {"S3Uri": "s3://abc/"}}})
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.start_fhir_import_job(**right | {"DatastoreId": ZERO})
    name = "Läufe 1_a.:/=+-%@"
    assert lake.ended(lake.start(right["InputDataConfig"]["S3Uri"], JobName=name))["JobName"] == name


@pytest.mark.parametrize("name", EMULATED)
def test_every_modelled_error_comes_when_it_is_provoked(lake, name):
    """Typed and with the status of awsJson: 400, or 500 for an internal error."""
    with closing(lake.stack.client("healthlake", retries={"max_attempts": 0}, parameter_validation=False)) as client:
        for shape in MODEL.operation_model(name).error_shapes:
            lake.stack.fault("fail_call", operation=name, error=shape.name)
            with pytest.raises(getattr(client.exceptions, shape.name)) as caught:
                getattr(client, xform_name(name))()
            status = caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
            assert status == (500 if shape.name == "InternalServerException" else 400)
            assert caught.value.response["Error"]["Message"]


def test_what_is_not_emulated_says_so(lake):
    with pytest.raises(ClientError, match="not emulated"):
        lake.api.list_data_transformation_profiles(SourceFormat="CSV")
    with pytest.raises(lake.api.exceptions.ValidationException, match="not emulated"):
        lake.start(lake.upload({"a.ndjson": b"x"}), InputFormat="CSV")
