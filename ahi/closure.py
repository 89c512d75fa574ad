"""Closure: the counts add up, and what does not is named.

Belongs here: the questions that prove nothing is lost. Does not belong here: mending it (`ahi.sweep`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.clock import now
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.index.catalog import IN_FLIGHT, JobState, ObjectState
from ahi.index.engine import snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

MUST_SAY_WHY = (ObjectState.FAILED, ObjectState.SET_ASIDE)


@dataclass(frozen=True)
class Closure:
    """Where every object is. `landed` is what the ledger holds."""

    states: dict[str, int]
    landed: int
    imported: int
    failed: int
    set_aside: int
    in_flight: int
    unexplained: int
    """Failed or set aside without a reason; must be zero."""
    not_indexed: int
    """Imported, neither deleted since nor unreadable, and not in the index yet."""
    unreadable: int
    """Imported, but HealthImaging's document of their image set is not understood and lies in quarantine."""
    pending_batches: int
    unsettled_jobs: int

    @property
    def closes(self) -> bool:
        """Whether every object is in a state that counts, and each that did not go in says why."""
        total = self.imported + self.failed + self.set_aside + self.in_flight
        return total == self.landed and not self.unexplained

    @property
    def at_rest(self) -> bool:
        """Whether nothing is on its way any more."""
        return not (self.in_flight or self.not_indexed or self.pending_batches or self.unsettled_jobs)


@dataclass(frozen=True)
class Overdue:
    """One object that should have moved on: ids that name no patient."""

    object_id: str
    state: str
    sop_instance_uid: str | None
    since: dt.datetime


def closure(engine: sa.Engine) -> Closure:
    """Count the ledger by state, and what is still open around it, all as of one moment."""
    table = catalog.objects
    with snapshot(engine) as connection:

        def count(*where: sa.ColumnElement[bool]) -> int:
            return connection.execute(sa.select(sa.func.count()).where(*where)).scalar_one()

        counted = connection.execute(sa.select(table.c.state, sa.func.count()).group_by(table.c.state)).all()
        states = {str(state): int(number) for state, number in counted}
        waiting, unreadable = connection.execute(_waiting()).one()
        return Closure(
            states=states,
            landed=sum(states.values()),
            imported=states.get(ObjectState.IMPORTED, 0),
            failed=states.get(ObjectState.FAILED, 0),
            set_aside=states.get(ObjectState.SET_ASIDE, 0),
            in_flight=sum(states.get(state, 0) for state in IN_FLIGHT),
            unexplained=count(table.c.state.in_(MUST_SAY_WHY), table.c.reason_code.is_(None)),
            not_indexed=waiting,
            unreadable=unreadable,
            pending_batches=count(catalog.batches.c.queue.in_(Queue), catalog.batches.c.consumed_at.is_(None)),
            unsettled_jobs=count(catalog.jobs.c.state != JobState.SETTLED),
        )


def overdue(engine: sa.Engine, *, after_seconds: float, limit: int = 1_000) -> list[Overdue]:
    """Objects that have been on their way, or imported and not indexed, for too long; oldest first."""
    table, cutoff = catalog.objects, now() - dt.timedelta(seconds=after_seconds)
    columns = (table.c.object_id, table.c.state, table.c.SOPInstanceUID, table.c.state_since)
    oldest = sa.select(*columns).where(table.c.state_since <= cutoff).order_by(table.c.state_since).limit(limit)
    verdict = explained_image_sets()
    # What is ready in a shard waits for a person as much as for us: its archive is paused, or its run was cancelled.
    waits_for_launch = sa.and_(table.c.state == ObjectState.READY, table.c.shard_key.is_not(None))
    stuck = oldest.where(table.c.state.in_(IN_FLIGHT), sa.not_(waits_for_launch))
    unseen = oldest.where(not_indexed(), sa.not_(is_explained(verdict)))
    unseen = unseen.select_from(table.outerjoin(verdict, verdict.c.image_set_id == table.c.image_set_id))
    with snapshot(engine) as connection:
        found = [Overdue(*row) for query in (stuck, unseen) for row in connection.execute(query)]
    return sorted(found, key=lambda item: item.since)[:limit]


