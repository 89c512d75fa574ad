"""The main path on the embedded stack: DICOM lands, analysts query it, every object is accounted for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from urllib.parse import unquote_plus

import pydicom
import pytest

from ahi import inbox, indexing, uploads
from ahi.inbox import Queue
from ahi.overview import overview
from tests.local_aws.conftest import make_object

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
OUTCOME = {
    "indexable": {"imported"},
    "indexable_lenient": {"imported", "failed"},
    "broken_pixels": {"failed"},
    "no_identity": {"failed"},
    "broken": {"failed"},
    "not_dicom": {"failed"},
    "not_instance": {"failed"},
}


def test_every_sample_ends_as_its_manifest_expects(site):
    lines = (SAMPLES / "MANIFEST.csv").read_text().splitlines()
    expected = {row["file"]: row["expected"] for row in csv.DictReader(lines)}
    site.send(expected, under="")
    closure = site.drive()
    assert closure.closes
    assert closure.landed == len(expected)
    for row in site.ledger():
        allowed = OUTCOME[expected[row["key"]]]
        assert row["state"] in allowed, (row["key"], row["state"], row["reason_code"], row["reason_text"])
        assert row["state"] == "imported" or row["reason_code"]
    rows = site.rows("SELECT count(*) FROM instances_all")
    assert rows[0][0] >= sum(row["state"] == "imported" for row in site.ledger()) - 1


def test_each_document_is_read_once(site):
    site.send()
    site.drive()
    reads = len(site.stack.calls("GetImageSetMetadata"))
    documents = site.rows("SELECT count(*) FROM image_sets")[0][0]
    assert reads == documents > 0
    site.drive()
    site.sweep()
    site.drive()
    assert len(site.stack.calls("GetImageSetMetadata")) == reads


def test_processing_a_batch_again_changes_nothing(site):
    site.send()
    site.drive()
    before = site.tables()
    pipeline = site.pipeline
    for batch in inbox.of_day(pipeline, Queue.UPLOADS, inbox.day_of(inbox.now())):
        assert uploads.process(pipeline, batch).already_committed
    site.drive()
    assert site.tables() == before


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_an_object_leads_to_the_message_and_the_line_that_tell_of_it(site):
    """Of an object that is imported with a warning, and has two lines, that is the line of its success."""
    site.send()
    site.put("in/warned +1.dcm", make_object(AccessionNumber="A" * 17))
    site.put("in/refused.dcm", make_object(StudyID="A" * 257))
    site.drive()
    s3, lake = site.stack.client("s3"), site.stack.env["AHI_LAKE_BUCKET"]

    def lines(key: str) -> list[dict[str, object]]:
        body = s3.get_object(Bucket=lake, Key=key)["Body"].read().decode()
        return [json.loads(line) for line in body.split("\n") if line]

    inbox_key = "'inbox/uploads/' || o.day || '/' || batch_id || '.jsonl'"
    asked = f"SELECT key, o.state, {inbox_key}, event_id, output_folder, input_key, manifest_line FROM objects o "
    found = site.rows(asked + "JOIN import_jobs USING (job_key)")
    assert len(found) == sum(row["state"] == "imported" for row in site.ledger()) + 1
    for key, state, batch, event_id, folder, input_key, line in found:
        (message,) = [one["body"] for one in lines(batch) if one["messageId"] == event_id]
        assert key in unquote_plus(message)
        name = {"imported": "SUCCESS/success.ndjson", "failed": "FAILURE/failure.ndjson"}[state]
        assert lines(folder.removeprefix(f"s3://{lake}/") + name)[line - 1]["inputFile"] == input_key
    shown = site.rows("SELECT object_id, event_id, manifest_line FROM instances_provenance WHERE object_id IS NOT NULL")
    assert set(shown) <= set(site.rows("SELECT object_id, event_id, manifest_line FROM objects"))
    assert shown


def test_reading_headers_takes_a_small_part_of_a_large_object(site):
    large = pydicom.dcmread(SAMPLES / "dicom/pydicom/CT_small.dcm")
    large.Rows = large.Columns = 512
    large.PixelData = bytes(512 * 512 * 2)
    large.save_as(body := io.BytesIO())
    site.put("in/large.dcm", body.getvalue())
    batch = site.collect()[0]
    report = uploads.process(site.pipeline, batch)
    assert report.bytes_read <= report.bytes_landed * 0.1


def test_what_runs_tell_names_no_modality_that_is_none_and_counts_failed_casts_by_table(site):
    """It stays in Dagster's event log, where no erasure looks."""
    odd = make_object(Modality="ROE JANE", SliceThickness="1")
    site.put("in/odd.dcm", odd.replace(b"DS\x02\x001 ", b"DS\x02\x00x "))
    (batch,) = site.collect()
    assert uploads.process(site.pipeline, batch).modalities == {"other": 1}
    site.drive()
    assert site.rows("SELECT Modality FROM series") == [("ROE JANE",)]
    report = indexing.index_again(site.pipeline, batch.day)
    assert report.modalities == {"other": 1}
    shown = dict(site.rows("SELECT table_name, count(*) FROM cast_failures WHERE table_name <> 'headers' GROUP BY ALL"))
    assert shown == {"instances": 1} == {name: n for name, n in report.cast_failures.items() if n}
    by_keyword = dict(site.rows("SELECT keyword, count(*) FROM cast_failures GROUP BY ALL"))
    assert overview(site.pipeline.index).cast_failures == by_keyword


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("not json {", "MESSAGE_NOT_JSON"),
        ("[1, 2]", "MESSAGE_NOT_UNDERSTOOD"),
        ('{"Records": [{"eventName": "ObjectCreated:Put"}]}', "MESSAGE_NOT_UNDERSTOOD"),
        ('{"associationId": "a1", "bucket": "b"}', "MANIFEST_NOT_UNDERSTOOD"),
    ],
)
def test_a_message_that_cannot_be_used_is_quarantined_and_kept(site, body, reason):
    site.stack.client("sqs").send_message(QueueUrl=site.stack.env["AHI_UPLOAD_QUEUE_URL"], MessageBody=body)
    site.send(["pydicom/rtplan.dcm"])
    assert site.drive().imported == 1
    ((code, evidence),) = site.rows("SELECT reason_code, evidence FROM quarantine")
    assert code == reason
    key, _, message_id = evidence.partition("#")
    lines = site.stack.client("s3").get_object(Bucket=site.stack.env["AHI_LAKE_BUCKET"], Key=key)["Body"].read()
    kept = [json.loads(line) for line in lines.decode().split("\n") if line]
    assert body in [line["body"] for line in kept if line["messageId"] == message_id]


