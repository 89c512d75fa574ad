"""Events of archives, seen to by the run that imports them: no run of theirs, and nothing of an upload waits for it."""

from __future__ import annotations

import threading
import uuid
from functools import partial

from ahi import imports, inbox, results, service_events, uploads
from ahi.archive import imports as archive_imports
from ahi.archive.events import is_followed, left_to_follower
from ahi.archive.following import Follower, following, show_settled
from ahi.inbox import Queue
from ahi.pipeline import connect
from tests.archive_fixtures import QUICK, planned, samples
from tests.site_fixtures import SET

CT, MR = [n for n in SET if "CT2" in n], [n for n in SET if "MR2" in n]
OF_SERVICE = (Queue.IMPORT_EVENTS, Queue.IMAGE_SET_EVENTS)
AT_ONCE = QUICK | {"archive_gather_seconds": 0, "linger_seconds": 0, "kept_before_seconds": 3_600}


def tick(site) -> list[inbox.Batch]:
    """One tick of the sensors of HealthImaging's events. Returns batches that runs are asked for."""
    may_wait = partial(left_to_follower, site.pipeline)
    found = [inbox.collect(site.pipeline, queue, listen_seconds=0, may_wait=may_wait) for queue in OF_SERVICE]
    return [batch for batch in found if batch]


def shown(site) -> int:
    site.pipeline.index.publish()
    [(number,)] = site.rows("SELECT count(*) FROM instances_all WHERE row_source = 'document'")
    return number


def test_an_archive_comes_in_without_a_run_for_its_events(make_site):
    site = make_site(**AT_ONCE)
    keys = planned(site.pipeline, [samples(CT), samples(MR)])
    runs, asked_for, seen = connect(site.settings, run_id="backfill"), list[inbox.Batch](), []

    def backfill():
        with following(runs) as follower:
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
    documents = site.stack.calls("GetImageSetMetadata")
    assert len(documents) == len({row["image_set_id"] for row in site.ledger()}), "each read once"


def test_the_results_of_an_upload_bring_its_image_sets_whoever_has_their_events(make_site):
    site = make_site(**AT_ONCE)
    pipeline, follower = site.pipeline, Follower(connect(site.settings, run_id="backfill"))
    follower.look()
    site.send(MR)
    uploads.process(pipeline, inbox.collect(pipeline, Queue.UPLOADS, listen_seconds=5))
    imports.advance(pipeline)
    settled: list[str] = []

    def is_settled():
        for batch in tick(site):
            assert batch.queue is Queue.IMPORT_EVENTS
            results.follow(pipeline, service_events.open_batch(pipeline, batch).import_jobs)
        settled.extend(results.settle_ended(pipeline, patience_seconds=1, of_archives=False)[1])
        return settled

    site.stack.wait_for(is_settled)
    looked, rows = show_settled(pipeline, settled)
    assert (rows.rows["instances"], shown(site)) == (len(MR), len(MR))
    assert show_settled(pipeline, settled)[0].total() == 0, "what is shown is not looked at again"
    looks = len(site.stack.calls("GetImageSet"))
    site.stack.wait_for(lambda: tick(site) or follower.look() or site.drive().at_rest)
    assert len(site.stack.calls("GetImageSet")) == looks, "nor when its events come"
    assert looked["kept"] == len(site.stack.calls("GetImageSetMetadata"))


def test_a_deletion_is_looked_at_though_the_version_is_known(make_site):
    site = make_site(**AT_ONCE)
    site.send(MR[:1])
    site.drive()
    follower = Follower(site.pipeline)
    [(image_set_id,)] = site.rows("SELECT image_set_id FROM image_sets")
    imaging = site.stack.client("medical-imaging")
    imaging.delete_image_set(datastoreId=site.datastore_id, imageSetId=image_set_id)
    keep = partial(inbox.keep, site.pipeline, Queue.IMAGE_SET_EVENTS, for_seconds=60)

    def is_gone():
        if messages := site.stack.drain_raw("IMAGE_SET"):
            keep([inbox.Message(str(n), body) for n, body in enumerate(messages)])
        follower.look()
        return shown(site) == 0

    site.stack.wait_for(is_gone)
    assert inbox.pending(site.pipeline, Queue.IMAGE_SET_EVENTS) == []


def left(site) -> inbox.Batch:
    """A batch left to who follows, of one message that nobody understands."""
    message = inbox.Message(uuid.uuid4().hex, "{")
    return inbox.keep(site.pipeline, Queue.IMPORT_EVENTS, [message], for_seconds=60)


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
    assert follower.seen().troubles == ["NoSuchKey"]
    assert not is_followed(site.pipeline)
    follower.look()
    assert not is_followed(site.pipeline), "it rests"
    assert inbox.pending(site.pipeline, Queue.IMPORT_EVENTS) == [batch]
