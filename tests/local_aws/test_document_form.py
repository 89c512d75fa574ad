"""The real document that is public, made again: objects from it go in, and it comes out, key by key.

`tests/data/healthimaging/usdoppler.json` is a document of the service from 2022. What newer ones have otherwise stands
in `test_metadata.py`: padding of DS and IS kept, no key for pixel data, one resolution in the checksums.
"""

from __future__ import annotations

import base64
import io
import json
import warnings
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian

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
def pair(aws_stack):
    """The real document, and ours of the same objects."""
    from tests.local_aws.conftest import Imaging

    imaging = Imaging(aws_stack)
    real = json.loads(REAL.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a misspelt character set in it
        made = dict(objects(real))
    outcome = imaging.run(made)
    assert (outcome.failure, outcome.warning) == ([], [])
    [image_set] = outcome.manifest["imageSetsSummary"]
    return real, imaging.document(image_set["imageSetId"])


def plain(value):
    """A value without the padding of DS and IS, which documents of 2022 did not keep."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value.rstrip(" ") if isinstance(value, str) else value


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
        expected = {k: v for k, v in instance["DICOM"].items() if k != "PixelData"}
        found = dict(ours[uid]["DICOM"])
        # Written by pydicom, so not that of 2012.
        for key in ("FileMetaInformationGroupLength", "ImplementationClassUID", "ImplementationVersionName"):
            found.pop(key, None), expected.pop(key, None)
        assert plain(found) == expected
        assert ours[uid]["DICOMVRs"] == instance["DICOMVRs"]
        assert types(plain(found)) == types(expected)


def types(value):
    """A value's form: types all the way down; FD of 1 is a number, with or without a point."""
    if isinstance(value, dict):
        return {key: types(one) for key, one in value.items()}
    if isinstance(value, list):
        return [types(one) for one in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_frames(pair):
    ours, real = (the_series(d)[1]["Instances"] for d in reversed(pair))
    for uid, instance in real.items():
        assert len(ours[uid]["ImageFrames"]) == len(instance["ImageFrames"])
        for mine, frame in zip(ours[uid]["ImageFrames"], instance["ImageFrames"], strict=True):
            assert list(mine) == list(frame)
            assert types(mine) | {"PixelDataChecksumFromBaseToFullResolution": 0} == types(frame) | {
                "PixelDataChecksumFromBaseToFullResolution": 0
            }
            [full] = mine["PixelDataChecksumFromBaseToFullResolution"]
            largest = max(frame["PixelDataChecksumFromBaseToFullResolution"], key=lambda one: one["Width"])
            assert list(full) == list(largest)
            assert (full["Width"], full["Height"]) == (largest["Width"], largest["Height"])
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
