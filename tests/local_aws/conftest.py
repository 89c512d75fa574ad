"""Helpers of the emulator's tests: real files in, jobs run, results read."""

from __future__ import annotations

import gzip
import io
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def make_object(**attributes: Any) -> bytes:
    """A small CT object; attributes override, None removes."""
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientID": "P1",
        "PatientName": "Test^Name",
        "StudyDate": "20260101",
        "StudyTime": "101500",
        "AccessionNumber": "A1",
        "StudyID": "S1",
        "SeriesNumber": 7,
        "InstanceNumber": 1,
        "Modality": "CT",
        "Rows": 4,
        "Columns": 4,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": bytes(range(32)),
        **attributes,
    }
    data = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"] or CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"] or generate_uid()
    buffer = DicomBytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return bytes(buffer.getvalue())


def changed(change: Callable[[Dataset], Any], **attributes: Any) -> bytes:
    """An object after a change that pydicom's data set does not offer."""
    read = dcmread(io.BytesIO(make_object(**attributes)))
    change(read)
    read.save_as(buffer := io.BytesIO())
    return buffer.getvalue()


@dataclass(frozen=True)
class Outcome:
    """What a job left behind."""

    job: dict[str, Any]
    manifest: dict[str, Any]
    success: list[dict[str, Any]]
    failure: list[dict[str, Any]]
    warning: list[dict[str, Any]]


class Imaging:
    """HealthImaging as a test uses it."""

    def __init__(self, stack: Any) -> None:
        self.stack = stack
        self.connect()
        self.datastore: str = stack.env["AHI_DATASTORE_ID"]

    def connect(self) -> None:
        """Make clients, also after a restart of the server."""
        self.api = self.stack.client("medical-imaging")
        self.s3 = self.stack.client("s3")

    def put(self, objects: dict[str, bytes]) -> str:
        """Objects under a new prefix; returns its URI."""
        prefix = f"{uuid.uuid4().hex}/"
        for key, body in objects.items():
            self.s3.put_object(Bucket=self.stack.env["AHI_STAGING_BUCKET"], Key=prefix + key, Body=body)
        return f"s3://{self.stack.env['AHI_STAGING_BUCKET']}/{prefix}"

    def start(self, uri: str, **more: Any) -> dict[str, Any]:
        """Start a job over a prefix."""
        request = {
            "datastoreId": self.datastore,
            "dataAccessRoleArn": self.stack.env["AHI_IMPORT_ROLE_ARN"],
            "inputS3Uri": uri,
            "outputS3Uri": f"s3://{self.stack.env['AHI_LAKE_BUCKET']}/jobs/",
            **more,
        }
        return dict(self.api.start_dicom_import_job(**request))

    def job(self, job_id: str) -> dict[str, Any]:
        """State of a job."""
        return dict(self.api.get_dicom_import_job(datastoreId=self.datastore, jobId=job_id)["jobProperties"])

    def ended(self, job_id: str) -> dict[str, Any]:
        """State of a job, once it has ended."""
        from tests.conftest import wait_for

        return dict(
            wait_for(lambda: (j := self.job(job_id))["jobStatus"] in {"COMPLETED", "FAILED"} and j, what="the job")
        )

    def result(self, job: dict[str, Any], name: str) -> bytes | None:
        """One result file of a job, None when it is not there."""
        bucket, _, folder = job["outputS3Uri"].removeprefix("s3://").partition("/")
        try:
            return bytes(self.s3.get_object(Bucket=bucket, Key=folder + name)["Body"].read())
        except self.s3.exceptions.NoSuchKey:
            return None

    def lines(self, job: dict[str, Any], name: str) -> list[dict[str, Any]]:
        """Lines of an ndjson file."""
        return [json.loads(line) for line in (self.result(job, name) or b"").splitlines()]

    def outcome(self, job_id: str) -> Outcome:
        """Wait for a job and read everything it wrote."""
        job = self.ended(job_id)
        manifest = json.loads(self.result(job, "job-output-manifest.json") or b'{"jobSummary": {}}')["jobSummary"]
        return Outcome(
            job,
            manifest,
            self.lines(job, "SUCCESS/success.ndjson"),
            self.lines(job, "FAILURE/failure.ndjson"),
            self.lines(job, "WARNING/warning.ndjson"),
        )

    def run(self, objects: dict[str, bytes]) -> Outcome:
        """Put objects, import them, read the outcome."""
        return self.outcome(self.start(self.put(objects))["jobId"])

    def document(self, image_set_id: str, **more: Any) -> dict[str, Any]:
        """A metadata document."""
        answer = self.api.get_image_set_metadata(datastoreId=self.datastore, imageSetId=image_set_id, **more)
        loaded: dict[str, Any] = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))
        return loaded

    def get(self, image_set_id: str) -> dict[str, Any]:
        """GetImageSet."""
        return dict(self.api.get_image_set(datastoreId=self.datastore, imageSetId=image_set_id))

    def gone(self, image_set_id: str) -> None:
        """Wait until a deleted image set is not found."""
        from tests.conftest import wait_for

        def found() -> bool:
            try:
                return bool(self.get(image_set_id))
            except self.api.exceptions.ResourceNotFoundException:
                return False

        wait_for(lambda: not found(), what="the end of the image set")

    def pass_time(self, seconds: float = 61) -> None:
        """Put the service's clock forward."""
        self.stack.control("POST", "clock", {"advance": seconds})


