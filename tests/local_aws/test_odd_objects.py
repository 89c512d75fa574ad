"""Objects that are DICOM and yet odd: whatever is imported, everything of the data store can be found and read."""

from __future__ import annotations

import io
import struct
import urllib.request
import zlib

import pydicom
import pytest
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import make_object

# Whatever a search looks at, and the VRs that give another kind of value than text.
LOOKED_AT = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDescription", "AccessionNumber"),
    *("StudyDate", "StudyTime", "SeriesNumber", "Modality", "BodyPartExamined", "ReferringPhysicianName"),
    *("InstanceNumber", "SeriesDate", "SeriesTime", "Rows", "BitsAllocated", "SpecificCharacterSet", "SOPClassUID"),
)
OTHER_VRS = {
    "US": b"\x05\x00",
    "FD": struct.pack("<d", float("nan")),
    "SV": struct.pack("<q", -(2**62)),
    "AT": b"\x10\x00\x20\x00",
    "OB": b"\x00\x01",
    "LT": b"a\\b\r\n\x00\x1f\xff",
    "SQ": b"\xfe\xff\x00\xe0\x0a\x00\x00\x00\x08\x00\x00\x01SH\x02\x00X ",
    "IS": b"9" * 40,
    "UN": b"\xfe\xff\x00\xe0",
    "UI": b"1.2\\3.4",
}
LONG = {"SV", "OB", "SQ", "UN"}


def with_value(body: bytes, tag: int, vr: str, raw: bytes) -> bytes:
    """An object whose element has another VR and value; put behind the file meta information when it is not there."""
    key = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    length = struct.pack("<HI", 0, len(raw)) if vr in LONG else struct.pack("<H", len(raw))
    element = key + vr.encode() + length + raw
    start = body.find(key, 132 + struct.unpack_from("<I", body, 140)[0] + 12)
    if start < 0:
        start = body.index(b"\x08\x00\x05\x00CS")
        return body[:start] + element + body[start:]
    old = struct.unpack_from("<H", body, start + 6)[0]
    return body[:start] + element + body[start + 8 + old :]


def everything_answers(imaging) -> int:
    """Search, read and query all of the data store; the number of its image sets."""
    api, here = imaging.api, {"datastoreId": imaging.datastore}
    found = [
        one
        for field in ("updatedAt", "createdAt", "DICOMStudyDateAndTime")
        for page in api.get_paginator("search_image_sets").paginate(
            **here, searchCriteria={"sort": {"sortField": field, "sortOrder": "ASC"}}
        )
        for one in page["imageSetsMetadataSummaries"]
    ]
    for one in {one["imageSetId"] for one in found}:
        assert imaging.get(one)["imageSetState"] == "ACTIVE"
        assert imaging.document(one)["ImageSetID"] == one
    for one in found:
        for key, value in one["DICOMTags"].items():
            assert isinstance(value, int if "Number" in key and "Accession" not in key else str), key
    root = f"{imaging.stack.env['AWS_ENDPOINT_URL']}/datastore/{imaging.datastore}"
    for path in ("studies", "series", "instances", "studies?PatientID=A*", "series?Modality=CT&StudyDate=20200101-"):
        with urllib.request.urlopen(f"{root}/{path}") as answer:
            assert answer.status == 200
    return len(found) // 3


@pytest.fixture
def own(imaging):
    """A data store of the test's own: others search in the shared one."""
    imaging.datastore = imaging.api.create_datastore(datastoreName="odd", clientToken=generate_uid())["datastoreId"]
    here = {"datastoreId": imaging.datastore}
    wait_for(lambda: imaging.api.get_datastore(**here)["datastoreProperties"]["datastoreStatus"] == "ACTIVE", what="it")
    return imaging


@pytest.mark.parametrize(
    ("keyword", "text"), [("PatientID", "A\\B"), ("StudyDescription", "CT\\HEAD"), ("SeriesNumber", None)]
)
def test_several_values_where_one_belongs(own, keyword, text):
    raw = text.encode() if text else b"1\\2 "
    body = with_value(make_object(), tag_for_keyword(keyword), "LO" if text else "IS", raw)
    assert own.run({"a.dcm": body}).failure == []
    assert everything_answers(own) == 1
    [found] = own.api.search_image_sets(datastoreId=own.datastore)["imageSetsMetadataSummaries"]
    key = {"PatientID": "DICOMPatientId", "SeriesNumber": "DICOMSeriesNumber"}.get(keyword, f"DICOM{keyword}")
    assert found["DICOMTags"].get(key) == text


@pytest.mark.parametrize("vr", OTHER_VRS)
def test_any_value_under_any_attribute(own, vr):
    """Property: no file of any kind makes the data store unsearchable."""
    files = {
        f"{keyword_for_tag(tag)}.dcm": with_value(make_object(), tag, vr, OTHER_VRS[vr])
        for tag in map(tag_for_keyword, LOOKED_AT)
    }
    outcome = own.run(files)
    assert [f for f in outcome.failure if f["exception"]["exceptionType"] == "InternalServerException"] == []
    assert len(outcome.success) + len(outcome.failure) == len(files)
    assert everything_answers(own) == len(outcome.success)


def deflated(tail: bytes) -> bytes:
    """An object with more elements behind, its data set deflated."""
    data = pydicom.dcmread(io.BytesIO(make_object(PixelData=None)))
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.save_as(buffer := io.BytesIO(), enforce_file_format=True)
    body = buffer.getvalue()
    start = 144 + struct.unpack_from("<I", body, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = zlib.decompress(body[start:], -zlib.MAX_WBITS)
    return body[:start] + packer.compress(plain + tail) + packer.flush()


def private(vr: bytes, raw: bytes) -> bytes:
    return struct.pack("<HH2sHI", 0x0041, 0x1010, vr, 0, len(raw)) + raw


EMPTY_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
BOMBS = {
    "items": private(b"SQ", EMPTY_ITEM * 1_000_000),
    "elements": private(b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 9_600_000) + b"\x43\0\1\x10LO\0\0" * 1_200_000),
    "values": private(b"UC", b"\\" * 16_000_000),
    "bytes": private(b"OB", bytes(60_000_000)),
}


def test_small_files_that_grow_are_refused(own):
    """A few KB took 20 s and 500 MB: items, elements, values and inflated bytes of an object are bounded."""
    files = {name: deflated(tail) for name, tail in BOMBS.items()} | {"fits": deflated(private(b"SQ", EMPTY_ITEM * 99))}
    assert max(map(len, files.values())) < 100_000
    outcome = own.run(files)
    assert [line["inputFile"].rpartition("/")[2] for line in outcome.success] == ["fits"]
    said = {f["inputFile"].rpartition("/")[2]: f["exception"]["message"] for f in outcome.failure}
    assert said.pop("bytes") == "DICOM attributes does not exist"
    assert set(said.values()) == {"ImageSetMetadata of the image set would be larger than the limit"}
