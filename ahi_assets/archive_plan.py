"""Plans of archives: their shards and what importing them takes. The work is `ahi.archive.plan` and `estimate`."""

import dagster as dg

from ahi.archive import archives
from ahi.archive.choices import Screen
from ahi.archive.estimate import estimate
from ahi.archive.plan import make_plan, shard_keys
from ahi.index import catalog_archives
from ahi.pipeline import Pipeline
from ahi_assets.archive_estimate import shown
from ahi_assets.archive_inventory import ArchiveConfig, archive_inventory
from ahi_assets.columns import catalog_schema, described, lineage_by_name
from ahi_assets.common import ARCHIVE_SHARDS, OWNERS, SERVICE_RETRY, domain_errors, schemas

SHARDS = catalog_schema(
    catalog_archives.archive_shards,
    *("shard_key", "archive_id", "generation", "n_objects", "n_bytes", "in_place_prefix", "planned_at"),
)


class PlanConfig(ArchiveConfig):
    """How an archive is planned."""

    dry_run: bool = False
    """Only say what it would take; make no shards."""

    headers: str = Screen.DOUBTFUL.value
    """Headers to read for setting non-DICOM aside: none, doubtful or all. The import reads all in any case."""


@dg.asset(
    deps=[archive_inventory],
    group_name="archives",
    kinds={"s3", "parquet"},
    owners=OWNERS,
    retry_policy=SERVICE_RETRY,
    pool="archive_planning",  # one at a time: a run may take long, and live ones keep their slots
    metadata=described("archive_shards", SHARDS, lineage_by_name(SHARDS, schemas([archive_inventory]))),
)
def archive_plan(
    context: dg.AssetExecutionContext, config: PlanConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """What importing an archive takes: jobs, copies, time under the quotas and cost by item; and its shards.

    Each shard is one import job and one partition of `archive_imports`. What is in shards already stays there.
    """
    metadata: dict[str, dg.RawMetadataValue] = {}
    with domain_errors():
        chosen = [archives.find(pipeline, config.archive)] if config.archive else archives.all_archives(pipeline)
        for archive in chosen:
            made = make_plan(pipeline, archive, keep=not config.dry_run, screening=Screen(config.headers))
            metadata |= shown(made, estimate(pipeline, made))
            there = set(context.instance.get_dynamic_partitions(str(ARCHIVE_SHARDS.name)))
            if missing := [key for key in shard_keys(pipeline, archive) if key not in there]:
                context.instance.add_dynamic_partitions(str(ARCHIVE_SHARDS.name), missing)
    return dg.MaterializeResult(metadata=metadata)
