"""Jobs: which assets a run makes. Belongs here: selections. Does not belong here: assets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi_assets.common import ARRIVAL_DAY
from ahi_assets.image_sets import TABLE_ASSETS
from dagster_project.retention import run_retention

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

uploads = dg.define_asset_job(
    "uploads",
    selection=["dicom_objects", "import_jobs", "published_index"],
    partitions_def=ARRIVAL_DAY,
    description="A batch of uploads: ledger and header rows, then import jobs.",
)
import_events = dg.define_asset_job(
    "import_events",
    selection=["import_results", "published_index"],
    partitions_def=ARRIVAL_DAY,
    description="A batch of import job events: results into the ledger, next jobs started.",
)
image_set_events = dg.define_asset_job(
    "image_set_events",
    selection=["image_sets", *TABLE_ASSETS, "published_index"],
    partitions_def=ARRIVAL_DAY,
    description="A batch of image set events: documents kept, rows indexed.",
)
sweep = dg.define_asset_job(
    "sweep",
    selection=["sweep_findings", "import_jobs", "import_results", "published_index"],
    partitions_def=ARRIVAL_DAY,
    description="What no event told us, and what an earlier run left behind.",
)
index_checks = dg.define_asset_job(
    "index_checks", selection=dg.AssetSelection.all_asset_checks(), description="Every check, in one run."
)
index_upkeep = dg.define_asset_job(
    "index_upkeep", selection=["compacted_index"], description="Compaction and expiry of the index."
)

ALL_JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [
    uploads,
    import_events,
    image_set_events,
    sweep,
    index_checks,
    index_upkeep,
    run_retention,
]
