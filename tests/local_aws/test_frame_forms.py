"""Every form of pixel data through GetImageFrame, over boto3; decoded by a decoder that is not the server's."""

from __future__ import annotations

import struct
import uuid
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import requests
from openjpeg.utils import decode as openjpeg
from pydicom import dcmread
from pydicom.encaps import generate_frames

from tests.local_aws.pixels import (
    J2K,
    JPEG,
    RLE,
    bits,
    encapsulated,
    fetched,
    htj2k,
    imported,
    j2k,
    native,
    noise,
    signed,
    subsampled,
)

HTJ2K = "1.2.840.10008.1.2.4.202"
BINARY = "1.2.840.10008.1.2.1"
VIDEO = "1.2.840.10008.1.2.4.102"


def test_every_native_form_comes_as_lossless_htj2k(imaging):
    rgb, pairs = noise(2, 12, 14, 3, dtype="u1"), noise(2, 6, 8, 3, dtype="u1")
    pairs[:, :, 1::2, 1:] = pairs[:, :, ::2, 1:]
    single = noise(3, 5, 7, dtype="u1") & 1
    one_bit = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    cases = {
        **{f"{kind} {n}": (noise(n, 37, 91, dtype=kind), None, {}) for kind in ("u1", "u2", "i2") for n in (1, 3)},
        "i1": (noise(1, 9, 9, dtype="i1"), None, {}),
        "12 bits": (noise(1, 64, 64) & 0xFFF, None, {"BitsStored": 12, "HighBit": 11}),
        "palette": (noise(1, 8, 8, dtype="u1"), None, {"PhotometricInterpretation": "PALETTE COLOR"}),
        "rgb": (rgb, None, {}),
        "rgb 16": (noise(1, 8, 9, 3), None, {}),
        "planes": (rgb, np.moveaxis(rgb, 3, 1).tobytes(), {"PlanarConfiguration": 1}),
        "pairs": (pairs, subsampled(pairs), {"PhotometricInterpretation": "YBR_FULL_422"}),
        "one pixel": (noise(1, 1, 1), None, {}),
        "implicit": (noise(2, 4, 4), None, {"syntax": "1.2.840.10008.1.2"}),
        "big": (noise(2, 4, 5, dtype="i2"), None, {"syntax": "1.2.840.10008.1.2.2"}),
        "implicit bits": (single, bits(single), {"syntax": "1.2.840.10008.1.2", **one_bit}),
    }
    sets, codes = imported(imaging, {k: native(pixels, raw, **more) for k, (pixels, raw, more) in cases.items()})
    assert codes == {}
    for name, (pixels, _, _) in cases.items():
        instance, frames = fetched(imaging, sets[name])
        assert instance["StoredTransferSyntaxUID"] == HTJ2K, name
        assert [kind for _, kind in frames] == ["image/jph"] * len(pixels), name
        for wanted, (body, _), frame in zip(pixels, frames, instance["ImageFrames"], strict=True):
            decoded = openjpeg(body)
            np.testing.assert_array_equal(decoded, wanted, name)
            assert frame == {
                "ID": frame["ID"],
                "PixelDataChecksumFromBaseToFullResolution": [
                    {"Width": pixels.shape[2], "Height": pixels.shape[1], "Checksum": zlib.crc32(decoded.tobytes())}
                ],
                "MinPixelValue": int(wanted.min()),
                "MaxPixelValue": int(wanted.max()),
                "FrameSizeInBytes": wanted.nbytes,
            }, name


def test_32_bits_come_as_htj2k_too(imaging):
    pixels = noise(2, 10, 10, dtype="u4")
    sets, _ = imported(imaging, {"dose": native(pixels)})
    _, frames = fetched(imaging, sets["dose"])
    for wanted, (body, _) in zip(pixels, frames, strict=True):  # OpenJPEG ends before 32 bits
        np.testing.assert_array_equal(imagecodecs.htj2k_decode(body), wanted)


