"""Rows follow what HealthImaging shows, whatever it says while they are made."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ahi import image_sets, indexing
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


def sighting(site):
    """Version, gone and pending of the only one."""
    table = catalog.sightings
    with site.pipeline.index.engine.connect() as connection:
        (row,) = connection.execute(sa.select(table.c.version, table.c.gone, table.c.pending)).all()
    return tuple(row)


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
    assert sighting(site) == (1, True, True)
    assert indexing.catch_up(site.pipeline).deleted == 1
    assert (shown(site), buried(site), sighting(site)) == ([], [one], (1, True, False))


def test_rows_that_come_after_their_deletion_change_nothing(site, one):
    chunk = of_day(site)
    gone(site, one)
    indexing.catch_up(site.pipeline)
    indexing._index(site.pipeline, chunk, IndexReport(), replace=True)
    assert (shown(site), buried(site), sighting(site)) == ([], [one], (1, True, False))


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
    assert (shown(site), buried(site), sighting(site)) == ([one], [], (1, False, False))


def test_a_sweep_mends_an_index_that_lost_a_deletion(site, one):
    site.stack.fault("drop_events", detail_type="Image Set *")
    site.stack.client("medical-imaging").delete_image_set(datastoreId=site.datastore_id, imageSetId=one)
    change(site, catalog.sightings, gone=True, pending=False)
    site.stack.wait_for(lambda: site.sweep() and site.drive().at_rest and not shown(site), what="the deletion")
    assert (buried(site), sighting(site)) == ([one], (1, True, False))
    assert not any(site.sweep().values())


def test_a_sweep_mends_an_index_that_buried_what_is_there(site, one):
    with site.pipeline.index.transaction() as connection:
        image_sets._note(connection, site.pipeline, one, version=0, gone=True)
    indexing.catch_up(site.pipeline)
    change(site, catalog.sightings, gone=False, pending=False)
    assert shown(site) == []
    assert site.sweep()["image_sets_changed"] == 1
    site.drive()
    assert (shown(site), buried(site), sighting(site)) == ([one], [], (1, False, False))
    assert not any(site.sweep().values())
