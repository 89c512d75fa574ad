"""Stage 4: image sets and the tables. The work is `ahi.image_sets` (reads) and `ahi.indexing` (rows)."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg

from ahi import image_sets as domain
from ahi import indexing, service_events
from ahi.closure import rows_shown
from ahi.inbox import Queue, finish
from ahi.index import catalog
from ahi.index.registry import TABLES
from ahi.pipeline import Pipeline
from ahi_assets.columns import VIEWS, catalog_schema, described, lineage_of_index, view_schema
from ahi_assets.common import (
    ARRIVAL_DAY,
    OWNERS,
    SERVICE_RETRY,
    BatchConfig,
    batches,
    counts,
    day_rows,
    domain_errors,
    stage,
)
from ahi_assets.import_jobs import import_results
from ahi_assets.told import CODE, CODE_VERSION, CORE, code_of_day, table_metadata, tell


@stage("image_sets", [import_results], {"aws", "s3", "json"}, catalog_schema(catalog.documents))
def image_sets(
    context: dg.AssetExecutionContext, config: BatchConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """The document of each (image set, version), read from HealthImaging once and kept in the lake."""
    done = Counter[str]()
    with domain_errors():
        for batch in batches(context, pipeline, config, Queue.IMAGE_SET_EVENTS):
            opened = service_events.open_batch(pipeline, batch)
            try:
                done += opened.counts + domain.sight(pipeline, (event.image_set_id for event in opened.image_sets))
                if not config.batch:
                    finish(pipeline, batch)
            except Exception:
                # What could be looked at goes into the index all the same; the batch is asked for again.
                indexing.catch_up(pipeline)
                raise
    return dg.MaterializeResult(metadata=counts(done) | day_rows(context, pipeline, catalog.documents))


TABLE_ASSETS = (
    *CORE,
    *(name for name, table in TABLES.items() if table.row_key == "image_set_id" and name not in CORE),
)
"""Tables whose rows come from documents, and the two views over `series` that count as tables to most."""


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            name,
            deps=[image_sets],
            group_name="index",
            kinds={"parquet", "duckdb"},
            owners=OWNERS,
            description=VIEWS[name].comment,
            code_version=CODE_VERSION,
            metadata=described(name, view_schema(name), lineage_of_index(name)),
        )
        for name in TABLE_ASSETS
    ],
    partitions_def=ARRIVAL_DAY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=SERVICE_RETRY,
    can_subset=True,
)
def index_tables(
    context: dg.AssetExecutionContext, config: BatchConfig, pipeline: dg.ResourceParam[Pipeline]
) -> Iterator[dg.MaterializeResult[None]]:
    """Rows from the kept documents. Makes no call to HealthImaging.

    Launched without a batch, it also writes the rows of the day's documents again, as the present code reads them.
    Every run writes all tables; a selection is about what is reported. Live runs select the tables that every image
    set has rows in, and tell of the others what got rows: an asset costs a run 6 ms to plan, and 6 more to report.
    """
    with domain_errors():
        # Of a whole day, the step that looks at image sets consumes the batches: others may have come since, and who
        # selects tables alone has looked at none.
        asked = batches(context, pipeline, config, Queue.IMAGE_SET_EVENTS) if config.batch else []
        report = indexing.catch_up(pipeline, asked)
        if not config.batch:
            for day in context.partition_keys:
                report += indexing.index_again(pipeline, day)
    shown, code = rows_shown(pipeline.index.engine), CODE_VERSION
    if config.batch:
        code = code_of_day(context, CORE[-1], context.partition_key, CODE_VERSION)
    selected = {key.to_user_string() for key in context.selected_asset_keys}
    for name in TABLE_ASSETS:
        metadata = table_metadata(report, name, shown)
        if name in selected:
            yield dg.MaterializeResult(asset_key=name, metadata=metadata, tags={CODE: code})
        elif report.rows.get(name) and config.batch:
            tell(context, name, metadata, day=context.partition_key, code=code)
