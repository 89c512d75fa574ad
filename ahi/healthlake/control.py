"""A hand on the chain: hold, release, move, hurry, stop, continue, again. And where everything is.

Belongs here: changes that a person asks for, and the summary they look at. Does not belong here: how the command line
shows it. What HealthLake has taken cannot be held, moved or stopped: it has no call for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.clock import now
from ahi.errors import PermanentError
from ahi.healthlake import audit, failures, made_good, sent
from ahi.healthlake.audit import Entry, What
from ahi.healthlake.freeze import plan_job, prefix_of
from ahi.healthlake.plan import INDEX
from ahi.healthlake.service import SERVICE
from ahi.healthlake.starts import next_job
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import BatchState, fhir_audit, fhir_batches, fhir_failures, fhir_imports

if TYPE_CHECKING:
    import datetime as dt

    from ahi.pipeline import Pipeline


@dataclass(frozen=True)
class ImportStatus:
    """Where a chain is."""

    import_id: str
    origin: str
    policy: str
    created_at: dt.datetime
    batches: int
    settled: int
    failed: int
    held: int
    at_healthlake: int
    sent: int
    imported: int
    open_failures: int
    stopped_reason: str | None
    """Why nothing more of it starts; None: it runs."""


def imports(engine: sa.Engine) -> list[ImportStatus]:
    """Every chain, oldest first."""
    batch, job = fhir_batches, catalog.jobs

    def count(*where: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((sa.and_(*where), 1), else_=0)), 0)

    own = fhir_batches.alias("own")
    open_ = (
        sa.select(sa.func.coalesce(sa.func.sum(fhir_failures.c.n_lines), 0))
        .join(own, own.c.batch_id == fhir_failures.c.batch_id)
        .where(fhir_failures.c.resolved_at.is_(None), fhir_failures.c.resubmitted_in.is_(None))
        .where(own.c.import_id == fhir_imports.c.import_id)
        .correlate(fhir_imports)
    )
    query = (
        sa.select(
            *(fhir_imports.c[name] for name in ("import_id", "origin", "policy", "created_at", "stopped_reason")),
            sa.func.count(batch.c.batch_id).label("batches"),
            count(batch.c.state == BatchState.SETTLED).label("settled"),
            count(batch.c.state == BatchState.FAILED).label("failed"),
            count(batch.c.held_at.is_not(None)).label("held"),
            count(job.c.state.in_((JobState.CLAIMED, JobState.SUBMITTED))).label("at_healthlake"),
            sa.func.coalesce(sa.func.sum(batch.c.n_sent), 0).label("sent"),
            sa.func.coalesce(sa.func.sum(batch.c.n_imported), 0).label("imported"),
            open_.scalar_subquery().label("open_failures"),
        )
        .join(batch, batch.c.import_id == fhir_imports.c.import_id, isouter=True)
        .join(job, job.c.job_key == batch.c.job_key, isouter=True)
        .group_by(*(fhir_imports.c[name] for name in ("import_id", "origin", "policy", "created_at", "stopped_reason")))
        .order_by(fhir_imports.c.created_at)
    )
    with engine.connect() as connection:
        # PostgreSQL gives sums as decimals.
        rows: list[dict[str, Any]] = [
            {str(k): int(v) if isinstance(v, Decimal) else v for k, v in row.items()}
            for row in connection.execute(query).mappings()
        ]
    return [ImportStatus(**row) for row in rows]


@dataclass(frozen=True)
class BatchStatus:
    """Where a batch is."""

    batch_id: str
    state: str
    job: str | None
    """State of its newest job, while that is not over."""
    is_held: bool
    priority: int
    lines: int | None
    sent: int | None
    refused: int | None
    imported: int | None
    errors: int | None
    """Resources that HealthLake refused or failed on."""
    attempt: int
    parent_batch_id: str | None
    """Batch whose failed lines it corrects."""
    reason: str | None


def batches(engine: sa.Engine, name: str | None = None, *, is_open: bool = False) -> list[BatchStatus]:
    """Batches of all chains or of one, or a single one, in the order in which they go.

    Raises PermanentError when there is no such batch or chain.
    """
    table, job = fhir_batches, catalog.jobs
    query = sa.select(table, job.c.state.label("job_state")).join(job, job.c.job_key == table.c.job_key, isouter=True)
    query = query.join(fhir_imports, fhir_imports.c.import_id == table.c.import_id)
    order = (fhir_imports.c.created_at, table.c.import_id, table.c.priority.desc(), table.c.position)
    with engine.connect() as connection:
        if name:
            _batches(connection, name)
            query = query.where(sa.or_(table.c.batch_id == name, table.c.import_id == name))
        if is_open:
            query = query.where(table.c.state != BatchState.SETTLED)
        rows = connection.execute(query.order_by(*order)).mappings().all()
    return [_status_of(row) for row in rows]


def _status_of(row: sa.RowMapping) -> BatchStatus:
    errors = None if row["n_scanned"] is None else (row["n_customer_errors"] or 0) + (row["n_server_errors"] or 0)
    return BatchStatus(
        batch_id=row["batch_id"],
        state=row["state"],
        job=row["job_state"] if row["job_state"] != JobState.SETTLED else None,
        is_held=row["held_at"] is not None,
        priority=row["priority"],
        lines=row["n_lines"],
        sent=row["n_sent"],
        refused=row["n_refused"],
        imported=row["n_imported"],
        errors=errors,
        attempt=row["attempt"],
        parent_batch_id=row["parent_batch_id"],
        reason=row["reason"],
    )


def hold(pipeline: Pipeline, name: str, *, release: bool = False) -> int:
    """Keep batches from starting, or let them go: one batch, or all of a chain. Returns how many that changed."""
    with pipeline.index.transaction() as connection:
        waiting = [row for row in _batches(connection, name) if _is_waiting(connection, row)]
        chosen = [row["batch_id"] for row in waiting if (row["held_at"] is not None) == release]
        if not chosen and not release:
            raise PermanentError(f"Nothing of {name} waits: what HealthLake has taken cannot be held.")
        for batch_id in chosen:
            change = fhir_batches.update().where(fhir_batches.c.batch_id == batch_id)
            connection.execute(change.values(held_at=None if release else now()))
        what = What.RELEASED if release else What.HELD
        audit.note(connection, [Entry(what, batch_id=batch_id) for batch_id in chosen])
    return len(chosen)


def prioritise(pipeline: Pipeline, name: str, priority: int) -> int:
    """Let batches that still wait go before all of lower priority. Returns how many."""
    with pipeline.index.transaction() as connection:
        rows = _batches(connection, name)
        if priority < 0 or name != rows[0]["import_id"]:
            _require_order(connection, rows[0]["import_id"])
        chosen = [row["batch_id"] for row in rows if _is_waiting(connection, row)]
        for batch_id in chosen:
            change = fhir_batches.update().where(fhir_batches.c.batch_id == batch_id)
            connection.execute(change.values(priority=priority))
        audit.note(connection, [Entry(What.MOVED, batch_id=one, note=f"priority {priority}") for one in chosen])
    return len(chosen)


def move(pipeline: Pipeline, batch_id: str, *, before: str) -> None:
    """Put a batch that still waits before another of its chain."""
    with pipeline.index.transaction() as connection:
        row, target = _batch(connection, batch_id), _batch(connection, before)
        if row["import_id"] != target["import_id"]:
            raise PermanentError("Both batches must be of one chain; between chains priority decides.")
        _require_order(connection, row["import_id"])
        for one in (row, target):
            if not _is_waiting(connection, one):
                raise PermanentError(f"{one['batch_id']} does not wait any more, so nothing can be put before it.")
        table = fhir_batches
        earlier = sa.select(sa.func.max(table.c.position)).where(table.c.import_id == row["import_id"])
        previous = connection.execute(earlier.where(table.c.position < target["position"])).scalar_one()
        place = target["position"] - 1 if previous is None else (previous + target["position"]) / 2
        values = {"position": place, "priority": target["priority"]}
        connection.execute(table.update().where(table.c.batch_id == batch_id).values(values))
        audit.note(connection, [Entry(What.MOVED, batch_id=batch_id, note=f"before {before}")])


def _require_order(connection: sa.Connection, import_id: str) -> None:
    if _is_of_index(connection, import_id):
        text = "what they say of a study is only true in their order. Hurry all of the chain with a priority above 0"
        raise PermanentError(f"Batches from the index cannot change places: {text}.")


def stop(pipeline: Pipeline, import_id: str, reason: str = "stopped by hand") -> None:
    """Start nothing more of a chain."""
    _change_import(pipeline, import_id, What.STOPPED, stopped_at=now(), stopped_reason=reason)


def go_on(pipeline: Pipeline, import_id: str) -> None:
    """Let a stopped chain go on with what waits."""
    _change_import(pipeline, import_id, What.CONTINUED, stopped_at=None, stopped_reason=None)


def again(pipeline: Pipeline, batch_id: str) -> bool:
    """Send a batch again whose last job is over.

    Of any origin but the index, it is the same bytes, which HealthLake takes as updates, over whatever later batches
    brought; a batch of which nothing was ever sent is read again. Lines made from the index may be out of date by now:
    what the batch was the last to carry is made anew from the index, in the next batch of it, and the rest not.

    Returns:
        False when a job of it waits or runs.

    Raises:
        PermanentError: There is no such batch, or its frozen lines are gone.
    """
    with pipeline.index.engine.connect() as connection:
        row = _batch(connection, batch_id)
        is_of_index = _is_of_index(connection, row["import_id"])
    if row["job_key"] and not is_of_index:
        _require_lines(pipeline, batch_id)
    with pipeline.index.transaction() as connection:
        row = _batch(connection, batch_id)
        if row["state"] not in (BatchState.SETTLED, BatchState.FAILED):
            return False
        values: dict[str, object] = {"settled_at": None, "reason": None}
        if is_of_index:
            sent.again(connection, batch_id)
            values = {}
        elif row["job_key"]:
            size = sa.select(catalog.jobs.c.n_bytes).where(catalog.jobs.c.job_key == row["job_key"])
            n_bytes = connection.execute(size).scalar_one()
            values |= {"state": BatchState.FROZEN, **plan_job(connection, pipeline, dict(row), n_bytes=n_bytes)}
        else:
            values |= {"state": BatchState.PLANNED}
        if values:
            connection.execute(fhir_batches.update().where(fhir_batches.c.batch_id == batch_id).values(values))
        audit.note(connection, [Entry(What.AGAIN, batch_id=batch_id)])
    return True


def dismiss(pipeline: Pipeline, batch_id: str, note: str) -> int:
    """Let what did not go in of a batch be: nothing warns of it any more. Returns how many lines that are.

    Raises PermanentError when there is no such batch, or it is not over.
    """
    with pipeline.index.transaction() as connection:
        if _batch(connection, batch_id)["state"] not in (BatchState.SETTLED, BatchState.FAILED):
            raise PermanentError(f"{batch_id} is not over yet: see `ahi fhir batches`.")
        audit.note(connection, [Entry(What.DISMISSED, batch_id=batch_id, note=note)])
        return failures.dismiss(connection, batch_id)


def stale(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Batches whose job stands still for `AHI_FHIR_STALE_SECONDS`: at HealthLake, in want of results, or for a slot."""
    job, batch, moment = catalog.jobs, fhir_batches, now()
    since = sa.func.coalesce(job.c.ended_at, job.c.submitted_at, job.c.claimed_at, job.c.planned_at)
    columns = (batch.c.batch_id, job.c.job_key, job.c.state, since.label("since"))
    query = sa.select(*columns).join(batch, batch.c.job_key == job.c.job_key)
    query = query.where(job.c.service == SERVICE, job.c.state != JobState.SETTLED).order_by(batch.c.batch_id)
    newest = sa.select(sa.func.max(job.c.settled_at)).where(job.c.service == SERVICE)
    with pipeline.index.engine.connect() as connection:
        settled_at = connection.execute(newest).scalar_one()
        following = connection.execute(next_job()).scalar_one_or_none()
        rows = connection.execute(query).all()
    n_running = sum(row.state in (JobState.CLAIMED, JobState.SUBMITTED) for row in rows)
    if n_running >= pipeline.settings.fhir_jobs_in_service:
        following = None
    found = []
    for row in rows:
        if row.state == JobState.PLANNED and row.job_key != following:
            continue
        # The next one waits for the one before it.
        since_ = max(row.since, settled_at or row.since) if row.state == JobState.PLANNED else row.since
        seconds = (moment - since_).total_seconds()
        if seconds > pipeline.settings.fhir_stale_seconds:
            found.append((row.batch_id, f"its job has been {row.state} for {seconds / 3_600:.1f} h"))
    return found


