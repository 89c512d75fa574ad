"""Batches from the index: within the limits, in halves where nobody tells what fails, and compared as they are now."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from ahi.clock import now
from ahi.healthlake import sent
from ahi.healthlake.closure import study_closure
from ahi.healthlake.from_index import plan_changes
from ahi.index.catalog_fhir import fhir_batches, fhir_sent
from tests.ahi.healthlake.index_site import CT, MR, send_fhir, site
from tests.site_fixtures import make_site

__all__ = ["make_site", "site"]


def rows(site, query):
    with site.pipeline.index.engine.connect() as connection:
        return connection.execute(query).all()


def fail_all(site, **values: object) -> None:
    with site.pipeline.index.transaction() as connection:
        connection.execute(fhir_sent.update().values(state="failed", retry_at=now(), **values))


def test_batches_of_the_index(site):
    site.send([*MR, *CT])
    site.drive()
    small = site.pipeline.settings.model_copy(update={"fhir_bytes_per_job": 1_000, "fhir_bytes_per_file": 1_000})
    plan_changes(replace(site.pipeline, settings=small))
    carried = {row.batch_id for row in rows(site, sa.select(fhir_sent.c.batch_id))}
    batches = rows(site, sa.select(fhir_batches))
    assert len(batches) > 1
    assert carried == {row.batch_id for row in batches}, "each resource is in the batch that has its line"
    send_fhir(site)
    assert study_closure(site.pipeline).closes
    with site.pipeline.index.transaction() as connection:
        connection.execute(fhir_sent.update().where(fhir_sent.c.study_uid.is_not(None)).values(fingerprint="old"))
    found = study_closure(site.pipeline)
    assert (found.closes, len(found.stale)) == (False, 2), "what has changed since is not current"
    fail_all(site, tries=1)
    assert plan_changes(site.pipeline)["studies"] == 2, "the second time all of them"
    fail_all(site, tries=2)
    assert [plan_changes(site.pipeline)["studies"] for _ in range(3)] == [1, 1, 0], "then in halves"
    with site.pipeline.index.transaction() as connection:
        connection.execute(fhir_sent.update().values(state="pending", tries=sent.MOST_TRIES - 1, batch_id="b"))
        sent.settle(connection, "b", {}, is_unknown=True)
    left = {row.reference.partition("/")[0]: row.retry_at for row in rows(site, sa.select(fhir_sent))}
    assert left["ImagingStudy"] is None, "and then not any more"
    assert left["Patient"] is not None
