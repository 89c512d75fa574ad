"""The emulator in another project: from another folder, without our template, with plain boto3 and pytest."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.local_aws.conftest import make_object

CONFTEST = """
import pytest

pytest_plugins = ["local_aws.pytest_plugin"]


@pytest.fixture(scope="session")
def local_aws_settings():
    return {"account": "111122223333", "region": "eu-west-1"}
"""
TESTS = """
import boto3, gzip, json, os, pathlib, pytest

FILES = {"a.dcm": pathlib.Path("a.dcm").read_bytes(), "broken": b"?"}


def test_plain_boto3_imports_and_reads(health_imaging):
    summary = health_imaging.import_files(FILES)
    assert (summary["numberOfScannedFiles"], summary["numberOfImportedFiles"]) == (2, 1)
    [found] = health_imaging.image_set_ids()
    client = boto3.client("medical-imaging")
    arn = client.get_datastore(datastoreId=health_imaging.datastore_id)["datastoreProperties"]["datastoreArn"]
    assert arn.startswith("arn:aws:medical-imaging:eu-west-1:111122223333:datastore/")
    answer = client.get_image_set_metadata(datastoreId=health_imaging.datastore_id, imageSetId=found)
    assert json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))["ImageSetID"] == found


def test_every_test_has_a_data_store_of_its_own(health_imaging):
    assert health_imaging.image_set_ids() == []
    assert not [name for name in os.environ if name.startswith("AHI_")]


def test_trouble_and_time(health_imaging):
    stack = health_imaging.stack
    stack.fault("slow_jobs", seconds=86400)
    job = health_imaging.start_import(FILES)
    assert health_imaging.client.get_dicom_import_job(
        datastoreId=health_imaging.datastore_id, jobId=job)["jobProperties"]["jobStatus"] != "COMPLETED"
    while not stack.calls("GetDICOMImportJob") or health_imaging.client.get_dicom_import_job(
        datastoreId=health_imaging.datastore_id, jobId=job)["jobProperties"]["jobStatus"] == "SUBMITTED":
        pass
    stack.advance(86400)
    assert health_imaging.wait_for_job(job)["jobStatus"] == "COMPLETED"
    stack.control("POST", "rate-limits", {"enabled": True})


def test_resources_are_imported_and_found(health_lake):
    job = health_lake.import_files({"Patient.ndjson": b'{"resourceType": "Patient", "id": "a", "gender": "other"}'})
    assert job["JobStatus"] == "COMPLETED"
    assert [r["id"] for r in health_lake.search("Patient", gender="other")] == ["a"]
    endpoint = boto3.client("healthlake").describe_fhir_datastore(DatastoreId=health_lake.datastore_id)
    assert endpoint["DatastoreProperties"]["DatastoreEndpoint"] == health_lake.endpoint


def test_nothing_of_the_tests_before_is_left_but_the_time(health_imaging):
    stack = health_imaging.stack
    assert [b["Name"] for b in stack.client("s3").list_buckets()["Buckets"]] == [health_imaging.bucket]
    stores = health_imaging.client.list_datastores()["datastoreSummaries"]
    active = {s["datastoreId"] for s in stores if s["datastoreStatus"] == "ACTIVE"}
    assert active == {health_imaging.datastore_id, stack.env["AHI_DATASTORE_ID"]}
    for _ in range(30):  # beyond the burst of ListDatastores: the rates are off again
        health_imaging.client.list_datastores()
    assert stack.calls("ListDatastores")[-1]["status"] == 200
    assert not [c for c in stack.calls() if c["status"] == 429]
    assert stack.control("GET", "clock")["offset"] >= 86400


def test_a_server_of_its_own(fresh_health_imaging):
    assert fresh_health_imaging.stack.control("GET", "clock")["offset"] == 0
    assert fresh_health_imaging.import_files(FILES)["numberOfImportedFiles"] == 1
    assert os.environ["AWS_ENDPOINT_URL"] == fresh_health_imaging.stack.env["AWS_ENDPOINT_URL"]
    fresh_health_imaging.stack.stop(kill=True)
"""


def test_another_project_tests_against_it(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "a.dcm").write_bytes(make_object())
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "6 passed" in ended.stdout, ended.stdout + ended.stderr


def test_help_teaches():
    ended = subprocess.run(
        [sys.executable, "-m", "local_aws", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for word in ("--template", "stack.env", "LOCAL_AWS_RATE_LIMITS", "_local_aws", "search-image-sets", "pytest"):
        assert word in ended.stdout


def test_the_template_of_another_project_is_applied(make_aws_stack, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "Resources: {B: {Type: 'AWS::S3::Bucket', Properties: {BucketName: mine}}}\n"
        "Outputs: {MyBucket: {Value: !Ref B}}\n"
    )
    stack = make_aws_stack(LOCAL_AWS_TEMPLATE=str(path))
    assert stack.env["STACK_MyBucket"] == "mine"
    stack.client("s3").head_bucket(Bucket="mine")


@pytest.mark.parametrize("template", ["no-such.yaml", ""])
def test_a_template_that_is_missing_is_one_clear_sentence(tmp_path, template):
    ended = subprocess.run(
        [sys.executable, "-m", "local_aws", "--home", str(tmp_path), "--port", "0", "--template", template],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "--template" in ended.stderr
    assert ended.stderr.count("\n") == 1
