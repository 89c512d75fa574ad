"""From a deletion in HealthImaging to the proof that nothing is left, on the embedded stack."""

from __future__ import annotations

from ahi.erasure import erase_deleted
from ahi.patients import secret_of
from ahi.proof import prove
from ahi.settings import Settings


def found(site, uid):
    return prove(site.pipeline.index, uid, secret=secret_of(site.pipeline), pipeline=site.pipeline)


def test_what_was_deleted_is_erased_in_time_and_the_proof_shows_it(make_site) -> None:
    site = make_site(erase_after_days=0, grace_seconds=0)
    site.send(["pydicom/CT2/17106", "pydicom/CT2/17136", "pydicom/rtplan.dcm"])
    closure = site.drive()
    image_set_id, study, series = site.rows(
        "SELECT image_set_id, StudyInstanceUID, SeriesInstanceUID FROM series WHERE Modality = 'CT'"
    )[0]
    sops = [row[0] for row in site.rows(f"SELECT SOPInstanceUID FROM instances WHERE SeriesInstanceUID = '{series}'")]
    kinds = {place.kind for place in found(site, study) if place.n}
    assert kinds == {"catalog", "table", "file", "lake"}
    site.stack.client("medical-imaging").delete_image_set(datastoreId=site.datastore_id, imageSetId=image_set_id)
    site.stack.wait_for(lambda: site.drive().at_rest and site.rows("SELECT count(*) FROM series") == [(1,)])
    assert site.rows("SELECT count(*) FROM headers") == [(1,)]
    assert erase_deleted(site.pipeline).image_sets == 1
    site.pipeline.index.publish()
    site.pipeline.index.expire()
    for uid in (study, series, *sops, image_set_id):
        left = [place for place in found(site, uid) if place.n and place.counts]
        # Inbox batches and job outputs hold many objects each; their bucket's rule removes them.
        assert {place.name for place in left} <= {"inbox/", "jobs/"}, (uid, left)
    after = site.drive()
    assert (after.landed, after.imported, after.closes) == (closure.landed, closure.imported, True)
    site.sweep()
    site.drive()
    assert site.rows("SELECT count(*) FROM series_all") == [(1,)]


def test_a_deletion_is_kept_for_the_time_that_the_setting_says() -> None:
    assert Settings().erase_after_days == 30
