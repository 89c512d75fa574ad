"""A run of shards as Dagster has it: what it brings in beside its shards is told as the assets that it is of."""

from __future__ import annotations

import threading
from functools import partial

import dagster as dg
import pytest

from ahi import inbox
from ahi.archive.events import left_to_follower
from ahi.archive.following import Follower
from ahi.clock import day_of, now
from ahi.inbox import Queue
from ahi.pipeline import connect
from ahi_assets.told import CODE_VERSION, CORE
from dagster_project.definitions import build_defs
from sensors import import_queue, upload_queue
from tests.archive_fixtures import QUICK, planned, samples
from tests.site_fixtures import SET

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning")
MR = [name for name in SET if "MR2" in name]
AT_ONCE = QUICK | {"archive_gather_seconds": 0, "linger_seconds": 0}


@pytest.fixture
def site(make_site):
    return make_site(**AT_ONCE)


def tick(site, queue):
    how = {"listen_seconds": 0, "may_wait": partial(left_to_follower, site.pipeline), "wait_seconds": 30}
    return inbox.collect(site.pipeline, queue, **how)


@pytest.fixture
def ticking(site):
    """Sensors of HealthImaging's events, whose requests nobody answers."""
    is_over = threading.Event()

    def go_on():
        while not is_over.wait(0.1):
            tick(site, Queue.IMPORT_EVENTS)
            tick(site, Queue.IMAGE_SET_EVENTS)

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    is_over.set()
    thread.join()


@pytest.mark.usefixtures("ticking")
def test_what_a_run_of_shards_brings_in_is_told_as_the_assets_it_is_of(site, defs, instance):
    [key] = planned(site.pipeline, [samples(MR)])
    instance.add_dynamic_partitions("archive_shards", [key])
    job = defs.resolve_job_def("archive_shards")
    assert job.execute_in_process(instance=instance, partition_key=key).success
    told = {}
    for name in ("import_results", "image_sets", "published_index", *CORE):
        event = instance.get_latest_materialization_event(dg.AssetKey(name)).asset_materialization
        told[name] = ({key: value.value for key, value in event.metadata.items()}, event.partition, event.tags)
    days = {name: partition for name, (_, partition, _) in told.items()}
    assert days == dict.fromkeys(told, day_of(now())) | {"published_index": None}
    assert told["import_results"][0]["imported"] == told["import_results"][0]["dagster/partition_row_count"] == len(MR)
    assert told["published_index"][0]["dagster/row_count"] == len(MR)
    for name in CORE:
        assert site.rows(f"SELECT count(*) FROM {name}") == [(told[name][0]["dagster/row_count"],)], name
    assert set(instance.all_asset_keys()) <= set(defs.resolve_asset_graph().get_all_asset_keys())
    assert told["instances"][0]["rows_written"] == len(MR)
    assert told["instances"][2]["dagster/code_version"] == CODE_VERSION


def test_an_upload_is_shown_by_the_run_of_its_results_while_another_has_its_events(make_site, instance):
    site = make_site(**AT_ONCE | {"archive_lease_seconds": 120})
    defs = build_defs(site.settings)
    Follower(connect(site.settings, run_id="backfill")).look()
    site.send(MR)

    def run(module, batch):
        ops = {step: {"config": {"batch": batch.batch_id}} for step in module.TARGET.steps}
        job = defs.resolve_job_def(module.TARGET.job_name)
        return job.execute_in_process(instance=instance, partition_key=batch.day, run_config={"ops": ops}).success

    assert run(upload_queue, inbox.collect(site.pipeline, Queue.UPLOADS, listen_seconds=5))

    def is_shown():
        batch = tick(site, Queue.IMPORT_EVENTS)
        assert not batch or run(import_queue, batch)
        assert tick(site, Queue.IMAGE_SET_EVENTS) is None
        return site.rows("SELECT count(*) FROM instances_all WHERE row_source = 'document'") == [(len(MR),)]

    site.stack.wait_for(is_shown, seconds=60)
    event = instance.get_latest_materialization_event(dg.AssetKey("instances"))
    assert event.asset_materialization.metadata["rows_written"].value == len(MR)


def test_a_table_launched_for_today_consumes_no_event_that_nobody_looked_at(site, defs, instance):
    message = inbox.Message("one", "{")
    batch = inbox.keep(site.pipeline, Queue.IMAGE_SET_EVENTS, [message], for_seconds=60)
    everything = defs.resolve_implicit_global_asset_job_def()

    def launched(*names: str) -> list[inbox.Batch]:
        """What is pending after a launch of some assets for today."""
        job = everything.get_subset(asset_selection={dg.AssetKey(name) for name in names})
        assert job.execute_in_process(instance=instance, partition_key=batch.day).success
        return inbox.pending(site.pipeline, Queue.IMAGE_SET_EVENTS)

    assert launched("series") == [batch]
    assert launched("image_sets", "series") == []