def _require_lines(pipeline: Pipeline, batch_id: str) -> None:
    """Make sure that HealthLake would find something to read."""
    bucket, prefix = pipeline.settings.lake_bucket, prefix_of(batch_id)
    if not pipeline.aws.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("KeyCount"):
        text = "frozen lines are kept as long as the rule of the lake bucket for fhir/ says. Import its files again"
        raise PermanentError(f"{prefix} is gone: {text}.")


def _is_of_index(connection: sa.Connection, import_id: str) -> bool:
    origin = sa.select(fhir_imports.c.origin).where(fhir_imports.c.import_id == import_id)
    return bool(connection.execute(origin).scalar_one() == INDEX)


def _change_import(pipeline: Pipeline, import_id: str, what: What, **values: object) -> None:
    with pipeline.index.transaction() as connection:
        change = fhir_imports.update().where(fhir_imports.c.import_id == import_id)
        if not connection.execute(change.values(values)).rowcount:
            raise PermanentError(f"There is no import {import_id}: see `ahi fhir status`.")
        audit.note(connection, [Entry(what, note=import_id)])


def _batches(connection: sa.Connection, name: str) -> list[sa.RowMapping]:
    """A batch by its id, or all of a chain."""
    table = fhir_batches
    query = sa.select(table).where(sa.or_(table.c.batch_id == name, table.c.import_id == name))
    rows = list(connection.execute(query.order_by(table.c.position)).mappings())
    if not rows:
        raise PermanentError(f"There is no batch and no import {name}: see `ahi fhir batches`.")
    return rows


