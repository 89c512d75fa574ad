"""Assembly: everything Dagster loads. Belongs here: lists. Nothing is read or connected when this is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi_assets.checks import ALL_CHECKS
from ahi_assets.healthlake_report import HEALTHLAKE_CHECKS
from dagster_project.assets import ALL_ASSETS
from dagster_project.jobs import ALL_JOBS
from dagster_project.resources import pipeline_resource
from dagster_project.schedules import ALL_SCHEDULES
from sensors.archive_shards import archive_shards
from sensors.healthlake_queue import healthlake_queue
from sensors.image_set_queue import image_set_queue
from sensors.import_queue import import_queue
from sensors.run_failures import run_failures
from sensors.upload_queue import upload_queue

if TYPE_CHECKING:
    from ahi.settings import Settings


def build_defs(settings: Settings | None = None, *, resources: dict[str, object] | None = None) -> dg.Definitions:
    """Definitions for some settings; tests and tools give their own, the code location reads the environment."""
    return dg.Definitions(
        assets=ALL_ASSETS,
        asset_checks=[*ALL_CHECKS, *HEALTHLAKE_CHECKS],
        jobs=ALL_JOBS,
        schedules=ALL_SCHEDULES,
        sensors=[upload_queue, import_queue, image_set_queue, healthlake_queue, archive_shards, run_failures],
        resources=resources or {"pipeline": pipeline_resource(settings)},
        # Steps of a run share its process: a process each would cost an interpreter start a step.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location."""
    return build_defs()
