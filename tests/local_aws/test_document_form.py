"""The real document that is public, made again: objects from it go in, and it comes out, key by key.

`tests/data/healthimaging/usdoppler.json` is a document of the service from 2022, so the switches are set to its form.
What newer ones have otherwise stands in `test_metadata.py`: padding of DS and IS kept, no key for pixel data, one
resolution in the checksums.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.request
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian

from tests.local_aws.conftest import make_object

REAL = Path(__file__).resolve().parents[1] / "data" / "healthimaging" / "usdoppler.json"
BINARY = {"OB", "OW", "UN"}


def data_set(attributes, private=None):
    """A data set of a document's attributes."""
    out = Dataset()
    for key, value in attributes.items():
        tag = tag_for_keyword(key)
        vr = dictionary_VR(tag) if tag else private[key]
        if key == "PixelData" or (tag and tag >> 16 == 2):
            continue
        out.add_new(int(key, 16) if tag is None else tag, vr, element_value(vr, value))
    return out


def element_value(vr, value):
    """What pydicom takes for a document's value."""
    if value is None:
        return None
    if vr == "SQ":
        return [data_set(item) for item in value]
    if vr == "AT":
        return [int(one, 16) for one in value]
    return base64.b64decode(value) if vr in BINARY else value


def objects(document):
    """The objects that such a document tells of, with pixels of zeros."""
    for series in document["Study"]["Series"].values():
        for uid, instance in series["Instances"].items():
            own = instance["DICOM"]
            data = data_set(own, instance["DICOMVRs"])
            for level in (document["Patient"], document["Study"], series):
                data.update(data_set(level["DICOM"]))
            frame = data.Rows * data.Columns * data.SamplesPerPixel
            data.PixelData = bytes(frame * len(instance["ImageFrames"]))
            data["PixelData"].VR = "OW"
            data.file_meta = FileMetaDataset()
            for key, value in own.items():
                if (tag_for_keyword(key) or 0) >> 16 == 2 and key != "FileMetaInformationVersion":
                    setattr(data.file_meta, key, value)
            data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            data.save_as(buffer := io.BytesIO(), enforce_file_format=True)
            yield f"{uid}.dcm", buffer.getvalue()


@pytest.fixture(scope="module")
def imaging_of_2022(tmp_path_factory):
    """HealthImaging whose documents have the form of the real one from 2022."""
    from tests.conftest import AwsStack
    from tests.local_aws.conftest import Imaging

    form = {
        "FRAME_RESOLUTIONS": "pyramid",
        "PIXEL_DATA_KEY": "null",
        "CHECKSUM_TYPE": "absent",
        "NUMBER_PADDING": "stripped",
        "STORED_SYNTAX": "other",
    }
    options = {f"LOCAL_AWS_{name}": value for name, value in form.items()}
    stack = AwsStack(tmp_path_factory.mktemp("form") / "home", options).start()
    yield Imaging(stack)
    stack.stop()


