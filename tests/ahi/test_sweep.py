"""The sweep on the real stack: its looks find what was lost, each within its budget, and say a thing no more often
than is of use. `test_trouble.py` has the outcomes; here are the looks."""

from __future__ import annotations

import datetime as dt
import gzip
from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy as sa

from ahi import findings, image_sets, imports, inbox, indexing, search, service_events, sweep
from ahi.clock import now
from ahi.closure import closure
from ahi.findings import Look
from ahi.inbox import Queue
from ahi.index import catalog
from tests.site_fixtures import run_batch

CT = [f"pydicom/CT2/{name}" for name in ("17106", "17136", "17166", "17196")]
SERIES = [
    "pydicom/CT2/17106",
    "pydicom/MR2/15970",
    "pydicom/rtplan.dcm",
    "pydicom/reportsi.dcm",
    "pydicom/chrGreek.dcm",
]
MINUTE = dt.timedelta(minutes=1)


def look(after: dt.timedelta = dt.timedelta(), *, grace: dt.timedelta = dt.timedelta()) -> Look:
    """A look some time from now, so that no test has to wait."""
    moment = now() + after
    return Look(moment, moment - grace)


def known_batches(site):
    with site.pipeline.index.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(catalog.batches)).scalar_one()


def imported_but_untold(site, names):
    """Objects imported and settled, of whose image sets no event came."""
    site.stack.fault("drop_events", detail_type="Image Set *")
    site.send(names)

    def settled():
        site.collect()
        site.work()
        counted = closure(site.pipeline.index.engine)
        return counted.imported == len(names)

    site.stack.wait_for(settled, what="the import")


# -- how often -----------------------------------------------------------------------------------------------------


def test_a_finding_is_told_ever_more_rarely():
    told = Counter(findings.turns(n * MINUTE)[-1] for n in range(1, 3 * 24 * 60))
    assert list(told) == [str(n) for n in range(11)] + ["d1", "d2"]
    assert [told[str(n)] for n in range(10)] == [2**n for n in range(10)]
    assert findings.turns(dt.timedelta(seconds=-5)) == ["0"]
    assert findings.turns(dt.timedelta(days=30))[-2:] == ["d29", "d30"]


def test_an_awaited_image_set_is_told_once_while_no_run_has_worked_that_off(site):
    imported_but_untold(site, CT)
    before = known_batches(site)
    told = [search.awaited_image_sets(site.pipeline, look(n * MINUTE)) for n in range(1, 65)]
    assert sum(told) == told[0] == known_batches(site) - before == 1
    site.drive()
    assert search.awaited_image_sets(site.pipeline, look(128 * MINUTE)) == 0
    assert closure(site.pipeline.index.engine).at_rest


def test_an_awaited_image_set_is_told_once_a_turn_when_runs_come_to_nothing(site):
    imported_but_untold(site, CT)
    before, told = known_batches(site), []
    for n in range(1, 65):
        told.append(search.awaited_image_sets(site.pipeline, look(n * MINUTE)))
        for batch in pending_image_sets(site.pipeline):
            inbox.finish(site.pipeline, batch)  # as a run does that finds the image set locked
    assert sum(told) == known_batches(site) - before == 7
    assert told[:8] == [1, 1, 0, 1, 0, 0, 0, 1]


def test_more_awaited_image_sets_than_the_budget_take_turns(make_site):
    site = make_site(sweep_image_sets=2)
    imported_but_untold(site, SERIES)
    told = [search.awaited_image_sets(site.pipeline, look(MINUTE)) for _ in range(4)]
    assert (told, findings.place(site.pipeline, "awaited") is not None) == ([2, 2, 1, 0], True)
    site.stack.wait_for(lambda: site.drive().at_rest)
    assert site.rows("SELECT count(*) FROM series_all") == [(5,)]


