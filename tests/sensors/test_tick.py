"""A tick: requests only after messages are durable, and asks again for what no commit has consumed."""

from __future__ import annotations

import dagster as dg
import pytest

from ahi import inbox
from ahi.inbox import Queue
from sensors.tick import BATCH_TAG, tick
from sensors.upload_queue import TARGET


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


def requests(site, instance):
    site.pipeline.settings.__dict__["listen_seconds"] = 0
    result = tick(dg.build_sensor_context(instance=instance), site.pipeline, TARGET)
    return result.run_requests if isinstance(result, dg.SensorResult) else []


def pretend_run(instance, request, status):
    tags = {**request.tags, "dagster/run_key": request.run_key}
    return instance.create_run_for_job(dg.job(name="uploads")(lambda: None), tags=tags, status=status)


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
    (again,) = requests(site, instance)
    assert again.run_key == first.run_key  # no run of it was made: the same request, which Dagster makes once

    pretend_run(instance, first, dg.DagsterRunStatus.STARTED)
    assert requests(site, instance) == []
    inbox.finish(site.pipeline, batch)
    assert requests(site, instance) == []


def test_a_failed_batch_is_asked_for_again_under_a_new_key(make_site, instance, monkeypatch):
    site = make_site(listen_seconds=0)
    site.send(["pydicom/rtplan.dcm"])
    (first,) = requests(site, instance)
    pretend_run(instance, first, dg.DagsterRunStatus.FAILURE)
    assert requests(site, instance) == []  # not at once
    monkeypatch.setattr("sensors.tick._pause", lambda records: __import__("datetime").timedelta(0))
    (second,) = requests(site, instance)
    assert second.run_key != first.run_key
    assert second.tags[BATCH_TAG] == first.tags[BATCH_TAG]


def test_a_queue_that_cannot_be_reached_fails_the_tick(make_site, instance):
    site = make_site(listen_seconds=0, upload_queue_url="http://127.0.0.1:1/none")
    with pytest.raises(Exception, match=r"(?i)queue|connect|exist"):
        requests(site, instance)