# Not the default of anything: what is undocumented decided the other way, a minute for every change, low quotas.
OTHER_CHOICES = {
    **dict.fromkeys(("UPDATE_SECONDS", "COPY_SECONDS", "DELETE_SECONDS", "DATASTORE_SECONDS"), "60"),
    "MAX_CONCURRENT_CHANGES": "2",
    "MAX_COPY_FRAMES": "2",
    "MAX_DATASTORES": "2",
    "MAX_METADATA_BYTES": "6000",
    "COPY_FIRST_VERSION": "2",
    "PROMOTE_INTO_PRIMARY": "refuse",
    "UPDATE_ERRORS": "later",
    "SEARCH_BETWEEN": "half-open",
    "SEARCH_CASE_SENSITIVE": "off",
    "SEARCH_TWO_ATTRIBUTES": "on",
    "EVENT_ID_KEY": "imagesetId",
    "EVENT_VERSION_FIELDS": "off",
    "EVENT_OUTPUT_URI": "request",
    "MERGE_DETAIL_TYPE": "Image Set Created",
    "EMPTY_RESULT_FILES": "on",
    "GET_DELETED": "off",
    "GET_DELETED_DATASTORE": "on",
}


# The switches of imports the other way, and low limits.
OTHER_IMPORTS = {
    "LONG_VALUES": "warn",
    "INVALID_UIDS": "fail",
    "DISCARD_WARNINGS": "off",
    "OTHER_WARNINGS": "off",
    "ATTRIBUTE_WINS": "latest",
    "JSON_METADATA_WINS": "off",
    "FAILED_JOB_MANIFEST": "on",
    "MAX_FILES_PER_JOB": "4",
    "MAX_FOLDERS_PER_JOB": "3",
    "MAX_BYTES_PER_JOB": "100000",
    "MAX_BYTES_PER_FILE": "50000",
    "MAX_METADATA_BYTES": "6000",
    "SECONDS_PER_INSTANCE": "0.5",
    "UPDATE_SECONDS": "100",
}


@pytest.fixture(scope="session")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imaging]:
    """A server with those."""
    from tests.conftest import AwsStack

    options = {f"LOCAL_AWS_{name}": value for name, value in OTHER_IMPORTS.items()}
    stack = AwsStack(tmp_path_factory.mktemp("switched") / "home", options).start()
    yield Imaging(stack)
    stack.stop()


def run_past(imaging: Imaging, objects: dict[str, bytes], **more: Any) -> Outcome:
    """A job whose duration the clock is put past."""
    job = imaging.start(imaging.put(objects), **more)["jobId"]
    imaging.stack.wait_for(lambda: imaging.job(job)["jobStatus"] != "SUBMITTED")
    imaging.stack.control("POST", "clock", {"advance": 10})
    return imaging.outcome(job)


@pytest.fixture(scope="session")
def _other_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tests.conftest import AwsStack

    options = {f"LOCAL_AWS_{name}": value for name, value in OTHER_CHOICES.items()}
    stack = AwsStack(tmp_path_factory.mktemp("other") / "home", options).start()
    yield stack
    stack.stop()


@pytest.fixture
def slow(_other_stack: Any) -> Imaging:
    """HealthImaging with all other choices, where every change takes a minute of the service's clock."""
    _other_stack.reset()
    return Imaging(_other_stack)


@pytest.fixture(scope="session")
def aws_stack(ahead_stack: Any) -> Any:
    """Tests of the server advance its clock, so theirs is another than that of the tests of the pipeline."""
    return ahead_stack


@pytest.fixture
def imaging(aws_stack: Any) -> Imaging:
    """HealthImaging of the shared stack, with no faults set and empty queues."""
    aws_stack.reset()
    return Imaging(aws_stack)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real DICOM samples that comes with the project."""
    return Path(__file__).resolve().parents[2] / "samples"
