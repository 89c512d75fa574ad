"""FHIR from the index: changed studies go in once, deleted ones are taken back, and the two sides agree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from ahi.erasure import erase_deleted
from ahi.errors import PermanentError
from ahi.healthlake import control
from ahi.healthlake.closure import study_closure
from ahi.healthlake.from_index import plan_changes
from ahi.healthlake.resubmission import resubmit
from ahi.index.catalog_fhir import fhir_batches, fhir_sent
from ahi.patients import secret_of
from ahi.proof import prove
from tests.ahi.healthlake.index_site import CT, MR, bury, in_healthlake, send_fhir, site, states
from tests.site_fixtures import make_site

__all__ = ["make_site", "site"]


def test_studies_go_in_once_and_come_back_when_deleted(site, monkeypatch):
    site.send([*MR, *CT])
    assert site.drive().closes
    assert len(study_closure(site.pipeline).missing) == 2
    with ThreadPoolExecutor(2) as both:
        counts, none = sorted(both.map(plan_changes, [site.pipeline] * 2), key=len, reverse=True)
    assert not none, "the schedule and a person at the same time plan it once"
    assert (counts["studies"], counts["resources"]) == (2, 5), "an Endpoint, two Patients, two ImagingStudies"
    send_fhir(site)
    found = study_closure(site.pipeline)
    assert found.closes
    assert (found.studies, found.current) == (2, 2)
    assert not plan_changes(site.pipeline), "what did not change is not sent again"
    site.send(["pydicom/CT2/17166"], under="late/")
    assert site.drive().closes
    counts = plan_changes(site.pipeline)
    assert (counts["studies"], counts["resources"]) == (1, 1), "the Patient and the Endpoint are as they were"
    send_fhir(site)
    gone = next(uid for uid, modality in site.rows("SELECT StudyInstanceUID, Modality FROM series") if modality == "MR")
    bury(site, gone)
    assert len(study_closure(site.pipeline).orphans) == 1
    counts = plan_changes(site.pipeline)
    assert (counts["retracted"], counts["patients_retired"]) == (1, 1)
    assert not plan_changes(site.pipeline), "a retraction on its way is not planned again"
    send_fhir(site)
    assert study_closure(site.pipeline).closes
    assert sorted(states(site).values()) == ["current"] * 3 + ["retracted"] * 2
    with site.pipeline.index.engine.connect() as connection:
        kept = connection.execute(sa.select(fhir_sent).where(fhir_sent.c.state == "retracted")).mappings().all()
    assert {(row["study_uid"], row["subject"]) for row in kept} == {(None, None)}
    _batches_sent_again_bring_nothing_old_back(site)
    left = prove(site.pipeline.index, gone, secret=secret_of(site.pipeline), pipeline=site.pipeline)
    found_in = {place.name for place in left if place.n}
    assert "fhir_sent" not in found_in
    assert "fhir/" in found_in, "batches that told of it are kept as long as the history of the index"
    monkeypatch.setitem(site.pipeline.settings.__dict__, "erase_after_days", 0)
    erase_deleted(site.pipeline)
    left = prove(site.pipeline.index, gone, secret=secret_of(site.pipeline), pipeline=site.pipeline)
    assert "fhir/" not in {place.name for place in left if place.n}
    with site.pipeline.index.engine.connect() as connection:
        batches = connection.execute(sa.select(fhir_batches)).mappings().all()
    assert all(batch["erased_at"] and batch["sha256"] for batch in batches), "their digests stay"
    with pytest.raises(PermanentError, match="failed on no line"):
        resubmit(site.pipeline, batches[0]["batch_id"], None)


def _batches_sent_again_bring_nothing_old_back(site):
    """The first batch has a study that is gone, one that has grown, and the Endpoint and the Patient of that one."""
    first, grown, gone = [one.batch_id for one in control.batches(site.pipeline.index.engine)]
    for one in (first, grown, gone):
        assert control.again(site.pipeline, one)
    counts = plan_changes(site.pipeline)
    assert (counts["resources"], counts["retracted"]) == (3, 0), "ImagingStudy and Patient that are left, and Endpoint"
    for refused in (
        lambda: control.move(site.pipeline, grown, before=first),
        lambda: control.prioritise(site.pipeline, grown, 1),
        lambda: control.prioritise(site.pipeline, grown.rpartition("-")[0], -1),
    ):
        with pytest.raises(PermanentError, match="cannot change places"):
            refused()
    send_fhir(site)
    found = in_healthlake(site, "ImagingStudy")
    kept = {one["status"]: (one["meta"]["versionId"], one.get("numberOfInstances")) for one in found}
    assert kept == {"available": ("3", 3), "entered-in-error": ("2", None)}
    assert study_closure(site.pipeline).closes
