"""What an import forgives and what it takes along: limits, DICOM JSON metadata, durations."""

from __future__ import annotations

import base64
import json
import random

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from tests.local_aws.conftest import changed, make_object, run_past

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def spoiled(body, draw):
    """An object with a few bytes changed, put in or taken out before its pixels."""
    body = bytearray(body)
    for _ in range(draw.choice((1, 2, 5))):
        at = draw.randrange(128, len(body) - 8)
        kind = draw.randrange(4)
        if kind == 0:
            body[at] = draw.randrange(256)
        elif kind == 1:
            body[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)))
        elif kind == 2:
            del body[at : at + draw.randrange(1, 9)]
        else:
            body[at : at + 2] = draw.choice((b"SQ", b"UN", b"OB", b"US", b"FD", b"PN", b"UI", b"AT", b"IS"))
    return bytes(body)


def test_spoiled_objects_are_refused_or_imported_and_nothing_breaks(imaging):
    draw = random.Random(1)
    nested = Dataset()
    nested.CodeValue = "X"
    whole = make_object(ProcedureCodeSequence=Sequence([nested]))
    outcome = imaging.run({f"{n:03}.dcm": spoiled(whole, draw) for n in range(400)})
    assert outcome.job["jobStatus"] == "COMPLETED"
    assert outcome.manifest["numberOfFilesWithServerError"] == 0
    assert len(outcome.success) + len(outcome.failure) == 400
    assert outcome.success
    assert outcome.failure
    for entry in outcome.manifest["imageSetsSummary"][:5]:
        assert imaging.document(entry["imageSetId"])["SchemaVersion"] == "1.1"


def test_a_large_private_value_lies_apart(imaging):
    small, large = bytes(range(256)) * 4, bytes(range(256)) * 4097

    def change(read):
        block = read.private_block(0x0029, "ACME", create=True)
        block.add_new(0x01, "OB", small)
        block.add_new(0x02, "OB", large)

    outcome = imaging.run({"a.dcm": changed(change)})
    name = outcome.success[0]["importResponse"]["imageSetId"]
    [series] = imaging.document(name)["Study"]["Series"].values()
    [instance] = series["Instances"].values()
    assert base64.b64decode(instance["DICOM"]["00291001"]) == small
    assert instance["DICOM"]["00291002"] is None
    assert instance["DICOMVRs"] == {"00290010": "LO", "00291001": "OB", "00291002": "OB"}
    assert set(instance) == {"DICOM", "DICOMVRs", "ImageFrames", "StoredTransferSyntaxUID", "ChecksumType"}


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({f"{n}": b"x" for n in range(5)}, "FILE_COUNTS_LIMIT_EXCEEDED"),
        ({f"{n}": bytes(45_000) for n in range(3)}, "FILE_SIZES_LIMIT_EXCEEDED"),
        ({"a/b/c/d/x": b"x"}, "FOLDER_COUNTS_LIMIT_EXCEEDED"),
    ],
)
def test_a_job_beyond_its_limits_fails_with_a_manifest(switched, objects, message):
    outcome = run_past(switched, objects)
    assert outcome.job["jobStatus"] == "FAILED"
    assert outcome.job["message"] == f"DICOM import job has failed. {message}"
    assert outcome.manifest["numberOfImportedFiles"] == 0


def test_limits_that_are_reached_are_not_exceeded(switched):
    outcome = run_past(switched, {"a/b/x": b"x", "a/c/x": b"x", "y": bytes(50_000), "z": b"x"})
    assert outcome.job["jobStatus"] == "COMPLETED"


def test_a_file_beyond_its_limit_fails(switched):
    outcome = run_past(switched, {"a.dcm": bytes(50_001), "b.dcm": make_object()})
    assert [f["exception"]["message"] for f in outcome.failure] == ["File is larger than the limit"]
    assert len(outcome.success) == 1


def test_metadata_beyond_the_limit_is_not_imported(switched):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    first = run_past(switched, {"a.dcm": make_object(**shared, ImageComments="c" * 3000)})
    second = run_past(switched, {"b.dcm": make_object(**shared, ImageComments="c" * 3000), "c.dcm": make_object()})
    assert len(second.success) == 1
    assert "larger than the limit" in second.failure[0]["exception"]["message"]
    assert switched.get(first.success[0]["importResponse"]["imageSetId"])["versionId"] == "1"
    alone = {f"{n}.dcm": make_object(**shared, ImageComments="c" * 3000, StudyID="X") for n in range(3)}
    assert len(run_past(switched, alone).failure) == 3


