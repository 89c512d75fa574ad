"""Assembly: everything Dagster loads. Belongs here: lists. Nothing is read or connected when this is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi_assets.checks import ALL_CHECKS
from ahi_assets.dicom_objects import dicom_objects, landing_objects
from ahi_assets.image_sets import image_sets, index_tables
from ahi_assets.import_jobs import import_jobs, import_results
from ahi_assets.published_index import compacted_index, index_overview, published_index
from ahi_assets.published_tiers import published_tiers
from ahi_assets.sweep import sweep_findings
from dagster_project.jobs import ALL_JOBS
from dagster_project.resources import pipeline_resource
from dagster_project.schedules import ALL_SCHEDULES
from sensors.image_set_queue import image_set_queue
from sensors.import_queue import import_queue
from sensors.run_failures import run_failures
from sensors.upload_queue import upload_queue

if TYPE_CHECKING:
    from ahi.settings import Settings

Asset = dg.AssetsDefinition | dg.AssetSpec

INGEST: list[Asset] = [
    landing_objects,
    dicom_objects,
    import_jobs,
    import_results,
    image_sets,
    index_tables,
    published_index,
    published_tiers,
]
UPKEEP: list[Asset] = [sweep_findings, compacted_index, index_overview]


def build_defs(settings: Settings | None = None, *, resources: dict[str, object] | None = None) -> dg.Definitions:
    """Definitions for some settings; tests and tools give their own, the code location reads the environment."""
    return dg.Definitions(
        assets=[*INGEST, *UPKEEP],
        asset_checks=ALL_CHECKS,
        jobs=ALL_JOBS,
        schedules=ALL_SCHEDULES,
        sensors=[upload_queue, import_queue, image_set_queue, run_failures],
        resources=resources or {"pipeline": pipeline_resource(settings)},
        # Steps of a run share its process: a process each would cost an interpreter start a step.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location."""
    return build_defs()