def _batch(connection: sa.Connection, batch_id: str) -> sa.RowMapping:
    query = sa.select(fhir_batches).where(fhir_batches.c.batch_id == batch_id)
    found = connection.execute(query).mappings().first()
    if found is None:
        raise PermanentError(f"There is no batch {batch_id}: see `ahi fhir batches`.")
    return found


def _is_waiting(connection: sa.Connection, batch: sa.RowMapping) -> bool:
    if batch["state"] == BatchState.PLANNED:
        return True
    job = sa.select(catalog.jobs.c.state).where(catalog.jobs.c.job_key == batch["job_key"])
    return batch["state"] == BatchState.FROZEN and str(connection.execute(job).scalar_one()) == JobState.PLANNED


FACTS = ("state", "n_files", "n_lines", "n_sent", "n_refused", "n_repeated", "n_warned", "n_dangling", "n_imported")
ERRORS = ("n_customer_errors", "n_server_errors", "attempt", "job_key", "reason")


def batch_facts(engine: sa.Engine, batch_id: str) -> dict[str, int | str]:
    """What is known of a batch, without what is not known yet. Raises PermanentError when there is no such batch."""
    with engine.connect() as connection:
        row = _batch(connection, batch_id)
    return {name: row[name] for name in (*FACTS, *ERRORS) if row[name] is not None}


