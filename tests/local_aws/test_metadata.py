"""The metadata document, against the real samples of its form and against the objects that went in."""

from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from tests.local_aws.conftest import make_object

# Keys and Python types at each level of the two real documents that are public (2022 and 2025).
TOP = {"SchemaVersion": str, "DatastoreID": str, "ImageSetID": str, "Patient": dict, "Study": dict}
FRAME = {
    "ID": str,
    "PixelDataChecksumFromBaseToFullResolution": list,
    "MinPixelValue": int,
    "MaxPixelValue": int,
    "FrameSizeInBytes": int,
}


def imported(imaging, body: bytes):
    """Document of one object, and its only instance."""
    outcome = imaging.run({"a.dcm": body})
    document = imaging.document(outcome.success[0]["importResponse"]["imageSetId"])
    [series] = document["Study"]["Series"].values()
    [instance] = series["Instances"].values()
    return document, series, instance


def test_the_form_of_the_real_documents(imaging):
    document, series, instance = imported(imaging, make_object())
    assert {k: type(v) for k, v in document.items()} == TOP
    assert document["SchemaVersion"] == "1.1"
    assert set(document["Patient"]) == {"DICOM"}
    assert set(document["Study"]) == {"DICOM", "Series"}
    assert set(series) == {"DICOM", "Instances"}
    assert list(instance) == ["DICOM", "DICOMVRs", "StoredTransferSyntaxUID", "ChecksumType", "ImageFrames"]
    assert instance["StoredTransferSyntaxUID"] == "1.2.840.10008.1.2.4.202"
    assert instance["ChecksumType"] == "DECOMPRESSED"
    [frame] = instance["ImageFrames"]
    assert {k: type(v) for k, v in frame.items()} == FRAME
    pixels = bytes(range(32))
    assert frame["PixelDataChecksumFromBaseToFullResolution"] == [
        {"Width": 4, "Height": 4, "Checksum": zlib.crc32(pixels)}
    ]
    values = np.frombuffer(pixels, "<u2") & 0xFFF  # of 16 bits, 12 are stored
    assert (frame["MinPixelValue"], frame["MaxPixelValue"]) == (values.min(), values.max())
    assert frame["FrameSizeInBytes"] == 32
    assert len(frame["ID"]) == 32


def test_levels(imaging):
    document, series, instance = imported(imaging, make_object(PatientSex="M", PatientWeight="71.5", StationName="S"))
    assert document["Patient"]["DICOM"] == {"PatientName": "Test^Name", "PatientID": "P1", "PatientSex": "M"}
    assert set(document["Study"]["DICOM"]) == {
        *("StudyDate", "StudyTime", "AccessionNumber", "StudyInstanceUID", "StudyID", "PatientWeight")
    }
    assert set(series["DICOM"]) == {"Modality", "StationName", "SeriesInstanceUID", "SeriesNumber"}
    assert {"SOPInstanceUID", "TransferSyntaxUID", "FileMetaInformationVersion", "Rows"} <= set(instance["DICOM"])
    assert "PixelData" not in instance["DICOM"]


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("SliceThickness", "5.000", "5.000 "),  # DS keeps its padding
        ("InstanceNumber", "1", "1 "),
        ("KVP", "120", "120 "),
        ("Rows", 4, 4),
        ("WindowCenter", "40", ["40"]),  # VM 1-n: a list, even of one
        ("WindowCenter", ["40", "50.5"], ["40", "50.5 "]),
        ("ImageType", ["ORIGINAL", "PRIMARY", "", "X"], ["ORIGINAL", "PRIMARY", "", "X"]),
        ("PatientOrientation", [], None),
        ("AcquisitionTime", "", None),
        ("ManufacturerModelName", "i-CAT", "i-CAT"),  # padding of text goes
        ("DistanceSourceToDetector", "1099.31", "1099.31 "),
        ("DiffusionBValue", 1.5, 1.5),
        ("FrameIncrementPointer", 0x00181065, ["00181065"]),
        ("PatientComments", "a\\b", "a\\b"),  # no splitting in LT
        ("PatientName", "Müller^Jörg", "Müller^Jörg"),
        ("EncryptedAttributesSequence", [], []),
    ],
)
def test_values(imaging, keyword, value, expected):
    document, series, instance = imported(imaging, make_object(**{keyword: value}))
    found = {**document["Patient"]["DICOM"], **document["Study"]["DICOM"], **series["DICOM"], **instance["DICOM"]}
    assert found[keyword] == expected


