"""Helpers of the emulator's tests: real files in, jobs run, results read."""

from __future__ import annotations

import gzip
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
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
        self.api = stack.client("medical-imaging")
        self.s3 = stack.client("s3")
        self.datastore: str = stack.env["AHI_DATASTORE_ID"]

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


@pytest.fixture
def imaging(aws_stack: Any) -> Imaging:
    """HealthImaging of the shared stack, with no faults set and empty queues."""
    aws_stack.reset()
    return Imaging(aws_stack)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real DICOM samples that comes with the project."""
    return Path(__file__).resolve().parents[2] / "samples"