def test_a_job_takes_the_time_of_the_model(switched):
    job = switched.start(switched.put({"a.dcm": make_object(), "b.dcm": make_object()}))["jobId"]
    switched.stack.wait_for(lambda: switched.job(job)["jobStatus"] == "IN_PROGRESS")
    switched.stack.control("POST", "clock", {"advance": 1})
    done = switched.ended(job)
    assert 1 <= (done["endedAt"] - done["submittedAt"]).total_seconds() < 3


def test_an_import_waits_for_a_locked_image_set(switched):
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    name = run_past(switched, {"a.dcm": make_object(**shared)}).success[0]["importResponse"]["imageSetId"]
    change = {"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientName": "Changed^Name"}}}
    switched.api.update_image_set_metadata(
        datastoreId=switched.datastore,
        imageSetId=name,
        latestVersionId="1",
        updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": json.dumps(change).encode()}},
    )
    job = switched.start(switched.put({"b.dcm": make_object(**shared, PatientName=None)}))["jobId"]
    switched.stack.wait_for(lambda: switched.job(job)["jobStatus"] == "IN_PROGRESS")
    switched.stack.control("POST", "clock", {"advance": 10})
    assert switched.get(name)["imageSetState"] == "LOCKED"
    assert switched.job(job)["jobStatus"] == "IN_PROGRESS"
    switched.stack.control("POST", "clock", {"advance": 100})
    assert switched.outcome(job).manifest["imageSetsSummary"][0]["imageSetVersion"] == 3
    assert switched.document(name)["Patient"]["DICOM"]["PatientName"] == "Changed^Name"
    assert switched.document(name, versionId="2")["Patient"]["DICOM"]["PatientName"] == "Changed^Name"


def test_jobs_are_listed_for_90_days(switched):
    job = run_past(switched, {"a.dcm": make_object()}).job["jobId"]

    def listed():
        pages = switched.api.get_paginator("list_dicom_import_jobs").paginate(datastoreId=switched.datastore)
        return job in [j["jobId"] for page in pages for j in page["jobSummaries"]]

    assert listed()
    switched.stack.control("POST", "clock", {"advance": 91 * 86_400})
    assert not listed()
    assert switched.job(job)["jobStatus"] == "COMPLETED"


# -- DICOM JSON metadata ----------------------------------------------------------------------------------------------


def json_import(imaging, objects, files, mappings, run_it=None):
    """A job with mapped files; `mappings` of (study, series or None, path)."""
    members = [
        {"studyInstanceUID": study, "metadataFilePath": path} | ({"seriesInstanceUID": series} if series else {})
        for study, series, path in mappings
    ]
    configuration = {"dicomJsonMetadataImportConfiguration": {"dicomMetadataMappings": members}}
    everything = objects | {path: json.dumps(value).encode() for path, value in files.items()}
    if run_it:
        return run_it(imaging, everything, importConfiguration=configuration)
    return imaging.outcome(imaging.start(imaging.put(everything), importConfiguration=configuration)["jobId"])


ENHANCED = {
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "New^Name", "Ideographic": "新"}]},
    "00101030": {"vr": "DS", "Value": [70.5]},
    "00081030": {"vr": "LO", "Value": ["From JSON"]},
    "00280010": {"vr": "US", "Value": [9999]},
    "00204000": {"vr": "LT"},
    "00280030": {"vr": "DS", "Value": [1, 2.5]},
    "00081032": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["X"]}}]},
    "00090010": {"vr": "LO", "Value": ["ACME"]},
    "00091001": {"vr": "OB", "InlineBinary": "AAE="},
    "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
}


