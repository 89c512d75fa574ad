"""FHIR for HealthLake: what changed in the index, and batches of it or of any origin. The work is `ahi.healthlake`."""

from collections import Counter

import dagster as dg

from ahi.healthlake import control
from ahi.healthlake.freeze import freeze
from ahi.healthlake.from_index import plan_changes
from ahi.index import catalog_fhir
from ahi.pipeline import Pipeline
from ahi_assets.columns import catalog_schema, described, lineage_by_name
from ahi_assets.common import FHIR_BATCHES, OWNERS, SERVICE_RETRY, counts, domain_errors, schemas
from ahi_assets.published_index import published_index

_SENT, _BATCHES = catalog_schema(catalog_fhir.fhir_sent), catalog_schema(catalog_fhir.fhir_batches)

ROUNDS = 50
"""Batches that one run plans, at most: an index of a million studies is that many."""


@dg.asset(
    deps=[published_index],
    group_name="healthlake",
    kinds={"duckdb", "json"},
    owners=OWNERS,
    retry_policy=SERVICE_RETRY,
    metadata=described("fhir_sent", _SENT, lineage_by_name(_SENT, schemas([published_index]), fingerprint="seq")),
)
def fhir_changes(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """Patients, ImagingStudies and Endpoints that HealthLake does not have yet, planned as a batch.

    A study that did not change is not looked at again; one that was deleted is taken back.
    """
    done = Counter[str]()
    with domain_errors():
        for _ in range(ROUNDS if pipeline.settings.fhir_datastore_id else 0):
            planned = plan_changes(pipeline)
            done += planned
            if not planned["studies"]:
                break
    return dg.MaterializeResult(metadata=counts(done))


@dg.asset(
    deps=[fhir_changes],
    group_name="healthlake",
    kinds={"s3", "json"},
    owners=OWNERS,
    partitions_def=FHIR_BATCHES,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=SERVICE_RETRY,
    metadata=described("fhir_batches", _BATCHES, lineage_by_name(_BATCHES, schemas([fhir_changes]))),
)
def fhir_resources(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """The NDJSON of a batch, validated and frozen: what was refused lies in quarantine, the rest never changes."""
    done = Counter[str]()
    with domain_errors():
        for batch_id in context.partition_keys:
            done += freeze(pipeline, batch_id)
    return dg.MaterializeResult(metadata={**counts(done), **facts_of(context, pipeline)})


def facts_of(context: dg.AssetExecutionContext, pipeline: Pipeline) -> dict[str, int | str]:
    """What is known of the run's batch; nothing when it has several."""
    keys = context.partition_keys
    return control.batch_facts(pipeline.index.engine, keys[0]) if len(keys) == 1 else {}
