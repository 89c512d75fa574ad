"""One tick of a queue's sensor: drain, persist, acknowledge, request.

Belongs here: which runs a tick asks for. Does not belong here: the queue and the inbox (`ahi.inbox`).

A run key blocks its name for ever, also when the run failed, so a batch that is asked for again gets a new key once
its earlier runs are over; the time between grows, so that a batch that cannot work does not keep the machine busy.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from ahi import inbox
from ahi.clock import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.inbox import Batch, Queue
    from ahi.pipeline import Pipeline

BATCH_TAG = "ahi/batch"
LIVE_TAGS = {"ahi/live": "true", "dagster/priority": "10"}
"""Live batches go before backfills."""


@dataclass(frozen=True)
class Target:
    """The job that a queue's batches go to, and those of its steps that take the batch."""

    queue: Queue
    job_name: str
    steps: tuple[str, ...]


def tick(context: dg.SensorEvaluationContext, pipeline: Pipeline, target: Target) -> dg.SensorResult | dg.SkipReason:
    """Ask again for batches that no commit has consumed, then listen for new messages.

    When something is asked for again the tick does not listen: requests leave only when it returns.
    """
    again = [request for batch in inbox.pending(pipeline, target.queue) if (request := _again(context, batch, target))]
    batch = inbox.collect(pipeline, target.queue, listen_seconds=0 if again else pipeline.settings.listen_seconds)
    requests = again + ([_request(batch, target, attempt=0)] if batch else [])
    if not requests:
        return dg.SkipReason(f"Nothing on the queue of {target.queue} and no batch pending")
    return dg.SensorResult(run_requests=requests)


def _again(context: dg.SensorEvaluationContext, batch: Batch, target: Target) -> dg.RunRequest | None:
    """A request for a pending batch, unless a run of it is on its way or has failed only just now."""
    filters = dg.RunsFilter(tags={BATCH_TAG: batch.batch_id})
    records = context.instance.get_run_records(filters, limit=20)
    if any(not record.dagster_run.is_finished for record in records):
        return None
    if records:
        last = max(record.update_timestamp for record in records)
        if now() - last < _pause(records):
            return None
    return _request(batch, target, attempt=len(records))


def _pause(records: Sequence[dg.RunRecord]) -> dt.timedelta:
    """5 s after the first failure, doubled by each, an hour at most."""
    return dt.timedelta(seconds=min(3_600, 5 * 2 ** (len(records) - 1)))


def _request(batch: Batch, target: Target, *, attempt: int) -> dg.RunRequest:
    config = {"ops": {step: {"config": {"batch": batch.batch_id}} for step in target.steps}}
    return dg.RunRequest(
        run_key=batch.batch_id if not attempt else f"{batch.batch_id}:{attempt}",
        job_name=target.job_name,
        run_config=config,
        partition_key=batch.day,
        tags={BATCH_TAG: batch.batch_id, "ahi/messages": str(batch.n_messages), **LIVE_TAGS},
    )
