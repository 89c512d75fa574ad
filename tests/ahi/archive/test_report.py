"""The end of an import: six counts, what is missing, corrected files, and the commands that show it."""

from __future__ import annotations

import csv

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ahi.archive import archives, inventory, report, retry
from ahi.archive.plan import make_plan
from ahi.archive.report import Study
from ahi.cli.main import app
from ahi.index import catalog
from tests.ahi.archive.conftest import Holding
from tests.archive_fixtures import QUICK, Backfill, planned, samples, small_objects
from tests.site_fixtures import SAMPLES, SET


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
    assert "  shards: done 2" in [line.rstrip() for line in said.output.splitlines()]

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


def test_what_nobody_launched_or_planned_is_open_and_what_the_plan_set_aside_is_missing(site, holding: Holding):
    holding.put(samples(["pydicom/CT2/17106", "pydicom/CT2/17136"]) | {"a/empty.dcm": b"", "a/readme.txt": b"no image"})
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}/", name="old")

    def line() -> Study:
        (found,) = report.studies(site.pipeline, "old")
        return found

    inventory.look(site.pipeline, archive)
    seen = line()
    assert (seen.study_uid, seen.inventory, seen.unplanned, seen.set_down) == (None, 4, 4, 0)
    make_plan(site.pipeline, archive, keep=True)
    seen = line()
    assert (seen.inventory, seen.unstarted, seen.unplanned, seen.set_down) == (4, 2, 0, 2)
    assert seen.open == "in shards that nobody launched: 2"
    holding.put({"late/1.dcm": b"x" * 600})
    inventory.look(site.pipeline, archive)
    assert line().open == "in no plan yet: 1; in shards that nobody launched: 2"
    lost = report.missing(site.pipeline, "old")
    assert [(one.key, one.reason_code) for one in lost] == [("a/empty.dcm", "EMPTY"), ("a/readme.txt", "NOT_DICOM")]
    said = CliRunner().invoke(app, ["archive", "report", "old"])
    assert said.exit_code == 1, said.output
    assert "in shards that nobody launched: 2" in said.output


CLOSED = Study("1", 9, 6, 4, 4, 1, 7, 7, set_down=2, known=1, without_line=1, imported=4, repeated=1, others=4)


@pytest.mark.parametrize(
    "name",
    [
        *("inventory", "staged", "job_summary", "success_lines", "failure_lines", "image_set_instances", "index_rows"),
        *("unplanned", "unstarted", "in_flight", "imported"),
    ],
)
def test_each_count_alone_keeps_a_study_open(name):
    assert CLOSED.open == ""
    assert vars(CLOSED)[name] != (more := vars(CLOSED)[name] + 1)
    assert Study(**{**vars(CLOSED), name: more}).open


def test_each_source_is_read_by_itself(make_site):
    site = make_site(**QUICK)
    site.send(["pydicom/CT2/17166"])
    site.drive()
    Backfill(site, planned(site.pipeline, [samples(["pydicom/CT2/17106", "pydicom/CT2/17136"])])).finish()
    site.drive()
    (study,) = report.studies(site.pipeline, "old")
    assert (study.staged, study.imported, study.others, study.image_set_instances, study.open) == (2, 2, 1, 3, "")
    index, table = site.pipeline.index, catalog.objects
    of_archive = table.c.shard_key.is_not(None)
    with index.transaction() as connection:
        first = connection.scalar(sa.select(sa.func.min(table.c.object_id)).where(of_archive))
        connection.execute(table.update().where(table.c.object_id == first).values(shard_key=None, key="", etag=None))
        connection.execute(catalog.jobs.update().values(n_objects=7))
    nowhere, study = report.studies(site.pipeline, "old")
    # The ledger lost an object: the plan, the lines and the job itself still know of it.
    assert (nowhere.inventory, nowhere.success_lines, nowhere.staged) == (0, 1, 6)
    assert study.inventory == 2
    assert study.known == 1
    with index.transaction() as connection:
        connection.execute(table.delete().where(table.c.object_id == first))
    nowhere, study = report.studies(site.pipeline, "old")
    assert (nowhere.inventory, study.inventory, study.known) == (1, 1, 0)
    assert [one.reason_code for one in report.missing(site.pipeline, "old")] == ["NOT_ENTERED"]
