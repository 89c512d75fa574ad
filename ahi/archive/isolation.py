"""Poison: which object of a shard it is that makes whole import jobs fail.

Belongs here: when the objects of a failed job are tried again together, when apart, and when one is given up. Does not
belong here: files that HealthImaging refuses by name in a job's results, which is no trouble to anyone else
(`ahi.results`).

A job that fails says nothing of its files, and an innocent one must not be set down for its neighbour. So what shared
a failed job is tried together once more, then in ten parts, of which only the failing are parted again, until a job of
one object fails: that object is the culprit. 5,000 objects take four such rounds and 37 starts. All of that only while
other jobs complete: if none does, it is not an object's doing. The last culprits of a shard fail when there is no other
job left: then it counts that their neighbours went in after they had failed with them, and they have more attempts.
"""

from __future__ import annotations

import datetime as dt
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from more_itertools import divide

from ahi import chain
from ahi.clock import now
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index.catalog import JobState, ObjectState
from ahi.quarantine import Item, enter
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ahi.index.store import Commit

T = TypeVar("T")

PARTS = 10
TOGETHER = 2
"""Jobs that fail with all objects of a group in them before they are parted: once may be the service's doing."""

MORE_ATTEMPTS = 2
"""Jobs more that an object fails by itself where none completed since: their waits may outlast an outage."""

COMPLETED = "COMPLETED"

RETRY = "retry"
"""Kind of the commits that take failed objects back."""

SOURCE = "archives"
"""What culprits come from, as quarantine says it."""

LONGEST_WAIT = dt.timedelta(days=1)
"""A job that was planned that long before another is not looked for: it would take a look at every job there ever was.
"""


class ShardStalledError(Exception):
    """A shard cannot go on, and no single object of it is at fault: the text says what a person has to do."""


class Verdict(Enum):
    """What to do with a group of objects whose job failed as a whole."""

    TOGETHER = auto()
    PARTED = auto()
    GIVEN_UP = auto()
    """It is one object, and the culprit."""
    STALLED = auto()


def verdict(size: int, attempts: int, *, most_attempts: int, others_complete: bool) -> Verdict:
    """Judge a group.

    Args:
        size: Objects in it.
        attempts: Jobs that each of them was in.
        most_attempts: Jobs that fail before an object by itself is given up.
        others_complete: Whether the service as such works, as far as other jobs show.
    """
    if attempts < TOGETHER or (size == 1 and attempts < most_attempts):
        return Verdict.TOGETHER
    if not others_complete and (attempts > TOGETHER or size == 1):
        return Verdict.STALLED
    return Verdict.GIVEN_UP if size == 1 else Verdict.PARTED


def parted(group: Sequence[T]) -> list[list[T]]:
    """A group in parts, in order."""
    return [list(part) for part in divide(min(PARTS, len(group)), group)]


def evidence(
    connection: sa.Connection, failed_job: str, object_ids: Iterable[str], *, most_attempts: int
) -> tuple[bool, int]:
    """Whether a failed job is the doing of an object in it, for all that other jobs show, and how many it may take.

    Args:
        connection: To the catalog.
        failed_job: The job.
        object_ids: Those of its objects that are still to be imported.
        most_attempts: Jobs that fail before an object by itself is given up, where others complete beside it.
    """
    ids = set(object_ids)
    # That culprits fail again, whom a person lets be tried once more, blames nobody anew.
    if others_complete(connection, failed_job) or (ids and found_before(connection, ids) == ids):
        return True, most_attempts
    if neighbours_went_in(connection, failed_job):
        return True, most_attempts + MORE_ATTEMPTS
    return False, most_attempts


def others_complete(connection: sa.Connection, failed_job: str) -> bool:
    """Whether a job completed that ended since one that failed was planned: the service as such works."""
    table = catalog.jobs
    planned = sa.select(table.c.planned_at).where(table.c.job_key == failed_job)
    since: dt.datetime = connection.execute(planned).scalar_one()
    # Parts of a group are planned one after the other, and any of them may be the one that fails.
    ended = sa.or_(table.c.ended_at >= since, table.c.planned_at >= since)
    good = sa.select(table.c.job_key).where(
        table.c.service == SERVICE, table.c.state == JobState.SETTLED, table.c.status == COMPLETED, ended
    )
    lately = good.where(table.c.planned_at >= since - LONGEST_WAIT).order_by(table.c.planned_at.desc())
    return connection.execute(lately.limit(1)).first() is not None


def neighbours_went_in(connection: sa.Connection, failed_job: str) -> bool:
    """Whether some of a failed job's shard went in after a job of the shard had failed, since a person took it back.

    That some of it is bad is sure then, and when the last of it fails no job may be left that could show it.
    """
    table, commits = catalog.jobs, catalog.commits
    query = sa.select(table.c.shard_key).where(table.c.job_key == failed_job)
    shard_key: str = connection.execute(query).scalar_one()
    retries = sa.and_(commits.c.kind == RETRY, commits.c.batch_id.startswith(retry_batch(shard_key), autoescape=True))
    retried = connection.execute(sa.select(sa.func.max(commits.c.committed_at)).where(retries)).scalar_one()
    mine = sa.and_(table.c.shard_key == shard_key, table.c.state == JobState.SETTLED)
    if retried:
        mine = sa.and_(mine, table.c.planned_at > retried)
    bad = sa.select(sa.func.min(table.c.settled_at)).where(mine, table.c.status.not_in((COMPLETED, chain.WITHDRAWN)))
    good = sa.select(table.c.job_key).where(mine, table.c.status == COMPLETED)
    after = good.where(table.c.planned_at >= bad.scalar_subquery())
    return connection.execute(after.limit(1)).first() is not None


def retry_batch(shard_key: str) -> str:
    """How the names of commits begin that take objects of a shard back."""
    return f"{RETRY}:{shard_key}:"


def found_before(connection: sa.Connection, object_ids: Iterable[str]) -> set[str]:
    """Those of some objects that were culprits once, and that a person lets be tried again."""
    table, wanted = catalog.quarantine, set(object_ids)
    query = sa.select(table.c.evidence).where(table.c.source == SOURCE, table.c.reason_code == Reason.JOB_FAILED)
    return {found for (place,) in connection.execute(query) if (found := place.rpartition("#")[2]) in wanted}


def give_up(commit: Commit, object_id: str, failed_job: str, attempts: int) -> None:
    """Set a culprit down as failed, with what says so in quarantine."""
    jobs, objects = catalog.jobs, catalog.objects
    columns = (jobs.c.message, jobs.c.output_folder, jobs.c.job_id)
    job = commit.connection.execute(sa.select(*columns).where(jobs.c.job_key == failed_job)).one()
    said = job.message or "it does not say why"
    text = f"{attempts} import jobs with it failed, the last with nothing else in it: {said}"
    values = {"state": ObjectState.FAILED, "state_since": now(), "settled_at": now(), "not_before": None}
    change = objects.update().where(objects.c.object_id == object_id)
    commit.connection.execute(
        change.values(reason_code=Reason.JOB_FAILED, reason_text=said, changed_seq=commit.seq, **values)
    )
    where = job.output_folder or f"import job {job.job_id or failed_job}"
    enter(commit.connection, [Item(SOURCE, Reason.JOB_FAILED, text, f"{where}#{object_id}")], None)
