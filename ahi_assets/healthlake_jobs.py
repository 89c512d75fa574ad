"""HealthLake's import jobs, their results, and the run that moves the chain. The work is `ahi.healthlake`."""

from collections import Counter

import dagster as dg

from ahi import inbox
from ahi.healthlake import control, events, results
from ahi.healthlake.advance import Progress, advance
from ahi.inbox import Queue
from ahi.index import catalog, catalog_fhir
from ahi.pipeline import Pipeline
from ahi_assets.columns import catalog_schema, described, lineage_by_name
from ahi_assets.common import FHIR_BATCHES, OWNERS, SERVICE_RETRY, BatchConfig, counts, domain_errors, schemas
from ahi_assets.fhir_resources import facts_of, fhir_resources

_JOBS, _FAILURES = catalog_schema(catalog.jobs), catalog_schema(catalog_fhir.fhir_failures)

PATIENCE_SECONDS = 4.0
"""How long a run waits for a manifest that comes a little after the end of its job."""


@dg.asset(
    deps=[fhir_resources],
    group_name="healthlake",
    kinds={"aws", "s3"},
    owners=OWNERS,
    partitions_def=FHIR_BATCHES,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=SERVICE_RETRY,
    metadata=described("jobs", _JOBS, lineage_by_name(_JOBS, schemas([fhir_resources]), n_objects="n_sent")),
)
def healthlake_import_jobs(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """The HealthLake import job of a batch. A batch whose job is over goes in again: HealthLake takes it as updates.

    It waits for its turn in the chain like any other. What a batch from the index was the last to carry goes in anew,
    as it is now, with the next batch of the index.
    """
    with domain_errors():
        again = sum(control.again(pipeline, batch_id) for batch_id in context.partition_keys)
        progress = advance(pipeline)
    _tell(context, pipeline, progress, but=set(context.partition_keys))
    return dg.MaterializeResult(metadata=counts(progress.counts) | {"planned_again": again})


@dg.asset(
    deps=[healthlake_import_jobs],
    group_name="healthlake",
    kinds={"aws", "s3"},
    owners=OWNERS,
    partitions_def=FHIR_BATCHES,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=SERVICE_RETRY,
    metadata=described(
        "fhir_failures",
        _FAILURES,
        lineage_by_name(_FAILURES, schemas([healthlake_import_jobs]), diagnostic="output_folder"),
    ),
)
def healthlake_import_results(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """What became of a batch: counts of its manifest, and the resources that failed, grouped."""
    with domain_errors():
        progress = advance(pipeline, patience_seconds=PATIENCE_SECONDS)
    _tell(context, pipeline, progress, but=set(context.partition_keys))
    return dg.MaterializeResult(metadata={**counts(progress.counts), **facts_of(context, pipeline)})


@dg.asset(
    group_name="healthlake",
    kinds={"aws", "sqs"},
    owners=OWNERS,
    retry_policy=SERVICE_RETRY,
    metadata=described("fhir_imports", catalog_schema(catalog_fhir.fhir_imports)),
)
def healthlake_chain(
    context: dg.AssetExecutionContext, config: BatchConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """One step of the chain: events heard, what ended settled, the next job started, batches frozen ahead.

    It tells of each batch it moved in the batch's own partition.
    """
    done = Counter[str]()
    with domain_errors():
        todo = [inbox.find(pipeline, config.batch)] if config.batch else _pending(pipeline)
        for batch in todo:
            opened = events.open_batch(pipeline, batch)
            done += opened.counts + results.follow(pipeline, opened.import_jobs)
        progress = advance(pipeline, patience_seconds=PATIENCE_SECONDS)
        for batch in todo:
            inbox.finish(pipeline, batch)
    _tell(context, pipeline, progress)
    return dg.MaterializeResult(metadata=counts(done + progress.counts))


def _pending(pipeline: Pipeline) -> list[inbox.Batch]:
    return inbox.pending(pipeline, Queue.HEALTHLAKE_EVENTS)


def _tell(
    context: dg.AssetExecutionContext, pipeline: Pipeline, progress: Progress, but: set[str] | None = None
) -> None:
    """Report what happened to batches where the UI shows them."""
    moved = (
        ("fhir_resources", progress.frozen),
        ("healthlake_import_jobs", progress.started),
        ("healthlake_import_results", progress.settled),
    )
    for asset, batches in moved:
        for batch_id in batches:
            if batch_id not in (but or ()):
                facts = control.batch_facts(pipeline.index.engine, batch_id)
                context.log_event(dg.AssetMaterialization(asset, partition=batch_id, metadata=facts))
