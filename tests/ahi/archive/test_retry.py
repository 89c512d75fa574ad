"""Another try: corrected files once each, also for what the plan set aside; and what S3 did not give, read again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ahi.archive import archives, inventory, report, retry
from ahi.archive.plan import make_plan
from ahi.cli.main import app
from ahi.errors import PermanentError
from ahi.events import ObjectCreated
from ahi.index import catalog
from ahi.pipeline import connect
from tests.ahi.archive.conftest import Holding
from tests.archive_fixtures import QUICK, Backfill, fail_jobs_with, planned, planned_without, samples, small_objects
from tests.site_fixtures import Site
from tests.trouble_fixtures import cut_off

CT = [f"pydicom/CT2/{number}" for number in (17106, 17136, 17166)]


def test_a_corrected_file_of_what_the_plan_set_aside_is_planned_once(make_site, holding: Holding):
    site = make_site(**QUICK, max_files_per_job=1)
    [body, other, _] = samples(CT).values()
    holding.put({"pacs/1.dcm": b"", "pacs/2.txt": b"no image", "mended/1.dcm": body, "mended/2.txt": other})
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}/pacs", name="old")
    inventory.look(site.pipeline, archive)
    make_plan(site.pipeline, archive, keep=True)
    archive, uri = archives.find(site.pipeline, "old"), f"s3://{holding.bucket}/mended/"
    first = retry.corrected(site.pipeline, archive, uri)
    assert (len(first.shard_keys), first.objects, first.unmatched, first.repeated) == (2, 2, 0, 0)
    again = retry.corrected(site.pipeline, archive, uri)
    assert (again.shard_keys, again.objects, again.repeated) == (first.shard_keys, 0, 2)
    said = CliRunner().invoke(app, ["archive", "retry", "old", uri])
    assert f"[{first.shard_keys[0]}...{first.shard_keys[1]}]" in said.output
    Backfill(site, first.shard_keys[:1]).finish()
    site.drive()
    corrected = {one.key: one.corrected_by for one in report.missing(site.pipeline, "old")}
    assert (bool(corrected["pacs/1.dcm"]), corrected["pacs/2.txt"]) == (True, None)
    assert retry.corrected(site.pipeline, archive, uri).shard_keys == first.shard_keys[1:]
    with pytest.raises(PermanentError, match="Nothing to try again"):
        retry.corrected(site.pipeline, archive, f"s3://{holding.bucket}/pacs/")


def test_what_s3_did_not_give_is_read_again(make_site):
    site = make_site(**QUICK)
    objects = samples(CT)
    keys = planned_without(site, objects, CT[0])
    s3, archive = site.pipeline.aws.s3, archives.find(site.pipeline, "old")
    (outcome,) = Backfill(site, keys).finish().values()
    assert outcome.states == {"imported": 2, "failed": 1}
    still = retry.once_more(site.pipeline, archive)
    assert (still.shard_keys, still.objects, still.still_failing) == ([], 0, 1)
    s3.put_object(Bucket=archive.bucket, Key=CT[0], Body=objects[CT[0]])
    again = retry.once_more(site.pipeline, archive)
    assert (again.shard_keys, again.objects, again.still_failing) == (keys, 1, 0)
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert outcome.states == {"imported": 3}
    site.drive()
    assert not [one.open for one in report.studies(site.pipeline, "old") if one.open]
    assert report.missing(site.pipeline, "old") == []
    assert site.rows("SELECT count(*) FROM headers") == [(3,)]


def test_an_object_that_was_overwritten_and_put_back_goes_in_once_it_is_tried_again(make_site):
    site = make_site(**QUICK)
    objects = samples(CT)
    keys = planned(site.pipeline, [objects])
    s3, archive = site.pipeline.aws.s3, archives.find(site.pipeline, "old")
    s3.put_object(Bucket=archive.bucket, Key=CT[0], Body=b"other bytes")
    (outcome,) = Backfill(site, keys).finish().values()
    assert outcome.states == {"imported": 2, "set_aside": 1}
    still = retry.once_more(site.pipeline, archive)
    assert (still.shard_keys, still.objects, still.still_failing) == ([], 0, 1)
    s3.put_object(Bucket=archive.bucket, Key=CT[0], Body=objects[CT[0]])
    # By its tag it is one that a shard has already.
    inventory.look(site.pipeline, archive)
    assert not make_plan(site.pipeline, archive, keep=True, sampling=False).shards
    assert retry.once_more(site.pipeline, archive).shard_keys == keys
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert outcome.states == {"imported": 3}
    site.drive()
    assert report.missing(site.pipeline, "old") == []


def test_a_culprit_that_is_still_bad_ends_as_before_and_drags_nobody_along(make_site):
    site = make_site(**QUICK)
    objects = small_objects(6)
    gone, *_, other, culprit = sorted(objects)
    keys = planned_without(site, objects, gone)
    archive = archives.find(site.pipeline, "old")
    fail_jobs_with(site, objects, [other, culprit])
    (outcome,) = Backfill(site, keys).finish().values()
    assert outcome.states == {"failed": 3, "imported": 3}
    site.pipeline.aws.s3.put_object(Bucket=archive.bucket, Key=gone, Body=objects[gone])
    for number in range(2):
        assert retry.once_more(site.pipeline, archive).shard_keys == keys
        before = jobs_of(site)
        (outcome,) = Backfill(site, keys, f"again {number}").finish().values()
        assert outcome.states == {"failed": 2, "imported": 4}
        failed = {row["key"]: row["reason_code"] for row in site.ledger() if row["state"] == "failed"}
        assert failed == dict.fromkeys((other, culprit), "JOB_FAILED")
        tried = jobs_of(site)[len(before) :]
        assert [one.n_imported for one in tried if one.status == "COMPLETED"] == [1] * (number == 0)
    site.stack.control("POST", "reset")
    retry.once_more(site.pipeline, archive)
    (outcome,) = Backfill(site, keys, "mended").finish().values()
    assert (outcome.states, len(jobs_of(site)) - len(before) - len(tried)) == ({"imported": 6}, 1)


def test_while_the_service_fails_everything_a_retry_blames_nobody_who_was_not_to_blame(make_site):
    site = make_site(**QUICK)
    objects = small_objects(4)
    gone, *_, culprit = sorted(objects)
    keys = planned_without(site, objects, gone)
    archive = archives.find(site.pipeline, "old")
    fail_jobs_with(site, objects, [culprit])
    Backfill(site, keys).finish()
    site.pipeline.aws.s3.put_object(Bucket=archive.bucket, Key=gone, Body=objects[gone])
    retry.once_more(site.pipeline, archive)
    site.stack.fault("fail_job", times=None)
    with pytest.raises(PermanentError, match="have stalled"):
        Backfill(site, keys, "outage").finish()
    assert {row["key"]: row["state"] for row in site.ledger()}[gone] == "ready"


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Let the collector see what is made from here on, and not the million objects of every module that is loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_objects")
def test_however_many_files_lie_there_few_are_in_memory(make_site, holding: Holding, monkeypatch):
    site = make_site(**QUICK)
    objects = samples(CT)
    keys = planned_without(site, objects, CT[1])
    archive = archives.find(site.pipeline, "old")
    (outcome,) = Backfill(site, keys).finish().values()
    assert outcome.states == {"imported": 2, "failed": 1}
    holding.put({f"mended/{number:02d}.txt": b"of no use" for number in range(30)})
    holding.put({f"mended/{CT[1]}": objects[CT[1]]})
    alive = list[int]()

    def page(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = 2
        gc.collect()
        alive.append(sum(isinstance(one, ObjectCreated) for one in gc.get_objects()))

    before = sum(isinstance(one, ObjectCreated) for one in gc.get_objects())
    monkeypatch.setattr(retry, "ROWS", 3)
    site.pipeline.aws.s3.meta.events.register("before-parameter-build.s3.ListObjectVersions", page)
    found = retry.corrected(site.pipeline, archive, f"s3://{holding.bucket}/mended/")
    assert (len(found.shard_keys), found.objects, found.unmatched, found.repeated) == (1, 1, 30, 0)
    assert len(alive) > 15
    assert max(alive) - before <= 8


def jobs_of(site: Site) -> list[sa.Row]:
    with site.pipeline.index.engine.connect() as connection:
        query = sa.select(catalog.jobs).order_by(catalog.jobs.c.planned_at)
        return list(connection.execute(query))


def test_an_object_that_s3_does_not_give_for_the_moment_fails_no_retry(make_site):
    site = make_site(**QUICK)
    objects = samples(CT)
    keys = planned_without(site, objects, CT[0])
    archive, troubled = archives.find(site.pipeline, "old"), connect(site.settings, run_id="troubled")
    Backfill(site, keys).finish()
    site.pipeline.aws.s3.put_object(Bucket=archive.bucket, Key=CT[0], Body=objects[CT[0]])
    cut_off(troubled.aws.s3, "GetObject", None, of=CT[:1])
    still = retry.once_more(troubled, archive)
    assert (still.shard_keys, still.objects, still.still_failing) == ([], 0, 1)
    again = retry.once_more(site.pipeline, archive)
    assert (again.shard_keys, again.objects, again.still_failing) == (keys, 1, 0)