def test_private_attributes_and_nested_sequences(imaging):
    data = pydicom.Dataset()
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Profile"
    data.ReferencedSOPInstanceUID = "1.2.3"
    data.PurposeOfReferenceCodeSequence = Sequence([code])
    body = make_object(SourceImageSequence=Sequence([data]))
    read = pydicom.dcmread(io.BytesIO(body))
    block = read.private_block(0x7FDF, "ACME 1.0", create=True)
    block.add_new(0x01, "UN", b"\x01\x00")
    block.add_new(0x02, "US", [1, 2])
    block.add_new(0x03, "UN", b"")
    buffer = io.BytesIO()
    read.save_as(buffer)
    _, _, instance = imported(imaging, buffer.getvalue())
    assert instance["DICOM"]["SourceImageSequence"] == [
        {
            "ReferencedSOPInstanceUID": "1.2.3",
            "PurposeOfReferenceCodeSequence": [
                {"CodeValue": "113100", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Profile"}
            ],
        }
    ]
    assert instance["DICOMVRs"] == {"7FDF0010": "LO", "7FDF1001": "UN", "7FDF1002": "US", "7FDF1003": "UN"}
    private = {k: v for k, v in instance["DICOM"].items() if k.startswith("7FDF")}
    assert private == {"7FDF0010": "ACME 1.0", "7FDF1001": "AQA=", "7FDF1002": [1, 2], "7FDF1003": ""}


def test_it_agrees_with_pydicom_on_every_sample(corpus):
    """The walk of our own against the library, value by value, on real files."""
    from local_aws.healthimaging import dicom
    from local_aws.healthimaging.values import entry

    compared = 0
    for path in sorted(corpus.glob("dicom/**/*.dcm")):
        try:
            ours = dicom.read(path.read_bytes())
        except dicom.DicomError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = pydicom.dcmread(path)
            for element in theirs:
                if (
                    element.tag.element == 0
                    or element.tag in dicom.PIXELS
                    or element.VR == "SQ"
                    or not entry(element.tag)
                ):
                    continue
                if element.VR in {"UI", "CS", "DA", "TM", "LO", "SH", "PN", "AE", "AS", "US", "UL", "SS", "SL"}:
                    mine = ours.values.get(element.tag)
                    mine = [] if mine is None else mine if isinstance(mine, list) else [mine]
                    value = element.value
                    many = [] if value in (None, "") else list(value) if element.VM > 1 else [value]
                    left = [str(v).strip() for v in mine]
                    right = [str(v).strip() for v in many]
                    assert left == right or "=" in "".join(left), (path.name, element.tag)
                    compared += 1
    assert compared > 1000


def test_an_object_without_pixels_has_no_frames(imaging):
    _, _, instance = imported(imaging, make_object(PixelData=None, Rows=None, Columns=None))
    assert instance["ImageFrames"] == []
    assert "StoredTransferSyntaxUID" not in instance


def test_it_comes_compressed_as_the_service_sends_it(imaging):
    outcome = imaging.run({"a.dcm": make_object()})
    answer = imaging.api.get_image_set_metadata(
        datastoreId=imaging.datastore, imageSetId=outcome.success[0]["importResponse"]["imageSetId"]
    )
    assert (answer["contentType"], answer["contentEncoding"]) == ("application/json", "gzip")
    assert answer["imageSetMetadataBlob"].read(2) == b"\x1f\x8b"


def test_frame_ids_are_unique(imaging):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    body = {"NumberOfFrames": 3, "PixelData": bytes(96)}
    outcome = imaging.run({"a": make_object(**shared, **body), "b": make_object(**shared, **body)})
    document = imaging.document(outcome.success[0]["importResponse"]["imageSetId"])
    [series] = document["Study"]["Series"].values()
    ids = [f["ID"] for i in series["Instances"].values() for f in i["ImageFrames"]]
    assert len(set(ids)) == 6
