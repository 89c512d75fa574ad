"""Batches from the index: within the limits, in halves where nobody tells what fails, and compared as they are now."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import sqlalchemy as sa

from ahi.clock import now
from ahi.healthlake import sent
from ahi.healthlake.closure import study_closure
from ahi.healthlake.erasure import _erase_unplanned
from ahi.healthlake.from_index import plan_changes
from ahi.index.catalog import quarantine
from ahi.index.catalog_fhir import fhir_batches, fhir_imports, fhir_sent
from tests.ahi.healthlake.index_site import CT, MR, send_fhir, site
from tests.site_fixtures import make_site

__all__ = ["make_site", "site"]


def rows(site, query):
    with site.pipeline.index.engine.connect() as connection:
        return connection.execute(query).all()


def _what_is_not_told_is_in_quarantine(site) -> None:
    rules = site.pipeline.settings.home / "rules.toml"
    rules.write_text("most_instances = 1\n")
    changes = {"fhir_rules": rules, "fhir_validation_level": "minimal"}
    plan_changes(replace(site.pipeline, settings=site.pipeline.settings.model_copy(update=changes)))
    told = rows(site, sa.select(quarantine).where(quarantine.c.source == "fhir"))
    assert len(told) == 2
    assert {row.reason_text.rpartition(": ")[2] for row in told} == {"more instances than a resource should list"}
    [chain] = rows(site, sa.select(fhir_imports))
    assert chain.validation_level == "minimal", "the setting is for this chain, too"
    plan_changes(site.pipeline)
    send_fhir(site)


def _a_source_that_nobody_planned_is_erased(site) -> None:
    s3, bucket, key = site.pipeline.aws.s3, site.pipeline.settings.lake_bucket, "fhir/made/of-a-killed-run.ndjson"
    s3.put_object(Bucket=bucket, Key=key, Body=b"{}")
    _erase_unplanned(site.pipeline, now() - dt.timedelta(days=1))
    before = {one["Key"] for one in s3.list_objects_v2(Bucket=bucket, Prefix="fhir/made/")["Contents"]}
    _erase_unplanned(site.pipeline, now() + dt.timedelta(days=1))
    left = {one["Key"] for one in s3.list_objects_v2(Bucket=bucket, Prefix="fhir/made/")["Contents"]}
    assert before - left == {key}


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
    _what_is_not_told_is_in_quarantine(site)
    _a_source_that_nobody_planned_is_erased(site)
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
