"""Folders imported as they lie: with their bad files, and only if nothing came between the plan and the start."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import chain, imports, results, staging
from ahi.archive import jobs, report
from ahi.archive.entry import enter, shards
from ahi.index import catalog
from ahi.pipeline import connect
from tests.archive_fixtures import QUICK, Backfill, planned, samples, small_objects
from tests.site_fixtures import Site
from tests.trouble_fixtures import ask_once, refuse

BAD = ["bad/picture.png", "bad/trunc_in_meta.dcm", "bad/missing_sop_uid.dcm"]
FOLDER = "series/"


def folder() -> dict[str, bytes]:
    """Four instances and three bad files in one folder."""
    good = {f"{FOLDER}{number}.dcm": body for number, body in enumerate(small_objects(4).values())}
    return good | {FOLDER + key.removeprefix("bad/"): body for key, body in samples(BAD).items()}


def planned_job(site: Site) -> str:
    """A job in place that is planned and not started. Returns its bucket."""
    (key,) = planned(site.pipeline, [folder()], in_place=[FOLDER])
    (shard,) = shards(site.pipeline, [key])
    enter(site.pipeline, shard)
    (shard,) = shards(site.pipeline, [key])
    assert jobs.plan(site.pipeline, shard) == 1
    (row,) = job_rows(site)
    assert (row["in_place"], row["n_objects"]) == (True, 7)
    return str(row["input_uri"]).removeprefix("s3://").partition("/")[0]


def job_rows(site: Site) -> list[dict[str, object]]:
    with site.pipeline.index.engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(catalog.jobs)).mappings()]


def quarantined(site: Site) -> list[str]:
    with site.pipeline.index.engine.connect() as connection:
        return list(connection.execute(sa.select(catalog.quarantine.c.reason_code)).scalars())


def test_bad_files_do_not_turn_a_folder_into_copies(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [folder()], in_place=[FOLDER])
    (outcome,) = Backfill(site, keys).finish().values()
    assert outcome.states == {"imported": 4, "failed": 3}
    assert [row["in_place"] for row in job_rows(site)] == [True]
    staged = site.stack.client("s3").list_objects_v2(Bucket=site.stack.env["AHI_STAGING_BUCKET"])
    assert staged["KeyCount"] == 0
    # Each has its own reason and its line in the job; nobody is asked about it again.
    failed = {row["reason_code"] for row in site.ledger() if row["state"] == "failed"}
    assert failed == {"NOT_DICOM", "BROKEN", "NO_IDENTITY"}
    assert quarantined(site) == []
    (job,) = chain.jobs(site.pipeline.index, "medical-imaging", sa.true())
    _, lines = results.output(site.pipeline, job)
    assert set(lines) == {row["input_key"] for row in site.ledger()} == set(folder())
    site.drive()
    studies = report.studies(site.pipeline, "old")
    assert [one.open for one in studies if one.open] == []
    assert sum(one.failure_lines for one in studies) == 3


def test_a_folder_that_changed_after_its_job_was_planned_is_copied(make_site):
    site = make_site(**QUICK)
    bucket = planned_job(site)
    s3, other = site.stack.client("s3"), list(small_objects(8).values())
    s3.put_object(Bucket=bucket, Key=f"{FOLDER}new.dcm", Body=other[6])
    s3.put_object(Bucket=bucket, Key=f"{FOLDER}0.dcm", Body=other[7])
    imports.start_planned(site.pipeline, lane=jobs.ArchiveLane(site.pipeline, ["old-00001"]))
    site.drive()
    (row,) = job_rows(site)
    assert (row["in_place"], row["n_objects"], row["n_imported"]) == (False, 4, 3)
    assert site.rows("SELECT count(*) FROM instances_all") == [(3,)]
    reasons = sorted(row["reason_code"] for row in site.ledger() if row["state"] == "failed")
    assert reasons == ["BROKEN", "NOT_DICOM", "NO_IDENTITY", "OBJECT_GONE"]


def test_a_file_that_comes_into_a_folder_while_its_job_starts_stands_in_quarantine(make_site):
    site = make_site(**QUICK)
    bucket = planned_job(site)
    lane = jobs.ArchiveLane(site.pipeline, ["old-00001"])
    limits = chain.Limits(10, 1_000)
    job = chain.claim(site.pipeline.index, "medical-imaging", limits, "me", lane)
    assert isinstance(job, chain.Job)
    assert staging.as_planned(site.pipeline, job) == job
    site.stack.client("s3").put_object(Bucket=bucket, Key=f"{FOLDER}late.dcm", Body=list(small_objects(8).values())[6])
    chain.start(site.pipeline.index, imports.HealthImaging(site.pipeline), job, limits)
    site.drive()
    assert quarantined(site) == ["RESULT_OF_UNKNOWN_FILE"]
    assert sum(row["state"] == "imported" for row in site.ledger()) == 4
    with site.pipeline.index.engine.connect() as connection:
        (item,) = connection.execute(sa.select(catalog.quarantine)).mappings().all()
    assert "late" not in repr(dict(item))


def test_a_folder_that_cannot_be_listed_for_a_moment_is_looked_at_again_and_not_copied(site):
    pipeline = connect(site.settings, run_id="troubled")
    ask_once(pipeline.aws.s3)
    bucket = site.settings.landing_bucket
    refuse(pipeline.aws.s3, "ListObjectsV2", "InternalError", of=[bucket], times=1)
    with pytest.raises(ClientError, match="InternalError"):
        staging.holds(pipeline, bucket, FOLDER, set())
    refuse(pipeline.aws.s3, "ListObjectsV2", "AccessDenied", of=[bucket], times=1)
    assert not staging.holds(pipeline, bucket, FOLDER, set())
    assert staging.holds(pipeline, bucket, FOLDER, set())
