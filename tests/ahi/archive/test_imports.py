"""Shards imported: through the chain, beside uploads, once, and around what is bad."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError, EndpointConnectionError

from ahi import errors, staging
from ahi.archive import archives, control, imports, jobs, leases, retry
from ahi.archive.progress import progress
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.pipeline import connect
from tests.archive_fixtures import (
    QUICK,
    Backfill,
    fail_jobs_with,
    hold_back,
    planned,
    samples,
    shard_rows,
    small_objects,
)
from tests.site_fixtures import SET
from tests.trouble_fixtures import ask_once, refuse

CT, MR = [n for n in SET if "CT2" in n], [n for n in SET if "MR2" in n]
REST = [name for name in SET if name not in CT and name not in MR]


def test_shards_go_in_beside_each_other_and_once(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR), samples(REST)], in_place=["pydicom/CT2/", None, None])
    outcomes = Backfill(site, keys).finish()
    assert [outcomes[key].states for key in keys] == [{"imported": 4}, {"imported": 3}, {"failed": 4, "imported": 5}]
    site.drive()
    assert site.rows("SELECT count(*) FROM instances_all") == [(12,)]
    (in_place, *_) = site.rows("SELECT in_place FROM import_jobs WHERE shard_key = 'old-00001'")
    assert in_place == (True,)
    seen = progress(site.pipeline.index, "old")
    assert (seen.share, seen.final, seen.indexed, seen.shards) == (1.0, 16, 12, {"done": 3})
    assert seen.ended_at
    starts = len(site.stack.calls("StartDICOMImportJob"))
    again = Backfill(site, keys, "again").finish()
    assert [again[key].states for key in keys] == [outcomes[key].states for key in keys]
    assert len(site.stack.calls("StartDICOMImportJob")) == starts == 3


def test_a_paused_archive_starts_nothing_and_holds_no_run_and_is_asked_for_when_resumed(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    (other,) = planned(site.pipeline, [samples(["pydicom/rtplan.dcm"])], archive_id="other")
    index = site.pipeline.index
    control.pause(index, "old")
    # The run ends by itself, though the paused archive comes first, and has done what was not paused.
    assert list(Backfill(site, [*keys, other]).finish()) == [other]
    assert {row["state"] for row in shard_rows(site.pipeline)[:2]} == {"planned"}
    assert leases.resumed(index) == {}
    control.resume(index, "old")
    assert sorted(leases.resumed(index)) == keys
    assert sorted(Backfill(site, keys, "resumed").finish()) == keys
    assert leases.resumed(index) == {}


def test_a_pause_lets_running_jobs_end_and_parks_what_waits(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    hold = site.stack.fault("hold_jobs")
    backfill = Backfill(site, keys)
    site.stack.wait_for(lambda: len(site.stack.calls("StartDICOMImportJob")) == 2, what="both jobs")
    control.pause(site.pipeline.index, "old")
    site.stack.control("DELETE", f"faults/{hold}")
    assert sorted(backfill.finish()) == keys
    late = planned(site.pipeline, [samples(REST)], archive_id="late")
    hold_back(site.pipeline, "late")
    backfill = Backfill(site, late)
    site.stack.wait_for(lambda: "importing" in {row["state"] for row in site.ledger()}, what="a planned job")
    control.pause(site.pipeline.index, "late")
    assert backfill.finish() == {}
    control.resume(site.pipeline.index, "late")
    control.set_rate(site.pipeline.index, "late", None)
    assert list(leases.resumed(site.pipeline.index)) == late
    assert list(Backfill(site, late, "again").finish()) == late


def test_a_slow_archive_holds_up_no_other_of_the_same_run(make_site):
    site = make_site(**QUICK)
    slow = planned(site.pipeline, [samples([name]) for name in CT], archive_id="slow")
    (other,) = planned(site.pipeline, [samples(MR)], archive_id="other")
    hold_back(site.pipeline, "slow")
    backfill = Backfill(site, [*slow, other])

    site.stack.wait_for(backfill.told, what="the other archive")
    assert backfill.told() == [other]
    control.set_rate(site.pipeline.index, "slow", None)
    assert sorted(backfill.finish()) == sorted([*slow, other])


def test_an_error_of_s3_now_and_then_ends_no_run(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    troubled = connect(site.settings, run_id="troubled")
    s3 = troubled.aws.s3
    ask_once(s3)
    seen = refuse(s3, "GetObject", "InternalError", of=CT[:1], times=3)
    assert sorted(Backfill(site, keys, pipeline=troubled).finish()) == keys
    assert len(seen) == 3


def test_an_object_that_s3_never_gives_holds_up_no_other_shard_and_fails_at_last(make_site, monkeypatch):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    troubled = connect(site.settings, run_id="troubled")
    s3 = troubled.aws.s3
    ask_once(s3)
    refuse(s3, "GetObject", "InternalError", of=CT[:1])
    backfill = Backfill(site, keys, pipeline=troubled)

    site.stack.wait_for(backfill.told, what="the shard behind it")
    assert backfill.told() == keys[1:]
    monkeypatch.setattr(errors, "TROUBLED_SECONDS", 0.0)
    assert backfill.finish()[keys[0]].states == {"failed": 1, "imported": 3}
    (row,) = [row for row in site.ledger() if row["state"] == "failed"]
    assert (row["key"], row["reason_code"], "InternalError" in row["reason_text"]) == (CT[0], "UNREADABLE", True)


@pytest.mark.parametrize("n_refused", [1, 3])
def test_an_object_that_s3_never_copies_fails_at_last_and_the_others_of_its_job_go_in(
    make_site, monkeypatch, n_refused
):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    troubled = connect(site.settings, run_id="troubled")
    s3 = troubled.aws.s3
    ask_once(s3)
    refuse(s3, "CopyObject", "InternalError", of=CT[:n_refused])
    backfill = Backfill(site, keys, pipeline=troubled)

    site.stack.wait_for(backfill.told, what="the other shard")
    assert backfill.told() == keys[1:]
    monkeypatch.setattr(errors, "TROUBLED_SECONDS", 0.0)
    monkeypatch.setattr(staging, "FEWEST_TRIES", 2)
    with site.pipeline.index.transaction() as connection:
        late = {"starts": jobs.MOST_REFUSALS, "not_before": None}
        connection.execute(sa.update(catalog.jobs).where(catalog.jobs.c.state == "planned").values(**late))
    if n_refused > 1:
        with pytest.raises(PermanentError, match="refused by AWS: InternalError"):
            backfill.finish()
        return
    assert backfill.finish()[keys[0]].states == {"failed": 1, "imported": 3}
    (row,) = [row for row in site.ledger() if row["state"] == "failed"]
    assert (row["key"], row["reason_code"]) == (CT[0], "UNREADABLE")
    assert row["reason_text"] == "S3 refused to copy it: InternalError"


def test_what_waiting_does_not_mend_is_not_waited_for():
    def answer(code: str, status: int) -> ClientError:
        return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")

    patience = imports.Patience(least_seconds=0, most_seconds=0, in_all_seconds=60)
    patience.bear(answer("InternalError", 500))
    patience.bear(EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(ClientError, match="AccessDenied"):
        patience.bear(answer("AccessDenied", 403))
    spent = imports.Patience(least_seconds=0.001, most_seconds=0.001, in_all_seconds=0)
    spent.bear(answer("InternalError", 500))
    with pytest.raises(ClientError, match="InternalError"):
        spent.bear(answer("InternalError", 500))


@pytest.mark.parametrize(
    ("count", "bad", "most_attempts", "sizes"),
    [
        (4, [0], 3, {4: 2, 1: 4}),
        (4, [1], 3, {4: 2, 1: 4}),
        (4, [3], 3, {4: 2, 1: 4}),
        (4, [0, 3], 3, {4: 2, 1: 4}),
        (4, [3], 5, None),  # alone when all others are through
        (12, [1, 7], 3, None),
        (12, [0, 2], 3, None),
    ],
)
def test_the_files_that_fail_every_job_are_found_and_the_rest_goes_in(make_site, count, bad, most_attempts, sizes):
    site = make_site(**QUICK, max_attempts=most_attempts)
    shard = small_objects(count)
    culprits = [sorted(shard)[number] for number in bad]
    keys = planned(site.pipeline, [shard])
    fail_jobs_with(site, shard, culprits)
    (outcome,) = Backfill(site, keys).finish().values()
    assert outcome.states == {"failed": len(bad), "imported": count - len(bad)}
    failed = [row for row in site.ledger() if row["state"] == "failed"]
    assert sorted((row["key"], row["reason_code"]) for row in failed) == [(key, "JOB_FAILED") for key in culprits]
    with site.pipeline.index.engine.connect() as connection:
        items = connection.execute(sa.select(catalog.quarantine)).mappings().all()
    assert {(item["source"], item["reason_code"]) for item in items} == {("archives", "JOB_FAILED")}
    assert {item["evidence"].rpartition("#")[2] for item in items} == {row["object_id"] for row in failed}
    assert all("the last with nothing else in it" in item["reason_text"] for item in items)
    with site.pipeline.index.engine.connect() as connection:
        started = connection.execute(sa.select(catalog.jobs.c.n_objects).where(catalog.jobs.c.shard_key == keys[0]))
        assert sizes in (None, Counter(started.scalars()))


def test_where_culprits_alone_are_left_a_person_says_that_it_is_not_the_service(make_site):
    site = make_site(**QUICK)
    shard = small_objects(12)
    culprits = sorted(shard)[:2]  # in one part, whose others are in when they are tried alone
    keys = planned(site.pipeline, [shard])
    fail_jobs_with(site, shard, culprits)
    with pytest.raises(PermanentError, match="have stalled"):
        Backfill(site, keys).finish()
    assert Counter(row["state"] for row in site.ledger()) == {"imported": 10, "ready": 2}
    assert retry.set_down(site.pipeline, archives.find(site.pipeline, "old")).shard_keys == keys
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert outcome.states == {"imported": 10, "failed": 2}


def test_when_every_job_fails_no_object_is_blamed_and_the_run_says_so(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [small_objects(3)])
    site.stack.fault("fail_job", times=None)
    with pytest.raises(PermanentError, match="have stalled"):
        Backfill(site, keys).finish()
    assert {row["state"] for row in site.ledger()} == {"ready"}
    (row,) = shard_rows(site.pipeline)
    assert (row["state"], row["lease_until"]) == ("cancelled", None)
    site.stack.control("POST", "reset")
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert outcome.states == {"imported": 3}


def test_an_outage_ends_and_what_it_hid_is_found(make_site):
    site = make_site(**QUICK)
    shard = small_objects(3)
    keys = planned(site.pipeline, [shard])
    site.stack.fault("fail_job", times=None)
    with pytest.raises(PermanentError, match="have stalled"):
        Backfill(site, keys).finish()
    site.stack.control("POST", "reset")
    fail_jobs_with(site, shard, culprits := sorted(shard)[2:])
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert outcome.states == {"failed": 1, "imported": 2}
    assert [row["key"] for row in site.ledger() if row["state"] == "failed"] == culprits
