"""Retention of Dagster's own runs: a run writes about 0.17 MB, and nothing in Dagster ever removes it.

Belongs here: deleting old runs. Ticks have their own retention in `dagster.yaml`.
"""

import datetime as dt

import dagster as dg

from ahi.clock import now
from ahi.pipeline import Pipeline

PAGE = 200


@dg.op
def delete_old_runs(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """Delete runs that ended before the cutoff, but keep the newest of each job and partition.

    That newest one holds the partition's state in the UI. Deleting a run frees its run key, which is harmless: a
    consumed batch is not asked for again.
    """
    cutoff = now() - dt.timedelta(days=pipeline.settings.keep_runs_days)
    deleted = delete_runs(context.instance, cutoff)
    context.log.info("Deleted %d runs that ended before %s", deleted, cutoff.isoformat(timespec="seconds"))


def delete_runs(instance: dg.DagsterInstance, cutoff: dt.datetime) -> int:
    """Delete finished runs last changed before a moment. Returns how many."""
    seen: set[tuple[str, str | None]] = set()
    doomed, cursor = [], None
    while records := instance.get_run_records(limit=PAGE, cursor=cursor):
        cursor = records[-1].dagster_run.run_id
        for record in records:
            run = record.dagster_run
            newest = (run.job_name, run.tags.get("dagster/partition"))
            if run.is_finished and newest in seen and record.update_timestamp < cutoff:
                doomed.append(run.run_id)
            if run.is_success:
                seen.add(newest)
    for run_id in doomed:
        instance.delete_run(run_id)
    return len(doomed)


@dg.job(description="Deletes old runs from Dagster's storage.")
def run_retention() -> None:
    """One op."""
    delete_old_runs()
