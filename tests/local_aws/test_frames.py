"""GetImageFrame: whose frames, how many bytes of them, with which answers."""

from __future__ import annotations

import uuid
import zlib
from pathlib import Path

import numpy as np
import pytest
import requests
from openjpeg.utils import decode as openjpeg

from tests.conftest import wait_for
from tests.local_aws.conftest import Imaging, make_object
from tests.local_aws.pixels import (
    code_of,
    encapsulated,
    fetch,
    fetched,
    htj2k,
    imported,
    native,
    noise,
    only_instance,
    signed,
)

VIDEO = "1.2.840.10008.1.2.4.102"


def test_objects_above_64_mib_keep_all_their_pixels(imaging):
    frames = 70
    pixels = noise(1, 1024, 512, dtype="u2")
    planes = b"".join(np.roll(pixels[0], i).tobytes() for i in range(frames))
    many = native(pixels, planes, NumberOfFrames=frames)
    stream = noise(66 * 2**19).tobytes()
    parts = [b"\0\0\1\xb3" + stream[i : i + 2**25] for i in range(0, len(stream), 2**25)]
    video = encapsulated(noise(1, 8, 8, dtype="u1"), VIDEO, parts)
    sets, codes = imported(imaging, {"many": many, "video": video})
    assert codes == {}
    described = only_instance(imaging, sets["many"])["ImageFrames"]
    assert len({f["ID"] for f in described}) == frames
    for index in (0, 33, frames - 1):
        body, _ = fetch(imaging, sets["many"], described[index]["ID"])
        wanted = np.roll(pixels[0], index)
        np.testing.assert_array_equal(openjpeg(body), wanted)
        checksum = described[index]["PixelDataChecksumFromBaseToFullResolution"][0]["Checksum"]
        assert checksum == zlib.crc32(wanted.tobytes())
    _, [(body, kind)] = fetched(imaging, sets["video"])
    assert (zlib.crc32(body), kind) == (zlib.crc32(b"".join(parts)), "video/mp4")


def test_a_frame_belongs_to_its_image_set(imaging):
    sets, _ = imported(imaging, {"one": make_object(), "other": make_object()})
    [frame] = only_instance(imaging, sets["one"])["ImageFrames"]
    for image_set, wanted in ((sets["other"], frame["ID"]), (sets["one"], "0" * 32), ("0" * 32, frame["ID"])):
        assert code_of(fetch, imaging, image_set, wanted) == "ResourceNotFoundException"
    assert code_of(fetch, imaging, sets["one"], "No-Id") == "ValidationException"


@pytest.mark.parametrize(
    ("accept", "body", "code"),
    [
        ("", b'{"imageFrameId": "%s"}', None),
        ("image/jph", b'{"imageFrameId": "%s"}', None),
        ("text/html, image/*;q=0.5", b'{"imageFrameId": "%s"}', None),
        ("image/png", b'{"imageFrameId": "%s"}', (406, "NotAcceptableException")),
        ("", b'{"imageFrameId": ', (400, "BadRequestException")),
        ("", b"", (400, "ValidationException")),
    ],
)
def test_the_accept_header_and_the_body_must_fit(imaging, one_frame, accept, body, code):
    image_set, frame_id = one_frame
    url = f"{imaging.stack.env['AWS_ENDPOINT_URL']}/datastore/{imaging.datastore}/imageSet/{image_set}/getImageFrame"
    answer = requests.post(
        url,
        data=body.replace(b"%s", frame_id.encode()),
        headers=signed(imaging) | {"Accept": accept},
        timeout=30,
    )
    found = None if answer.ok else (answer.status_code, answer.headers["x-amzn-ErrorType"])
    assert found == code


@pytest.fixture(scope="module")
def one_frame(aws_stack):
    """Image set and frame of an object."""
    imaging = Imaging(aws_stack)
    sets, _ = imported(imaging, {"a": make_object()})
    [frame] = only_instance(imaging, sets["a"])["ImageFrames"]
    return sets["a"], frame["ID"]


def test_frames_of_older_versions_stay(imaging):
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": f"1.2.{uuid.uuid4().int}", "SOPInstanceUID": "1.2.4"}
    first, _ = imported(imaging, {"a": make_object(**uids, PatientID=uids["SeriesInstanceUID"])})
    [old] = only_instance(imaging, first["a"])["ImageFrames"]
    again, _ = imported(imaging, {"a": make_object(**uids, PatientID=uids["SeriesInstanceUID"], PixelData=bytes(32))})
    assert again == first
    [new] = only_instance(imaging, first["a"])["ImageFrames"]
    bodies = [openjpeg(fetch(imaging, first["a"], frame["ID"])[0]).tobytes() for frame in (old, new)]
    assert bodies == [bytes(range(32)), bytes(32)]


