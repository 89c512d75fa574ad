"""What a run leaves, and what others wait for: nothing blocks an upload, and nothing is done before it is."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from ahi import sweep
from ahi.archive import archives, control, imports, inventory, jobs, leases, report, retry
from ahi.archive.entry import enter, shards
from ahi.archive.isolation import ShardStalledError
from ahi.archive.plan import make_plan, shard_keys
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.engine import CHANGED
from ahi.pipeline import connect
from tests.ahi.archive.conftest import Holding
from tests.archive_fixtures import QUICK, Backfill, hold_back, planned, planned_without, samples, shard_rows
from tests.site_fixtures import SET, Site

CT, MR = [n for n in SET if "CT2" in n], [n for n in SET if "MR2" in n]
MARK = f"{CHANGED}archive_shards"


def upload(site: Site, name: str) -> None:
    """Send an object of the archive as an upload, and see it imported."""
    site.send([name])

    def is_in() -> bool:
        site.collect()
        site.work()
        return "imported" in {row["state"] for row in site.ledger() if row["shard_key"] is None}

    site.stack.wait_for(is_in, what="the upload")


def has_planned_a_job(site: Site) -> bool:
    return "importing" in {row["state"] for row in site.ledger()}


def test_an_upload_does_not_wait_for_a_paused_archive_that_goes_on_in_place(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT)], in_place=["pydicom/CT2/"])
    hold_back(site.pipeline, "old")
    backfill = Backfill(site, keys)
    site.stack.wait_for(lambda: has_planned_a_job(site), what="a planned job")
    control.pause(site.pipeline.index, "old")
    assert backfill.finish() == {}
    assert {row["state"] for row in site.ledger()} == {"ready"}
    upload(site, CT[0])
    control.resume(site.pipeline.index, "old")
    control.set_rate(site.pipeline.index, "old", None)
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert (outcome.states, outcome.jobs) == ({"imported": 4}, 1)
    site.drive()
    with site.pipeline.index.engine.connect() as connection:
        of_shard = sa.select(catalog.jobs.c.in_place).where(catalog.jobs.c.shard_key == keys[0])
        assert connection.execute(of_shard).scalars().all() == [True]
    assert [one.open for one in report.studies(site.pipeline, "old") if one.open] == []


def killed(site: Site, keys: list[str], *, ago: float) -> None:
    """A run that entered and planned shards, and was killed; its lease ended so many seconds ago."""
    run = connect(site.settings, run_id="killed")
    assert leases.take(run, keys) == []
    for shard in shards(run, keys):
        enter(run, shard)
        assert jobs.plan(run, shard) == 1
    until = now() - dt.timedelta(seconds=ago)
    with run.index.transaction() as connection:
        connection.execute(c.archive_shards.update().values(lease_until=until))


@pytest.mark.parametrize("is_paused", [True, False])
def test_what_a_killed_run_planned_keeps_no_upload_waiting(make_site, *, is_paused: bool):
    site = make_site(**QUICK)
    (key,) = planned(site.pipeline, [samples(CT)], in_place=["pydicom/CT2/"])
    # Of an archive that goes on, another run may come any moment, within the sweep's grace.
    killed(site, [key], ago=0 if is_paused else site.settings.sweep_grace_seconds)
    if is_paused:
        control.pause(site.pipeline.index, "old")
    found = sweep.sweep(site.pipeline)
    assert (found["shard_jobs_taken_back"], found["shards_left"]) == (1, 1)
    assert {(row["state"], row["attempts"], row["job_key"]) for row in site.ledger()} == {("ready", 0, None)}
    assert sum(sweep.sweep(site.pipeline).values()) == 0
    upload(site, CT[0])
    (row,) = shard_rows(site.pipeline)
    assert (row["state"], row["lease_until"]) == ("cancelled", None)
    control.resume(site.pipeline.index, "old")
    # Only what a pause left goes on by itself; what ended early is launched by a person.
    assert list(leases.resumed(site.pipeline.index)) == ([key] if is_paused else [])
    (outcome,) = Backfill(site, [key]).finish().values()
    assert (outcome.states, outcome.jobs) == ({"imported": 4}, 1)
    assert leases.resumed(site.pipeline.index) == {}


def test_a_sweep_takes_nothing_from_a_run_that_is_at_a_shard_or_may_come_soon(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    killed(site, keys, ago=-60)
    assert sum(site.sweep().values()) == 0
    with site.pipeline.index.transaction() as connection:
        ended = c.archive_shards.c.shard_key == keys[0]
        connection.execute(c.archive_shards.update().where(ended).values(lease_until=now()))
    assert sum(sweep.sweep(site.pipeline).values()) == 0
    assert {row["state"] for row in site.ledger()} == {"importing"}


def test_a_run_that_takes_a_shard_while_a_sweep_looks_keeps_its_jobs(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    killed(site, keys, ago=3_600)
    engine, other = site.pipeline.index.engine, connect(site.settings, run_id="other")

    def comes_first(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement == "BEGIN IMMEDIATE" and not is_there.is_set():
            is_there.set()
            assert leases.take(other, keys[:1]) == []

    is_there = threading.Event()
    sa.event.listen(engine, "before_cursor_execute", comes_first)
    assert leases.let_go_of_silent(site.pipeline, moment=now(), late=now()) == (1, 1)
    assert is_there.is_set()
    states = {row["shard_key"]: row["state"] for row in site.ledger()}
    assert states == {keys[0]: "importing", keys[1]: "ready"}
    first, second = shard_rows(site.pipeline)
    assert (first["run_id"], first["lease_until"] > now(), second["lease_until"]) == ("other", True, None)


def test_a_paused_archive_s_jobs_are_taken_back_while_its_run_is_busy(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(CT)])
    killed(site, keys, ago=-60)  # alive, but in a long round
    control.pause(site.pipeline.index, "old")
    assert leases.let_go_of_silent(site.pipeline, moment=now(), late=now()) == (1, 0)
    assert {row["state"] for row in site.ledger()} == {"ready"}
    (row,) = shard_rows(site.pipeline)
    assert (row["run_id"], row["state"], row["lease_until"] > now()) == ("killed", "started", True)


def test_a_parked_shard_is_asked_for_while_its_run_goes_on_with_another_archive(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(MR)])
    (other,) = planned(site.pipeline, [samples(CT)], archive_id="other")
    index = site.pipeline.index
    hold_back(site.pipeline, "other")
    control.pause(index, "old")
    backfill = Backfill(site, [*keys, other])
    site.stack.wait_for(lambda: has_planned_a_job(site), what="the other archive's job")
    site.stack.wait_for(lambda: shard_rows(site.pipeline)[0]["parked_at"], what="the parked shard")
    control.resume(index, "old")
    assert (list(leases.resumed(index)), backfill.thread.is_alive()) == (keys, True)
    assert list(Backfill(site, keys, "resumed").finish()) == keys
    assert leases.resumed(index) == {}
    control.set_rate(index, "other", None)
    assert list(backfill.finish()) == [other]
    assert leases.resumed(index) == {}


def test_an_archive_does_not_close_while_another_has_its_objects(make_site, holding: Holding):
    site = make_site(**QUICK)
    holding.put(samples(CT))
    keys = {}
    for name in ("one", "two"):
        archive = archives.add(site.pipeline, f"s3://{holding.bucket}/", name=name)
        inventory.look(site.pipeline, archive)
        make_plan(site.pipeline, archive, keep=True, sampling=False)
        keys[name] = shard_keys(site.pipeline, archives.find(site.pipeline, name))
    enter(site.pipeline, shards(site.pipeline, keys["one"])[0])
    with pytest.raises(PermanentError, match="4 of its objects are in shards of another archive"):
        Backfill(site, keys["two"], "two").finish()
    (line,) = [one for one in report.studies(site.pipeline, "two") if one.study_uid]
    assert (line.known, line.in_flight, line.open) == (4, 4, "on their way: 4")
    Backfill(site, keys["one"], "one").finish()
    (outcome,) = Backfill(site, keys["two"], "again").finish().values()
    assert (outcome.known, outcome.states) == (4, {})
    # Imported is not enough: the index has none of them yet.
    assert len(report.missing(site.pipeline, "two")) == 4
    site.drive()
    (line,) = [one for one in report.studies(site.pipeline, "two") if one.study_uid]
    assert (line.open, line.known_imported, line.known_lines, line.index_rows) == ("", 4, 4, 4)
    assert report.missing(site.pipeline, "two") == []


def test_retry_takes_objects_back_and_opens_their_shard_at_once_or_not_at_all(make_site):
    site = make_site(**QUICK)
    objects = samples(CT)
    keys = planned_without(site, objects, CT[0])
    s3, archive = site.pipeline.aws.s3, archives.find(site.pipeline, "old")
    Backfill(site, keys).finish()
    s3.put_object(Bucket=archive.bucket, Key=CT[0], Body=objects[CT[0]])
    engine = site.pipeline.index.engine

    def killed(_connection, _cursor, statement, *_):
        if statement.startswith("UPDATE archive_shards"):
            raise KeyboardInterrupt

    sa.event.listen(engine, "before_cursor_execute", killed)
    with pytest.raises(KeyboardInterrupt):
        retry.once_more(site.pipeline, archive)
    sa.event.remove(engine, "before_cursor_execute", killed)
    assert sorted(row["state"] for row in site.ledger()) == ["failed", *["imported"] * 3]
    assert retry.once_more(site.pipeline, archive).shard_keys == keys
    (shard,) = shards(site.pipeline, keys)
    assert imports._close(site.pipeline, shard) is None  # one of its objects is ready again
    (outcome,) = Backfill(site, keys, "again").finish().values()
    assert outcome.states == {"imported": 4}


def test_an_archive_that_a_run_is_at_is_not_removed(make_site):
    site = make_site(**QUICK)
    keys = planned(site.pipeline, [samples(MR)])
    archive = archives.find(site.pipeline, "old")
    hold_back(site.pipeline, "old")
    backfill = Backfill(site, keys)
    site.stack.wait_for(lambda: shard_rows(site.pipeline)[0]["lease_until"], what="the lease")
    with pytest.raises(PermanentError, match="end first"):
        archives.remove(site.pipeline, archive)
    control.pause(site.pipeline.index, "old")
    assert backfill.finish() == {}
    archives.remove(site.pipeline, archive)
    assert shard_rows(site.pipeline) == []


def test_an_archive_removed_while_headers_are_read_is_not_entered(site):
    keys, run = planned(site.pipeline, [samples(MR)]), connect(site.settings, run_id="run")
    archive = archives.find(site.pipeline, "old")

    def removed(request: Any, **_: object) -> None:
        if request.url.endswith(MR[0]):
            archives.remove(site.pipeline, archive)

    run.aws.s3.meta.events.register("before-send.s3.GetObject", removed)
    with pytest.raises(ShardStalledError, match="was removed"):
        enter(run, shards(run, keys)[0])
    assert site.ledger() == []


def test_a_lease_that_is_renewed_makes_no_analyst_s_table_anew(site):
    keys, index = planned(site.pipeline, [samples(MR)]), site.pipeline.index
    run = connect(site.settings, run_id="run")

    def mark() -> object:
        with index.engine.connect() as connection:
            return connection.scalar(sa.select(catalog.state.c.value).where(catalog.state.c.name == MARK))

    before = mark()
    assert leases.take(run, keys) == []
    taken, lease = mark(), shard_rows(site.pipeline)[0]["lease_until"]
    assert taken != before
    assert leases.take(run, keys) == []
    assert shard_rows(site.pipeline)[0]["lease_until"] > lease
    assert mark() == taken
    assert leases.take(site.pipeline, keys) == keys  # another run's


def test_the_report_of_an_archive_that_nobody_looked_at_does_not_close(site, holding: Holding):
    archives.add(site.pipeline, f"s3://{holding.bucket}/", name="old")
    with pytest.raises(PermanentError, match="Nobody has looked at old"):
        report.studies(site.pipeline, "old")
