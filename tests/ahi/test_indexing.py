"""Rows follow what HealthImaging shows, whatever it says while they are made."""

from __future__ import annotations

import gzip
import json

import pytest
import sqlalchemy as sa

from ahi import image_sets, indexing
from ahi.clock import day_of, now
from ahi.erasure import erase_deleted
from ahi.index import catalog
from ahi.index.store import Index
from ahi.indexing import IndexReport
from tests.local_aws.conftest import make_object


def shown(site):
    """Image sets of which the published index has rows."""
    site.pipeline.index.publish()
    return [row[0] for row in site.rows("SELECT image_set_id FROM series_all ORDER BY 1")]


def buried(site):
    return [row[0] for row in site.rows("SELECT image_set_id FROM tombstones ORDER BY 1")]


def sighting(site, image_set_id):
    """Its version, and whether it is gone and pending."""
    table = catalog.sightings
    query = sa.select(table.c.version, table.c.gone, table.c.pending).where(table.c.image_set_id == image_set_id)
    with site.pipeline.index.engine.connect() as connection:
        return tuple(connection.execute(query).one())


def change(site, table, **values):
    with site.pipeline.index.transaction() as connection:
        connection.execute(table.update().values(**values))


def of_day(site):
    """The documents of the day as a re-index reads them."""
    (chunk,) = indexing._newest_kept(site.pipeline, sa.true())
    return chunk


def gone(site, image_set_id):
    """Delete in HealthImaging, and hear of it."""
    imaging = site.stack.client("medical-imaging")
    imaging.delete_image_set(datastoreId=site.datastore_id, imageSetId=image_set_id)
    site.stack.wait_for(lambda: image_sets.sight(site.pipeline, [image_set_id])["gone"], what="the deletion")


@pytest.fixture
def one(site):
    """The only image set of a site, shown by its index."""
    site.put("in/a.dcm", make_object())
    site.drive()
    (image_set_id,) = shown(site)
    return image_set_id


@pytest.mark.parametrize("replace", [False, True], ids=["indexed", "indexed again"])
def test_a_deletion_that_comes_while_rows_are_made_is_not_lost(site, one, replace):
    chunk = of_day(site)
    gone(site, one)
    indexing._index(site.pipeline, chunk, IndexReport(), replace=replace)
    assert sighting(site, one) == (1, True, True)
    assert indexing.catch_up(site.pipeline).deleted == 1
    assert (shown(site), buried(site), sighting(site, one)) == ([], [one], (1, True, False))


def test_rows_that_come_after_their_deletion_change_nothing(site, one):
    chunk = of_day(site)
    gone(site, one)
    indexing.catch_up(site.pipeline)
    indexing._index(site.pipeline, chunk, IndexReport(), replace=True)
    assert (shown(site), buried(site), sighting(site, one)) == ([], [one], (1, True, False))


def test_an_image_set_that_is_shown_again_before_it_is_buried_stays(site, one, monkeypatch):
    with site.pipeline.index.transaction() as connection:
        image_sets._note(connection, site.pipeline, one, version=0, gone=True)
    commit = Index.commit
    with monkeypatch.context() as patch:

        def shown_again_first(index, **values):
            patch.undo()
            image_sets.sight(site.pipeline, [one])
            return commit(index, **values)

        patch.setattr(Index, "commit", shown_again_first)
        assert indexing.catch_up(site.pipeline).deleted == 0
    indexing.catch_up(site.pipeline)
    assert (shown(site), buried(site), sighting(site, one)) == ([one], [], (1, False, False))


def test_a_sweep_mends_an_index_that_lost_a_deletion(site, one):
    site.stack.fault("drop_events", detail_type="Image Set *")
    site.stack.client("medical-imaging").delete_image_set(datastoreId=site.datastore_id, imageSetId=one)
    change(site, catalog.sightings, gone=True, pending=False)
    site.stack.wait_for(lambda: site.sweep() and site.drive().at_rest and not shown(site), what="the deletion")
    assert (buried(site), sighting(site, one)) == ([one], (1, True, False))
    assert not any(site.sweep().values())


def test_a_sweep_mends_an_index_that_buried_what_is_there(site, one):
    with site.pipeline.index.transaction() as connection:
        image_sets._note(connection, site.pipeline, one, version=0, gone=True)
    indexing.catch_up(site.pipeline)
    change(site, catalog.sightings, gone=False, pending=False)
    assert shown(site) == []
    assert site.sweep()["image_sets_changed"] == 1
    site.drive()
    assert (shown(site), buried(site), sighting(site, one)) == ([one], [], (1, False, False))
    assert not any(site.sweep().values())


# -- documents that cannot be read ---------------------------------------------------------------------------------


def put_document(site, image_set_id, version, body):
    """Put something in the place of a document; gives what was there."""
    s3, key = site.stack.client("s3"), image_sets.document_key(site.pipeline, image_set_id, version)
    place = {"Bucket": site.stack.env["AHI_LAKE_BUCKET"], "Key": key}
    before = s3.get_object(**place)["Body"].read()
    s3.put_object(**place, Body=body)
    return before


def second_version(site, image_set_id):
    """Change the name of the patient in HealthImaging, and read the document of that."""
    name = {"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientName": "Other^Name"}}}
    site.stack.client("medical-imaging").update_image_set_metadata(
        datastoreId=site.datastore_id,
        imageSetId=image_set_id,
        latestVersionId="1",
        updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": json.dumps(name).encode()}},
    )
    site.stack.wait_for(lambda: image_sets.sight(site.pipeline, [image_set_id])["kept"], what="version 2")


