"""The end of an import: six counts, what is missing, corrected files, and the commands that show it."""

from __future__ import annotations

import csv

from typer.testing import CliRunner

from ahi.archive import archives, report, retry
from ahi.cli.main import app
from tests.archive_fixtures import Backfill, planned, samples, small_objects
from tests.site_fixtures import SAMPLES, SET

QUICK = {"archive_poll_seconds": 0.05, "archive_lease_seconds": 5}


def test_studies_close_six_ways_and_what_is_missing_is_corrected(make_site, tmp_path):
    site = make_site(**QUICK)
    shards = [samples(SET), small_objects(10, bad_every=5)]
    Backfill(site, planned(site.pipeline, shards)).finish()
    site.drive()
    studies = report.studies(site.pipeline, "old")
    assert [one.open for one in studies if one.open] == []
    assert sum(one.inventory for one in studies) == 26
    assert sum(one.success_lines for one in studies) == sum(one.index_rows for one in studies) == 20
    lost = list(report.missing(site.pipeline, "old"))
    assert len(lost) == 6
    assert {one.corrected_by for one in lost} == {None}

    cli = CliRunner()
    said = cli.invoke(app, ["archive", "report", "old", "--csv", str(tmp_path / "out")])
    assert said.exit_code == 0, said.output
    assert "Every study closes six ways." in said.output
    rows = list(csv.DictReader((tmp_path / "out" / "missing.csv").read_text().splitlines()))
    assert {row["key"] for row in rows} == {one.key for one in lost}
    said = cli.invoke(app, ["archive", "status", "old"])
    assert "100.0 % of 26 objects through" in said.output
    assert "NOT_DICOM" in said.output

    # Corrected files come under a prefix of their own, each with the key of its original.
    good = (SAMPLES / "pydicom" / "CT_small.dcm").read_bytes()
    bucket = site.stack.env["AHI_STAGING_BUCKET"]
    for key in ("bad/missing_sop_uid.dcm", "never/seen.dcm"):
        site.stack.client("s3").put_object(Bucket=bucket, Key=f"corrected/{key}", Body=good)
    archive = archives.find(site.pipeline, "old")
    again = retry.corrected(site.pipeline, archive, f"s3://{bucket}/corrected/")
    assert (again.shard_keys, again.objects, again.unmatched) == (["old-00003"], 1, 1)
    Backfill(site, again.shard_keys, "retry").finish()
    site.drive()
    assert [one.open for one in report.studies(site.pipeline, "old") if one.open] == []
    (corrected,) = [one for one in report.missing(site.pipeline, "old") if one.corrected_by]
    assert corrected.key == "bad/missing_sop_uid.dcm"