def test_reading_a_frame_is_an_access(imaging):
    sets, _ = imported(imaging, {"a": make_object()})
    [frame] = only_instance(imaging, sets["a"])["ImageFrames"]
    before = imaging.get(sets["a"])["lastAccessedAt"]
    fetch(imaging, sets["a"], frame["ID"])
    assert imaging.get(sets["a"])["lastAccessedAt"] > before


def test_a_deleted_set_leaves_no_pixels_but_those_of_its_copy(imaging):
    sets, _ = imported(imaging, {"a": make_object()})
    source = sets["a"]
    folder = Path(imaging.stack.home) / "aws" / "healthimaging" / "pixels" / imaging.datastore
    files = set(folder.iterdir())
    [frame] = only_instance(imaging, source)["ImageFrames"]
    body, _ = fetch(imaging, source, frame["ID"])
    copy = imaging.api.copy_image_set(
        datastoreId=imaging.datastore,
        sourceImageSetId=source,
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": "1"}},
    )["destinationImageSetProperties"]["imageSetId"]
    for image_set in (source, copy):
        wait_for(lambda i=image_set: imaging.get(i)["imageSetState"] == "ACTIVE", what="the copy")
    delete(imaging, source)
    assert code_of(fetch, imaging, source, frame["ID"]) == "ResourceNotFoundException"
    assert fetch(imaging, copy, frame["ID"])[0] == body
    assert set(folder.iterdir()) == files
    delete(imaging, copy)
    wait_for(lambda: len(set(folder.iterdir())) == len(files) - 1, what="the removal of the file")


def delete(imaging, image_set: str) -> None:
    """Delete an image set and wait."""
    imaging.api.delete_image_set(datastoreId=imaging.datastore, imageSetId=image_set)
    wait_for(lambda: imaging.get(image_set)["imageSetState"] == "DELETED", what="the deletion")


def test_settings_of_frames(make_aws_stack):
    stack = make_aws_stack(
        LOCAL_AWS_CHECKED_FRAME_BYTES="0", LOCAL_AWS_JPEG_2000_CONTENT_TYPE="image/jp2", LOCAL_AWS_FRAME_CACHE_BYTES="0"
    )
    imaging = Imaging(stack)
    imaging.datastore = imaging.api.create_datastore(datastoreName="j", losslessStorageFormat="JPEG_2000_LOSSLESS")[
        "datastoreId"
    ]
    pixels = noise(1, 40, 40)
    stream = htj2k(pixels[0])
    objects = {"good": [stream], "cut": [stream[:-40]]}
    unread = "1.2.840.10008.1.2.4.201"
    sets, codes = imported(imaging, {k: encapsulated(pixels, unread, parts) for k, parts in objects.items()})
    assert codes == {}
    instance, [(body, kind)] = fetched(imaging, sets["good"])
    [frame] = instance["ImageFrames"]
    assert frame["PixelDataChecksumFromBaseToFullResolution"][0]["Checksum"] is frame["MinPixelValue"] is None
    assert (kind, frame["FrameSizeInBytes"]) == ("image/jp2", pixels.nbytes)
    np.testing.assert_array_equal(openjpeg(body), pixels[0])
    [frame] = only_instance(imaging, sets["cut"])["ImageFrames"]
    assert code_of(fetch, imaging, sets["cut"], frame["ID"]) == "NotAcceptableException"


def test_bits_above_the_stored_ones_are_no_extremes(imaging):
    """Old objects keep an overlay or padding there."""
    for representation, expected in ((0, (0x001, 0xFFE)), (1, (-2, 0x7F0))):
        samples = np.array([0xF001, 0x1FFE, 0x0300, 0x27F0] * 4, "<u2")
        outcome = imaging.run({"a.dcm": make_object(PixelRepresentation=representation, PixelData=samples.tobytes())})
        document = imaging.document(outcome.success[0]["importResponse"]["imageSetId"])
        [series] = document["Study"]["Series"].values()
        [instance] = series["Instances"].values()
        [frame] = instance["ImageFrames"]
        assert (frame["MinPixelValue"], frame["MaxPixelValue"]) == expected
        [full] = frame["PixelDataChecksumFromBaseToFullResolution"]
        assert full["Checksum"] == zlib.crc32(samples.tobytes())
