"""Events of archives, seen to by the run that imports them: no run of theirs, and nothing of an upload waits for it."""

from __future__ import annotations

import threading
import uuid
from functools import partial

import pytest
import sqlalchemy as sa

from ahi import imports, inbox, results, service_events, uploads
from ahi.archive import imports as archive_imports
from ahi.archive.events import FOLLOWED, is_followed, left_to_follower
from ahi.archive.following import Follower, following, show_uploads
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.leases import holder_until
from ahi.pipeline import connect
from tests.archive_fixtures import QUICK, planned, samples
from tests.site_fixtures import SET

CT, MR = [n for n in SET if "CT2" in n], [n for n in SET if "MR2" in n]
OF_SERVICE = (Queue.IMPORT_EVENTS, Queue.IMAGE_SET_EVENTS)
AT_ONCE = QUICK | {"archive_gather_seconds": 0, "linger_seconds": 0, "kept_before_seconds": 3_600}


def tick(site) -> list[inbox.Batch]:
    """One tick of the sensors of HealthImaging's events. Returns batches that runs are asked for."""
    how = {"listen_seconds": 0, "may_wait": partial(left_to_follower, site.pipeline), "wait_seconds": 30}
    found = [inbox.collect(site.pipeline, queue, **how) for queue in OF_SERVICE]
    return [batch for batch in found if batch]


def shown(site) -> int:
    site.pipeline.index.publish()
    [(number,)] = site.rows("SELECT count(*) FROM instances_all WHERE row_source = 'document'")
    return number


@pytest.mark.parametrize("late", [0, 3])
def test_an_archive_comes_in_without_a_run_for_its_events(make_site, late):
    site = make_site(**AT_ONCE)
    if late:
        site.stack.fault("late_manifest", seconds=late)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    runs, asked_for, seen = connect(site.settings, run_id="backfill"), list[inbox.Batch](), []

    def backfill():
        follower = Follower(runs)
        with following(follower):
            archive_imports.run(runs, keys, lambda _: None)
        seen.append(follower.seen())

    thread = threading.Thread(target=backfill, daemon=True)
    thread.start()
    site.stack.wait_for(lambda: is_followed(site.pipeline))
    site.stack.wait_for(lambda: asked_for.extend(tick(site)) or not thread.is_alive(), seconds=60)
    assert asked_for == []
    assert not is_followed(site.pipeline), "it has let go"
    assert shown(site) == len(CT) + len(MR), "no object is imported before its rows are there"
    [told] = seen
    assert (told.results["imported"], told.rows.rows["instances"], told.troubles) == (shown(site), shown(site), [])
    assert not told.results["manifests_awaited"]
    documents = site.stack.calls("GetImageSetMetadata")
    assert len(documents) == len({row["image_set_id"] for row in site.ledger()}), "each read once"


def test_the_results_of_an_upload_bring_its_image_sets_whoever_has_their_events(make_site):
    site = make_site(**AT_ONCE)
    pipeline, follower = site.pipeline, Follower(connect(site.settings, run_id="backfill"))
    follower.look()
    settle_upload(site, MR)
    shown_ = show_uploads(pipeline)
    assert (shown_.rows.rows["instances"], shown(site)) == (len(MR), len(MR))
    assert show_uploads(pipeline).looked.total() == 0, "what is shown is not looked at again"
    looks = len(site.stack.calls("GetImageSet"))
    site.stack.wait_for(lambda: tick(site) or follower.look() or site.drive().at_rest)
    assert len(site.stack.calls("GetImageSet")) == looks, "nor when its events come"
    assert shown_.looked["kept"] == len(site.stack.calls("GetImageSetMetadata"))


def settle_upload(site, names) -> None:
    """Upload, and go on until the job's results are read; what is told of image sets is left to who follows."""
    pipeline = site.pipeline
    site.send(names)
    uploads.process(pipeline, inbox.collect(pipeline, Queue.UPLOADS, listen_seconds=5))
    imports.advance(pipeline)

    def is_settled():
        for batch in tick(site):
            assert batch.queue is Queue.IMPORT_EVENTS
            results.follow(pipeline, service_events.open_batch(pipeline, batch).import_jobs)
        return results.settle_ended(pipeline, patience_seconds=1, of_archives=False)[1]

    site.stack.wait_for(is_settled)


