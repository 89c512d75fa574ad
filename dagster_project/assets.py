"""Every asset of the code location, by what it belongs to. Belongs here: lists. Does not belong here: an asset."""

from __future__ import annotations

import dagster as dg

from ahi_assets.archive_imports import archive_imports
from ahi_assets.archive_inventory import archive_inventory
from ahi_assets.archive_plan import archive_plan
from ahi_assets.dicom_objects import dicom_objects, landing_objects
from ahi_assets.fhir_resources import fhir_changes, fhir_resources
from ahi_assets.healthlake_jobs import healthlake_chain, healthlake_import_jobs, healthlake_import_results
from ahi_assets.healthlake_report import healthlake_report
from ahi_assets.image_sets import image_sets, index_tables
from ahi_assets.import_jobs import import_jobs, import_results
from ahi_assets.published_copies import published_copies
from ahi_assets.published_index import compacted_index, index_overview, published_index
from ahi_assets.published_tiers import published_tiers
from ahi_assets.sweep import sweep_findings

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
    published_copies,
]
ARCHIVES: list[Asset] = [archive_inventory, archive_plan, archive_imports]
HEALTHLAKE: list[Asset] = [
    fhir_changes,
    fhir_resources,
    healthlake_import_jobs,
    healthlake_import_results,
    healthlake_chain,
    healthlake_report,
]
UPKEEP: list[Asset] = [sweep_findings, compacted_index, index_overview]
ALL_ASSETS = [*INGEST, *ARCHIVES, *HEALTHLAKE, *UPKEEP]
