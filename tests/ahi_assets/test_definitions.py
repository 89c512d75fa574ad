"""What the code location offers: assets, lineage, jobs, schedules, sensors, and that each asset is described."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_project.definitions import build_defs

LINEAGE = {
    "dicom_objects": {"landing_objects"},
    "import_jobs": {"dicom_objects"},
    "import_results": {"import_jobs"},
    "image_sets": {"import_results"},
    "patients": {"image_sets"},
    "studies": {"image_sets"},
    "series": {"image_sets"},
    "instances": {"image_sets"},
    "published_index": {"dicom_objects", "import_results", "patients", "studies", "series", "instances"},
    "published_tiers": {"published_index"},
    "compacted_index": {"published_index"},
    "sweep_findings": set(),
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
        assert node.group_name in {"ingest", "index", "upkeep"}
        assert node.owners == ["team:imaging-platform"]
        assert node.kinds


def test_jobs_schedules_and_sensors(defs):
    repository = defs.get_repository_def()
    live = {"uploads", "import_events", "image_set_events", "sweep", "index_checks", "index_upkeep", "run_retention"}
    assert live <= set(repository.job_names)
    schedules = {s.name: s.cron_schedule for s in repository.schedule_defs}
    assert schedules["every_minute_sweep"] == "* * * * *"
    assert {s.default_status for s in repository.schedule_defs} == {dg.DefaultScheduleStatus.RUNNING}
    sensors = {s.name: s.default_status for s in repository.sensor_defs}
    assert set(sensors) == {"upload_queue", "import_queue", "image_set_queue", "run_failures"}
    assert set(sensors.values()) == {dg.DefaultSensorStatus.RUNNING}


def test_steps_that_call_services_retry_with_backoff_and_jitter(defs):
    for name in ("dicom_objects", "import_jobs", "import_results", "image_sets", "index_tables"):
        policy = next(a for a in defs.assets if getattr(getattr(a, "op", None), "name", "") == name).op.retry_policy
        assert policy.max_retries >= 3
        assert policy.backoff is dg.Backoff.EXPONENTIAL
        assert policy.jitter is not None