def test_one_image_set_that_cannot_be_looked_at_keeps_no_other_and_the_next_attempt_has_it(make_site):
    site = make_site(**AT_ONCE)
    Follower(connect(site.settings, run_id="backfill")).look()
    settle_upload(site, [MR[0], *CT])
    site.stack.fault("fail_call", operation="GetImageSetMetadata", error="AccessDeniedException", times=1)
    first = show_uploads(site.pipeline)
    assert first.trouble == "GetImageSetMetadata failed: AccessDeniedException"
    assert 0 < shown(site) == first.rows.rows["instances"] < 1 + len(CT)
    assert show_uploads(site.pipeline).trouble is None
    assert shown(site) == 1 + len(CT)


def test_a_deletion_is_asked_a_run_for_though_somebody_follows(make_site):
    site = make_site(**AT_ONCE)
    site.send(MR[:1])
    site.drive()
    Follower(site.pipeline).look()
    [(image_set_id,)] = site.rows("SELECT image_set_id FROM image_sets")
    imaging = site.stack.client("medical-imaging")
    imaging.delete_image_set(datastoreId=site.datastore_id, imageSetId=image_set_id)
    site.stack.wait_for(lambda: [batch.queue for batch in tick(site)] == [Queue.IMAGE_SET_EVENTS])
    site.work()
    assert shown(site) == 0


def test_what_was_deferred_is_put_off_while_somebody_follows_and_due_when_nobody_does(make_site):
    site = make_site(**AT_ONCE | {"archive_lease_seconds": 2})
    pipeline, follower = site.pipeline, Follower(connect(site.settings, run_id="backfill"))
    follower.look()
    until = holder_until(pipeline.index, FOLLOWED)
    batch = left(site, for_seconds=2)
    site.stack.wait_for(lambda: follower.keep() or holder_until(pipeline.index, FOLLOWED) != until, what="a renewal")
    put_off_until = catalog.batches.c.next_request_at
    with pipeline.index.engine.connect() as connection:
        assert connection.execute(sa.select(put_off_until)).scalar_one() == holder_until(pipeline.index, FOLLOWED)
    assert inbox.deferred(pipeline, batch.queue) == [batch]
    follower.leave()
    assert inbox.due(pipeline, batch.queue) == [batch]


def left(site, *, for_seconds: float = 60.0) -> inbox.Batch:
    """A batch left to who follows, of one message that nobody understands."""
    message = inbox.Message(uuid.uuid4().hex, "{")
    return inbox.keep(site.pipeline, Queue.IMPORT_EVENTS, [message], for_seconds=for_seconds)


def test_one_follows_at_a_time_until_it_leaves_or_falls_silent(make_site):
    site = make_site(**AT_ONCE | {"archive_lease_seconds": 2})
    first, second = (Follower(connect(site.settings, run_id=name)) for name in ("first", "second"))

    def sees(follower) -> bool:
        left(site)
        follower.look()
        return bool(follower.seen().results)

    assert (sees(first), sees(second), sees(first)) == (True, False, True)
    first.leave()
    assert (sees(second), sees(first)) == (True, False)
    site.stack.wait_for(lambda: sees(first), what="the second's silence to be noticed")
    assert not sees(second)


def test_what_cannot_be_seen_to_is_left_to_a_run_of_its_own(make_site):
    site = make_site(**AT_ONCE)
    batch, follower = left(site), Follower(site.pipeline)
    site.pipeline.aws.s3.delete_object(Bucket=site.pipeline.settings.lake_bucket, Key=batch.object_key)
    follower.look()
    assert follower.seen().troubles == ["GetObject failed: NoSuchKey"]
    assert not is_followed(site.pipeline)
    assert inbox.due(site.pipeline, Queue.IMPORT_EVENTS) == [batch], "at once"
    follower.look()
    assert not is_followed(site.pipeline), "it rests"


def test_nothing_takes_the_lease_while_a_follower_rests(make_site):
    site = make_site(**AT_ONCE | {"archive_lease_seconds": 1})
    batch, follower = left(site), Follower(site.pipeline)
    site.pipeline.aws.s3.delete_object(Bucket=site.pipeline.settings.lake_bucket, Key=batch.object_key)
    follower.look()
    follower.keep()
    assert not is_followed(site.pipeline)
    assert inbox.due(site.pipeline, Queue.IMPORT_EVENTS) == [batch]


def test_a_run_that_fails_leaves_what_it_had_not_come_to_to_runs(make_site):
    site = make_site(**AT_ONCE | {"archive_lease_seconds": 60})
    follower = Follower(site.pipeline)

    def canceled():
        with following(follower):
            site.stack.wait_for(lambda: is_followed(site.pipeline))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        canceled()
    assert not is_followed(site.pipeline)
    batch = left(site)
    follower.look()
    assert inbox.deferred(site.pipeline, batch.queue) == [batch], "broken off"
    follower.leave()
    assert inbox.due(site.pipeline, batch.queue) == [batch]
