"""Stages 2 and 3: import jobs and their results. The work is `ahi.imports` and `ahi.results`."""

from collections import Counter

import dagster as dg

from ahi import imports, results, service_events
from ahi.archive.events import is_followed
from ahi.archive.following import show_uploads
from ahi.clock import day_of, now
from ahi.inbox import Queue, deferred, finish
from ahi.index import catalog
from ahi.pipeline import Pipeline
from ahi_assets.columns import catalog_schema, lineage_by_name
from ahi_assets.common import BatchConfig, batches, counts, day_rows, domain_errors, schemas, stage
from ahi_assets.dicom_objects import dicom_objects
from ahi_assets.told import tell_of_documents

_JOBS = catalog_schema(catalog.jobs)


@stage(
    "import_jobs",
    [dicom_objects],
    {"s3", "aws"},
    _JOBS,
    lineage=lineage_by_name(
        _JOBS, schemas([dicom_objects]), input_uri="source_uri", n_objects="object_id", n_bytes="size_bytes"
    ),
)
def import_jobs(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """HealthImaging import jobs: ready objects planned within the quotas, staged under one prefix a job, started.

    Looks at what is ready, not at a batch: whatever an earlier run left behind goes along.
    """
    with domain_errors():
        done = imports.advance(pipeline)
    return dg.MaterializeResult(metadata=counts(done) | day_rows(context, pipeline, catalog.jobs))


@stage("objects", [import_jobs], {"s3", "aws"}, catalog_schema(catalog.objects))
def import_results(
    context: dg.AssetExecutionContext, config: BatchConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """What became of each object in its import job, read from the job's manifest and ndjson files.

    A settled job leaves room for the next, so planned jobs are started here too.
    """
    done = Counter[str]()
    with domain_errors():
        todo = batches(context, pipeline, config, Queue.IMPORT_EVENTS)
        for batch in todo:
            opened = service_events.open_batch(pipeline, batch)
            done += opened.counts + results.follow(pipeline, opened.import_jobs)
        # Who follows settles jobs of archives, and has events of uploads' image sets too.
        followed = is_followed(pipeline)
        counted, _ = results.settle_ended(pipeline, patience_seconds=4.0, of_archives=False if followed else None)
        done += counted
        for batch in todo:
            finish(pipeline, batch)
        if followed or deferred(pipeline, Queue.IMAGE_SET_EVENTS, limit=1):
            shown = show_uploads(pipeline)
            tell_of_documents(context, pipeline, day_of(now()), shown.looked, shown.rows)
            if shown.trouble:
                context.log.warning("Image sets of uploads wait for their events: %s", shown.trouble)
        done += imports.advance(pipeline)
    return dg.MaterializeResult(metadata=counts(done) | day_rows(context, pipeline, catalog.objects))
