"""A deployment with studies in its index and a HealthLake data store of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import inbox
from ahi.clock import now
from ahi.healthlake import events, results
from ahi.healthlake.advance import advance
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.index.catalog_fhir import fhir_batches, fhir_sent
from dagster_project.demo_fhir import get

MR = ("pydicom/MR2/4950", "pydicom/MR2/4981")
CT = ("pydicom/CT2/17106", "pydicom/CT2/17136")


@pytest.fixture
def site(make_site, aws_stack):
    lake = aws_stack.client("healthlake")
    store = lake.create_fhir_datastore(DatastoreName="index", DatastoreTypeVersion="R4")["DatastoreId"]
    yield make_site(
        fhir_datastore_id=store, fhir_slot_scope="datastore", fhir_starts_per_second=1_000, fhir_retry_seconds=0
    )
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


def bury(site, study: str) -> None:
    """Delete the image sets of a study."""
    heads = sa.select(catalog.heads).where(catalog.heads.c.StudyInstanceUID == study)
    with site.pipeline.index.engine.connect() as connection:
        doomed = [(row.datastore_id, row.image_set_id) for row in connection.execute(heads)]
    with site.pipeline.index.commit(kind="test") as commit:
        for store, image_set in doomed:
            commit.bury(store, image_set, version=None, reason="deleted", at=now())
    site.pipeline.index.publish()


def in_healthlake(site, kind: str) -> list[dict[str, Any]]:
    """Resources of a type in the data store, read over FHIR REST."""
    store = {"AHI_FHIR_DATASTORE_ID": site.pipeline.settings.fhir_datastore_id}
    return [entry["resource"] for entry in get(site.stack.env | store, f"{kind}?_count=50").get("entry", [])]
