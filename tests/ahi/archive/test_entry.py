"""Shards entered: as the look saw them, once, whatever became of the archive before, and not while S3 refuses."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa
import urllib3.exceptions
from botocore.exceptions import BotoCoreError

from ahi.archive import archives, inventory
from ahi.archive.entry import enter, shards
from ahi.archive.isolation import ShardStalledError
from ahi.archive.plan import make_plan
from ahi.aws import is_transient
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import ShardState
from ahi.pipeline import connect
from tests.ahi.archive.conftest import Holding
from tests.archive_fixtures import Backfill, planned, samples, shard_rows, small_objects
from tests.site_fixtures import Site
from tests.trouble_fixtures import cut_off, refuse

CT = ["pydicom/CT2/17106", "pydicom/CT2/17136", "pydicom/CT2/17166"]
MR = ["pydicom/MR2/15970", "pydicom/MR2/4950"]


def plan(site: Site, holding: Holding) -> list[str]:
    """Look at the bucket and plan what no shard has. Returns the new shards."""
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}", name="old")
    inventory.look(site.pipeline, archive)
    return [shard.shard_key for shard in make_plan(site.pipeline, archive, keep=True, sampling=False).shards]


def states(site: Site) -> Counter[tuple[str, str]]:
    return Counter((row["key"], row["state"]) for row in site.ledger())


def test_a_shard_that_s3_mostly_refuses_enters_nothing_and_goes_in_later(make_site):
    site = make_site(archive_poll_seconds=0.05)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    denied = connect(site.settings, run_id="denied")
    refuse(denied.aws.s3, "GetObject", "AccessDenied", of=CT[:2])
    first, second = shards(denied, keys)
    with pytest.raises(ShardStalledError, match="does not give 2 of its 3 objects"):
        enter(denied, first)
    assert (site.ledger(), shard_rows(site.pipeline)[0]["state"]) == ([], ShardState.PLANNED)
    refuse(denied.aws.s3, "GetObject", "AccessDenied", of=MR[:1])
    enter(denied, second)  # one of two: that one alone is at fault
    assert states(site) == {(MR[0], "failed"): 1, (MR[1], "ready"): 1}
    enter(site.pipeline, first)
    assert states(site) == {(MR[0], "failed"): 1, **{(key, "ready"): 1 for key in [MR[1], *CT]}}


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (None, "IncompleteReadError"),
        (urllib3.exceptions.ProtocolError("broken"), "ResponseStreamingError"),
        (urllib3.exceptions.ReadTimeoutError(None, "", "slow"), "ReadTimeoutError"),
    ],
)
def test_an_answer_that_ends_early_is_waited_for_and_its_objects_own_trouble_at_last(make_site, error, name):
    site = make_site()
    (shard,) = shards(site.pipeline, planned(site.pipeline, [samples(CT)]))
    troubled = connect(site.settings, run_id="troubled")
    cut_off(troubled.aws.s3, "GetObject", error, of=CT[:1])
    with pytest.raises(BotoCoreError) as raised:
        enter(troubled, shard)
    assert (type(raised.value).__name__, is_transient(raised.value), site.ledger()) == (name, True, [])
    enter(troubled, shard, at_last=True)
    assert states(site) == {(CT[0], "failed"): 1, **{(key, "ready"): 1 for key in CT[1:]}}
    (row,) = [row for row in site.ledger() if row["state"] == "failed"]
    assert (row["reason_code"], row["reason_text"]) == ("UNREADABLE", f"S3 gave no whole answer: {name}")


def test_what_was_overwritten_or_deleted_is_not_read_from_its_old_version(make_site, holding: Holding):
    site = make_site()
    holding.s3.put_bucket_versioning(Bucket=holding.bucket, VersioningConfiguration={"Status": "Enabled"})
    holding.put(samples(CT))
    versions = holding.s3.list_object_versions(Bucket=holding.bucket)["Versions"]
    uri = holding.report("Parquet", versions={entry["Key"]: entry["VersionId"] for entry in versions})
    archive = archives.add(site.pipeline, f"s3://{holding.bucket}/pydicom/", name="old", report_uri=uri)
    inventory.look(site.pipeline, archive)
    (planned_shard,) = make_plan(site.pipeline, archive, keep=True, sampling=False).shards
    holding.put({CT[0]: b"another"})
    holding.delete(CT[1])
    enter(site.pipeline, shards(site.pipeline, [planned_shard.shard_key])[0])
    found = {row["key"]: (row["state"], row["reason_code"], row["version_id"]) for row in site.ledger()}
    assert found == {
        CT[0]: ("set_aside", "SUPERSEDED", None),
        CT[1]: ("failed", "OBJECT_GONE", None),
        CT[2]: ("ready", None, None),
    }
    # A listing of the same bucket names the same object: whatever the way, it is one.
    listed = archives.add(site.pipeline, f"s3://{holding.bucket}/pydicom/", name="listed")
    inventory.look(site.pipeline, listed)
    (again,) = make_plan(site.pipeline, listed, keep=True, sampling=False).shards
    assert enter(site.pipeline, shards(site.pipeline, [again.shard_key])[0]).duplicates == 1


def test_an_archive_removed_and_added_again_loses_nothing(make_site, holding: Holding):
    site = make_site(archive_poll_seconds=0.05, archive_lease_seconds=5)
    holding.put(small_objects(4))
    (first,) = plan(site, holding)
    (outcome,) = Backfill(site, [first]).finish().values()
    assert outcome.states == {"imported": 4}
    archives.remove(site.pipeline, archives.find(site.pipeline, "old"))
    holding.put(dict(list(small_objects(8).items())[4:]))
    (second,) = plan(site, holding)
    assert (first, second) == ("old-00001", "old-00002")
    (outcome,) = Backfill(site, [second]).finish().values()
    assert (outcome.objects, outcome.known, outcome.states) == (8, 4, {"imported": 4})
    assert len(site.ledger()) == 8


def test_what_waited_when_its_archive_was_removed_waits_for_nobody_and_goes_in_with_the_next(make_site, holding):
    site = make_site(archive_poll_seconds=0.05, archive_lease_seconds=5)
    holding.put(small_objects(3))
    (key,) = plan(site, holding)
    enter(site.pipeline, shards(site.pipeline, [key])[0])
    archive = archives.find(site.pipeline, "old")
    with pytest.raises(PermanentError, match="are started"):
        archives.remove(site.pipeline, archive)
    with site.pipeline.index.transaction() as connection:
        connection.execute(sa.update(c.archive_shards).values(state=ShardState.CANCELLED))
    archives.remove(site.pipeline, archive)
    assert {(row["state"], row["reason_code"]) for row in site.ledger()} == {("set_aside", "WITHDRAWN")}
    (again,) = plan(site, holding)
    (outcome,) = Backfill(site, [again]).finish().values()
    assert (outcome.known, outcome.states) == (0, {"imported": 3})


def test_a_shard_is_not_done_while_the_ledger_lacks_an_object_of_it(make_site):
    site = make_site(archive_poll_seconds=0.05, archive_lease_seconds=5)
    (key,) = planned(site.pipeline, [samples(MR)])
    enter(site.pipeline, shards(site.pipeline, [key])[0])
    with site.pipeline.index.transaction() as connection:
        connection.execute(catalog.objects.delete().where(catalog.objects.c.key == MR[0]))
    with pytest.raises(PermanentError, match="names 2 objects; the ledger has 1"):
        Backfill(site, [key]).finish()
    assert shard_rows(site.pipeline)[0]["state"] == ShardState.CANCELLED