def test_json_metadata_enhances_a_study_and_a_series(imaging):
    study, one, two = generate_uid(), generate_uid(), generate_uid()
    objects = {
        f"{n}.dcm": make_object(StudyInstanceUID=study, SeriesInstanceUID=series, StudyDescription="From DICOM")
        for n, series in enumerate((one, two))
    }
    objects["other.dcm"] = make_object()
    series_file = {"0008103E": {"vr": "LO", "Value": ["Of one"]}}
    outcome = json_import(
        imaging,
        objects,
        {"meta/study.json": ENHANCED, "series.json": [series_file]},
        [(study, None, "meta/study.json"), (study, one, "series.json")],
    )
    assert outcome.manifest["numberOfScannedFiles"] == 3
    assert outcome.failure == []
    documents = {d["inputFile"][-5:]: imaging.document(d["importResponse"]["imageSetId"]) for d in outcome.success}
    for name, series, description in (("0.dcm", one, "Of one"), ("1.dcm", two, None)):
        document = documents[name]
        levels = document["Study"]["Series"][series]
        [instance] = levels["Instances"].values()
        assert document["Patient"]["DICOM"]["PatientName"] == "New^Name=新"
        assert document["Study"]["DICOM"]["StudyInstanceUID"] == study
        assert document["Study"]["DICOM"]["StudyDescription"] == "From JSON"
        assert document["Study"]["DICOM"]["PatientWeight"] == "70.5"
        assert document["Study"]["DICOM"]["ProcedureCodeSequence"] == [{"CodeValue": "X"}]
        assert levels["DICOM"].get("SeriesDescription") == description
        assert instance["DICOM"]["PixelSpacing"] == ["1", "2.5"]
        assert instance["DICOM"]["ImageComments"] is None
        assert instance["DICOM"]["Rows"] == 4
        assert instance["DICOM"]["00091001"] == "AAE="
        assert instance["DICOMVRs"] == {"00090010": "LO", "00091001": "OB"}
    assert documents["r.dcm"]["Patient"]["DICOM"]["PatientName"] == "Test^Name"
    found = imaging.job(outcome.job["jobId"])["importConfiguration"]["dicomJsonMetadataImportConfiguration"]
    assert found["dicomMetadataMappings"][1]["seriesInstanceUID"] == one


def test_json_metadata_may_only_fill_in(switched):
    study = generate_uid()
    body = make_object(StudyInstanceUID=study, StudyDescription="From DICOM", PatientSex="")
    file = ENHANCED | {"00100040": {"vr": "CS", "Value": ["F"]}}
    outcome = json_import(switched, {"a.dcm": body}, {"m.json": file}, [(study, None, "m.json")], run_past)
    document = switched.document(outcome.success[0]["importResponse"]["imageSetId"])
    assert document["Patient"]["DICOM"] == {"PatientName": "Test^Name", "PatientID": "P1", "PatientSex": "F"}
    assert document["Study"]["DICOM"]["StudyDescription"] == "From DICOM"
    assert document["Study"]["DICOM"]["PatientWeight"] == "70.5"


UNREADABLE = [
    *(b"no JSON", b'{"00100010": 7}', b'[["x"]]', b'{"zz": {"vr": "LO"}}', None),
    *(b'{"00100010": {"vr": "LO", "Value": "x"}}', b'{"-0100010": {"vr": "PN"}}', b'{"00101030": {"vr": "XX"}}'),
    *(b'{"00101030": {"vr": "DS", "Value": [NaN]}}', b'{"00189087": {"vr": "FD", "Value": [1e999]}}'),
    *(b'{"00100020": {"vr": "US", "Value": [5]}}', b'{"00100020": {"vr": "LO", "Value": [{"a": 1}]}}'),
    *(b'{"00091001": {"vr": "OB", "InlineBinary": {"x": 1}}}', b'{"00091001": {"vr": "US", "Value": [70000]}}'),
]


@pytest.mark.parametrize("content", UNREADABLE)
def test_an_unreadable_metadata_file_fails_the_job(imaging, content):
    study = generate_uid()
    objects = {"a.dcm": make_object(StudyInstanceUID=study)} | ({"m.json": content} if content else {})
    outcome = json_import(imaging, objects, {}, [(study, None, "m.json")])
    assert outcome.job["jobStatus"] == "FAILED"
    assert outcome.job["message"].startswith("DICOM import job has failed. Metadata file 1 ")


def test_the_input_may_lie_in_another_account(imaging):
    import boto3
    from botocore.config import Config

    other = "210987654321"
    s3 = boto3.client(
        "s3",
        endpoint_url=imaging.stack.env["AWS_ENDPOINT_URL"],
        region_name=imaging.stack.env["AWS_REGION"],
        aws_access_key_id=other,
        aws_secret_access_key="x",
        config=Config(s3={"addressing_style": "path"}),
    )
    s3.create_bucket(Bucket="theirs")
    s3.put_object(Bucket="theirs", Key="in/a.dcm", Body=make_object())
    without = imaging.ended(imaging.start("s3://theirs/in/")["jobId"])
    assert without["jobStatus"] == "FAILED"
    outcome = imaging.outcome(imaging.start("s3://theirs/in/", inputOwnerAccountId=other)["jobId"])
    assert [line["inputFile"] for line in outcome.success] == ["in/a.dcm"]
