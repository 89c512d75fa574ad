"""Resources that did not go in, as a table: why, how many, and what was sent in their place.

Belongs here: rows, groups, diagnostics without values. Does not belong here: the lines themselves
(`ahi.healthlake.resubmission`), deciding that a line failed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi.clock import now
from ahi.healthlake.diagnostics import LONGEST
from ahi.index.catalog_fhir import fhir_batches, fhir_failures, fhir_warnings
from ahi.index.engine import insert_missing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class Stage(StrEnum):
    """Who refused a line."""

    VALIDATION = "validation"
    """We, before it was sent."""
    IMPORT = "import"
    """HealthLake: the line has to be corrected."""
    SERVER = "server"
    """HealthLake failed on it: the same line may go in another time."""


@dataclass(frozen=True)
class Failure:
    """One line that did not go in."""

    stage: Stage
    resource_type: str
    resource_id: str | None
    diagnostic: str
    part: int | None
    line: int | None
    """From 1: of the part as it was received, or as it was sent if HealthLake refused it."""


@dataclass(frozen=True)
class Group:
    """Failures of one type for one reason."""

    stage: str
    resource_type: str
    diagnostic: str
    n_lines: int
    n_batches: int
    first_batch: str
    n_resubmitted: int
    n_resolved: int


_INDEX = re.compile(r"\[\d+\]")


def diagnostic(findings: Sequence[tuple[str, str, str]]) -> str:
    """Why a line was refused, in words that are the same for all lines with the same faults."""
    texts = dict.fromkeys(
        f"{code}: {_INDEX.sub('[]', path)} {text}".replace(":  ", ": ") for code, path, text in findings
    )
    return "; ".join(texts)[:LONGEST]


def enter(
    connection: sa.Connection,
    batch_id: str,
    failures: Iterable[Failure],
    *,
    limit: int,
    more: Mapping[tuple[str, str, str], int] | None = None,
) -> None:
    """Enter failures: a row for each up to a limit, then one for each group. Again is harmless.

    Args:
        connection: In a transaction.
        batch_id: Their batch.
        failures: Lines.
        limit: Rows for single lines.
        more: Lines beyond those, by stage, type and diagnostic.
    """
    rows, rest, moment = [], Counter(more or {}), now()
    for number, one in enumerate(failures):
        if number < limit:
            rows.append({**vars(one), "n_lines": 1})
        else:
            rest[one.stage, one.resource_type, one.diagnostic] += 1
    for (stage, kind, text), number in rest.items():
        group = {"stage": stage, "resource_type": kind, "resource_id": None, "diagnostic": text}
        rows.append({**group, "part": None, "line": None, "n_lines": number})
    for row in rows:
        what = [batch_id, row["stage"], row["part"], row["line"], ""]
        if row["line"] is None:
            what[4:] = [row["diagnostic"], row["resource_type"], row["resource_id"]]
        row["failure_id"] = hashlib.sha256("\0".join(map(str, what)).encode()).hexdigest()[:32]
        row |= {"batch_id": batch_id, "first_seen": moment}
    for some in chunked(rows, 1_000):
        insert_missing(connection, fhir_failures, some)
    # A batch that goes in again may fail on the same lines.
    table = fhir_failures
    for some in chunked(rows, 300):
        again = sa.and_(table.c.failure_id.in_([row["failure_id"] for row in some]), table.c.resubmitted_in.is_(None))
        connection.execute(table.update().where(again, table.c.resolved_at.is_not(None)).values(resolved_at=None))
    for row in rows:
        if row["line"] is None:
            mine = table.c.failure_id == row["failure_id"]
            connection.execute(table.update().where(mine).values(n_lines=row["n_lines"]))


def sent_again(connection: sa.Connection, batch_id: str) -> None:
    """All lines of a batch went in again: those that fail once more are entered after this."""
    table = fhir_failures
    mine = sa.and_(table.c.batch_id == batch_id, table.c.stage != Stage.VALIDATION)
    open_ = sa.and_(table.c.resolved_at.is_(None), table.c.resubmitted_in.is_(None))
    connection.execute(table.update().where(mine, open_).values(resolved_at=now()))


def dismiss(connection: sa.Connection, batch_id: str) -> int:
    """A person lets the open failures of a batch be. Returns how many lines that are."""
    table = fhir_failures
    open_ = sa.and_(table.c.batch_id == batch_id, table.c.resolved_at.is_(None), table.c.resubmitted_in.is_(None))
    number = open_lines(connection, batch_id, *Stage)
    connection.execute(table.update().where(open_).values(resolved_at=now()))
    return number


def carried(
    connection: sa.Connection, import_id: str, references: Collection[str], batch_id: str, before: Collection[str]
) -> None:
    """A batch of the index carries resources that had failed: their failures are linked to it.

    Args:
        connection: In a transaction.
        import_id: Chain of the index.
        references: What the batch carries.
        batch_id: The batch.
        before: Batches that carried these resources before; failures of theirs that name no resource are linked, too.
    """
    table, batch = fhir_failures, fhir_batches
    query = sa.select(table.c.failure_id, table.c.resource_type, table.c.resource_id, table.c.batch_id, table.c.stage)
    query = query.join(batch, batch.c.batch_id == table.c.batch_id).where(batch.c.import_id == import_id)
    query = query.where(table.c.resolved_at.is_(None), table.c.resubmitted_in.is_(None))
    found = [
        row.failure_id
        for row in connection.execute(query)
        if f"{row.resource_type}/{row.resource_id}" in references
        or (row.resource_id is None and row.stage != Stage.VALIDATION and row.batch_id in before)
    ]
    for some in chunked(found, 300):
        connection.execute(table.update().where(table.c.failure_id.in_(some)).values(resubmitted_in=batch_id))


def open_lines(connection: sa.Connection, batch_id: str, *stages: Stage) -> int:
    """Lines of a batch that failed and that nothing has been sent for since."""
    table = fhir_failures
    query = sa.select(sa.func.coalesce(sa.func.sum(table.c.n_lines), 0)).where(table.c.batch_id == batch_id)
    query = query.where(table.c.resolved_at.is_(None), table.c.resubmitted_in.is_(None), table.c.stage.in_(stages))
    return int(connection.execute(query).scalar_one())


def warn(connection: sa.Connection, batch_id: str, warnings: Mapping[tuple[str, str], int]) -> None:
    """Enter what was sent although it is a trap: lines by type and what it is. Again is harmless."""
    rows = [
        {"batch_id": batch_id, "resource_type": kind, "diagnostic": text, "n_lines": number}
        for (kind, text), number in warnings.items()
    ]
    insert_missing(connection, fhir_warnings, rows)


@dataclass(frozen=True)
class Warned:
    """Lines that were sent with the same warning."""

    resource_type: str
    diagnostic: str
    n_lines: int
    n_batches: int
    first_batch: str


def warned(engine: sa.Engine, *, batch_id: str | None = None) -> list[Warned]:
    """Warnings by type and text, most lines first."""
    table = fhir_warnings
    total = sa.func.sum(table.c.n_lines)
    query = sa.select(
        table.c.resource_type,
        table.c.diagnostic,
        total.label("n_lines"),
        sa.func.count().label("n_batches"),
        sa.func.min(table.c.batch_id).label("first_batch"),
    ).group_by(table.c.resource_type, table.c.diagnostic)
    if batch_id:
        query = query.where(table.c.batch_id == batch_id)
    query = query.order_by(total.desc(), table.c.resource_type, table.c.diagnostic)
    with engine.connect() as connection:
        return [Warned(**{**row, "n_lines": int(row["n_lines"])}) for row in connection.execute(query).mappings()]


def groups(engine: sa.Engine, *, batch_id: str | None = None, is_open: bool = False) -> list[Group]:
    """Failures by stage, type and diagnostic, most lines first."""
    table = fhir_failures

    def lines(*where: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((sa.and_(True, *where), table.c.n_lines), else_=0)), 0)

    total = lines()
    query = sa.select(
        table.c.stage,
        table.c.resource_type,
        table.c.diagnostic,
        total.label("n_lines"),
        sa.func.count(table.c.batch_id.distinct()).label("n_batches"),
        sa.func.min(table.c.batch_id).label("first_batch"),
        lines(table.c.resubmitted_in.is_not(None)).label("n_resubmitted"),
        lines(table.c.resolved_at.is_not(None)).label("n_resolved"),
    ).group_by(table.c.stage, table.c.resource_type, table.c.diagnostic)
    if batch_id:
        query = query.where(table.c.batch_id == batch_id)
    if is_open:
        query = query.where(table.c.resolved_at.is_(None), table.c.resubmitted_in.is_(None))
    query = query.order_by(total.desc(), table.c.resource_type, table.c.diagnostic)
    with engine.connect() as connection:
        return [Group(**{**row, "n_lines": int(row["n_lines"]), "n_resubmitted": int(row["n_resubmitted"]),
                         "n_resolved": int(row["n_resolved"])})
                for row in connection.execute(query).mappings()]  # fmt: skip


def resolve(connection: sa.Connection, batch_id: str) -> None:
    """The corrected lines that a batch carried are in HealthLake now, except for those that failed again."""
    table = fhir_failures
    own = sa.select(table.c.resource_type, table.c.resource_id).where(table.c.batch_id == batch_id)
    failed = {f"{row.resource_type}/{row.resource_id}" for row in connection.execute(own)}
    query = sa.select(table.c.failure_id, table.c.resource_type, table.c.resource_id)
    again = sa.and_(table.c.resubmitted_in == batch_id, table.c.resolved_at.is_(None))
    done = [
        row.failure_id
        for row in connection.execute(query.where(again)).all()
        # What had no id cannot be told from the others once one of them has failed again.
        if not failed or (row.resource_id and f"{row.resource_type}/{row.resource_id}" not in failed)
    ]
    for some in chunked(done, 300):
        connection.execute(table.update().where(table.c.failure_id.in_(some)).values(resolved_at=now()))
