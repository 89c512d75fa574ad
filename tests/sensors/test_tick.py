"""A tick: requests only after messages are durable, and asks again for what no commit has consumed."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from ahi import inbox
from ahi.inbox import Queue
from ahi.index import catalog
from sensors.tick import BATCH_TAG, tick
from sensors.upload_queue import TARGET


def requests(site, instance):
    site.pipeline.settings.__dict__["listen_seconds"] = 0
    result = tick(dg.build_sensor_context(instance=instance), site.pipeline, TARGET)
    return result.run_requests if isinstance(result, dg.SensorResult) else []


def wait_over(site):
    """The pause before the next request is over."""
    with site.pipeline.index.transaction() as connection:
        connection.execute(catalog.batches.update().values(next_request_at=None))


def pretend_run(instance, request, status):
    tags = {**request.tags, "dagster/run_key": request.run_key}
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("code"), "repository"), "uploads")
    job = dg.job(name="uploads")(lambda: None)
    return instance.create_run_for_job(job, tags=tags, status=status, remote_job_origin=origin)


@pytest.mark.parametrize("site_settings", [{"listen_seconds": 0}])
def test_a_batch_is_asked_for_until_it_is_consumed(make_site, instance, site_settings):
    site = make_site(**site_settings)
    assert requests(site, instance) == []
    site.send(["pydicom/rtplan.dcm"])
    (first,) = requests(site, instance)
    (batch,) = inbox.pending(site.pipeline, Queue.UPLOADS)
    assert first.run_key == batch.batch_id == first.tags[BATCH_TAG]
    assert first.partition_key == batch.day
    assert site.stack.drain("UPLOAD") == []  # acknowledged
    assert requests(site, instance) == []  # asked for just now
    wait_over(site)
    (again,) = requests(site, instance)  # no run of it was made: the tick's requests were lost
    assert again.tags[BATCH_TAG] == first.tags[BATCH_TAG]

    wait_over(site)
    pretend_run(instance, first, dg.DagsterRunStatus.STARTED)
    assert requests(site, instance) == []
    inbox.finish(site.pipeline, batch)
    assert requests(site, instance) == []


def test_a_batch_that_fails_for_ever_is_asked_for_under_new_keys_and_ever_more_rarely(make_site, instance):
    site = make_site(listen_seconds=0)
    site.send(["pydicom/rtplan.dcm"])
    asked = requests(site, instance)
    for _ in range(30):
        pretend_run(instance, asked[-1], dg.DagsterRunStatus.FAILURE)
        assert requests(site, instance) == []  # not at once
        wait_over(site)
        asked += requests(site, instance)
    assert len({request.run_key for request in asked}) == 31
    (batch,) = inbox.pending(site.pipeline, Queue.UPLOADS)
    assert batch.requests == 31


def test_many_failing_batches_do_not_hide_a_new_one(make_site, instance):
    site = make_site(listen_seconds=0)
    for number in range(60):
        inbox.keep(site.pipeline, Queue.UPLOADS, [inbox.Message(f"m{number}", "x")])
    assert len(requests(site, instance)) == 50
    new = inbox.keep(site.pipeline, Queue.UPLOADS, [inbox.Message("new", "x")])
    assert new.batch_id in [request.tags[BATCH_TAG] for request in requests(site, instance)]


def test_messages_wait_on_the_queue_while_a_run_waits_for_a_slot(make_site, instance):
    site = make_site(listen_seconds=0)
    site.send(["pydicom/rtplan.dcm"])
    (first,) = requests(site, instance)
    backfill = dg.RunRequest(run_key="backfill", tags={"dagster/backfill": "old"})
    pretend_run(instance, backfill, dg.DagsterRunStatus.QUEUED)  # may wait for days
    run = pretend_run(instance, first, dg.DagsterRunStatus.QUEUED)
    site.send(["pydicom/CT_small.dcm"])
    site.send(["pydicom/MR_small.dcm"])
    assert requests(site, instance) == []
    assert len(inbox.pending(site.pipeline, Queue.UPLOADS)) == 1
    instance.delete_run(run.run_id)
    (second,) = requests(site, instance)  # both in one
    assert second.tags["ahi/messages"] == "2"
    assert second.tags["dagster/priority"] > "10"


def test_a_queue_that_cannot_be_reached_fails_the_tick(make_site, instance):
    site = make_site(listen_seconds=0, upload_queue_url="http://127.0.0.1:1/none")
    with pytest.raises(Exception, match=r"ReceiveMessage failed|EndpointConnectionError"):
        requests(site, instance)