def test_an_unreadable_document_is_explained_and_asked_for_no_more(site):
    site.send([*CT, "pydicom/rtplan.dcm"])
    pipeline = site.pipeline

    def came():
        site.collect()
        for queue in (Queue.UPLOADS, Queue.IMPORT_EVENTS):
            for batch in inbox.pending(pipeline, queue):
                run_batch(pipeline, batch)
        imports.advance(pipeline)
        return closure(pipeline.index.engine).imported == 5 and pending_image_sets(pipeline)

    site.stack.wait_for(came, what="image set events")
    events = pending_image_sets(pipeline)
    ids = [e.image_set_id for batch in events for e in service_events.open_batch(pipeline, batch).image_sets]
    image_sets.sight(pipeline, ids)
    (broken,) = {row["image_set_id"] for row in site.ledger() if row["Modality"] == "CT"}
    s3, bucket = site.stack.client("s3"), site.stack.env["AHI_LAKE_BUCKET"]
    key = image_sets.document_key(pipeline, broken, 1)
    s3.put_object(Bucket=bucket, Key=key, Body=gzip.compress(b'{"SchemaVersion": "1.1"}'))
    indexing.catch_up(pipeline, events)
    counted = site.drive()
    assert (counted.unreadable, counted.not_indexed, counted.at_rest, counted.closes) == (4, 0, True, True)
    before = known_batches(site)
    assert not any(site.sweep().values())
    assert search.awaited_image_sets(pipeline, look(5 * MINUTE)) == 0
    assert known_batches(site) == before


def pending_image_sets(pipeline):
    return inbox.pending(pipeline, Queue.IMAGE_SET_EVENTS)


def test_a_change_has_time_to_be_told_by_its_event(site):
    imported_but_untold(site, SERIES[:2])
    assert search.changed_image_sets(site.pipeline, look(grace=MINUTE)) == 0
    assert search.changed_image_sets(site.pipeline, look(MINUTE, grace=MINUTE)) == 2
    assert search.changed_image_sets(site.pipeline, look(MINUTE, grace=MINUTE)) == 0


# -- budgets -------------------------------------------------------------------------------------------------------


def test_the_search_goes_on_from_where_its_budget_ended(make_site):
    site = make_site(sweep_image_sets=2, sweep_overlap_seconds=0)
    imported_but_untold(site, SERIES)
    told = []

    def all_told():
        told.append(search.changed_image_sets(site.pipeline, look(MINUTE)))
        return told[-1] == 0

    site.stack.wait_for(all_told)
    assert (told[0], sum(told)) == (2, 5)
    calls = len(site.stack.calls("SearchImageSets"))
    search.changed_image_sets(site.pipeline, look(2 * MINUTE))
    assert len(site.stack.calls("SearchImageSets")) == calls + 1
    site.stack.wait_for(lambda: site.drive().at_rest)
    assert site.rows("SELECT count(*) FROM series_all") == [(5,)]


def test_lost_deletions_are_found_window_by_window(make_site):
    site = make_site(sweep_image_sets=1)
    for name in SERIES[:3]:
        moment = now().replace(microsecond=0)
        site.stack.wait_for(lambda since=moment: now() >= since + dt.timedelta(seconds=1))
        site.send([name])
        site.drive()
    site.stack.fault("drop_events", detail_type="Image Set *")
    doomed = [row[0] for row in site.rows("SELECT image_set_id FROM image_sets ORDER BY created_at")][::2]
    for image_set_id in doomed:
        imaging = site.stack.client("medical-imaging")
        imaging.delete_image_set(datastoreId=site.datastore_id, imageSetId=image_set_id)
    found = Counter[str]()

    def whole_pass():
        found.update(search.enumerated_image_sets(site.pipeline, look(MINUTE)))
        return findings.place(site.pipeline, "enumeration") is None

    site.stack.wait_for(whole_pass)
    assert found["image_sets_gone"] == 2
    site.stack.wait_for(lambda: site.drive().at_rest and site.rows("SELECT count(*) FROM series_all") == [(1,)])


