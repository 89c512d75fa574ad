"""Import jobs: what goes in, what comes out, in S3 and over the API."""

from __future__ import annotations

import csv

import pytest
from botocore.exceptions import ClientError
from pydicom.uid import generate_uid

from tests.local_aws.conftest import make_object

# "DICOM element constraints", but for the two that count.
LIMITS = {
    "PatientName": 256, "PatientID": 256, "StudyInstanceUID": 256, "StudyID": 256, "StudyDescription": 256,
    "AccessionNumber": 256, "SOPInstanceUID": 256, "SeriesInstanceUID": 256, "PatientBirthDate": 18, "PatientSex": 16,
    "StudyDate": 18, "StudyTime": 28,
}  # fmt: skip


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def series(**more):
    """Attributes shared by the objects of one series."""
    return {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), **more}


def test_results_in_the_documented_layout(imaging):
    shared = series()
    uri = imaging.put({"b.dcm": make_object(**shared), "a.dcm": make_object(**shared), "notes.txt": b"no DICOM"})
    started = imaging.start(uri, jobName="test_only_1")
    assert started["jobStatus"] == "SUBMITTED"
    outcome = imaging.outcome(started["jobId"])
    job, prefix = outcome.job, uri.split("/", 3)[3]
    folder = f"s3://{imaging.stack.env['AHI_LAKE_BUCKET']}/jobs/{imaging.datastore}-DicomImport-{job['jobId']}/"
    assert job["outputS3Uri"] == folder
    assert job["jobName"] == "test_only_1"
    assert job["endedAt"] >= job["submittedAt"]
    image_set = outcome.success[0]["importResponse"]["imageSetId"]
    assert outcome.manifest == {
        "jobId": job["jobId"],
        "datastoreId": imaging.datastore,
        "inputS3Uri": uri,
        "outputS3Uri": folder,
        "successOutputS3Uri": f"{folder}SUCCESS/",
        "failureOutputS3Uri": f"{folder}FAILURE/",
        "warningsOutputS3Uri": f"{folder}WARNING/",
        "numberOfScannedFiles": 3,
        "numberOfImportedFiles": 2,
        "numberOfFilesWithCustomerError": 1,
        "numberOfFilesWithServerError": 0,
        "numberOfGeneratedImageSets": 1,
        "imageSetsSummary": [
            {"imageSetId": image_set, "imageSetVersion": 1, "isPrimary": True, "numberOfMatchedSOPInstances": 2}
        ],
    }
    assert outcome.success == [
        {"inputFile": f"{prefix}{name}", "importResponse": {"imageSetId": image_set, "isPrimary": True}}
        for name in ("a.dcm", "b.dcm")
    ]
    assert outcome.failure == [
        {
            "inputFile": f"{prefix}notes.txt",
            "exception": {"exceptionType": "ValidationException", "message": "DICOM attributes does not exist"},
        }
    ]
    assert imaging.result(job, "WARNING/warning.ndjson") is None


