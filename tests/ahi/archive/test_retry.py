"""Another try: corrected files once each, also for what the plan set aside; and what S3 did not give, read again."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ahi.archive import archives, inventory, report, retry
from ahi.archive.plan import make_plan
from ahi.cli.main import app
from ahi.errors import PermanentError
from tests.ahi.archive.conftest import Holding
from tests.archive_fixtures import QUICK, Backfill, planned_without, samples

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
