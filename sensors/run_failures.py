"""Alerts. Belongs here: telling a person that a run failed. Does not belong here: retrying it."""

import dagster as dg


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=10)
def run_failures(context: dg.RunFailureSensorContext) -> None:
    """Logs one line for each failed run, by ids alone: an error's text may quote what it met."""
    run = context.dagster_run
    step = context.get_step_failure_events()
    steps = ", ".join(event.step_key or "?" for event in step) or "no step (the worker was lost)"
    context.log.error("Run %s of %s failed in %s; its batch is asked for again", run.run_id, run.job_name, steps)
