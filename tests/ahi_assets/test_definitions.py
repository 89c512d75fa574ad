"""What the code location offers: assets, lineage, jobs, schedules, sensors, and that each asset is described."""

from __future__ import annotations

import dagster as dg
import pytest

from ahi.index.lineage import OF_THE_COMMIT
from ahi.index.registry import TABLES
from ahi_assets.image_sets import TABLE_ASSETS
from ahi_assets.told import CORE
from dagster_project.definitions import build_defs

LINEAGE = {
    "dicom_objects": {"landing_objects"},
    "import_jobs": {"dicom_objects"},
    "import_results": {"import_jobs"},
    "image_sets": {"import_results"},
    **{name: {"image_sets"} for name in TABLE_ASSETS},
    "published_index": {"dicom_objects", "import_results", *CORE},
    "published_tiers": {"published_index", *TABLE_ASSETS} - set(CORE),
    "published_copies": {"published_index", "published_tiers"},
    "compacted_index": {"published_index"},
    "index_overview": {"published_index", "import_results"},
    "sweep_findings": set(),
    "archive_inventory": set(),
    "archive_plan": {"archive_inventory"},
    "archive_imports": {"archive_plan"},
    "fhir_changes": {"published_index"},
    "fhir_resources": {"fhir_changes"},
    "healthlake_import_jobs": {"fhir_resources"},
    "healthlake_import_results": {"healthlake_import_jobs"},
    "healthlake_chain": set(),
    "healthlake_report": {"healthlake_import_results"},
}


@pytest.fixture(scope="module")
def defs():
    return build_defs()


def test_lineage(defs):
    graph = defs.resolve_asset_graph()
    found = {
        k.to_user_string(): {p.to_user_string() for p in graph.get(k).parent_keys}
        for k in graph.materializable_asset_keys
    }
    assert found == LINEAGE


def test_every_asset_is_described_grouped_and_owned(defs):
    for node in defs.resolve_asset_graph().asset_nodes:
        assert node.description, node.key
        assert node.group_name in {"ingest", "index", "archives", "healthlake", "upkeep"}
        assert node.owners == ["team:imaging-platform"]
        assert node.kinds


def test_every_table_made_from_documents_is_an_asset():
    assert set(TABLES) - {"headers"} == set(TABLE_ASSETS) - {"patients", "studies"}


def test_every_asset_says_where_its_columns_come_from(defs):
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    columns = {name: {c.name for c in spec.metadata["dagster/column_schema"].columns} for name, spec in specs.items()}
    for name, spec in specs.items():
        lineage = spec.metadata.get("dagster/column_lineage")
        assert bool(lineage) == bool(list(spec.deps)), name
        for column, sources in lineage.deps_by_column.items() if lineage else ():
            assert column in columns[name]
            for source in sources:
                assert source.column_name in columns[source.asset_key.to_user_string()], (name, column)
        if name in TABLE_ASSETS or name == "dicom_objects":
            assert columns[name] - set(lineage.deps_by_column) <= OF_THE_COMMIT | {"row_source", "n_pending"}, name


@pytest.mark.parametrize(
    ("asset", "column", "sources"),
    [
        ("studies", "StudyDate", {("series", "StudyDate")}),
        ("studies", "ModalitiesInStudy", {("series", "Modality")}),
        ("patients", "n_studies", {("series", "StudyInstanceUID")}),
        ("series", "Modality", {("image_sets", "object_key")}),
        ("instances", "image_set_version", {("image_sets", "version")}),
        ("dicom_objects", "PatientName", {("landing_objects", "key")}),
        ("dicom_objects", "source_etag", {("landing_objects", "etag")}),
    ],
)
def test_where_a_column_comes_from(defs, asset, column, sources):
    (spec,) = (spec for spec in defs.resolve_all_asset_specs() if spec.key.to_user_string() == asset)
    found = spec.metadata["dagster/column_lineage"].deps_by_column[column]
    assert {(dep.asset_key.to_user_string(), dep.column_name) for dep in found} == sources


def test_jobs_schedules_and_sensors(defs):
    repository = defs.get_repository_def()
    live = {"uploads", "import_events", "image_set_events", "sweep", "index_checks", "index_upkeep", "run_retention"}
    assert live <= set(repository.job_names)
    schedules = {s.name: s.cron_schedule for s in repository.schedule_defs}
    assert schedules["every_minute_sweep"] == "* * * * *"
    assert {s.default_status for s in repository.schedule_defs} == {dg.DefaultScheduleStatus.RUNNING}
    sensors = {s.name: s.default_status for s in repository.sensor_defs}
    queues = {"upload_queue", "import_queue", "image_set_queue", "healthlake_queue"}
    assert set(sensors) == queues | {"archive_shards", "run_failures"}
    assert set(sensors.values()) == {dg.DefaultSensorStatus.RUNNING}


def test_steps_that_call_services_retry_with_backoff_and_jitter(defs):
    for name in ("dicom_objects", "import_jobs", "import_results", "image_sets", "index_tables"):
        policy = next(a for a in defs.assets if getattr(getattr(a, "op", None), "name", "") == name).op.retry_policy
        assert policy.max_retries >= 3
        assert policy.backoff is dg.Backoff.EXPONENTIAL
        assert policy.jitter is not None