def test_fragments_make_frames(imaging):
    pixels = noise(3, 40, 40)
    streams = [j2k(frame) for frame in pixels]
    halves = [half for s in streams for half in (s[:200], s[200:])]
    offsets = np.cumsum([0, *(8 + len(s) + len(s) % 2 for s in streams)])[:3].tolist()
    half_offsets = np.cumsum([0, *(16 + len(s) + len(s) % 2 for s in streams)])[:3].tolist()
    cases = {
        "table": encapsulated(pixels, J2K, streams, table=offsets),
        "no table": encapsulated(pixels, J2K, streams),
        "halves with a table": encapsulated(pixels, J2K, halves, table=half_offsets),
        "halves by markers": encapsulated(pixels, J2K, halves),
        "one frame in pieces": encapsulated(pixels[:1], J2K, [streams[0][i : i + 100] for i in range(0, 9999, 100)]),
        "wrong table": encapsulated(pixels, J2K, streams, table=[0, 2, 4]),
        "short table": encapsulated(pixels, J2K, streams, table=[0]),
        "extended table": encapsulated(pixels, J2K, streams, ExtendedOffsetTable=struct.pack("<3Q", *offsets)),
        "wrong extended table": encapsulated(pixels, J2K, streams, ExtendedOffsetTable=struct.pack("<3Q", 0, 2, 4)),
    }
    sets, codes = imported(imaging, cases)
    assert codes == {name: [45330] for name in ("wrong table", "short table", "wrong extended table")}
    for name, image_set in sets.items():
        instance, frames = fetched(imaging, image_set)
        assert instance["StoredTransferSyntaxUID"] == HTJ2K
        assert len(frames) == (1 if name == "one frame in pieces" else 3)
        for wanted, (body, _) in zip(pixels, frames, strict=False):
            np.testing.assert_array_equal(openjpeg(body), wanted, name)


def test_what_cannot_be_transcoded_is_kept_as_a_blob_with_a_warning(imaging):
    pixels = noise(2, 40, 40)
    streams, fast = [j2k(f) for f in pixels], [htj2k(f) for f in pixels]
    items = {
        "broken": (J2K, [streams[0], streams[1][:100]], 45312),
        "cut": ("1.2.840.10008.1.2.4.201", [fast[0], fast[1][:-40]], 45312),
        "another size": (J2K, [j2k(noise(8, 8)), streams[1]], 45312),
        "too few": (J2K, streams[:1], 45329),
        "not to be told apart": (J2K, [b"abcd", *streams], 45328),
        "unknown": ("1.2.840.10008.1.2.4.53", streams, 45344),
    }
    objects = {name: encapsulated(pixels, syntax, parts) for name, (syntax, parts, _) in items.items()}
    objects["64 bits"] = native(pixels.view("u8"))
    sets, codes = imported(imaging, objects)
    assert codes == {name: [code] for name, (_, _, code) in items.items()} | {"64 bits": [45312]}
    for name, image_set in sets.items():
        instance, [(body, kind)] = fetched(imaging, image_set)
        [frame] = instance["ImageFrames"]
        assert kind == "application/octet-stream"
        assert body in objects[name]
        assert (frame["MinPixelValue"], frame["FrameSizeInBytes"]) == (None, len(body))
        if name != "64 bits":
            assert instance["StoredTransferSyntaxUID"] == items[name][0]