def test_the_listing_goes_on_from_where_its_budget_ended_and_rests_after_a_whole_pass(make_site):
    site = make_site(sweep_objects=3)
    site.send(CT + SERIES[1:])
    site.stack.drain("UPLOAD")
    found = [sweep.unannounced_objects(site.pipeline, look(n * MINUTE)) for n in range(4)]
    assert found == [3, 3, 2, 0]
    lists = len(site.stack.calls("ListObjectVersions"))
    sweep.unannounced_objects(site.pipeline, look(5 * MINUTE))
    assert len(site.stack.calls("ListObjectVersions")) == lists
    site.put("in/late", b"not dicom")
    site.stack.drain("UPLOAD")
    found = [sweep.unannounced_objects(site.pipeline, look((20 + n) * MINUTE)) for n in range(3)]
    assert sum(found) == 9  # the first batches have not been worked off
    site.drive()
    assert len(site.ledger()) == 9


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_an_overwritten_version_is_entered_and_a_deleted_key_is_not(make_site, size):
    site = make_site(sweep_objects=size)
    s3, bucket = site.stack.client("s3"), site.stack.env["AHI_LANDING_BUCKET"]
    site.send(["pydicom/rtplan.dcm"], under="deleted/1/")
    site.send(["pydicom/rtplan.dcm"], under="deleted/1/")
    s3.delete_object(Bucket=bucket, Key="deleted/1/pydicom/rtplan.dcm")
    site.put("in/a", b"first")
    moment = now()
    site.stack.wait_for(lambda: now().replace(microsecond=0) > moment)
    site.put("in/a", b"second")
    site.stack.drain("UPLOAD")
    found = Counter[str]()

    def whole_pass():
        found["objects"] += sweep.unannounced_objects(site.pipeline, look())
        return findings.place(site.pipeline, "listing") is None

    site.stack.wait_for(whole_pass)
    site.drive()
    assert sorted((row["key"], row["size_bytes"]) for row in site.ledger()) == [("in/a", 5), ("in/a", 6)]


def test_only_batches_that_the_catalog_lacks_are_written(site):
    pipeline, table = site.pipeline, catalog.batches
    kept = [inbox.keep(pipeline, Queue.UPLOADS, [inbox.Message(f"m{n}", "{}")]) for n in range(3)]
    lost = kept[1]
    with pipeline.index.transaction() as connection:
        connection.execute(table.delete().where(table.c.batch_id == lost.batch_id))
    s3, bucket = site.stack.client("s3"), site.stack.env["AHI_LAKE_BUCKET"]
    s3.put_object(Bucket=bucket, Key="inbox/uploads/2026-01-02/of-an-old-day.jsonl", Body=b"")
    assert sweep.unregistered_batches(pipeline, look()) == 1
    assert inbox.find(pipeline, lost.batch_id).object_key == lost.object_key
    assert sweep.unregistered_batches(pipeline, look()) == 0
    assert sweep.unregistered_batches(pipeline, replace(look(), thorough=True)) == 1
    assert inbox.find(pipeline, "of-an-old-day").day == "2026-01-02"
    lists = len(site.stack.calls("ListObjectsV2"))
    assert sweep.unregistered_batches(pipeline, look(MINUTE)) == 0
    assert len(site.stack.calls("ListObjectsV2")) == lists


# -- one that fails ------------------------------------------------------------------------------------------------


def test_a_look_that_fails_keeps_no_other_from_its_work(site):
    site.put("in/of a patient", b"not dicom")
    site.stack.drain("UPLOAD")
    elsewhere = site.settings.model_copy(update={"datastore_id": "0" * 32})
    with pytest.raises(sweep.SweepError) as caught:
        sweep.sweep(replace(site.pipeline, settings=elsewhere), thorough=True)
    said = str(caught.value)
    assert "2 of 9 looks failed" in said
    assert "changed image sets: SearchImageSets failed: ResourceNotFoundException" in said
    assert "patient" not in said
    assert len(inbox.pending(site.pipeline, Queue.UPLOADS)) == 1
    assert findings.place(site.pipeline, "enumeration:done") is None  # a failed look is due at once


def test_a_calm_system_has_nothing_to_find(site):
    site.send()
    site.drive()
    assert not any(site.sweep().values())
    assert not any(sweep.sweep(site.pipeline).values())
