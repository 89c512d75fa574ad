"""GetImageFrame and what the metadata says about frames, over boto3; decoded by a decoder that is not the server's."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from botocore.exceptions import ClientError
from openjpeg.utils import decode as openjpeg

from tests.local_aws.conftest import make_object

HTJ2K = "1.2.840.10008.1.2.4.202"


def only_frame(imaging, image_set_id: str):
    """The only frame of an image set's document."""
    document = imaging.document(image_set_id)
    [series] = document["Study"]["Series"].values()
    [instance] = series["Instances"].values()
    [frame] = instance["ImageFrames"]
    return frame


def fetch(imaging, image_set_id: str, frame_id: str):
    """Body and content type of a frame."""
    answer = imaging.api.get_image_frame(
        datastoreId=imaging.datastore, imageSetId=image_set_id, imageFrameInformation={"imageFrameId": frame_id}
    )
    return answer["imageFrameBlob"].read(), answer["contentType"]


def imported(imaging, body: bytes) -> str:
    """Image set of one object."""
    outcome = imaging.run({"a.dcm": body})
    assert outcome.failure == []
    return str(outcome.success[0]["importResponse"]["imageSetId"])


def test_a_frame_comes_as_lossless_htj2k(imaging):
    pixels = np.random.default_rng(0).integers(0, 4096, (37, 91), dtype=np.uint16)
    image_set = imported(imaging, make_object(Rows=37, Columns=91, PixelData=pixels.tobytes() + b"\0"))
    frame = only_frame(imaging, image_set)
    body, kind = fetch(imaging, image_set, frame["ID"])
    assert kind == "image/jph"
    decoded = openjpeg(body)
    np.testing.assert_array_equal(decoded, pixels)
    [resolution] = frame["PixelDataChecksumFromBaseToFullResolution"]
    assert resolution == {"Width": 91, "Height": 37, "Checksum": zlib.crc32(decoded.tobytes())}
    assert (frame["MinPixelValue"], frame["MaxPixelValue"]) == (pixels.min(), pixels.max())
    assert frame["FrameSizeInBytes"] == pixels.nbytes


def test_frames_of_another_or_of_no_image_set_are_not_found(imaging):
    one, other = imported(imaging, make_object()), imported(imaging, make_object())
    frame_id = only_frame(imaging, one)["ID"]
    for image_set, wanted in ((other, frame_id), (one, "0" * 32), ("0" * 32, frame_id)):
        with pytest.raises(ClientError) as caught:
            fetch(imaging, image_set, wanted)
        assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
