"""One tick of a queue's sensor: drain, persist, acknowledge, request.

Belongs here: which runs a tick asks for. Does not belong here: the queue and the inbox (`ahi.inbox`).

A run key blocks its name for ever, also when the run failed, so a batch that is asked for again gets a new key once
its earlier runs are over; the time between grows, so that a batch that cannot work does not keep the machine busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from ahi import inbox
from ahi.archive.events import left_to_follower
from ahi.aws import without_contents

if TYPE_CHECKING:
    from ahi.inbox import Batch, Queue
    from ahi.pipeline import Pipeline

BATCH_TAG = "ahi/batch"
PRIORITY = 10
LIVE = {"ahi/live": "true"}
LIVE_TAGS = {**LIVE, "dagster/priority": str(PRIORITY)}
"""Live batches go before backfills."""

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Target:
    """The job that a queue's batches go to, and those of its steps that take the batch."""

    queue: Queue
    job_name: str
    steps: tuple[str, ...]
    is_partitioned: bool = True
    """Whether its assets have arrival days as partitions."""
    is_followed: bool = False
    """Whether a run of archives sees to those of its messages that no upload waits for."""
    priority: int = PRIORITY


def tick(context: dg.SensorEvaluationContext, pipeline: Pipeline, target: Target) -> dg.SensorResult | dg.SkipReason:
    """Ask again for batches that no commit has consumed, then listen for new messages.

    When something is asked for again the tick does not listen: requests leave only when it returns. While a run of the
    job waits for a slot it leaves messages where they are: the more there is to do, the more one run does, and a burst
    does not become a queue of small runs.
    """
    again = _again(context, pipeline, target)
    # By the tag: backfills of the same job may wait for days.
    waiting = dg.RunsFilter(job_name=target.job_name, tags=LIVE, statuses=[dg.DagsterRunStatus.QUEUED])
    if not again and context.instance.get_runs(waiting, limit=1):
        return dg.SkipReason(f"A run of {target.job_name} waits for a slot; messages wait for it on the queue")
    new: list[Batch] = []
    try:
        batch = inbox.collect(
            pipeline,
            target.queue,
            listen_seconds=0 if again else pipeline.settings.listen_seconds,
            may_wait=partial(left_to_follower, pipeline) if target.is_followed else None,
            wait_seconds=pipeline.settings.archive_lease_seconds,
        )
        new = [batch] if batch else []
    except (BotoCoreError, ClientError) as error:
        # The queue may be out of reach while what was taken from it before still waits.
        if not again:
            raise without_contents(error) from None
        context.log.error("The queue of %s could not be drained: %s", target.queue, without_contents(error))  # noqa: TRY400
    wanted = again + new
    if not wanted:
        return dg.SkipReason(f"Nothing on the queue of {target.queue} to ask a run for, and no batch due")
    inbox.requested(pipeline, wanted)
    return dg.SensorResult(run_requests=[_request(batch, target) for batch in wanted])


def _again(context: dg.SensorEvaluationContext, pipeline: Pipeline, target: Target) -> list[Batch]:
    """Pending batches that are due and of which no run is on its way."""
    due = inbox.due(pipeline, target.queue)
    under_way = [batch for batch in due if _is_under_way(context, batch)]
    if under_way:
        inbox.requested(pipeline, under_way, counted=False)
    return [batch for batch in due if batch not in under_way]


def _is_under_way(context: dg.SensorEvaluationContext, batch: Batch) -> bool:
    filters = dg.RunsFilter(tags={BATCH_TAG: batch.batch_id}, statuses=UNFINISHED)
    return bool(context.instance.get_runs(filters, limit=1))


def _request(batch: Batch, target: Target) -> dg.RunRequest:
    config = {"ops": {step: {"config": {"batch": batch.batch_id}} for step in target.steps}}
    return dg.RunRequest(
        run_key=batch.batch_id if not batch.requests else f"{batch.batch_id}:{batch.requests}",
        job_name=target.job_name,
        run_config=config,
        partition_key=batch.day if target.is_partitioned else None,
        tags={
            BATCH_TAG: batch.batch_id,
            "ahi/messages": str(batch.n_messages),
            **LIVE_TAGS,
            "dagster/priority": str(target.priority),
        },
    )