def unequal(engine: sa.Engine) -> list[tuple[str, str]]:
    """Batches of which HealthLake did not read what it was sent, or does not say what became of it."""
    table = fhir_batches
    told = table.c.n_imported + table.c.n_customer_errors + table.c.n_server_errors
    wrong = sa.or_(table.c.n_scanned.is_(None), table.c.n_scanned != table.c.n_sent, told != table.c.n_scanned)
    query = sa.select(table).where(table.c.state == BatchState.SETTLED, wrong).order_by(table.c.batch_id)
    query = query.where(sa.not_(made_good.is_dismissed()), sa.not_(made_good.is_superseded()))
    with engine.connect() as connection:
        return [
            (row["batch_id"], f"sent {row['n_sent']}, read {row['n_scanned']}, imported {row['n_imported']}")
            for row in connection.execute(query).mappings()
        ]


def new_batches(engine: sa.Engine, after: int) -> tuple[list[str], int]:
    """Batches planned since an entry of the account, and the newest entry."""
    table = fhir_audit
    query = sa.select(table.c.entry, table.c.batch_id).where(table.c.entry > after, table.c.what == What.PLANNED)
    with engine.connect() as connection:
        rows = connection.execute(query.where(table.c.batch_id.is_not(None)).order_by(table.c.entry).limit(5_000)).all()
    return [row.batch_id for row in rows], max((row.entry for row in rows), default=after)
