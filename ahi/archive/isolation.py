"""Poison: which object of a shard it is that makes whole import jobs fail.

Belongs here: when the objects of a failed job are tried again together, when apart, and when one is given up. Does not
belong here: files that HealthImaging refuses by name in a job's results, which is no trouble to anyone else
(`ahi.results`).

A job that fails says nothing of its files, and an innocent one must not be set down for its neighbour. So what shared
a failed job is tried together once more, then in ten parts, of which only the failing are parted again, until a job of
one object fails: that object is the culprit. 5,000 objects take four such rounds and 37 starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import divide

from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.quarantine import Item
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.chain import Job
    from ahi.imports import Ready

PARTS = 10
TOGETHER = 2
"""Jobs that fail with all objects of a group in them before they are parted: once may be the service's doing."""

COMPLETED = "COMPLETED"


class ShardStalledError(Exception):
    """Every job of a shard fails, whatever is in it, and nobody else's completes: it is not an object's doing."""


def is_isolated(job: Job) -> bool:
    """Whether the failure of a job says which object did it."""
    return job.shard_key is None or job.n_objects == 1


def parts(connection: sa.Connection, group: Sequence[Ready]) -> list[list[Ready]]:
    """How objects that shared a failed job go into the next: together, or in parts.

    Raises:
        ShardStalledError: They are parted already, and since then no job of this data store has completed. To part
            them on would end with every one of them set down as a culprit.
    """
    attempts = min(item.attempts for item in group)
    if attempts < TOGETHER or len(group) == 1:
        return [list(group)]
    if attempts > TOGETHER and not _any_completed(connection, group[0].job_key):
        raise ShardStalledError(
            "All its import jobs fail and no other completes: look at their messages in `import_jobs` (role, key, "
            "quota), mend that, then launch the partition again"
        )
    return [list(part) for part in divide(min(PARTS, len(group)), group)]


def _any_completed(connection: sa.Connection, failed_job: str | None) -> bool:
    """Whether a job completed that was planned with, or after, one that failed: the service as such works."""
    table = catalog.jobs
    since = sa.select(table.c.planned_at).where(table.c.job_key == failed_job).scalar_subquery()
    good = sa.select(table.c.job_key).where(
        table.c.service == SERVICE, table.c.status == COMPLETED, table.c.planned_at >= since
    )
    return connection.execute(good.limit(1)).first() is not None


def evidence(job: Job, object_id: str, attempts: int) -> Item:
    """The culprit's entry in quarantine: what said so, and where that lies."""
    said = job.message or "it does not say why"
    text = f"{attempts} import jobs with it failed, the last with nothing else in it: {said}"
    where = job.output_folder or f"import job {job.job_id or job.job_key}"
    return Item("archives", Reason.JOB_FAILED, text, f"{where}#{object_id}")
