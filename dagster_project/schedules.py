"""Schedules: what runs by the clock. Belongs here: when. Does not belong here: what (`jobs`)."""

import dagster as dg

from ahi.archive.progress import continuous_archives
from ahi.clock import day_of
from ahi.pipeline import Pipeline
from dagster_project.jobs import (
    archive_planning,
    fhir_from_index,
    index_checks,
    index_copies,
    index_tiers,
    index_upkeep,
    sweep,
)
from dagster_project.retention import run_retention

RUNNING = dg.DefaultScheduleStatus.RUNNING


@dg.schedule(cron_schedule="* * * * *", job=sweep, default_status=RUNNING, execution_timezone="UTC")
def every_minute_sweep(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Sweeps each minute, unless one is still under way."""
    unfinished = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    if context.instance.get_runs(dg.RunsFilter(job_name=sweep.name, statuses=unfinished), limit=1):
        return dg.SkipReason("A sweep is under way")
    config = {"ops": {"import_results": {"config": {"pending_only": True}}}}
    return dg.RunRequest(partition_key=day_of(context.scheduled_execution_time), run_config=config)


@dg.schedule(cron_schedule="*/5 * * * *", job=fhir_from_index, default_status=RUNNING, execution_timezone="UTC")
def every_5_minutes_fhir(pipeline: dg.ResourceParam[Pipeline]) -> dg.RunRequest | dg.SkipReason:
    """Plans FHIR of what changed in the index, where there is a HealthLake to send it to."""
    if not pipeline.settings.fhir_datastore_id:
        return dg.SkipReason("No HealthLake data store: AHI_FHIR_DATASTORE_ID is not set")
    return dg.RunRequest()


@dg.schedule(cron_schedule="17 * * * *", job=archive_planning, default_status=RUNNING, execution_timezone="UTC")
def archives_hourly(pipeline: dg.ResourceParam[Pipeline]) -> list[dg.RunRequest]:
    """Looks at continuous archives and plans what was added; the sensor `archive_shards` imports those shards."""
    return [
        dg.RunRequest(
            run_config={"ops": {step: {"config": {"archive": name}} for step in ("archive_inventory", "archive_plan")}},
            tags={"ahi/archive": name},
        )
        for name in continuous_archives(pipeline.index)
    ]


@dg.schedule(cron_schedule="30 2 * * *", job=index_copies, default_status=RUNNING, execution_timezone="UTC")
def copies_daily(pipeline: dg.ResourceParam[Pipeline]) -> dg.RunRequest | dg.SkipReason:
    """Copies the index for analysts, where there is a place for it."""
    if not pipeline.settings.copies_to:
        return dg.SkipReason("No place for copies: AHI_COPIES_TO is not set")
    return dg.RunRequest()


ALL_SCHEDULES = [
    copies_daily,
    archives_hourly,
    every_5_minutes_fhir,
    every_minute_sweep,
    dg.ScheduleDefinition(
        name="checks_every_5_minutes", job=index_checks, cron_schedule="*/5 * * * *", default_status=RUNNING
    ),
    dg.ScheduleDefinition(
        name="upkeep_every_15_minutes", job=index_upkeep, cron_schedule="7-59/15 * * * *", default_status=RUNNING
    ),
    dg.ScheduleDefinition(
        name="tiers_every_10_minutes", job=index_tiers, cron_schedule="3-59/10 * * * *", default_status=RUNNING
    ),
    dg.ScheduleDefinition(
        name="retention_hourly", job=run_retention, cron_schedule="40 * * * *", default_status=RUNNING
    ),
]