def versions(site):
    site.pipeline.index.publish()
    return [row[0] for row in site.rows("SELECT image_set_version FROM series_all")]


def test_rows_of_an_older_version_follow_while_the_newest_is_unreadable(site, one):
    second_version(site, one)
    whole = put_document(site, one, 2, gzip.compress(b"{}"))
    site.drive()
    before = batches(site)
    assert (versions(site), len(quarantined(site))) == ([1], 1)
    report = indexing.index_again(site.pipeline, day_of(now()))
    assert (report.documents, versions(site)) == (1, [1])
    assert batches(site) != before
    put_document(site, one, 2, whole)
    assert indexing.index_again(site.pipeline, day_of(now())).documents == 1
    assert versions(site) == [2]


# -- documents that the lake has lost ------------------------------------------------------------------------------


def lake(site):
    """Keys of the documents in the lake."""
    found = site.stack.client("s3").list_objects_v2(Bucket=site.stack.env["AHI_LAKE_BUCKET"], Prefix="documents/")
    return [entry["Key"] for entry in found.get("Contents", [])]


def lose(site, image_set_id):
    """Delete the only document of an image set behind the back of the catalog."""
    (key,) = [key for key in lake(site) if image_set_id in key]
    site.stack.client("s3").delete_object(Bucket=site.stack.env["AHI_LAKE_BUCKET"], Key=key)


def quarantined(site):
    return site.rows("SELECT source, reason_code, evidence FROM quarantine")


def batches(site):
    """By image set, the commit whose rows are shown."""
    site.pipeline.index.publish()
    return dict(site.rows("SELECT image_set_id, batch_id FROM series_all"))


def reads(site):
    return len(site.stack.calls("GetImageSetMetadata"))


def test_a_lost_document_is_told_and_read_again_and_holds_up_no_other(site):
    for n in range(3):
        site.put(f"in/{n}.dcm", make_object())
    site.drive()
    before, asked = batches(site), reads(site)
    lost = min(before)
    lose(site, lost)
    report = indexing.index_again(site.pipeline, day_of(now()))
    assert (report.documents, report.quarantined) == (2, 1)
    after = batches(site)
    assert [one for one in before if after[one] == before[one]] == [lost]
    ((source, reason, evidence),) = quarantined(site)
    assert (source, reason, lost in evidence) == ("documents", "DOCUMENT_GONE", True)
    assert indexing.index_again(site.pipeline, day_of(now())).quarantined == 0
    assert (reads(site), len(lake(site))) == (asked, 2)
    assert site.sweep()["image_sets_changed"] == 1
    site.drive()
    assert (reads(site), len(lake(site))) == (asked + 1, 3)
    assert indexing.index_again(site.pipeline, day_of(now())).documents == 3
    assert not any(site.sweep().values())
    assert site.rows("SELECT count(*), count(erased_at) FROM image_sets") == [(3, 0)]


def test_a_document_that_is_lost_before_it_is_indexed_is_read_again(site, one):
    chunk = of_day(site)
    site.put("in/b.dcm", make_object())
    change(site, catalog.sightings, pending=True)
    lose(site, one)
    assert indexing.catch_up(site.pipeline).quarantined == 1
    assert sighting(site, one) == (1, False, True)
    # Another run read the list before that.
    indexing._index(site.pipeline, chunk, report := IndexReport(), replace=False)
    assert report.quarantined == 0
    assert len(shown(site)) == 1
    site.drive()
    assert len(shown(site)) == 2
    site.sweep()
    site.drive()
    assert (sighting(site, one), len(lake(site))) == ((1, False, False), 2)


def test_a_document_that_is_erased_while_it_is_fetched_is_not_lost(make_site):
    site = make_site(erase_after_days=0, grace_seconds=0)
    site.put("in/a.dcm", make_object())
    site.drive()
    chunk = of_day(site)
    gone(site, *shown(site))
    indexing.catch_up(site.pipeline)
    erase_deleted(site.pipeline)
    indexing._index(site.pipeline, chunk, report := IndexReport(), replace=True)
    assert (report.quarantined, shown(site), quarantined(site)) == (0, [], [])


def test_what_comes_back_after_its_erasure_is_read_again_and_can_be_erased_again(make_site):
    site = make_site(erase_after_days=0, grace_seconds=0)
    site.put("in/a.dcm", make_object())
    site.drive()
    (one,) = shown(site)
    for _ in range(2):
        with site.pipeline.index.transaction() as connection:
            image_sets._note(connection, site.pipeline, one, version=0, gone=True)
        indexing.catch_up(site.pipeline)
        assert erase_deleted(site.pipeline).image_sets == 1
        assert (shown(site), lake(site)) == ([], [])
        site.pipeline.index.compact_files = 1
        site.pipeline.index.compact()
        asked = reads(site)
        assert image_sets.sight(site.pipeline, [one])["kept"] == 1
        assert indexing.catch_up(site.pipeline).documents == 1
        assert (shown(site), len(lake(site)), reads(site)) == ([one], 1, asked + 1)
        assert site.rows("SELECT count(*), count(erased_at) FROM image_sets") == [(1, 0)]
