"""Copies: what S3 refuses of one object, of most, and of one that is larger than CopyObject takes."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import chain, imports, staging
from ahi.archive import jobs
from ahi.archive.entry import enter, shards
from ahi.index import catalog
from tests.archive_fixtures import Backfill, planned, samples
from tests.trouble_fixtures import refuse

NAMES = ["pydicom/CT2/17106", "pydicom/CT2/17136", "pydicom/CT2/17166"]
LIMITS = chain.Limits(10, 1_000)


def claimed(site) -> chain.Job:
    """A job of three objects, claimed."""
    (key,) = planned(site.pipeline, [samples(NAMES)])
    (shard,) = shards(site.pipeline, [key])
    enter(site.pipeline, shard)
    jobs.plan(site.pipeline, shard)
    lane = jobs.ArchiveLane(site.pipeline, [key])
    job = chain.claim(site.pipeline.index, "medical-imaging", LIMITS, "me", lane)
    assert isinstance(job, chain.Job)
    return job


@pytest.mark.parametrize(("code", "reason"), [("AccessDenied", "ACCESS_DENIED"), ("InvalidObjectState", "UNREADABLE")])
def test_one_object_that_s3_will_not_copy_fails_by_itself(site, code, reason):
    job = claimed(site)
    refuse(site.pipeline.aws.s3, "CopyObject", code, of=NAMES[:1])
    assert staging.stage(site.pipeline, job) == 1
    found = {row["key"]: (row["state"], row["reason_code"], row["reason_text"]) for row in site.ledger()}
    assert found[NAMES[0]] == ("failed", reason, f"S3 refused to copy it: {code}")
    assert {found[name][0] for name in NAMES[1:]} == {"importing"}


def test_what_s3_refuses_of_most_objects_is_nobodys_fault(site):
    job = claimed(site)
    refuse(site.pipeline.aws.s3, "CopyObject", "AccessDenied", of=NAMES[:2])
    with pytest.raises(ClientError, match="AccessDenied"):
        staging.stage(site.pipeline, job)
    assert {row["state"] for row in site.ledger()} == {"importing"}


@pytest.mark.parametrize("overwritten", [False, True])
def test_a_large_object_is_copied_in_parts_in_the_version_that_was_read_and_without_what_its_sender_noted(
    site, monkeypatch, overwritten
):
    job = claimed(site)
    s3, where = site.stack.client("s3"), sa.select(catalog.objects.c.bucket).limit(1)
    with site.pipeline.index.engine.connect() as connection:
        bucket = connection.execute(where).scalar_one()
    body = b"other" if overwritten else samples(NAMES)[NAMES[0]]
    s3.put_object(Bucket=bucket, Key=NAMES[0], Body=body, Metadata={"patient": "Doe"}, Tagging="patient=Doe")
    monkeypatch.setattr(staging, "MOST_COPY_BYTES", 1)
    monkeypatch.setattr(staging, "PART_BYTES", 5 * 2**20)
    assert staging.stage(site.pipeline, job) == overwritten
    row = next(row for row in site.ledger() if row["key"] == NAMES[0])
    if overwritten:
        assert (row["state"], row["reason_code"]) == ("failed", "OBJECT_GONE")
        return
    staged = {"Bucket": site.stack.env["AHI_STAGING_BUCKET"], "Key": row["input_key"]}
    assert s3.get_object(**staged)["Body"].read() == body
    head = s3.head_object(**staged)
    assert (head["Metadata"], head["ETag"].strip('"')[-2:]) == ({}, "-1")  # an object of one part
    assert s3.get_object_tagging(**staged)["TagSet"] == []


def test_a_job_that_s3_refuses_again_and_again_stalls_its_shard_and_is_tried_anew_when_launched(make_site):
    site = make_site(archive_poll_seconds=0.05, archive_lease_seconds=5)
    job = claimed(site)
    with site.pipeline.index.transaction() as connection:
        values = {"state": "planned", "starts": jobs.MOST_REFUSALS, "message": f"{imports.REFUSED}AccessDenied"}
        connection.execute(sa.update(catalog.jobs).values(**values))
    (why,) = jobs.refused(site.pipeline, [job.shard_key]).values()
    assert "refused by AWS: AccessDenied" in why
    assert jobs.refused(site.pipeline, [job.shard_key]) == {}
    (outcome,) = Backfill(site, [job.shard_key]).finish().values()
    assert outcome.states == {"imported": 3}
