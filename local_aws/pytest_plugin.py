"""Fixtures for the tests of any project: `pytest -p local_aws.pytest_plugin`, or `pytest_plugins` in a conftest.py.

    pytest_plugins = ["local_aws.pytest_plugin"]

    def test_my_importer(health_imaging):
        outcome = health_imaging.import_files({"a.dcm": Path("a.dcm").read_bytes()})
        assert outcome["numberOfImportedFiles"] == 1

    def test_my_chain(health_lake):
        job = health_lake.import_files({"Patient.ndjson": b'{"resourceType": "Patient", "id": "a"}'})
        assert health_lake.search("Patient", _id="a") == [{"resourceType": "Patient", "id": "a", "meta": ANY}]

Belongs here: fixtures. Does not belong here: starting a server without pytest (`stack.py`).
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from local_aws.stack import Stack, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Tests call faster than the documented rates, and each has a data store of its own.
DEFAULTS = {"rate_limits": "off", "max_datastores": "1000000", "fhir_max_datastores": "1000000"}


@dataclass(frozen=True)
class HealthImaging:
    """A data store of a test's own.

    Attributes:
        stack: The server: faults, clock, log of calls, clients of other services.
        client: boto3's `medical-imaging`.
        datastore_id: The data store, empty and ACTIVE.
        bucket: An S3 bucket for input and output of import jobs.
    """

    stack: Stack
    client: Any
    datastore_id: str
    bucket: str

    def start_import(self, files: dict[str, bytes]) -> str:
        """Put files into S3 and start an import job over them. Returns its id."""
        s3, prefix = self.stack.client("s3"), uuid.uuid4().hex
        for name, body in files.items():
            s3.put_object(Bucket=self.bucket, Key=f"{prefix}/{name}", Body=body)
        answer = self.client.start_dicom_import_job(
            datastoreId=self.datastore_id,
            dataAccessRoleArn=f"arn:aws:iam::{self.stack.env['AWS_ACCESS_KEY_ID']}:role/any",
            inputS3Uri=f"s3://{self.bucket}/{prefix}/",
            outputS3Uri=f"s3://{self.bucket}/results/",
        )
        return str(answer["jobId"])

    def wait_for_job(self, job_id: str) -> dict[str, Any]:
        """Properties of a job, once it has ended."""

        def ended() -> Any:
            answer = self.client.get_dicom_import_job(datastoreId=self.datastore_id, jobId=job_id)
            return answer["jobProperties"] if answer["jobProperties"]["jobStatus"] in {"COMPLETED", "FAILED"} else None

        return dict(wait_for(ended, seconds=60.0, what=f"import job {job_id}"))

    def import_files(self, files: dict[str, bytes]) -> dict[str, Any]:
        """Import files and wait; returns `jobSummary` of the manifest."""
        job = self.wait_for_job(self.start_import(files))
        bucket, _, folder = job["outputS3Uri"].removeprefix("s3://").partition("/")
        found = self.stack.client("s3").get_object(Bucket=bucket, Key=f"{folder}job-output-manifest.json")
        return dict(json.loads(found["Body"].read())["jobSummary"])

    def image_set_ids(self) -> list[str]:
        """Every image set of the data store."""
        pages = self.client.get_paginator("search_image_sets").paginate(datastoreId=self.datastore_id)
        return [item["imageSetId"] for page in pages for item in page["imageSetsMetadataSummaries"]]

    def remove(self, *, seconds: float = 10.0) -> None:
        """Remove the bucket, and the data store with its image sets, as far as that is done within `seconds`.

        What is LOCKED or working for longer, by a setting or a slow job, stays behind.
        """
        from botocore.exceptions import ClientError

        def gone() -> bool:
            for image_set in self.image_set_ids():
                with suppress(ClientError):
                    self.client.delete_image_set(datastoreId=self.datastore_id, imageSetId=image_set)
            with suppress(self.client.exceptions.ConflictException):
                self.client.delete_datastore(datastoreId=self.datastore_id)
                return True
            return False

        _drop(self.stack, self.bucket)
        with suppress(ClientError, TimeoutError):
            wait_for(gone, seconds=seconds, what="the removal of the data store")


@dataclass(frozen=True)
class HealthLake:
    """A FHIR data store of a test's own.

    Attributes:
        stack: The server: faults, clock, log of calls, clients of other services.
        client: boto3's `healthlake`.
        datastore_id: The data store, empty and ACTIVE.
        endpoint: Where its FHIR REST is.
        bucket: An S3 bucket for input and output of jobs.
    """

    stack: Stack
    client: Any
    datastore_id: str
    endpoint: str
    bucket: str

    def start_import(self, files: dict[str, bytes], **more: Any) -> str:
        """Put files into S3 and start an import job over them; `more` are members of the request. Returns its id."""
        s3, prefix = self.stack.client("s3"), uuid.uuid4().hex
        for name, body in files.items():
            s3.put_object(Bucket=self.bucket, Key=f"{prefix}/{name}", Body=body)
        output = {"S3Uri": f"s3://{self.bucket}/results/", "KmsKeyId": "alias/any"}
        request = {
            "DatastoreId": self.datastore_id,
            "InputDataConfig": {"S3Uri": f"s3://{self.bucket}/{prefix}/"},
            "JobOutputDataConfig": {"S3Configuration": output},
            "DataAccessRoleArn": f"arn:aws:iam::{self.stack.env['AWS_ACCESS_KEY_ID']}:role/any",
        }
        return str(self.client.start_fhir_import_job(**request | more)["JobId"])

    def wait_for_job(self, job_id: str) -> dict[str, Any]:
        """Properties of an import job, once it has ended."""

        def ended() -> Any:
            answer = self.client.describe_fhir_import_job(DatastoreId=self.datastore_id, JobId=job_id)
            return answer["ImportJobProperties"] if "EndTime" in answer["ImportJobProperties"] else None

        return dict(wait_for(ended, seconds=60.0, what=f"import job {job_id}"))

    def import_files(self, files: dict[str, bytes]) -> dict[str, Any]:
        """Import files and wait; returns the properties of the job."""
        return self.wait_for_job(self.start_import(files))

    def search(self, kind: str, **parameters: str) -> list[dict[str, Any]]:
        """Resources of all pages of a search; `:` of a modifier is two underscores in the middle of a name."""
        from urllib.parse import urlencode

        pairs = {name[:1] + name[1:].replace("__", ":"): value for name, value in parameters.items()}
        url, found = f"{self.endpoint}{kind}?{urlencode(pairs)}", []
        while url:
            bundle = self._get(url)
            found += [entry["resource"] for entry in bundle["entry"]]
            url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
        return found

    def _get(self, url: str) -> Any:
        """One signed GET."""
        import urllib.request

        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        request = AWSRequest("GET", url)
        signer = Credentials(self.stack.env["AWS_ACCESS_KEY_ID"], self.stack.env["AWS_SECRET_ACCESS_KEY"])
        SigV4Auth(signer, "healthlake", self.stack.env["AWS_REGION"]).add_auth(request)
        http = urllib.request.Request(url, headers=dict(request.headers.items()))  # noqa: S310 -- our own server
        with urllib.request.urlopen(http, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())


@pytest.fixture(scope="session")
def local_aws_settings() -> dict[str, str]:
    """Switches of the server. Override it: a fixture of the same name in a conftest.py."""
    return {}


@pytest.fixture(scope="session")
def local_aws_stack(tmp_path_factory: pytest.TempPathFactory, local_aws_settings: dict[str, str]) -> Iterator[Stack]:
    """One server for the whole session, on a free port, with its state in a temporary folder."""
    with Stack(tmp_path_factory.mktemp("local-aws"), settings=DEFAULTS | local_aws_settings) as stack:
        yield stack


@pytest.fixture
def local_aws_environment(local_aws_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """`boto3.client(...)` without any argument reaches the server, during this test."""
    for name, value in local_aws_stack.variables().items():
        monkeypatch.setenv(name, value)


def _for_one_test(stack: Stack) -> HealthImaging:
    """A data store and a bucket, and no faults."""
    stack.reset()
    client = stack.client("medical-imaging")
    datastore_id = client.create_datastore(datastoreName="test")["datastoreId"]

    def active() -> bool:
        answer = client.get_datastore(datastoreId=datastore_id)["datastoreProperties"]
        return bool(answer["datastoreStatus"] == "ACTIVE")

    wait_for(active, what="the data store")
    return HealthImaging(stack, client, datastore_id, _bucket(stack, datastore_id))


def _bucket(stack: Stack, datastore_id: str) -> str:
    name = f"test-{datastore_id[:12]}"
    region = stack.env["AWS_REGION"]
    # S3 wants no constraint in its first region, and one in all others.
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    stack.client("s3").create_bucket(Bucket=name, **place)
    return name


def _drop(stack: Stack, bucket: str) -> None:
    """Remove a bucket with what is in it."""
    from botocore.exceptions import ClientError

    objects = stack.client("s3")
    for page in objects.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            objects.delete_object(Bucket=bucket, Key=item["Key"])
    with suppress(ClientError):
        objects.delete_bucket(Bucket=bucket)


@pytest.fixture
def health_lake(local_aws_stack: Stack, local_aws_environment: None) -> Iterator[HealthLake]:  # noqa: ARG001
    """An empty FHIR data store for one test; it goes with the test, and so do faults. The clock is the session's."""
    stack = local_aws_stack
    stack.reset()
    client = stack.client("healthlake")
    made = client.create_fhir_datastore(DatastoreTypeVersion="R4", DatastoreName="test")
    here = {"DatastoreId": made["DatastoreId"]}

    def active() -> bool:
        answer = client.describe_fhir_datastore(**here)["DatastoreProperties"]
        return bool(answer["DatastoreStatus"] == "ACTIVE")

    wait_for(active, what="the data store")
    bucket = _bucket(stack, made["DatastoreId"])
    yield HealthLake(stack, client, made["DatastoreId"], made["DatastoreEndpoint"], bucket)
    stack.reset()
    stack.control("POST", "rate-limits", {"enabled": False})
    _drop(stack, bucket)
    # A job that still works keeps it; the next test has another.
    with suppress(client.exceptions.ConflictException):
        client.delete_fhir_datastore(**here)


@pytest.fixture
def health_imaging(local_aws_stack: Stack, local_aws_environment: None) -> Iterator[HealthImaging]:  # noqa: ARG001
    """An empty data store for one test; it goes with the test, and so do faults. The clock is the session's."""
    found = _for_one_test(local_aws_stack)
    yield found
    local_aws_stack.reset()
    local_aws_stack.control("POST", "rate-limits", {"enabled": False})
    found.remove()
    local_aws_stack.reset()


@pytest.fixture
def fresh_health_imaging(
    tmp_path: Path, local_aws_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HealthImaging]:
    """The same on a server of the test's own: for tests that advance the clock, stop the server or need it empty."""
    with Stack(tmp_path / "local-aws", settings=DEFAULTS | local_aws_settings) as stack:
        for name, value in stack.variables().items():
            monkeypatch.setenv(name, value)
        yield _for_one_test(stack)