def test_an_object_that_is_gone_when_it_is_read_fails_with_that_reason(site):
    version = site.put("in/gone.dcm", (SAMPLES / "dicom/pydicom/rtplan.dcm").read_bytes())
    bucket = site.stack.env["AHI_LANDING_BUCKET"]
    site.stack.client("s3").delete_object(Bucket=bucket, Key="in/gone.dcm", VersionId=version)
    site.drive()
    ((state, reason),) = [(row["state"], row["reason_code"]) for row in site.ledger()]
    assert (state, reason) == ("failed", "OBJECT_GONE")


def test_an_overwrite_before_import_sets_the_older_version_aside(site):
    old, new = ((SAMPLES / f"dicom/pydicom/{name}").read_bytes() for name in ("rtplan.dcm", "reportsi.dcm"))
    site.put("in/same key+ü.dcm", old)
    site.put("in/same key+ü.dcm", new)
    closure = site.drive()
    assert (closure.imported, closure.set_aside) == (1, 1)
    assert site.rows("SELECT Modality FROM series")[0][0] == "SR"


def test_a_closed_association_is_imported_in_place(site):
    names = ("pydicom/CT2/17106", "pydicom/CT2/17136")
    site.send(names, under="associations/a1/")
    site.collect()
    site.work()
    assert {row["state"] for row in site.ledger()} == {"held"}
    manifest = {
        "associationId": "a1",
        "bucket": site.stack.env["AHI_LANDING_BUCKET"],
        "prefix": "associations/a1/",
        "numberOfObjects": 2,
    }
    for _ in range(2):
        url = site.stack.env["AHI_UPLOAD_QUEUE_URL"]
        site.stack.client("sqs").send_message(QueueUrl=url, MessageBody=json.dumps(manifest))
    assert site.drive().imported == 2
    started = site.stack.calls("StartDICOMImportJob")
    assert len(started) == 1
    assert {row["input_key"] for row in site.ledger()} == {f"associations/a1/{name}" for name in names}
    assert site.rows("SELECT landed, expected_objects, completeness FROM uploads") == [(2, 2, "complete")]
    assert site.rows("SELECT landed, expected_objects, completeness FROM study_closure") == [(2, 2, "complete")]
    jobs = [job_id for (job_id,) in site.rows("SELECT job_id FROM import_jobs")]
    asked = "SELECT upload_id, import_job_id, state FROM instances_provenance"
    assert site.rows(asked) == [("associations/a1/", jobs[0], "imported")] * 2
    asked = "SELECT n_objects, upload_ids, import_job_ids FROM series_provenance"
    assert site.rows(asked) == [(2, ["associations/a1/"], jobs)]


def test_ten_associations_in_one_batch_are_ten_jobs(site):
    names = [
        f"pydicom/{name}" for name in ("CT2/17106", "CT2/17136", "CT2/17166", "CT2/17196", "MR2/15970", "MR2/4950")
    ]
    names += [f"pydicom/{name}" for name in ("MR2/4981", "MR700/4467", "rtplan.dcm", "reportsi.dcm")]
    queue, sqs = site.stack.env["AHI_UPLOAD_QUEUE_URL"], site.stack.client("sqs")
    for number, name in enumerate(names):
        prefix = f"associations/{number}/"
        site.send([name], under=prefix)
        manifest = {"associationId": str(number), "bucket": site.stack.env["AHI_LANDING_BUCKET"], "prefix": prefix}
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(manifest))
    assert site.drive().imported == 10
    assert len(site.stack.calls("StartDICOMImportJob")) == 10