def test_a_job_may_complete_without_a_single_image_set(imaging):
    outcome = imaging.run({"a": b"", "b": b"x"})
    assert outcome.job["jobStatus"] == "COMPLETED"
    assert outcome.manifest["imageSetsSummary"] == []
    assert outcome.manifest["numberOfFilesWithCustomerError"] == 2
    assert imaging.result(outcome.job, "SUCCESS/success.ndjson") is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"SOPClassUID": None}, "DICOM attribute SOPClassUID does not exist"),
        ({"StudyInstanceUID": None}, "DICOM attribute StudyInstanceUID does not exist"),
        ({"StudyInstanceUID": "not.a.uid"}, "DICOM attribute StudyInstanceUID is not a valid UID"),
        *(
            ({keyword: "9" * (limit + 1)}, f"DICOM attribute {keyword} is longer than {limit} characters")
            for keyword, limit in LIMITS.items()
        ),
        ({"PixelData": b"12"}, "DICOM attribute PixelData is shorter than the image attributes say"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_failures_say_why(imaging, change, text):
    outcome = imaging.run({"a.dcm": make_object(**change)})
    assert [f["exception"]["message"] for f in outcome.failure] == [text]


def test_a_series_grows_in_one_primary_image_set(imaging):
    shared = series()
    first = make_object(InstanceNumber=1, **shared)
    one = imaging.run({"1.dcm": first})
    two = imaging.run({"2.dcm": make_object(InstanceNumber=2, **shared)})
    again = imaging.run({"1.dcm": first})
    [a], [b], [c] = (o.manifest["imageSetsSummary"] for o in (one, two, again))
    assert a["imageSetId"] == b["imageSetId"] == c["imageSetId"]
    assert [x["imageSetVersion"] for x in (a, b, c)] == [1, 2, 3]
    counts = [
        len(next(iter(imaging.document(a["imageSetId"], versionId=v)["Study"]["Series"].values()))["Instances"])
        for v in "123"
    ]
    assert counts == [1, 2, 2]


def test_the_latest_of_an_instance_wins(imaging):
    shared = series(SOPInstanceUID=generate_uid())
    imaging.run({"1.dcm": make_object(InstanceNumber=1, **shared)})
    outcome = imaging.run({"1.dcm": make_object(InstanceNumber=99, **shared)})
    document = imaging.document(outcome.manifest["imageSetsSummary"][0]["imageSetId"])
    [one] = next(iter(document["Study"]["Series"].values()))["Instances"].values()
    assert one["DICOM"]["InstanceNumber"] == "99"


def test_a_conflict_makes_a_set_that_is_not_primary(imaging):
    shared = series()
    first = imaging.run({"1.dcm": make_object(**shared)})
    second = imaging.run({"2.dcm": make_object(**(shared | {"PatientID": "OTHER"}))})
    assert second.manifest["imageSetsSummary"][0]["isPrimary"] is False
    assert second.success[0]["importResponse"]["isPrimary"] is False
    assert imaging.get(second.success[0]["importResponse"]["imageSetId"])["isPrimary"] is False
    assert imaging.get(first.success[0]["importResponse"]["imageSetId"])["versionId"] == "1"


def test_conflicts_inside_one_job(imaging):
    shared = series()
    objects = {
        "1.dcm": make_object(**shared),
        "2.dcm": make_object(**(shared | {"SeriesNumber": 8})),
        "3.dcm": make_object(**(shared | {"SeriesNumber": 8})),
        "4.dcm": make_object(**(shared | {"SeriesInstanceUID": generate_uid()})),
        "5.dcm": make_object(**(shared | {"SeriesInstanceUID": generate_uid(), "PatientID": "OTHER"})),
    }
    summary = imaging.run(objects).manifest["imageSetsSummary"]
    assert sorted((s["isPrimary"], s["numberOfMatchedSOPInstances"]) for s in summary) == [
        (False, 1),
        (False, 2),
        (True, 1),
        (True, 1),
    ]


def test_a_client_token_names_one_job(imaging):
    uri = imaging.put({"a.dcm": make_object()})
    first = imaging.start(uri, clientToken="once")
    assert imaging.start(uri, clientToken="once")["jobId"] == first["jobId"]
    with pytest.raises(imaging.api.exceptions.ConflictException):
        imaging.start(imaging.put({"b.dcm": make_object()}), clientToken="once")
    imaging.ended(first["jobId"])


def test_no_more_than_the_quota_of_jobs_at_a_time(make_aws_stack):
    from tests.local_aws.conftest import Imaging

    stack = make_aws_stack(LOCAL_AWS_MAX_CONCURRENT_JOBS="2")
    imaging = Imaging(stack)
    stack.fault("hold_jobs")
    uri = imaging.put({"a.dcm": make_object()})
    jobs = [imaging.start(uri)["jobId"] for _ in range(2)]
    with pytest.raises(ClientError) as error:
        imaging.start(uri)
    assert code(error) == "ServiceQuotaExceededException"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 402
    assert {imaging.job(j)["jobStatus"] for j in jobs} == {"SUBMITTED"}
    stack.control("POST", "release")
    assert {imaging.ended(j)["jobStatus"] for j in jobs} == {"COMPLETED"}


@pytest.mark.parametrize("uri", ["s3://no-such-bucket-here/x/", "s3://{AHI_STAGING_BUCKET}/nothing/"])
def test_an_unreadable_input_fails_the_job(imaging, uri):
    job = imaging.ended(imaging.start(uri.format(**imaging.stack.env))["jobId"])
    assert job["jobStatus"] == "FAILED"
    assert job["message"].startswith("DICOM import job has failed.")


def test_listing_jobs_in_pages(imaging):
    uri = imaging.put({"a.dcm": make_object()})
    ids = [imaging.start(uri)["jobId"] for _ in range(3)]
    for job in ids:
        imaging.ended(job)
    pages = imaging.api.get_paginator("list_dicom_import_jobs").paginate(
        datastoreId=imaging.datastore, jobStatus="COMPLETED", PaginationConfig={"PageSize": 2}
    )
    listed = [j for p in pages for j in p["jobSummaries"]]
    assert [j["jobId"] for j in listed][:3] == ids[::-1]
    assert "inputS3Uri" not in listed[0]


def test_a_large_object_is_read_by_its_beginning(imaging):
    side = 6000
    big = make_object(Rows=side, Columns=side, PixelData=bytes(side * side * 2))
    outcome = imaging.run({"big.dcm": big})
    document = imaging.document(outcome.success[0]["importResponse"]["imageSetId"])
    [one] = next(iter(document["Study"]["Series"].values()))["Instances"].values()
    assert one["ImageFrames"][0]["FrameSizeInBytes"] == side * side * 2


def test_every_sample_ends_as_its_manifest_says(imaging, corpus):
    with (corpus / "MANIFEST.csv").open(newline="") as handle:
        expected = {row["file"]: row["expected"] for row in csv.DictReader(handle)}
    outcome = imaging.run({name: (corpus / "dicom" / name).read_bytes() for name in expected})
    assert outcome.manifest["numberOfScannedFiles"] == len(expected) >= 60
    imported = {line["inputFile"].split("/", 1)[1] for line in outcome.success}
    failed = {line["inputFile"].split("/", 1)[1] for line in outcome.failure}
    assert imported | failed == set(expected)
    assert imported & failed == set()
    clear = {name: outcome for name, outcome in expected.items() if outcome != "indexable_lenient"}
    assert {n for n, e in clear.items() if e == "indexable"} == imported & set(clear)
