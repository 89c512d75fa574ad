"""Fixtures of the DICOMweb tests: one data store full of real objects, and what pydicom says is in it."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
STUDY_GROUP = ("StudyDate", "AccessionNumber", "PatientID", "StudyInstanceUID", "StudyID")
SERIES_GROUP = (*STUDY_GROUP, "SeriesInstanceUID", "SeriesNumber")
BOUNDARY = "8e4b1f0c"


def multipart(objects: list[bytes]) -> tuple[dict[str, str], bytes]:
    """Headers and body that store several objects."""
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + o + b"\r\n" for o in objects) + f"--{BOUNDARY}--".encode()
    return {"Content-Type": f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'}, body


@dataclass
class Plane:
    """The DICOMweb plane of one data store, and the originals of what its primary image sets hold."""

    stack: Any
    datastore_id: str
    originals: list[pydicom.Dataset] = field(default_factory=list)
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def base(self) -> str:
        return f"{self.stack.env['AWS_ENDPOINT_URL']}/datastore/{self.datastore_id}"

    @property
    def client(self) -> DICOMwebClient:
        return DICOMwebClient(self.base)

    def get(self, path: str, accept: str = "", **headers: str) -> requests.Response:
        given = headers | ({"Accept": accept} if accept else {"Accept": ""})
        return self.session.get(f"{self.base}/{path}", headers=given, timeout=30)

    def store(self, *objects: bytes, path: str = "studies") -> requests.Response:
        headers, body = multipart(list(objects))
        return self.session.post(f"{self.base}/{path}", data=body, headers=headers, timeout=60)

    def json(self, path: str) -> list[dict[str, Any]]:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found


def read(data: bytes) -> pydicom.Dataset:
    """A data set from bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data))


def path_of(data: pydicom.Dataset) -> str:
    """Path of an instance."""
    return f"studies/{data.StudyInstanceUID}/series/{data.SeriesInstanceUID}/instances/{data.SOPInstanceUID}"


def text(data: pydicom.Dataset, keyword: str) -> str:
    """A value as plain text."""
    return str(data.get(keyword) or "").strip()


def primary(objects: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Those that agree with the first of their series and study in the grouping attributes."""
    studies: dict[str, Any] = {}
    series: dict[str, Any] = {}
    out = []
    for one in objects:
        of_study = tuple(text(one, k) for k in STUDY_GROUP)
        of_series = tuple(text(one, k) for k in SERIES_GROUP)
        if studies.setdefault(one.StudyInstanceUID, of_study) != of_study:
            continue
        if series.setdefault(one.SeriesInstanceUID, of_series) == of_series:
            out.append(one)
    return out


def new_plane(stack: Any, name: str, **more: Any) -> Plane:
    """A data store of its own."""
    api = stack.client("medical-imaging")
    found = Plane(stack, api.create_datastore(datastoreName=name, **more)["datastoreId"])
    stack.wait_for(
        lambda: api.get_datastore(datastoreId=found.datastore_id)["datastoreProperties"]["datastoreStatus"] == "ACTIVE"
    )
    return found


def samples() -> list[bytes]:
    """Every sample that HealthImaging imports."""
    with (SAMPLES / "MANIFEST.csv").open() as handle:
        files = [SAMPLES / "dicom" / row["file"] for row in csv.DictReader(handle) if row["expected"] == "indexable"]
    return [file.read_bytes() for file in sorted(files)]


@pytest.fixture(scope="session")
def plane(aws_stack: Any) -> Iterator[Plane]:
    """All samples, stored by one request."""
    bodies = samples()
    found = new_plane(aws_stack, "dicomweb-samples")
    answer = found.store(*bodies)
    assert answer.status_code in {200, 202}, answer.text
    assert len(answer.json()["00081199"]["Value"]) == len(bodies)
    found.originals = primary([read(body) for body in bodies])
    yield found
    found.session.close()


@pytest.fixture(scope="session")
def single(aws_stack: Any) -> Iterator[Plane]:
    """One sample of each study, so that no attribute of a study or series comes from another object."""
    by_study = {read(body).StudyInstanceUID: body for body in reversed(samples())}
    found = new_plane(aws_stack, "dicomweb-single")
    assert found.store(*by_study.values()).status_code in {200, 202}
    found.originals = [read(body) for body in by_study.values()]
    yield found
    found.session.close()


@pytest.fixture
def empty(aws_stack: Any, request: pytest.FixtureRequest) -> Iterator[Plane]:
    """A data store with nothing in it yet."""
    found = new_plane(aws_stack, f"dicomweb-{request.node.name[:40]}".replace("[", "-").replace("]", "-"))
    yield found
    found.session.close()
