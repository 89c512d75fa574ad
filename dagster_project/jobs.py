"""Jobs: which assets a run makes. Belongs here: selections. Does not belong here: assets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi_assets.checks import closure_of_objects, freshness_of_index
from ahi_assets.told import CORE
from dagster_project.retention import run_retention

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


SAFETY_NET = {"dagster/priority": "20"}
"""Before live runs (10): under load the sweep and the upkeep would otherwise never get a slot."""


def _only(*assets: str) -> dg.AssetSelection:
    """These assets without their checks, which count whole tables and have a job and a schedule of their own."""
    return dg.AssetSelection.assets(*assets).without_checks()


uploads = dg.define_asset_job(
    "uploads",
    selection=_only("dicom_objects", "import_jobs", "published_index"),
    description="A batch of uploads: ledger and header rows, then import jobs.",
)
import_events = dg.define_asset_job(
    "import_events",
    selection=_only("import_results", "published_index"),
    description="A batch of import job events: results into the ledger, next jobs started.",
)
image_set_events = dg.define_asset_job(
    "image_set_events",
    selection=_only("image_sets", *CORE, "published_index"),
    description="A batch of image set events: documents kept, rows indexed.",
)
sweep = dg.define_asset_job(
    "sweep",
    selection=_only("sweep_findings", "import_jobs", "import_results", "published_index")
    # The two checks that are cheap at any size, so that the UI shows how things stand now.
    | dg.AssetSelection.checks(closure_of_objects, freshness_of_index),
    tags=SAFETY_NET,
    description="What no event told us, and what an earlier run left behind.",
)
index_checks = dg.define_asset_job(
    "index_checks",
    selection=dg.AssetSelection.all_asset_checks() | _only("index_overview", "healthlake_report"),
    description="Every check and the pictures of the index, in one run.",
)
index_upkeep = dg.define_asset_job(
    "index_upkeep",
    selection=_only("compacted_index"),
    tags=SAFETY_NET,
    description="Compaction and expiry of the index.",
)

index_tiers = dg.define_asset_job(
    "index_tiers",
    selection=_only("published_tiers"),
    tags=SAFETY_NET,
    description="The limited and the de-identified tier, brought up to date.",
)

index_copies = dg.define_asset_job(
    "index_copies",
    selection=_only("published_copies"),
    description="Copies of the index for analysts, where AHI_COPIES_TO says.",
)

archive_planning = dg.define_asset_job(
    "archive_planning",
    selection=_only("archive_inventory", "archive_plan"),
    description="A look at archives, then their shards and what importing them takes. Imports nothing.",
)
healthlake = dg.define_asset_job(
    "healthlake",
    selection=_only("healthlake_chain"),
    description="One step of HealthLake's chain: events, results, the next job, batches frozen ahead.",
)
fhir_from_index = dg.define_asset_job(
    "fhir_from_index",
    selection=_only("fhir_changes"),
    description="FHIR of what changed in the index, planned as a batch.",
)

archive_shards = dg.define_asset_job(
    "archive_shards",
    selection=_only("archive_imports"),
    description="Shards of archives; a backfill in the UI does the same.",
)

ALL_JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [
    uploads,
    import_events,
    image_set_events,
    sweep,
    index_checks,
    index_upkeep,
    index_tiers,
    index_copies,
    archive_planning,
    archive_shards,
    healthlake,
    fhir_from_index,
    run_retention,
]
