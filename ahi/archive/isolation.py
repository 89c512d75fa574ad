"""Poison: which object of a shard it is that makes whole import jobs fail.

Belongs here: when the objects of a failed job are tried again together, when apart, and when one is given up. Does not
belong here: files that HealthImaging refuses by name in a job's results, which is no trouble to anyone else
(`ahi.results`).

A job that fails says nothing of its files, and an innocent one must not be set down for its neighbour. So what shared
a failed job is tried together once more, then in ten parts, of which only the failing are parted again, until a job of
one object fails: that object is the culprit. 5,000 objects take four such rounds and 37 starts. All of that only while
other jobs complete: if none does, it is not an object's doing.
"""

from __future__ import annotations

import datetime as dt
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from more_itertools import divide

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

COMPLETED = "COMPLETED"

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


def others_complete(connection: sa.Connection, failed_job: str) -> bool:
    """Whether the service completed a job that it took since one that failed was planned: it works as such.

    For a job of one object it counts since the object was first tried alone, which its neighbours were at the same
    time: when the last culprit fails again, no other job may be left that could show it.
    """
    table = catalog.jobs
    began = sa.select(sa.func.coalesce(table.c.alone_since, table.c.planned_at)).where(table.c.job_key == failed_job)
    since: dt.datetime = connection.execute(began).scalar_one()
    # One that was at work already when it became impossible to begin another shows nothing.
    good = sa.select(table.c.job_key).where(
        table.c.service == SERVICE,
        table.c.state == JobState.SETTLED,
        table.c.status == COMPLETED,
        table.c.submitted_at >= since,
        table.c.planned_at >= since - LONGEST_WAIT,
    )
    return connection.execute(good.order_by(table.c.planned_at.desc()).limit(1)).first() is not None


def alone_since(connection: sa.Connection, job_key: str) -> dt.datetime | None:
    """When the one object of a job was first tried by itself; None: the job has several."""
    table = catalog.jobs
    found: dt.datetime | None
    found = connection.execute(sa.select(table.c.alone_since).where(table.c.job_key == job_key)).scalar_one()
    return found


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
