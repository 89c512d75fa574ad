"""Shards imported: through the chain, beside uploads, once, and around what is bad."""

from __future__ import annotations

from ahi.archive import control
from ahi.archive.progress import progress
from tests.archive_fixtures import Backfill, planned, samples, shard_rows
from tests.site_fixtures import SET

CT, MR = [n for n in SET if "CT2" in n], [n for n in SET if "MR2" in n]
REST = [name for name in SET if name not in CT and name not in MR]
QUICK = {"archive_poll_seconds": 0.05, "archive_lease_seconds": 5}


def test_shards_go_in_beside_each_other_and_once(make_site):
    site = make_site(**QUICK)
    keys = planned(site, [samples(CT), samples(MR), samples(REST)], in_place=["pydicom/CT2/", None, None])
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


def test_a_paused_archive_starts_nothing_until_it_is_resumed(make_site):
    site = make_site(**QUICK)
    keys = planned(site, [samples(CT), samples(MR)])
    index = site.pipeline.index
    control.pause(index, "old")
    backfill = Backfill(site, keys)
    site.stack.wait_for(lambda: shard_rows(site)[0]["run_id"], what="the run")
    site.send(["pydicom/rtplan.dcm"])
    assert site.drive().imported == 1  # uploads go on
    assert backfill.thread.is_alive(), backfill.error
    assert not backfill.outcomes
    control.resume(index, "old")
    assert len(backfill.finish()) == 2
