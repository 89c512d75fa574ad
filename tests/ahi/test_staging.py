"""Copies: what S3 refuses of one object, of most, of one larger than CopyObject takes, and copies that take long."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import chain, errors, imports, staging
from ahi.archive import jobs
from ahi.archive.entry import enter, shards
from ahi.import_service import HealthImaging
from ahi.index import catalog
from ahi.pipeline import connect
from tests.archive_fixtures import QUICK, Backfill, planned, samples, small_objects
from tests.trouble_fixtures import ask_once, hold, refuse

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


@pytest.mark.parametrize("n_refused", [1, 2])
def test_what_s3_does_not_copy_for_the_moment_fails_only_at_last_and_only_by_itself(site, n_refused, monkeypatch):
    monkeypatch.setattr(errors, "TROUBLED_SECONDS", 0.0)
    job, s3, troubles = claimed(site), site.pipeline.aws.s3, errors.Troubles()
    ask_once(s3)
    refuse(s3, "CopyObject", "InternalError", of=NAMES[:n_refused])
    for _ in range(2 if n_refused == 1 else 5):
        with pytest.raises(ClientError, match="InternalError"):
            staging.stage(site.pipeline, job, troubles=troubles)
        with pytest.raises(ClientError, match="InternalError"):
            staging.stage(site.pipeline, job)
        assert {row["state"] for row in site.ledger()} == {"importing"}
    if n_refused > 1:
        return
    assert staging.stage(site.pipeline, job, troubles=troubles) == 1
    found = {row["key"]: (row["state"], row["reason_code"], row["reason_text"]) for row in site.ledger()}
    assert found.pop(NAMES[0]) == ("failed", "UNREADABLE", "S3 refused to copy it: InternalError")
    assert set(found.values()) == {("importing", None, None)}


def test_throttling_that_strikes_others_each_time_fails_none(site, monkeypatch):
    monkeypatch.setattr(errors, "TROUBLED_SECONDS", 0.0)
    job, s3, troubles = claimed(site), site.pipeline.aws.s3, errors.Troubles()
    ask_once(s3)
    for number in range(6):
        refuse(s3, "CopyObject", "InternalError", of=NAMES[number % 2 :][:1], times=1)
        with pytest.raises(ClientError, match="InternalError"):
            staging.stage(site.pipeline, job, troubles=troubles)
    assert staging.stage(site.pipeline, job, troubles=troubles) == 0
    assert {row["state"] for row in site.ledger()} == {"importing"}


def test_copies_that_take_many_times_what_makes_a_claim_silent_are_made_once(make_site):
    site = make_site(**QUICK, claim_seconds=2)
    keys, go_on = planned(site.pipeline, [small_objects(20)]), threading.Event()
    slow = connect(site.settings, run_id="slow")
    copied = hold(slow.aws.s3, "CopyObject", go_on)
    backfill = Backfill(site, keys, pipeline=slow)
    site.stack.wait_for(lambda: copied, what="the first copy")
    begun = time.monotonic()

    def has_taken_long() -> bool:
        chain.recover(site.pipeline.index, HealthImaging(site.pipeline), silent_seconds=2)  # as each sweep does
        return time.monotonic() - begun > 6

    site.stack.wait_for(has_taken_long)
    go_on.set()
    (outcome,) = backfill.finish().values()
    assert (outcome.states, outcome.jobs) == ({"imported": 20}, 1)
    assert set(Counter(copied).values()) == {1}
    assert len(site.stack.calls("StartDICOMImportJob")) == 1


def test_copying_ends_when_another_has_taken_over_the_claim(make_site):
    site = make_site(copy_threads=1, claim_seconds=2)
    (key,) = planned(site.pipeline, [samples(NAMES)])
    (shard,) = shards(site.pipeline, [key])
    enter(site.pipeline, shard)
    jobs.plan(site.pipeline, shard)
    slow, go_on, counts = connect(site.settings, run_id="slow"), threading.Event(), Counter[str]()
    copied = hold(slow.aws.s3, "CopyObject", go_on)
    lane = jobs.ArchiveLane(slow, [key])
    run = threading.Thread(target=lambda: counts.update(imports.start_planned(slow, lane=lane)), daemon=True)
    run.start()
    site.stack.wait_for(lambda: copied, what="the first copy")
    chain.recover(site.pipeline.index, HealthImaging(site.pipeline), silent_seconds=0)
    site.stack.wait_for(lambda: "keep claim" not in {thread.name for thread in threading.enumerate()})
    go_on.set()
    run.join(60)
    assert counts == {"taken_over": 1, "started": 1}
    assert sorted(Counter(copied).values()) == [1, 1, 2]


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
