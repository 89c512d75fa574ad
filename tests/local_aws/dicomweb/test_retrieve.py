"""Metadata, instances, frames and bulk data, against the original files."""

from __future__ import annotations

import io
import warnings
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pydicom.encaps
import pytest
import requests
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.local_aws.conftest import make_object
from tests.local_aws.dicomweb.conftest import Plane, new_plane, path_of, read

HTJ2K = "1.2.840.10008.1.2.4.202"
EXPLICIT = str(ExplicitVRLittleEndian)
PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
# Described anew by what is handed out: colours as they are decoded, one plane after the other no more.
REDESCRIBED = {0x00280004, 0x00280006}


def settled(found: dict[str, Any], skip: set[int]) -> dict[str, Any]:
    """DICOM JSON in one way of writing what can be written in several."""

    def values(element: dict[str, Any]) -> Any:
        given = element.get("Value", [element["InlineBinary"]] if element.get("InlineBinary") else [])
        if element["vr"] == "SQ":
            return [settled(item, set()) for item in given]
        return [value for value in given if value not in (None, "")]

    return {
        tag: values(element)
        for tag, element in found.items()
        if int(tag, 16) not in skip and int(tag, 16) & 0xFFFF and tag != "00080005"
    }


def plain(data: pydicom.Dataset, skip: set[int]) -> dict[str, Any]:
    """The attributes that pydicom reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = data.to_json_dict(bulk_data_threshold=2**40, bulk_data_element_handler=lambda _: "")
    return settled(found, skip)


def pixel_array(data: pydicom.Dataset) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return data.pixel_array
        except (AttributeError, RuntimeError, ValueError, NotImplementedError):
            return None


def parts_of(answer: requests.Response) -> list[tuple[str, bytes]]:
    boundary = answer.headers["Content-Type"].split("boundary=")[1].encode()
    out = []
    for part in answer.content.split(b"--" + boundary)[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        out.append((head.decode().strip().removeprefix("Content-Type: "), body[:-2]))
    return out


def test_every_instance_comes_back_as_it_was(single: Plane) -> None:
    """The one test over all samples: attributes equal, pixels equal wherever pydicom decodes the original."""
    compared = 0
    for original in single.originals:
        answer = single.get(path_of(original), "application/dicom")
        assert answer.status_code == 200, answer.text
        rebuilt = read(answer.content)
        assert plain(rebuilt, PIXELS | REDESCRIBED) == plain(original, PIXELS | REDESCRIBED), original.filename
        before = pixel_array(original)
        if before is not None:
            assert rebuilt.file_meta.TransferSyntaxUID == EXPLICIT
            assert np.array_equal(pixel_array(rebuilt), before)
            compared += 1
    assert compared >= 25


def test_metadata_of_every_series_is_what_pydicom_reads(single: Plane) -> None:
    for original in single.originals:
        [found] = single.client.retrieve_series_metadata(original.StudyInstanceUID, original.SeriesInstanceUID)
        assert ("7FE00010" in found) == ("PixelData" in original)
        found.pop("00020010")
        # An implicit object does not say the VR of private attributes; pydicom knows some, the service none.
        unknown = {tag for tag, element in found.items() if element["vr"] == "UN"}
        mine, wanted = settled(found, PIXELS), plain(original, PIXELS)
        assert {k: v for k, v in mine.items() if k not in unknown} == {
            k: v for k, v in wanted.items() if k not in unknown
        }, original.filename


def test_the_transfer_syntax_of_metadata_is_the_stored_one(plane: Plane) -> None:
    seen = set()
    for original in plane.originals:
        found = plane.json(f"{path_of(original)}/metadata")
        assert len(found) == 1
        stored = found[0]["00020010"]["Value"][0]
        seen.add(stored)
        answer = plane.get(path_of(original), "application/dicom; transfer-syntax=*")
        assert read(answer.content).file_meta.TransferSyntaxUID == stored
    assert {HTJ2K, EXPLICIT, "1.2.840.10008.1.2.4.50"} <= seen


def test_stored_frames_are_htj2k_and_lossless(plane: Plane) -> None:
    checked = 0
    for original in plane.originals:
        before = pixel_array(original)
        accept = f"multipart/related; type=image/jphc; transfer-syntax={HTJ2K}"
        answer = plane.get(f"{path_of(original)}/frames/1", accept)
        if before is None or answer.status_code != 200:
            continue
        [(kind, data)] = parts_of(answer)
        assert kind == f"image/jphc; transfer-syntax={HTJ2K}"
        frame = before[0] if int(original.get("NumberOfFrames") or 1) > 1 else before
        decoded = imagecodecs.htj2k_decode(data)
        if decoded.ndim == 3 and decoded.shape[0] == 3:
            decoded = np.moveaxis(decoded, 0, -1)
        assert np.array_equal(decoded.astype(frame.dtype), frame), original.filename
        checked += 1
    assert checked > 30


def several_frames(plane: Plane) -> pydicom.Dataset:
    return next(
        d for d in plane.originals if int(d.get("NumberOfFrames") or 1) > 2 and d.get("BitsAllocated") in {8, 16}
    )


def test_frames_by_the_client_in_any_order(plane: Plane) -> None:
    original = several_frames(plane)
    frames = plane.client.retrieve_instance_frames(
        original.StudyInstanceUID, original.SeriesInstanceUID, original.SOPInstanceUID, [3, 1]
    )
    before = pixel_array(original)
    assert before is not None
    assert [bytes(f) for f in frames] == [before[2].tobytes(), before[0].tobytes()]


def test_one_frame_alone(plane: Plane) -> None:
    original = several_frames(plane)
    answer = plane.get(f"{path_of(original)}/frames/2", "application/octet-stream")
    before = pixel_array(original)
    assert before is not None
    assert answer.content == before[1].tobytes()
    assert answer.headers["Content-Type"].startswith("application/octet-stream")
    assert plane.get(f"{path_of(original)}/frames/1,2", "application/octet-stream").status_code == 406


OHIF = (
    "multipart/related; type=image/jphc; transfer-syntax=1.2.840.10008.1.2.4.202",
    "multipart/related; type=image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90",
    "multipart/related; type=image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50",
    "multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1",
)
# Accept header, stored transfer syntax of the instance, transfer syntax of the answer (empty: 406).
NEGOTIATION = [
    ("", HTJ2K, EXPLICIT),
    ("*/*", HTJ2K, EXPLICIT),
    ('multipart/related; type="*/*"', HTJ2K, EXPLICIT),
    ("multipart/related; type=application/octet-stream", HTJ2K, EXPLICIT),
    (f"multipart/related; type=application/octet-stream; transfer-syntax={EXPLICIT}", HTJ2K, EXPLICIT),
    ("multipart/related; type=application/octet-stream; transfer-syntax=*", HTJ2K, HTJ2K),
    (f"multipart/related; type=application/octet-stream; transfer-syntax={HTJ2K}", HTJ2K, HTJ2K),
    ("multipart/related; type=image/jphc", HTJ2K, HTJ2K),
    ("multipart/related; type=image/jph; transfer-syntax=*", HTJ2K, HTJ2K),
    ('multipart/related; type="image/*"', HTJ2K, HTJ2K),
    ("image/jphc", HTJ2K, HTJ2K),
    ("multipart/related; type=image/jp2", HTJ2K, ""),
    ("multipart/related; type=image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50", HTJ2K, ""),
    ("text/html", HTJ2K, ""),
    ("multipart/related; type=image/jp2, multipart/related; type=application/octet-stream;q=0.5", HTJ2K, EXPLICIT),
    ("image/jphc;q=0, */*", HTJ2K, EXPLICIT),
    (", ".join(OHIF), HTJ2K, HTJ2K),
    (", ".join(OHIF), "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.50"),
    ("multipart/related; type=application/octet-stream; transfer-syntax=*",) + 2 * ("1.2.840.10008.1.2.4.50",),
    ("multipart/related; type=image/jpeg",) + 2 * ("1.2.840.10008.1.2.4.50",),
    ("", "1.2.840.10008.1.2.4.50", EXPLICIT),
]


@pytest.mark.parametrize(("accept", "stored", "wanted"), NEGOTIATION)
def test_which_form_frames_take(plane: Plane, accept: str, stored: str, wanted: str) -> None:
    original = next(
        d
        for d in plane.originals
        if "PixelData" in d and plane.json(f"{path_of(d)}/metadata")[0]["00020010"]["Value"] == [stored]
    )
    answer = plane.get(f"{path_of(original)}/frames/1", accept)
    if not wanted:
        assert answer.status_code == 406
        assert answer.headers["x-amzn-ErrorType"] == "NotAcceptableException"
        assert "transfer-syntax=*" in answer.json()["message"]
        return
    assert answer.status_code == 200, answer.text
    kind = answer.headers["Content-Type"]
    assert f"transfer-syntax={wanted}" in (parts_of(answer)[0][0] if kind.startswith("multipart/") else kind)


def test_a_data_store_of_jpeg_2000(aws_stack: Any) -> None:
    plane = new_plane(aws_stack, "dicomweb-jp2", losslessStorageFormat="JPEG_2000_LOSSLESS")
    data = read(make_object())
    assert plane.store(make_object(SOPInstanceUID=data.SOPInstanceUID)).status_code == 200
    url = plane.json("instances")[0]["00081190"]["Value"][0].removeprefix(f"{plane.base}/")
    jp2 = "1.2.840.10008.1.2.4.90"
    assert plane.json(f"{url}/metadata")[0]["00020010"]["Value"] == [jp2]
    [(kind, frame)] = parts_of(plane.get(f"{url}/frames/1", ", ".join(OHIF)))
    assert kind == f"image/jp2; transfer-syntax={jp2}"
    assert imagecodecs.jpeg2k_decode(frame).tobytes() == data.PixelData
    assert plane.get(f"{url}/frames/1", "multipart/related; type=image/jphc").status_code == 406
    plane.session.close()


def test_pixels_that_cannot_be_decoded_come_as_they_are(empty: Plane) -> None:
    data = read(make_object())
    data.file_meta.TransferSyntaxUID = unknown = "1.2.840.10008.1.2.4.55"
    data.PixelData = pydicom.encaps.encapsulate([b"nobody decodes this"])
    buffer = io.BytesIO()
    data.save_as(buffer)
    assert empty.store(buffer.getvalue()).status_code == 202
    for accept in ("", "application/dicom", "application/dicom; transfer-syntax=*"):
        back = read(empty.get(path_of(data), accept).content)
        assert back.file_meta.TransferSyntaxUID == unknown
        assert back.PixelData == data.PixelData
    assert empty.get(path_of(data), f"application/dicom; transfer-syntax={EXPLICIT}").status_code == 406
    frames = f"{path_of(data)}/frames/1"
    assert f"transfer-syntax={unknown}" in parts_of(empty.get(frames))[0][0]
    explicit = f"multipart/related; type=application/octet-stream; transfer-syntax={EXPLICIT}"
    assert empty.get(frames, explicit).status_code == 406


@pytest.mark.parametrize(
    ("accept", "status", "multipart"),
    [
        ("", 200, False),
        ("application/dicom", 200, False),
        (f"application/dicom; transfer-syntax={HTJ2K}", 200, False),
        ('multipart/related; type="application/dicom"', 200, True),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90", 406, False),
        ("application/json", 406, False),
    ],
)
def test_which_form_instances_take(plane: Plane, accept: str, status: int, multipart: bool) -> None:
    original = several_frames(plane)
    answer = plane.get(path_of(original), accept)
    assert answer.status_code == status
    if status == 200:
        assert answer.headers["Content-Type"].startswith("multipart/related" if multipart else "application/dicom")
        data = parts_of(answer)[0][1] if multipart else answer.content
        assert read(data).SOPInstanceUID == original.SOPInstanceUID


def test_the_client_retrieves_instances(plane: Plane) -> None:
    original = several_frames(plane)
    uids = (original.StudyInstanceUID, original.SeriesInstanceUID, original.SOPInstanceUID)
    found = plane.client.retrieve_instance(*uids)
    assert found.SOPInstanceUID == original.SOPInstanceUID
    metadata = plane.client.retrieve_instance_metadata(*uids)
    pixels = plane.client.retrieve_bulkdata(metadata["7FE00010"]["BulkDataURI"])
    before = pixel_array(original)
    assert before is not None
    assert b"".join(bytes(p) for p in pixels) == before.tobytes()


def test_bulk_data_beyond_a_megabyte(empty: Plane) -> None:
    value = bytes(range(256)) * 4097
    data = read(make_object(PixelData=None, Rows=None, Columns=None))
    data.EncapsulatedDocument = value
    data.VectorGridData = b"\1\2\3\4"
    buffer = io.BytesIO()
    data.save_as(buffer)
    assert empty.store(buffer.getvalue()).status_code == 200
    found = empty.json(f"{path_of(data)}/metadata")[0]
    assert found["00640009"] == {"vr": "OF", "InlineBinary": "AQIDBA=="}
    uri = found["00420011"]["BulkDataURI"]
    assert set(found["00420011"]) == {"vr", "BulkDataURI"}
    assert requests.get(uri, headers={"Accept": "application/octet-stream"}, timeout=30).content == value
    assert empty.client.retrieve_bulkdata(uri) == [value]
    assert requests.get(uri[:-4] + "0000", timeout=30).status_code == 404
    assert read(empty.get(path_of(data)).content).EncapsulatedDocument == value


def test_large_private_values_are_bulk_data_too(empty: Plane) -> None:
    value = bytes(range(256)) * 4097
    data = read(make_object())
    data.private_block(0x0045, "MAKER", create=True).add_new(0x26, "OB", value)
    buffer = io.BytesIO()
    data.save_as(buffer)
    assert empty.store(buffer.getvalue()).status_code == 200
    found = empty.json(f"{path_of(data)}/metadata")[0]["00451026"]
    assert found.keys() == {"vr", "BulkDataURI"}
    answer = requests.get(found["BulkDataURI"], headers={"Accept": "application/octet-stream"}, timeout=30)
    assert answer.content == value
    assert read(empty.get(path_of(data)).content)[0x00451026].value == value


def test_image_sets_that_are_not_primary_answer_when_named(empty: Plane) -> None:
    same = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    first, other = make_object(**same), make_object(**same, PatientID="other")
    stored = empty.store(first, other).json()["00081199"]["Value"]
    url = next(i["00081190"]["Value"][0] for i in stored if "?imageSetId=" in i["00081190"]["Value"][0])
    path, _, query = url.partition("?")
    for resource in ("", "/metadata", "/frames/1"):
        assert requests.get(f"{path}{resource}", timeout=30).status_code == 404
        assert requests.get(f"{path}{resource}?{query}", timeout=30).status_code == 200
    series = path.split("/instances/")[0] + "/metadata"
    assert len(requests.get(series, timeout=30).json()) == 1
    assert requests.get(f"{series}?{query}", timeout=30).json()[0]["00100020"]["Value"] == ["other"]
    assert requests.get(f"{series}?imageSetId={'0' * 32}", timeout=30).status_code == 404


def test_retrieving_is_an_access(empty: Plane) -> None:
    data = read(make_object())
    assert empty.store(make_object(SOPInstanceUID=data.SOPInstanceUID)).status_code == 200
    api = empty.stack.client("medical-imaging")

    def accessed() -> Any:
        found = api.search_image_sets(datastoreId=empty.datastore_id)["imageSetsMetadataSummaries"][0]
        return found["lastAccessedAt"]

    before = accessed()
    result = empty.json("instances")[0]
    assert accessed() == before, "a search is no access"
    assert requests.get(result["00081190"]["Value"][0], timeout=30).status_code == 200
    assert accessed() > before


@pytest.mark.parametrize("frames", ["0", "x", "1,1", "1,", "-1", "1.5", "1;2", "99999999999"])
def test_a_wrong_frame_list_is_refused(plane: Plane, frames: str) -> None:
    assert plane.get(f"{path_of(several_frames(plane))}/frames/{frames}").status_code == 400


def test_what_is_not_there(plane: Plane) -> None:
    original = several_frames(plane)
    path = path_of(original)
    report = next(d for d in plane.originals if "PixelData" not in d)
    for missing in (
        f"{path}/frames/9999",
        f"{path}9/metadata",
        f"{path}9",
        f"{path}/rendered",
        f"{path}/bulkdata/nothing",
        f"studies/{original.StudyInstanceUID}/metadata",
        f"studies/1.2/series/{original.SeriesInstanceUID}/metadata",
        f"{path_of(report)}/frames/1",
    ):
        answer = plane.get(missing)
        assert answer.status_code == 404, missing
        assert answer.json()["message"]