def overdue_batches(engine: sa.Engine, *, after_seconds: float, limit: int = 1_000) -> list[str]:
    """Ids of inbox batches that no run got through for too long, oldest first: what they announce is not counted."""
    table, cutoff = catalog.batches, now() - dt.timedelta(seconds=after_seconds)
    old = sa.and_(table.c.queue.in_(Queue), table.c.consumed_at.is_(None), table.c.received_at <= cutoff)
    with engine.connect() as connection:
        query = sa.select(table.c.batch_id).where(old).order_by(table.c.received_at).limit(limit)
        return list(connection.execute(query).scalars())


def _waiting() -> sa.Select[Any]:
    """How many imported objects the index will show yet, and how many it cannot."""
    table, verdict = catalog.objects, explained_image_sets()
    waits = sa.func.coalesce(sa.func.sum(sa.case((is_explained(verdict), 0), else_=1)), 0)
    cannot = sa.and_(sa.func.coalesce(verdict.c.gone, 0) == 0, is_unreadable(verdict))
    unreadable = sa.func.coalesce(sa.func.sum(sa.case((cannot, 1), else_=0)), 0)
    joined = table.outerjoin(verdict, verdict.c.image_set_id == table.c.image_set_id)
    return sa.select(waits, unreadable).select_from(joined).where(not_indexed())


def not_indexed() -> sa.ColumnElement[bool]:
    """Whether an object is imported and not in the index."""
    return sa.and_(catalog.objects.c.state == ObjectState.IMPORTED, catalog.objects.c.indexed_seq.is_(None))


def explained_image_sets() -> sa.Subquery:
    """Image sets from which the index awaits nothing: deleted, or the document of their version is in quarantine."""
    table = catalog.sightings
    unreadable = table.c.unreadable_version == table.c.version
    return (
        sa.select(
            table.c.image_set_id,
            sa.func.max(sa.case((table.c.gone, 1), else_=0)).label("gone"),
            sa.func.max(sa.case((unreadable, table.c.version))).label("unreadable_version"),
        )
        .where(sa.or_(table.c.gone, unreadable))
        .group_by(table.c.image_set_id)
        .subquery("explained")
    )


def is_explained(verdict: sa.Subquery) -> sa.ColumnElement[bool]:
    """Whether an object, left-joined to `explained_image_sets`, need not come into the index."""
    return sa.or_(sa.func.coalesce(verdict.c.gone, 0) == 1, is_unreadable(verdict))


def is_unreadable(verdict: sa.Subquery) -> sa.ColumnElement[bool]:
    """Whether an object, left-joined to `explained_image_sets`, is in a version whose document is in quarantine."""
    version = sa.func.coalesce(catalog.objects.c.image_set_version, 0)
    return sa.func.coalesce(verdict.c.unreadable_version, -1) >= version


def rows_of_day(engine: sa.Engine, table: sa.Table, days: Sequence[str]) -> int:
    """Rows of a table of the catalog that belong to arrival days."""
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).where(table.c.day.in_(days))).scalar_one()


def rows_shown(engine: sa.Engine) -> dict[str, int]:
    """Rows that the index shows now, by table, from the heads of its image sets."""
    heads = catalog.heads
    patient = sa.func.coalesce(heads.c.patient_key, heads.c.StudyInstanceUID)
    columns = (
        sa.func.count(sa.case((heads.c.is_primary, patient)).distinct()),
        sa.func.count(sa.case((heads.c.is_primary, heads.c.StudyInstanceUID)).distinct()),
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(heads.c.n_instances), 0),
    )
    with engine.connect() as connection:
        numbers = connection.execute(sa.select(*columns).where(heads.c.deleted_at.is_(None))).one()
    return dict(zip(("patients", "studies", "series", "instances"), numbers, strict=True))


def live_files(engine: sa.Engine) -> int:
    """Parquet files that make up the index now."""
    files = catalog.files
    with engine.connect() as connection:
        return connection.execute(
            sa.select(sa.func.count()).select_from(files).where(files.c.retired_seq.is_(None))
        ).scalar_one()
