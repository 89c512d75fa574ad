"""Objects as HealthImaging's documents show them, made by the emulator's own reader and without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from ahi.exploded import explode
from local_aws.healthimaging import dicom
from local_aws.healthimaging.values import entry, name

SAMPLES = Path(__file__).resolve().parents[3] / "samples" / "dicom"
Rows = dict[str, list[dict[str, Any]]]


def attributes_of(data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """All attributes of an object in the document's form, and the VRs that a document tells."""
    parsed = dicom.read(data)
    values = {name(tag): value for tag, value in parsed.values.items() if tag not in dicom.PIXELS}
    vrs = {name(tag): parsed.vrs.get(tag, "UN") for tag in parsed.values if entry(tag) is None}
    # Through JSON, as a document comes.
    return json.loads(json.dumps(values)), vrs


def exploded(data: bytes, *, clean: bool = True) -> Rows:
    """Rows by table of an object. When it is `clean`, nothing may be skipped."""
    attributes, vrs = attributes_of(data)
    tables = explode("1.2.3", attributes, vrs)
    assert all(row["SOPInstanceUID"] == "1.2.3" for rows in tables.values() for row in rows)
    assert not clean or "skipped_content" not in tables, tables["skipped_content"]
    return tables


def part10(path: Path) -> bytes:
    """A file's bytes; one without a preamble is written anew, as the reader takes Part 10 files only."""
    data = path.read_bytes()
    if data[128:132] == b"DICM":
        return data
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    return as_bytes(dataset, dataset.SOPClassUID, dataset.SOPInstanceUID)


@pytest.fixture(scope="session")
def sample() -> Callable[[str], tuple[Dataset, Rows]]:
    """Function of a sample's name to what pydicom reads of it, and its rows by table."""
    known: dict[str, tuple[Dataset, Rows]] = {}

    def read(file: str, *, clean: bool = True) -> tuple[Dataset, Rows]:
        if file not in known:
            data = part10(SAMPLES / file)
            known[file] = (
                pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True),
                exploded(data, clean=clean),
            )
        return known[file]

    return read


def as_bytes(dataset: Dataset, sop_class: str, uid: str = "1.2.3") -> bytes:
    """A data set as a file, in explicit little endian."""
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = sop_class, uid
    out = BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True, little_endian=True, implicit_vr=False)
    return out.getvalue()
