"""FHIR from the index: changed studies go in once, deleted ones are taken back, and the two sides agree."""

from __future__ import annotations

from contextlib import suppress

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import inbox
from ahi.clock import now
from ahi.healthlake import events, results
from ahi.healthlake.advance import advance
from ahi.healthlake.closure import study_closure
from ahi.healthlake.from_index import plan_changes
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.index.catalog_fhir import fhir_batches, fhir_sent
from ahi.patients import secret_of
from ahi.proof import prove
from tests.site_fixtures import make_site

__all__ = ["make_site"]
MR = ("pydicom/MR2/4950", "pydicom/MR2/4981")
CT = ("pydicom/CT2/17106", "pydicom/CT2/17136")


@pytest.fixture
def site(make_site, aws_stack):
    lake = aws_stack.client("healthlake")
    store = lake.create_fhir_datastore(DatastoreName="index", DatastoreTypeVersion="R4")["DatastoreId"]
    yield make_site(fhir_datastore_id=store, fhir_slot_scope="datastore", fhir_starts_per_second=1_000)
    with suppress(ClientError):
        lake.delete_fhir_datastore(DatastoreId=store)


def send_fhir(site) -> None:
    def is_done() -> bool:
        advance(site.pipeline, patience_seconds=0.5)
        inbox.collect(site.pipeline, Queue.HEALTHLAKE_EVENTS, listen_seconds=0)
        for batch in inbox.pending(site.pipeline, Queue.HEALTHLAKE_EVENTS):
            results.follow(site.pipeline, events.open_batch(site.pipeline, batch).import_jobs)
            inbox.finish(site.pipeline, batch)
        advance(site.pipeline, patience_seconds=0.5)
        with site.pipeline.index.engine.connect() as connection:
            open_ = sa.select(fhir_batches.c.batch_id).where(fhir_batches.c.settled_at.is_(None))
            return connection.execute(open_).first() is None

    site.stack.wait_for(is_done, what="the batches")


def states(site) -> dict[str, str]:
    with site.pipeline.index.engine.connect() as connection:
        return {row.reference: row.state for row in connection.execute(sa.select(fhir_sent))}


def test_studies_go_in_once_and_come_back_when_deleted(site):
    site.send([*MR, *CT])
    assert site.drive().closes
    assert len(study_closure(site.pipeline).missing) == 2
    counts = plan_changes(site.pipeline)
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
    heads = sa.select(catalog.heads).where(catalog.heads.c.StudyInstanceUID == gone)
    with site.pipeline.index.engine.connect() as connection:
        doomed = [(row.datastore_id, row.image_set_id) for row in connection.execute(heads)]
    with site.pipeline.index.commit(kind="test") as commit:
        for store, image_set in doomed:
            commit.bury(store, image_set, version=None, reason="deleted", at=now())
    site.pipeline.index.publish()
    assert len(study_closure(site.pipeline).orphans) == 1
    assert plan_changes(site.pipeline)["retracted"] == 1
    assert not plan_changes(site.pipeline)["retracted"], "a retraction on its way is not planned again"
    send_fhir(site)
    assert study_closure(site.pipeline).closes
    assert sorted(states(site).values()) == ["current"] * 4 + ["retracted"]
    with site.pipeline.index.engine.connect() as connection:
        kept = connection.execute(sa.select(fhir_sent).where(fhir_sent.c.state == "retracted")).mappings().one()
    assert (kept["study_uid"], kept["subject"]) == (None, None)
    left = prove(site.pipeline.index, gone, secret=secret_of(site.pipeline), pipeline=site.pipeline)
    found_in = {place.name for place in left if place.n}
    assert "fhir_sent" not in found_in
    assert "fhir/" in found_in, (
        "batches hold many studies each: their bucket's rule removes them, and the proof says so"
    )
