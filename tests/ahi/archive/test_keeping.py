"""Shards of a run stay its own and its progress is noted, however long one of its rounds lasts."""

from __future__ import annotations

import datetime as dt
import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from ahi.archive import forecast, keeping, leases, progress
from ahi.archive.entry import shards
from ahi.clock import now
from ahi.index import catalog_archives as c
from ahi.pipeline import connect
from tests.archive_fixtures import QUICK, Backfill, planned, samples, shard_rows
from tests.site_fixtures import SET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ahi.pipeline import Pipeline

CT, MR = [n for n in SET if "CT2" in n], [n for n in SET if "MR2" in n]
BRIEF = QUICK | {"archive_lease_seconds": 1, "claim_seconds": 60}


class Held:
    """S3 does not answer an operation before it is told to."""

    def __init__(self, pipeline: Pipeline, operation: str) -> None:
        self.is_asked, self.answers = threading.Event(), threading.Event()
        pipeline.aws.s3.meta.events.register(f"before-send.s3.{operation}", self._wait)

    def _wait(self, **_: Any) -> None:
        self.is_asked.set()
        self.answers.wait(60)


def lease(pipeline: Pipeline, number: int = 1) -> dt.datetime:
    until: dt.datetime = shard_rows(pipeline)[number - 1]["lease_until"]
    return until


def taken(pipeline: Pipeline) -> list[forecast.Sample]:
    with pipeline.index.engine.connect() as connection:
        return forecast.samples(connection, "old")


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "keep shards"]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "SAMPLE_SECONDS", 0.2)
    yield
    assert keepers() == []


@pytest.mark.parametrize("operation", ["GetObject", "CopyObject"])  # headers are read; a job is staged
def test_in_a_long_round_a_run_keeps_its_shards_and_its_progress_is_noted(make_site, operation):
    site = make_site(**BRIEF)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    run, other = connect(site.settings, run_id="run"), connect(site.settings, run_id="other")
    s3 = Held(run, operation)
    backfill = Backfill(site, keys, pipeline=run)
    site.stack.wait_for(s3.is_asked.is_set, what="the long round")
    first, before = lease(site.pipeline), len(taken(site.pipeline))
    # Three leases later than it would have lost them.
    site.stack.wait_for(lambda: now() > first + dt.timedelta(seconds=3), what="three leases")
    assert leases.take(other, keys) == keys
    assert lease(site.pipeline) > now()
    points = taken(site.pipeline)
    assert len(points) - before >= 5
    assert points[-1].active_seconds == pytest.approx((points[-1].at - points[0].at).total_seconds(), abs=0.1)
    assert progress.progress(site.pipeline.index, "old").is_at_work
    s3.answers.set()
    assert sorted(backfill.finish()) == keys
    assert [row["lease_until"] for row in shard_rows(site.pipeline)] == [None, None]


def test_a_run_notices_within_its_round_that_another_has_its_shard(make_site):
    site = make_site(**BRIEF)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    run, second = connect(site.settings, run_id="run"), c.archive_shards.c.shard_key == keys[1]
    s3 = Held(run, "CopyObject")
    backfill = Backfill(site, keys, pipeline=run)
    site.stack.wait_for(s3.is_asked.is_set, what="the long round")
    until = now() + dt.timedelta(hours=1)
    with site.pipeline.index.transaction() as connection:
        connection.execute(c.archive_shards.update().where(second).values(run_id="other", lease_until=until))
    for _ in range(2):
        before = lease(site.pipeline)
        site.stack.wait_for(lambda before=before: lease(site.pipeline) > before, what="the keeper")
    s3.answers.set()
    site.stack.wait_for(lambda: backfill.told() == keys[:1], what="the shard that it has")
    row = shard_rows(site.pipeline)[1]
    assert (row["run_id"], row["lease_until"], row["started_at"]) == ("other", until, None)
    with site.pipeline.index.transaction() as connection:
        connection.execute(c.archive_shards.update().where(second).values(lease_until=now()))
    assert sorted(backfill.finish()) == keys


def test_what_was_let_go_of_is_not_renewed(site):
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    run = connect(site.settings, run_id="run")
    leases.take(run, keys)
    leases.park(run, keys[:1])
    before = lease(site.pipeline, 2)
    assert leases.renew(run, keys) == []
    parked, held = shard_rows(site.pipeline)
    assert (parked["lease_until"], parked["parked_at"] is None, held["lease_until"] > before) == (None, False, True)


def test_a_keeper_bears_errors_for_as_long_as_a_lease(make_site):
    site = make_site(**BRIEF | {"archive_lease_seconds": 0.2})
    keys = planned(site.pipeline, [samples(CT)])
    run = connect(site.settings, run_id="run")
    leases.take(run, keys)
    keeper = keeping.Keeper(run)
    keeper.hold(shards(run, keys))

    def locked(*_: object) -> None:
        raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked"))

    sa.event.listen(run.index.engine, "begin", locked)
    keeper.keep(unless_within=0)
    assert keeper.lost() == set()

    def raises() -> bool:
        keeper.keep(unless_within=0)
        try:
            keeper.lost()
        except sa.exc.OperationalError:
            return True
        return False

    site.stack.wait_for(raises, what="the error")
    sa.event.remove(run.index.engine, "begin", locked)
    before = lease(site.pipeline)
    keeper.keep(unless_within=0)
    assert lease(site.pipeline) > before
    assert keeper.lost() == set()


def test_a_keeper_ends_with_its_run_and_leaves_the_renewing_of_short_rounds_to_it(make_site):
    site = make_site(**BRIEF)
    keys = planned(site.pipeline, [samples(CT)])
    run = connect(site.settings, run_id="run")
    leases.take(run, keys)

    def canceled() -> None:
        with keeping.keeping(run) as keeper:
            assert len(keepers()) == 1
            keeper.hold(shards(run, keys))
            before = lease(site.pipeline)
            keeper.keep(unless_within=60)
            assert lease(site.pipeline) == before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        canceled()
    assert keepers() == []
