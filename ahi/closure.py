"""Closure: the counts add up, and what does not is named.

Belongs here: the questions that prove nothing is lost. Does not belong here: mending it (`ahi.sweep`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog
from ahi.index.catalog import IN_FLIGHT, JobState, ObjectState

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    """Imported, not deleted since, and not in the index yet."""
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
    """Count the ledger by state, and what is still open around it."""
    table = catalog.objects
    with engine.connect() as connection:
        counted = connection.execute(sa.select(table.c.state, sa.func.count()).group_by(table.c.state)).all()
        states = {str(state): int(count) for state, count in counted}
        landed = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        silent = table.c.state.in_((ObjectState.FAILED, ObjectState.SET_ASIDE)) & table.c.reason_code.is_(None)
        unexplained = connection.execute(sa.select(sa.func.count()).where(silent)).scalar_one()
        not_indexed = connection.execute(sa.select(sa.func.count()).where(_not_indexed())).scalar_one()
        pending = sa.select(sa.func.count()).where(catalog.batches.c.consumed_at.is_(None))
        unsettled = sa.select(sa.func.count()).where(catalog.jobs.c.state != JobState.SETTLED)
        return Closure(
            states=states,
            landed=landed,
            imported=states.get(ObjectState.IMPORTED, 0),
            failed=states.get(ObjectState.FAILED, 0),
            set_aside=states.get(ObjectState.SET_ASIDE, 0),
            in_flight=sum(states.get(state, 0) for state in IN_FLIGHT),
            unexplained=unexplained,
            not_indexed=not_indexed,
            pending_batches=connection.execute(pending).scalar_one(),
            unsettled_jobs=connection.execute(unsettled).scalar_one(),
        )


def overdue(engine: sa.Engine, *, after_seconds: float, limit: int = 1_000) -> list[Overdue]:
    """Objects that have been on their way, or imported and not indexed, for too long; oldest first."""
    table, cutoff = catalog.objects, now() - dt.timedelta(seconds=after_seconds)
    stuck = sa.and_(table.c.state.in_(IN_FLIGHT), table.c.state_since <= cutoff)
    unseen = sa.and_(_not_indexed(), table.c.state_since <= cutoff)
    columns = (table.c.object_id, table.c.state, table.c.SOPInstanceUID, table.c.state_since)
    query = sa.select(*columns).where(sa.or_(stuck, unseen)).order_by(table.c.state_since).limit(limit)
    with engine.connect() as connection:
        return [Overdue(*row) for row in connection.execute(query)]


def _not_indexed() -> sa.ColumnElement[bool]:
    objects, sightings = catalog.objects, catalog.sightings
    gone = sa.select(sightings.c.image_set_id).where(sightings.c.gone)
    return sa.and_(
        objects.c.state == ObjectState.IMPORTED,
        objects.c.indexed_seq.is_(None),
        sa.or_(objects.c.image_set_id.is_(None), objects.c.image_set_id.not_in(gone)),
    )


def rows_of_day(engine: sa.Engine, table: sa.Table, days: Sequence[str]) -> int:
    """Rows of a table of the catalog that belong to arrival days."""
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).where(table.c.day.in_(days))).scalar_one()


def rows_shown(engine: sa.Engine) -> dict[str, int]:
    """Rows that the index shows now, by table, from the heads of its image sets."""
    heads = catalog.heads
    primary = sa.case((heads.c.is_primary, heads.c.StudyInstanceUID))
    columns = (
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(heads.c.n_instances), 0),
        sa.func.count(primary.distinct()),
    )
    with engine.connect() as connection:
        series, instances, studies = connection.execute(sa.select(*columns).where(heads.c.deleted_at.is_(None))).one()
    return {"series": series, "instances": instances, "studies": studies}
