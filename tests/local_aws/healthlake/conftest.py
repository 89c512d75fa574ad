"""HealthLake of the shared stack, as its tests use it: lines in, jobs run, results read. Only boto3 and HTTP."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conftest import wait_for

ENDED = {"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED"}


def patient(identity: str = "", /, **more: Any) -> dict[str, Any]:
    """A small Patient."""
    return {"resourceType": "Patient", "id": identity or uuid.uuid4().hex, **more}


def study(name: str, subject: str, **more: Any) -> dict[str, Any]:
    """A small ImagingStudy."""
    return {
        "resourceType": "ImagingStudy",
        "id": name,
        "status": "available",
        "subject": {"reference": f"Patient/{subject}"},
        **more,
    }


def ndjson(*resources: Any) -> bytes:
    """Lines of resources; bytes are lines as they are."""
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in resources)


@dataclass
class Events:
    """Reads every event of HealthLake by a rule and a queue of its own."""

    stack: Any
    url: str
    seen: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> list[dict[str, Any]]:
        """All since the last `clear`."""
        sqs = self.stack.client("sqs")
        while got := sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", []):
            for message in got:
                sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                self.seen.append(json.loads(message["Body"]))
        return self.seen

    def clear(self) -> None:
        """Forget them."""
        self.read()
        self.seen.clear()

    def of(self, job_id: str, count: int = 0) -> list[dict[str, Any]]:
        """Those of one job, once there are so many."""

        def found() -> Any:
            mine = [e for e in self.read() if e["detail"].get("jobId") == job_id]
            return mine if len(mine) >= max(count, 1) else None

        return list(wait_for(found, what="the events"))

    def types(self, job_id: str, count: int = 0) -> list[str]:
        """Their detail-types."""
        return [e["detail-type"] for e in self.of(job_id, count)]


class Lake:
    """HealthLake as a test uses it, with a data store and a bucket."""

    def __init__(self, stack: Any, bucket: str) -> None:
        self.stack = stack
        self.bucket = bucket
        self.connect()
        self.datastore: str = stack.env["AHI_FHIR_DATASTORE_ID"]

    def connect(self) -> None:
        """Make clients, also after a restart of the server."""
        self.api = self.stack.client("healthlake")
        self.s3 = self.stack.client("s3")

    def new_datastore(self) -> str:
        """An empty data store for what comes now."""
        self.datastore = self.api.create_fhir_datastore(DatastoreTypeVersion="R4")["DatastoreId"]
        return self.datastore

    def upload(self, files: dict[str, bytes]) -> str:
        """Files under a new prefix; returns its URI."""
        prefix = f"in/{uuid.uuid4().hex}/"
        for key, body in files.items():
            self.s3.put_object(Bucket=self.bucket, Key=prefix + key, Body=body)
        return f"s3://{self.bucket}/{prefix}"

    def request(self, uri: str, **more: Any) -> dict[str, Any]:
        """A right request to start an import."""
        return {
            "DatastoreId": self.datastore,
            "InputDataConfig": {"S3Uri": uri},
            "JobOutputDataConfig": {"S3Configuration": {"S3Uri": f"s3://{self.bucket}/out/", "KmsKeyId": "alias/key"}},
            "DataAccessRoleArn": "arn:aws:iam::123456789012:role/import",
            **more,
        }

    def start(self, uri: str, **more: Any) -> str:
        """Start an import; returns the id of its job."""
        return str(self.api.start_fhir_import_job(**self.request(uri, **more))["JobId"])

    def job(self, job_id: str) -> dict[str, Any]:
        """State of a job."""
        answer = self.api.describe_fhir_import_job(DatastoreId=self.datastore, JobId=job_id)
        return dict(answer["ImportJobProperties"])

    def ended(self, job_id: str) -> dict[str, Any]:
        """State of a job, once it has ended."""
        return dict(wait_for(lambda: (j := self.job(job_id))["JobStatus"] in ENDED and j, what="the job"))

    def run(self, files: dict[str, bytes], **more: Any) -> dict[str, Any]:
        """Import files; returns the state of the job at its end."""
        return self.ended(self.start(self.upload(files), **more))

    def results(self, job: dict[str, Any]) -> dict[str, bytes]:
        """All objects of the results of a job, by their path below its folder."""
        uri = job.get("JobOutputDataConfig", job.get("OutputDataConfig"))["S3Configuration"]["S3Uri"]
        bucket, _, folder = uri.removeprefix("s3://").partition("/")
        found = self.s3.list_objects_v2(Bucket=bucket, Prefix=folder).get("Contents", [])
        return {
            o["Key"].removeprefix(folder): self.s3.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in found
        }

    def lines(self, job: dict[str, Any], name: str) -> list[dict[str, Any]]:
        """Lines of one file of results."""
        return [json.loads(line) for line in self.results(job).get(name, b"").splitlines()]

    def manifest(self, job: dict[str, Any]) -> dict[str, Any]:
        """The manifest of a job."""
        return dict(json.loads(self.results(job)["Manifest.json"]))


def make_lake(stack: Any) -> Lake:
    """HealthLake of a stack, with a bucket of its own."""
    bucket = f"fhir-{uuid.uuid4().hex[:12]}"
    stack.client("s3").create_bucket(Bucket=bucket)
    return Lake(stack, bucket)


@pytest.fixture(scope="session")
def _lake(ahead_stack: Any) -> Lake:
    return make_lake(ahead_stack)


@pytest.fixture
def lake(_lake: Lake) -> Iterator[Lake]:
    """HealthLake of the session's stack, with no faults set and an empty data store."""
    _lake.stack.control("POST", "reset")
    datastore = _lake.new_datastore()
    yield _lake
    _lake.stack.control("POST", "reset")
    with suppress(_lake.api.exceptions.ConflictException):
        _lake.api.delete_fhir_datastore(DatastoreId=datastore)


def listen(stack: Any) -> Events:
    """Hear all that HealthLake of a stack tells."""
    events, sqs = stack.client("events"), stack.client("sqs")
    url = sqs.create_queue(QueueName="all-of-healthlake")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all-of-healthlake", EventPattern=json.dumps({"source": ["aws.healthlake"]}))
    events.put_targets(Rule="all-of-healthlake", Targets=[{"Id": "1", "Arn": arn}])
    return Events(stack, url)


@pytest.fixture(scope="session")
def _events(ahead_stack: Any) -> Events:
    return listen(ahead_stack)


@pytest.fixture
def told(_events: Events) -> Events:
    """What HealthLake tells from now on."""
    _events.clear()
    return _events