def test_what_is_kept_comes_as_it_was(imaging):
    colours, single = noise(2, 16, 16, 3, dtype="u1"), noise(3, 5, 7, dtype="u1") & 1
    lossy = [bytes(imagecodecs.jpeg8_encode(f, level=80)) for f in colours]
    video = b"\0\0\1\xb3" + bytes(500)
    one_bit = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    kept = {
        "jpeg": (JPEG, "image/jpeg", lossy),
        "j2c": ("1.2.840.10008.1.2.4.91", "image/j2c", [j2k(f) for f in colours]),
        "htj2k": ("1.2.840.10008.1.2.4.203", "image/jphc", [htj2k(f) for f in colours]),
        "jpeg xl": ("1.2.840.10008.1.2.4.112", "image/jxl", [b"\xff\x0aabcdef", b"\xff\x0aghijkl"]),
        "mpeg": ("1.2.840.10008.1.2.4.100", "video/mpeg", [video]),
        "h264": (VIDEO, "video/mp4", [video]),
        "hevc": ("1.2.840.10008.1.2.4.107", "video/H256", [video]),
        "already htj2k": (HTJ2K, "image/jph", [htj2k(f) for f in colours]),
    }
    objects = {name: encapsulated(colours, syntax, streams) for name, (syntax, _, streams) in kept.items()}
    objects["segments"] = native(single, bits(single), **one_bit)
    kept["segments"] = (BINARY, "application/octet-stream", [bits(f) for f in single])
    sets, codes = imported(imaging, objects)
    assert codes == {}
    for name, (syntax, kind, streams) in kept.items():
        instance, frames = fetched(imaging, sets[name])
        assert instance["StoredTransferSyntaxUID"] == syntax
        padded = [s if name == "segments" else s + b"\0" * (len(s) % 2) for s in streams]
        assert frames == [(s, kind) for s in padded], name
        if name != "already htj2k":
            for frame, stream in zip(instance["ImageFrames"], padded, strict=True):
                assert frame["PixelDataChecksumFromBaseToFullResolution"][0]["Checksum"] == zlib.crc32(stream)
                assert frame["FrameSizeInBytes"] == len(stream)
                assert frame["MinPixelValue"] is frame["MaxPixelValue"] is None


def test_lossy_frames_decode_as_others_decode_them(imaging):
    """By DICOMweb, which hands out what is kept as uncompressed pixels too."""
    edges = np.where(noise(1, 64, 64, 3, dtype="u1") > 127, 255, 0).astype("u1")
    uids = {name: {k: f"1.2.{uuid.uuid4().int}" for k in ("StudyInstanceUID", "SeriesInstanceUID")} for name in "ab"}
    streams = {
        "a": ("1.2.840.10008.1.2.4.203", bytes(imagecodecs.htj2k_encode(edges[0], level=0.2, reversible=False))),
        "b": ("1.2.840.10008.1.2.4.91", bytes(imagecodecs.jpeg2k_encode(edges[0], level=30, codecformat="j2k"))),
    }
    objects = {
        name: encapsulated(edges, syntax, [stream], SOPInstanceUID="1.2.3", **uids[name])
        for name, (syntax, stream) in streams.items()
    }
    imported(imaging, objects)
    for name, (_, stream) in streams.items():
        study, series = uids[name].values()
        path = f"/studies/{study}/series/{series}/instances/1.2.3/frames/1"
        answer = requests.get(
            f"{imaging.stack.env['AWS_ENDPOINT_URL']}/datastore/{imaging.datastore}{path}",
            headers=signed(imaging) | {"Accept": "application/octet-stream"},
            timeout=30,
        )
        assert answer.status_code == 200
        wanted = openjpeg(stream)
        assert np.ptp(wanted) == 255
        np.testing.assert_array_equal(np.frombuffer(answer.content, "u1").reshape(wanted.shape), wanted)


def test_an_instance_that_is_kept_comes_whole_by_dicomweb(imaging):
    pixels = noise(2, 16, 16, 3, dtype="u1")
    streams = [bytes(imagecodecs.jpeg8_encode(f, level=80)) for f in pixels]
    uids = {k: f"1.2.{uuid.uuid4().int}" for k in ("StudyInstanceUID", "SeriesInstanceUID")}
    body = encapsulated(pixels, JPEG, streams, PhotometricInterpretation="YBR_FULL_422", SOPInstanceUID="1.2.3", **uids)
    imported(imaging, {"a": body})
    path = "/studies/{StudyInstanceUID}/series/{SeriesInstanceUID}/instances/1.2.3".format(**uids)
    answer = requests.get(
        f"{imaging.stack.env['AWS_ENDPOINT_URL']}/datastore/{imaging.datastore}{path}",
        headers=signed(imaging) | {"Accept": "application/dicom; transfer-syntax=*"},
        timeout=30,
    )
    found = dcmread(BytesIO(answer.content))
    assert (found.file_meta.TransferSyntaxUID, found.PhotometricInterpretation) == (JPEG, "YBR_FULL_422")
    frames = [f.rstrip(b"\0") for f in generate_frames(found.PixelData, number_of_frames=2)]
    assert frames == [s.rstrip(b"\0") for s in streams]