@pytest.fixture(scope="module")
def pair(imaging_of_2022):
    """The real document, and ours of the same objects."""
    imaging = imaging_of_2022
    real = json.loads(REAL.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a misspelt character set in it
        made = dict(objects(real))
    outcome = imaging.run(made)
    assert (outcome.failure, outcome.warning) == ([], [])
    [image_set] = outcome.manifest["imageSetsSummary"]
    return real, imaging.document(image_set["imageSetId"])


def the_series(document):
    [(uid, series)] = document["Study"]["Series"].items()
    return uid, series


def test_outside_of_the_instances(pair):
    real, ours = pair
    assert list(ours) == list(real)
    assert ours["SchemaVersion"] == real["SchemaVersion"]
    assert ours["Patient"] == real["Patient"]
    assert ours["Study"]["DICOM"] == real["Study"]["DICOM"]
    assert set(ours["Study"]) == set(real["Study"])
    (our_uid, our_series), (uid, series) = the_series(ours), the_series(real)
    assert our_uid == uid
    assert set(our_series) == set(series)
    assert our_series["DICOM"] == series["DICOM"]


def test_every_attribute_of_every_instance(pair):
    ours, real = (the_series(d)[1]["Instances"] for d in reversed(pair))
    assert set(ours) == set(real)
    for uid, instance in real.items():
        expected = dict(instance["DICOM"])
        found = dict(ours[uid]["DICOM"])
        # Written by pydicom, so not that of 2012.
        for key in ("FileMetaInformationGroupLength", "ImplementationClassUID", "ImplementationVersionName"):
            found.pop(key, None), expected.pop(key, None)
        assert found == expected
        assert ours[uid]["DICOMVRs"] == instance["DICOMVRs"]
        assert types(found) == types(expected)


def types(value):
    """A value's form: types all the way down; a whole number has no point, whatever its VR."""
    if isinstance(value, dict):
        return {key: types(one) for key, one in value.items()}
    if isinstance(value, list):
        return [types(one) for one in value]
    return type(value).__name__


def test_frames(pair):
    ours, real = (the_series(d)[1]["Instances"] for d in reversed(pair))
    for uid, instance in real.items():
        assert set(ours[uid]) == set(instance)
        assert len(ours[uid]["ImageFrames"]) == len(instance["ImageFrames"])
        for mine, frame in zip(ours[uid]["ImageFrames"], instance["ImageFrames"], strict=True):
            assert list(mine) == list(frame)
            assert types(mine) == types(frame)
            found, expected = (one["PixelDataChecksumFromBaseToFullResolution"] for one in (mine, frame))
            # The pixels are not theirs, so the checksums are others.
            assert [{**one, "Checksum": 0} for one in found] == [{**one, "Checksum": 0} for one in expected]
            assert len(mine["ID"]) == len(frame["ID"])
            assert mine["FrameSizeInBytes"] == frame["FrameSizeInBytes"]


def test_the_rules_of_the_form(pair):
    """What both documents have in common: null for empty, lists by the dictionary, numbers and text by VR."""

    def check(attributes):
        for key, value in attributes.items():
            tag = tag_for_keyword(key)
            if tag is None or value is None:
                assert tag is not None or isinstance(value, str)
                continue
            vr, many = dictionary_VR(tag), dictionary_VM(tag) != "1"
            if vr == "SQ":
                for item in value:
                    check(item)
                continue
            assert isinstance(value, list) == many, key
            number = vr in {"US", "UL", "SL", "SS", "FD", "FL"}
            for one in value if many else [value]:
                assert isinstance(one, int | float if number else str), key

    for document in pair:
        _, series = the_series(document)
        for level in (document["Patient"], document["Study"], series, *series["Instances"].values()):
            check(level["DICOM"])


def halved(image, axis):
    """The low half of the reversible 5/3 wavelet (ISO 15444-1, annex F), as if a decoder skipped a resolution."""
    import numpy as np

    x = np.moveaxis(image.astype("i4"), axis, 0)
    even, odd = x[0::2], x[1::2]
    following = np.concatenate([even[1:], even[-1:]])[: len(odd)]
    high = odd - (even[: len(odd)] + following) // 2
    before = np.concatenate([high[:1], high])[: len(even)]
    after = np.concatenate([high, high[-1:]])[: len(even)]
    return np.moveaxis(even + (before + after + 2) // 4, 0, axis)


@pytest.mark.parametrize("form", ["HTJ2K", "JPEG_2000_LOSSLESS"])
def test_a_client_gets_the_checksums_of_every_resolution(imaging_of_2022, form):
    """What is decoded at a quarter, at half, and whole: by arithmetic alone, and from the frame."""
    import imagecodecs
    import numpy as np

    from tests.local_aws.conftest import Imaging

    imaging = Imaging(imaging_of_2022.stack)
    imaging.datastore = imaging.api.create_datastore(datastoreName=form, losslessStorageFormat=form)["datastoreId"]
    pixels = np.random.default_rng(5).integers(0, 4096, (300, 520)).astype("<u2")
    body = make_object(Rows=300, Columns=520, PixelData=pixels.tobytes())
    outcome = imaging.run({"a.dcm": body})
    one = {"datastoreId": imaging.datastore, "imageSetId": outcome.success[0]["importResponse"]["imageSetId"]}
    [instance] = the_series(imaging.document(one["imageSetId"]))[1]["Instances"].values()
    [frame] = instance["ImageFrames"]
    found = frame["PixelDataChecksumFromBaseToFullResolution"]
    assert [(level["Width"], level["Height"]) for level in found] == [(130, 75), (260, 150), (520, 300)]
    image = pixels
    for level in reversed(found):
        assert zlib.crc32(image.astype("<u2").tobytes()) == level["Checksum"]
        image = halved(halved(image, 0), 1)
    stream = imaging.api.get_image_frame(**one, imageFrameInformation={"imageFrameId": frame["ID"]})["imageFrameBlob"]
    data = stream.read()
    if form == "HTJ2K":
        for level, skipped in zip(found, (2, 1, 0), strict=True):
            assert zlib.crc32(imagecodecs.htj2k_decode(data, skipres=skipped).tobytes()) == level["Checksum"]
    root = f"{imaging.stack.env['AWS_ENDPOINT_URL']}/datastore/{imaging.datastore}"
    own = pydicom.dcmread(io.BytesIO(body))
    path = f"studies/{own.StudyInstanceUID}/series/{own.SeriesInstanceUID}/instances/{own.SOPInstanceUID}"
    request = urllib.request.Request(f"{root}/{path}", headers={"Accept": "application/dicom"})
    with urllib.request.urlopen(request) as answer:
        assert pydicom.dcmread(io.BytesIO(answer.read())).PixelData == pixels.tobytes()
    # An instance that names no transfer syntax has that of its data store.
    assert "StoredTransferSyntaxUID" not in instance
    with urllib.request.urlopen(f"{root}/{path}/metadata") as answer:
        [data_set] = json.loads(answer.read())
    assert data_set["00020010"]["Value"] == [f"1.2.840.10008.1.2.4.{'202' if form == 'HTJ2K' else '90'}"]


def test_the_size_of_the_stream(make_aws_stack):
    from tests.local_aws.conftest import Imaging

    imaging = Imaging(make_aws_stack(LOCAL_AWS_FRAME_SIZES="encoded"))
    outcome = imaging.run({"a.dcm": make_object()})
    one = {"datastoreId": imaging.datastore, "imageSetId": outcome.success[0]["importResponse"]["imageSetId"]}
    [instance] = the_series(imaging.document(one["imageSetId"]))[1]["Instances"].values()
    [frame] = instance["ImageFrames"]
    stream = imaging.api.get_image_frame(**one, imageFrameInformation={"imageFrameId": frame["ID"]})["imageFrameBlob"]
    assert frame["FrameSizeInBytes"] == len(stream.read())
