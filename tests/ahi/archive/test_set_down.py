"""A stall has an end: a person lets fail what is refused, each object with its reason, and the rest goes in."""

from __future__ import annotations

import pytest

from ahi.archive import archives, report, retry
from ahi.errors import PermanentError
from ahi.pipeline import Pipeline, connect
from tests.archive_fixtures import QUICK, Backfill, planned, samples, shard_rows, small_objects
from tests.site_fixtures import SET, Site
from tests.trouble_fixtures import refuse

CT = [n for n in SET if "CT2" in n]


def denied(site: Site, operation: str, keys: list[str]) -> Pipeline:
    pipeline = connect(site.settings, run_id=f"denied {operation}")
    refuse(pipeline.aws.s3, operation, "AccessDenied", of=keys)
    return pipeline


def test_what_s3_refuses_for_good_fails_by_name_and_the_rest_goes_in(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT)])
    archive, pipeline = archives.find(site.pipeline, "old"), denied(site, "GetObject", CT[:3])
    with pytest.raises(PermanentError, match="No shard of it has stalled"):
        retry.set_down(site.pipeline, archive)
    with pytest.raises(PermanentError, match="retry NAME --set-down"):
        Backfill(site, keys, pipeline=pipeline).finish()
    assert retry.set_down(site.pipeline, archive).shard_keys == keys
    (outcome,) = Backfill(site, keys, pipeline=pipeline).finish().values()
    assert outcome.states == {"failed": 3, "imported": 1}
    named = {one.key: one.reason_code for one in report.missing(site.pipeline, "old") if one.key in CT[:3]}
    assert named == dict.fromkeys(CT[:3], "ACCESS_DENIED")
    (row,) = shard_rows(site.pipeline)
    assert (row["state"], row["message"], row["set_down_at"]) == ("done", None, None)


def test_one_object_that_s3_does_not_copy_stalls_nothing(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT[:1])])
    (outcome,) = Backfill(site, keys, pipeline=denied(site, "CopyObject", CT)).finish().values()
    assert outcome.states == {"failed": 1}
    assert [row["reason_code"] for row in site.ledger()] == ["ACCESS_DENIED"]


def test_the_only_object_that_is_imported_and_always_fails_is_set_down(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [small_objects(1)])
    site.stack.fault("fail_job", times=None)
    with pytest.raises(PermanentError, match="retry NAME --set-down"):
        Backfill(site, keys).finish()
    retry.set_down(site.pipeline, archives.find(site.pipeline, "old"))
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert outcome.states == {"failed": 1}
    assert [row["reason_code"] for row in site.ledger()] == ["JOB_FAILED"]