def test_hostile_pixel_data_is_kept_or_refused_and_breaks_nothing(imaging):
    pixels = noise(1, 24, 24)
    jpeg = bytes(imagecodecs.jpeg8_encode((pixels[0] >> 8).astype("u1"), level=90))
    good = {
        "j2k": encapsulated(pixels, J2K, [j2k(pixels[0])]),
        "htj2k": encapsulated(pixels, "1.2.840.10008.1.2.4.201", [htj2k(pixels[0])]),
        "jpeg": encapsulated((pixels >> 8).astype("u1"), "1.2.840.10008.1.2.4.51", [jpeg]),
        "jpegls": encapsulated(pixels, "1.2.840.10008.1.2.4.80", [bytes(imagecodecs.jpegls_encode(pixels[0]))]),
        "rle": encapsulated(pixels, RLE, [bytes(200)]),
        "native": native(pixels),
    }
    random = np.random.default_rng(1)
    objects = {}
    for name, body in good.items():
        start = body.index(b"\x28\x00\x02\x00")  # the image attributes and the pixels
        for number in range(25):
            changed = bytearray(body)
            for at in random.integers(start, len(body), 1 + number % 4):
                changed[at] = random.integers(256)
            objects[f"{name}-{number:02}"] = bytes(changed)
    # A stream that says it has 65,535 x 65,535 pixels, and a frame for each byte.
    bomb = j2k(pixels[0])
    objects["bomb"] = encapsulated(pixels, J2K, [bomb[:8] + b"\0\0\xff\xff" * 2 + bomb[16:]])
    objects["tiny frames"] = native(noise(1, 1, 1, dtype="u1"), bytes(300_000), NumberOfFrames=300_000)
    outcome = imaging.run(objects)
    types = {line["exception"]["exceptionType"] for line in outcome.failure}
    assert types <= {"ValidationException"}
    assert len(outcome.success) + len(outcome.failure) == len(objects)
    codes = {
        line["inputFile"].rpartition("/")[2]: line["importResponse"]["warnings"][0]["warning_reason_code"]
        for line in outcome.warning
    }
    assert (codes["bomb"], codes["tiny frames"]) == (45312, 45328)
    for image_set in {line["importResponse"]["imageSetId"] for line in outcome.success}:
        fetched(imaging, image_set)


def test_a_jpeg_2000_data_store_keeps_jpeg_2000(imaging):
    imaging.datastore = imaging.api.create_datastore(
        datastoreName=f"j-{uuid.uuid4().hex}", losslessStorageFormat="JPEG_2000_LOSSLESS"
    )["datastoreId"]
    pixels, stream = noise(1, 37, 91, dtype="i2"), j2k(noise(37, 91))
    objects = {
        "native": native(pixels),
        "rgb": native(noise(1, 8, 8, 3, dtype="u1")),
        "j2k": encapsulated(noise(1, 37, 91), J2K, [stream]),
        "another sign": encapsulated(pixels, J2K, [j2k(pixels[0].view("u2"))]),
        "dose": native(noise(1, 4, 4, dtype="u4")),
    }
    sets, codes = imported(imaging, objects)
    assert codes == {"dose": [45312]}
    for name, wanted in (
        ("native", pixels[0]),
        ("another sign", pixels[0]),
        ("rgb", noise(1, 8, 8, 3, dtype="u1")[0]),
        ("j2k", noise(37, 91)),
    ):
        instance, [(body, kind)] = fetched(imaging, sets[name])
        assert (instance["StoredTransferSyntaxUID"], kind) == (J2K, "image/j2c")
        np.testing.assert_array_equal(openjpeg(body), wanted)
        checksum = instance["ImageFrames"][0]["PixelDataChecksumFromBaseToFullResolution"][0]["Checksum"]
        assert checksum == zlib.crc32(wanted.tobytes())
    assert fetched(imaging, sets["j2k"])[1][0][0].rstrip(b"\0") == stream.rstrip(b"\0")
