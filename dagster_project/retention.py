"""Retention of Dagster's own runs: a run writes about 0.17 MB, and nothing in Dagster ever removes it.

Belongs here: deleting old runs with the output of their steps. Ticks have their own retention in `dagster.yaml`.
"""

import datetime as dt

import dagster as dg
from dagster._core.storage.tags import SCHEDULE_NAME_TAG

from ahi.clock import now
from ahi.pipeline import Pipeline

PAGE = 200


@dg.op
def delete_old_runs(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """Delete runs that ended long ago, but keep the newest of each job and partition, good and bad.

    The newest good one holds the partition's state in the UI. Deleting a run frees its run key, which is harmless: a
    consumed batch is not asked for again. Runs of schedules are kept for less long: there are 1,800 a day, alike.
    """
    settings, at = pipeline.settings, now()
    cutoff = at - dt.timedelta(days=settings.keep_runs_days)
    clock_cutoff = at - dt.timedelta(days=settings.keep_clock_runs_days)
    deleted = delete_runs(context.instance, cutoff, clock_cutoff)
    context.log.info("Deleted %d runs that ended before %s", deleted, cutoff.isoformat(timespec="seconds"))


def delete_runs(instance: dg.DagsterInstance, cutoff: dt.datetime, clock_cutoff: dt.datetime) -> int:
    """Delete finished runs and the captured output of their steps.

    Args:
        instance: Whose runs.
        cutoff: Runs that changed last before it go.
        clock_cutoff: The same for runs that a schedule asked for.

    Returns:
        How many.
    """
    seen: set[tuple[str, str | None, bool]] = set()
    doomed, cursor = [], None
    while records := instance.get_run_records(limit=PAGE, cursor=cursor):
        cursor = records[-1].dagster_run.run_id
        for record in records:
            run = record.dagster_run
            newest = (run.job_name, run.tags.get("dagster/partition"), run.is_success)
            limit = clock_cutoff if SCHEDULE_NAME_TAG in run.tags else cutoff
            if run.is_finished and newest in seen and record.update_timestamp < limit:
                doomed.append(run.run_id)
            elif run.is_finished:
                seen.add(newest)
    for run_id in doomed:
        # Output first: of a run that is gone nothing would ever be looked for.
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.delete_run(run_id)
    return len(doomed)


@dg.job(description="Deletes old runs from Dagster's storage.")
def run_retention() -> None:
    """One op."""
    delete_old_runs()
