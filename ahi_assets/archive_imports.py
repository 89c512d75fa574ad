"""Archives, imported shard by shard in a backfill. The work is `ahi.archive.imports`."""

from collections.abc import Iterator

import dagster as dg

from ahi.archive import imports as domain
from ahi.archive.following import Follower, Seen, following
from ahi.archive.progress import progress
from ahi.aws import in_words
from ahi.clock import day_of, now
from ahi.index import catalog, catalog_archives
from ahi.pipeline import Pipeline
from ahi_assets.archive_pictures import pictures
from ahi_assets.archive_plan import archive_plan
from ahi_assets.columns import catalog_schema, described, lineage_by_name
from ahi_assets.common import ARCHIVE_SHARDS, OWNERS, SERVICE_RETRY, counts, domain_errors, schemas
from ahi_assets.told import publication_metadata, tell, tell_of_day, tell_of_documents

_SHARDS = catalog_schema(catalog_archives.archive_shards)

MAX_RUNTIME = "dagster/max_runtime"
WEEK_SECONDS = 7 * 24 * 3_600
TELL_SECONDS = 10.0
"""The least time between two tellings of what events brought in."""

POOL = "archive_imports"
"""Runs of shards at a time, whatever launched them: the sensor `archive_shards` makes it two, by default it is one."""


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "archive_imports",
            group_name="archives",
            kinds={"s3", "aws", "dicom"},
            owners=OWNERS,
            description="Shards of archives: their objects in HealthImaging, or set down with a reason. "
            "Launch a backfill of the shards to import; `ahi archive pause|resume|rate` take effect while it runs.",
            deps=[archive_plan],
            metadata=described("archive_shards", _SHARDS, lineage_by_name(_SHARDS, schemas([archive_plan]))),
            # Each shard is told as it is done, so that what is done stays green when a run is cancelled or dies.
            skippable=True,
        )
    ],
    partitions_def=ARCHIVE_SHARDS,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=domain.SHARDS_OF_A_RUN),
    pool=POOL,
    retry_policy=SERVICE_RETRY,
)
def archive_imports(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> Iterator[dg.Output[None]]:
    """Imports the run's shards; those that are done already are told and left alone, and so are paused archives."""
    # A slow rate keeps a run for as long as a person wants; others hang after an hour.
    context.instance.add_run_tags(context.run.run_id, {MAX_RUNTIME: str(WEEK_SECONDS)})

    def closed(outcome: domain.Outcome) -> None:
        seen = progress(pipeline.index, outcome.archive_id)
        metadata: dict[str, dg.RawMetadataValue] = {
            "objects": outcome.objects,
            "dagster/partition_row_count": sum(outcome.states.values()),
            "entered before, by another way": outcome.known,
            "import jobs": outcome.jobs,
            "seconds": round(outcome.seconds, 1),
            **counts(outcome.states, "state: "),
            **pictures(pipeline.index, seen),
        }
        context.log_event(dg.AssetMaterialization("archive_imports", partition=outcome.shard_key, metadata=metadata))

    follower = Follower(pipeline)
    try:
        with domain_errors(), following(follower):
            done = domain.run(
                pipeline,
                list(context.partition_keys),
                closed,
                lambda: _tell_of_events(context, pipeline, follower.seen(after_seconds=TELL_SECONDS)),
            )
    finally:
        _tell_of_events(context, pipeline, follower.seen())
    if done["parked"]:
        context.log.warning(
            "%s shards were left: their archive is paused. `ahi archive resume` lets them go on by themselves.",
            done["parked"],
        )
    yield from ()


def _tell_of_events(context: dg.AssetExecutionContext, pipeline: Pipeline, seen: Seen | None) -> None:
    """Tell of the assets that following HealthImaging's events brought up to date."""
    if seen is None:
        return
    for trouble in seen.troubles:
        context.log.warning("Following HealthImaging's events met trouble: %s", trouble)
    day = day_of(now())
    try:
        tell_of_day(context, pipeline, "import_results", catalog.objects, day, seen.results)
        tell_of_documents(context, pipeline, day, seen.documents, seen.rows)
        if seen.publication:
            tell(context, "published_index", publication_metadata(pipeline, seen.publication))
    except Exception as error:  # noqa: BLE001 - it must not take the place of what the run ends by
        context.log.warning("What HealthImaging's events brought in could not be told: %s", in_words(error))
