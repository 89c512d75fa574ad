"""For the tests of frames: objects with pixel data of every form, encapsulated by hand where pydicom has no encoder,
and what a client does to get them back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import imagecodecs
import numpy as np
import pytest
from botocore.exceptions import ClientError
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite

from tests.local_aws.conftest import make_object

J2K, HTJ2K_ANY, RLE, JPEG = (f"1.2.840.10008.1.2.{n}" for n in ("4.90", "4.201", "5", "4.50"))
PIXEL_DATA = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"


def described(pixels: NDArray[Any], **more: Any) -> dict[str, Any]:
    """Image attributes of frames x rows x columns (x samples)."""
    bits = pixels.dtype.itemsize * 8
    out = {
        "Rows": pixels.shape[1],
        "Columns": pixels.shape[2],
        "SamplesPerPixel": pixels.shape[3] if pixels.ndim == 4 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 4 else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "NumberOfFrames": pixels.shape[0],
    }
    if pixels.ndim == 4:
        out["PlanarConfiguration"] = 0
    return out | more


def native(pixels: NDArray[Any], data: bytes | None = None, *, syntax: str = "", **more: Any) -> bytes:
    """An uncompressed object; `data` instead of the pixels' own bytes."""
    raw = pixels.tobytes() if data is None else data
    body = make_object(**described(pixels, **more), PixelData=raw + b"\0" * (len(raw) % 2))
    if not syntax:
        return body
    read = dcmread(DicomBytesIO(body))
    read.file_meta.TransferSyntaxUID = syntax
    out = DicomBytesIO()
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    if not little and pixels.dtype.itemsize > 1:
        read.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    dcmwrite(out, read, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return bytes(out.getvalue())


def item(data: bytes) -> bytes:
    """One item of encapsulated pixel data, padded to an even length."""
    data += b"\0" * (len(data) % 2)
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data


def encapsulated(
    pixels: NDArray[Any],
    syntax: str,
    fragments: Sequence[bytes],
    *,
    table: Sequence[int] = (),
    **more: Any,
) -> bytes:
    """An object of encapsulated pixel data: its fragments and its basic offset table."""
    body = make_object(**described(pixels, **more), PixelData=None)
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    old = b"1.2.840.10008.1.2.1\0"
    # Group 2 has no attribute after the transfer syntax whose place would matter, but it has its own length.
    body = body.replace(b"UI" + struct.pack("<H", len(old)) + old, b"UI" + struct.pack("<H", len(uid)) + uid, 1)
    at = body.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    length = struct.unpack_from("<I", body, at)[0] + len(uid) - len(old)
    body = body[:at] + struct.pack("<I", length) + body[at + 4 :]
    offsets = item(struct.pack(f"<{len(table)}I", *table))
    return body + PIXEL_DATA + offsets + b"".join(map(item, fragments)) + b"\xfe\xff\xdd\xe0\0\0\0\0"


def j2k(frame: NDArray[Any]) -> bytes:
    """A lossless JPEG 2000 codestream."""
    return bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", reversible=True))


def htj2k(frame: NDArray[Any]) -> bytes:
    """A lossless HTJ2K codestream."""
    return bytes(imagecodecs.htj2k_encode(frame, reversible=True))


def noise(*shape: int, dtype: str = "u2", seed: int = 0) -> NDArray[Any]:
    """Pixels of every value."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def subsampled(pixels: np.ndarray[Any, Any]) -> bytes:
    """YBR_FULL_422 of frames whose chroma is the same in each two columns."""
    out = np.empty((*pixels.shape[:2], pixels.shape[2] // 2, 4), np.uint8)
    out[..., :2] = pixels[..., 0].reshape(*pixels.shape[:2], -1, 2)
    out[..., 2:] = pixels[:, :, ::2, 1:]
    return out.tobytes()


def bits(pixels: np.ndarray[Any, Any]) -> bytes:
    """Single bits, frames packed one after the other."""
    return np.packbits(pixels.ravel(), bitorder="little").tobytes()


def only_instance(imaging, image_set_id: str) -> dict[str, Any]:
    """The only instance of an image set's document."""
    document = imaging.document(image_set_id)
    [series] = document["Study"]["Series"].values()
    [instance] = series["Instances"].values()
    return dict(instance)


def fetch(imaging, image_set_id: str, frame_id: str) -> tuple[bytes, str]:
    """Body and content type of a frame."""
    answer = imaging.api.get_image_frame(
        datastoreId=imaging.datastore, imageSetId=image_set_id, imageFrameInformation={"imageFrameId": frame_id}
    )
    return answer["imageFrameBlob"].read(), answer["contentType"]


def fetched(imaging, image_set_id: str) -> tuple[dict[str, Any], list[tuple[bytes, str]]]:
    """The only instance of an image set, and all its frames."""
    instance = only_instance(imaging, image_set_id)
    return instance, [fetch(imaging, image_set_id, f["ID"]) for f in instance["ImageFrames"]]


def imported(imaging, objects: dict[str, bytes]) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Image sets by the name of their only object, and the warning codes of each."""
    outcome = imaging.run(objects)
    assert outcome.failure == []
    names = {line["inputFile"].rpartition("/")[2]: line["importResponse"] for line in outcome.success}
    codes = {
        line["inputFile"].rpartition("/")[2]: [w["warning_reason_code"] for w in line["importResponse"]["warnings"]]
        for line in outcome.warning
    }
    return {name: response["imageSetId"] for name, response in names.items()}, codes


def code_of(call, *args) -> str:
    """Code of the error that a call ends with."""
    with pytest.raises(ClientError) as caught:
        call(*args)
    return str(caught.value.response["Error"]["Code"])


def signed(imaging) -> dict[str, str]:
    """Headers that make a plain request one of this account's to HealthImaging."""
    scope = f"Credential={imaging.stack.env['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/medical-imaging/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
