"""From a deletion in HealthImaging to the proof that nothing is left, on the embedded stack."""

from __future__ import annotations

from pydicom.uid import generate_uid

from ahi import image_sets, indexing
from ahi.erasure import erase_deleted
from ahi.patients import secret_of
from ahi.proof import prove
from ahi.settings import Settings
from tests.local_aws.conftest import make_object


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


def test_a_copy_that_waited_while_its_instance_was_erased_is_erased_when_its_sender_deletes_it(make_site) -> None:
    site = make_site(erase_after_days=0, grace_seconds=0)
    sop, study, series = generate_uid(), generate_uid(), generate_uid()
    body = make_object(SOPInstanceUID=sop, StudyInstanceUID=study, SeriesInstanceUID=series)
    site.put(f"in/CT.{sop}", body)
    site.put(f"in/CT.{sop}.tmp", b"no DICOM, so only its key names the instance")
    site.drive()
    site.put("associations/x/b.dcm", body)
    site.collect()
    ((image_set_id,),) = site.rows("SELECT image_set_id FROM series WHERE row_source = 'document'")
    site.stack.client("medical-imaging").delete_image_set(datastoreId=site.datastore_id, imageSetId=image_set_id)

    def took(state: str) -> bool:
        site.collect()
        site.work()
        indexing.catch_up(site.pipeline)
        return state in {row["state"] for row in site.ledger()}

    site.stack.wait_for(lambda: image_sets.sight(site.pipeline, [image_set_id])["gone"])
    assert took("held")
    assert erase_deleted(site.pipeline).image_sets == 1
    site.stack.client("s3").delete_object(Bucket=site.stack.env["AHI_LANDING_BUCKET"], Key="associations/x/b.dcm")
    site.stack.wait_for(lambda: took("set_aside"))
    assert erase_deleted(site.pipeline).objects == 2
    site.pipeline.index.publish()
    site.pipeline.index.expire()
    left = {place.name: place.n for place in found(site, sop) if place.n and place.kind == "catalog"}
    assert left == {"objects": 1}, "the key of what is no DICOM"
    assert [row["key"] for row in site.ledger() if row["key"]] == [f"in/CT.{sop}.tmp"]


def test_a_deletion_is_kept_for_the_time_that_the_setting_says() -> None:
    assert Settings().erase_after_days == 30
