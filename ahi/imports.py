"""HealthImaging import jobs: what goes into one, its prefix, its start.

Belongs here: planning ready objects of uploads into jobs within the quotas, and starting any job. Does not belong
here: what lies below a job's prefix (`ahi.staging`), the chain itself (`ahi.chain`), the service's calls
(`ahi.import_service`), results (`ahi.results`), and planning shards of archives (`ahi.archive.jobs`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError
from more_itertools import chunked, constrained_batches

from ahi import chain, staging
from ahi.aws import error_code, is_transient
from ahi.clock import day_of, now
from ahi.import_service import SERVICE, HealthImaging
from ahi.index import catalog
from ahi.index.catalog import JobState, ObjectState

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from ahi.errors import Troubles
    from ahi.index.store import Commit
    from ahi.pipeline import Pipeline

START_SECONDS = 20.0
"""How long one run goes on starting jobs."""

REFUSED = "refused by AWS: "
"""How the message of a job begins that was given back for what another attempt would meet again."""

PLAN_ROWS = 50_000
"""Ready objects read in one planning; the rest waits for the next, so that memory stays bounded."""

Identity = tuple[str | None, str | None, str | None]
"""Study, series and SOP instance UID."""


@dataclass(frozen=True)
class Ready:
    """An object that waits for a job."""

    object_id: str
    bucket: str
    key: str
    version_id: str | None
    size_bytes: int
    identity: Identity
    association_prefix: str | None
    attempts: int
    job_key: str | None
    """Job that tried it last."""


def plan(pipeline: Pipeline) -> int:
    """Put ready objects into planned jobs. Returns how many jobs were planned.

    Two objects of one SOP instance never share a job, nor run in two at once: HealthImaging keeps the last it sees,
    so the order in which they arrived has to be the order in which they are imported. No more jobs are planned than
    can be started soon: what is left stays ready and fills the next job, or a backlog would be one of tiny jobs.
    """
    with pipeline.index.engine.connect() as connection:
        if not _room(connection, pipeline) or not choose(connection, ready(connection)):
            return 0
    with pipeline.index.commit(kind="planned", run_id=pipeline.run_id) as commit:
        # Chosen again inside the transaction: another run may have planned them since.
        chosen = choose(commit.connection, ready(commit.connection))
        place = {item.object_id: number for number, item in enumerate(chosen)}
        groups = list(_groups(commit.connection, pipeline, chosen))
        groups.sort(key=lambda group: place[group[0][0].object_id])
        groups = groups[: _room(commit.connection, pipeline)]
        for group, prefix in groups:
            insert_job(commit, pipeline, group, prefix)
        return len(groups)


def _room(connection: sa.Connection, pipeline: Pipeline) -> int:
    """How many more jobs can be planned: free slots of the service, and starts within one run's patience."""
    settings, table = pipeline.settings, catalog.jobs
    # Planned jobs of archives take no slot: they wait for uploads, not uploads for them.
    counts = sa.or_(table.c.state.in_((JobState.CLAIMED, JobState.SUBMITTED)), table.c.shard_key.is_(None))
    query = sa.select(table.c.state, sa.func.count()).where(table.c.service == SERVICE, counts)
    query = query.where(table.c.state.in_((JobState.PLANNED, JobState.CLAIMED, JobState.SUBMITTED)))
    counted = {str(state): int(n) for state, n in connection.execute(query.group_by(table.c.state))}
    planned = counted.get(JobState.PLANNED, 0)
    slots = settings.max_jobs_in_flight - sum(counted.values())
    return max(0, min(slots, max(1, int(settings.job_starts_per_second * START_SECONDS)) - planned))


def choose(connection: sa.Connection, waiting: Sequence[Ready]) -> list[Ready]:
    """Those of some ready objects of which no other of the same instance is on its way or chosen before them."""
    taken, chosen = _busy_identities(connection, waiting), []
    for item in waiting:
        if item.identity not in taken:
            taken.add(item.identity)
            chosen.append(item)
    return chosen


def ready(connection: sa.Connection, shard_key: str | None = None) -> list[Ready]:
    """Objects that wait for a job and may go into one now, the first to arrive first: of uploads, or of one shard."""
    table = catalog.objects
    due = sa.or_(table.c.not_before.is_(None), table.c.not_before <= now())
    query = sa.select(table).where(table.c.state == ObjectState.READY, due, table.c.shard_key == shard_key)
    query = query.order_by(table.c.landed_at, table.c.key).limit(PLAN_ROWS)
    return [
        Ready(
            row["object_id"],
            row["bucket"],
            row["key"],
            row["version_id"],
            row["size_bytes"] or 0,
            (row["StudyInstanceUID"], row["SeriesInstanceUID"], row["SOPInstanceUID"]),
            row["association_prefix"],
            row["attempts"],
            row["job_key"],
        )
        for row in connection.execute(query).mappings()
    ]


def _busy_identities(connection: sa.Connection, ready: Sequence[Ready]) -> set[Identity]:
    """Identities of `ready` that a running job already imports."""
    table, busy = catalog.objects, set[Identity]()
    columns = (table.c.StudyInstanceUID, table.c.SeriesInstanceUID, table.c.SOPInstanceUID)
    uids = sorted({item.identity[2] or "" for item in ready})
    for start in range(0, len(uids), 500):
        some = table.c.SOPInstanceUID.in_(uids[start : start + 500])
        query = sa.select(*columns).where(table.c.state == ObjectState.IMPORTING, some)
        busy |= {(row[0], row[1], row[2]) for row in connection.execute(query)}
    return busy


def _groups(
    connection: sa.Connection, pipeline: Pipeline, ready: Sequence[Ready]
) -> Iterator[tuple[list[Ready], str | None]]:
    """Jobs' worth of objects, each with the closed prefix that serves it in place, or None when it is staged."""
    settings = pipeline.settings
    by_prefix: dict[str | None, list[Ready]] = {}
    for item in ready:
        by_prefix.setdefault(item.association_prefix, []).append(item)
    staged = by_prefix.pop(None, [])
    for prefix, items in sorted(by_prefix.items(), key=lambda pair: str(pair[0])):
        size = sum(item.size_bytes for item in items)
        fits = len(items) <= settings.max_files_per_job and size <= settings.max_bytes_per_job
        if fits and prefix and _whole(connection, items, prefix):
            yield items, prefix
        else:
            staged += items
    by_attempts: dict[int, list[Ready]] = {}
    for item in staged:
        by_attempts.setdefault(item.attempts, []).append(item)
    for attempts, items in by_attempts.items():
        # What shared a job that failed is tried again in ten smaller ones, so that one bad file takes fewer along.
        most = max(1, settings.max_files_per_job // 10**attempts)
        groups = constrained_batches(
            items, settings.max_bytes_per_job, most, get_len=lambda item: item.size_bytes, strict=False
        )
        yield from ((list(group), None) for group in groups)


def _whole(connection: sa.Connection, items: Sequence[Ready], prefix: str) -> bool:
    """Whether `items` are all that lies under a prefix, each at its only version and at its first attempt."""
    table = catalog.objects
    under = sa.select(sa.func.count()).where(
        table.c.bucket == items[0].bucket, table.c.key >= prefix, table.c.key < prefix[:-1] + "0"
    )
    return connection.execute(under).scalar_one() == len(items) and not any(item.attempts for item in items)


def _name(connection: sa.Connection, datastore_id: str, group: Sequence[Ready]) -> str:
    """The key of a job, which follows from its objects and their attempts: one that no earlier job has gone by."""
    table, content = catalog.jobs, [datastore_id, *sorted(f"{item.object_id}:{item.attempts}" for item in group)]
    while True:
        job_key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]
        # What was taken back before anybody claimed it has neither copies nor a token.
        was_claimed = sa.or_(table.c.status.is_distinct_from(chain.WITHDRAWN), table.c.starts > 0)
        gone = sa.and_(table.c.state == JobState.SETTLED, was_claimed)
        query = sa.select(table.c.job_key).where(table.c.job_key == job_key, gone)
        if connection.execute(query).first() is None:
            return job_key
        # Objects that were taken back begin with their first attempt again, and the service knows that job's token.
        content.append("again")


def insert_job(
    commit: Commit,
    pipeline: Pipeline,
    group: Sequence[Ready],
    prefix: str | None,
    shard_key: str | None = None,
    *,
    along: Sequence[str] = (),
    alone_since: dt.datetime | None = None,
) -> None:
    """Plan a job of some objects: from the prefix that they lie under in place, or staged when it is None.

    `along` are objects that failed by their headers and lie under the prefix too: the job will have a line for each.
    `alone_since` is when the one object of it was first tried by itself, if that was in an earlier job.
    """
    settings, moment = pipeline.settings, now()
    job_key = _name(commit.connection, settings.datastore_id, group)
    source = f"s3://{group[0].bucket}/{prefix}" if prefix else f"s3://{settings.staging_bucket}/{job_key}/"
    # The same as one that was taken back: its name follows from its objects.
    table = catalog.jobs
    taken_back = sa.and_(table.c.job_key == job_key, table.c.status == chain.WITHDRAWN)
    commit.connection.execute(table.delete().where(taken_back))
    commit.connection.execute(
        catalog.jobs.insert().values(
            job_key=job_key,
            service=SERVICE,
            state=JobState.PLANNED,
            day=day_of(moment),
            datastore_id=settings.datastore_id,
            input_uri=source,
            output_uri=f"s3://{settings.lake_bucket}/jobs/",
            in_place=prefix is not None,
            n_objects=len(group) + len(along),
            n_bytes=sum(item.size_bytes for item in group),
            planned_at=moment,
            alone_since=alone_since or (moment if len(group) == 1 else None),
            shard_key=shard_key,
        )
    )
    objects = catalog.objects
    change = (
        objects.update()
        .where(objects.c.object_id == sa.bindparam("which"))
        .values(
            state=ObjectState.IMPORTING,
            state_since=moment,
            job_key=job_key,
            input_key=sa.bindparam("where"),
            manifest_line=None,
            attempts=objects.c.attempts + 1,
            changed_seq=commit.seq,
        )
    )
    rows = [
        {"which": item.object_id, "where": item.key if prefix else staging.copy_key(job_key, number, item.object_id)}
        for number, item in enumerate(group)
    ]
    commit.connection.execute(change, rows)
    for some in chunked(along, 500):
        beside = objects.update().where(objects.c.object_id.in_(some))
        values = {"job_key": job_key, "input_key": objects.c.key, "manifest_line": None, "changed_seq": commit.seq}
        commit.connection.execute(beside.values(**values))


def advance(pipeline: Pipeline) -> Counter[str]:
    """Plan what is ready and start what the limits leave room for. Returns counts: planned, started and so on."""
    planned = plan(pipeline)
    return Counter(planned=planned) + start_planned(pipeline)


def start_planned(
    pipeline: Pipeline,
    *,
    budget_seconds: float = START_SECONDS,
    lane: chain.Lane | None = None,
    troubles: Troubles | None = None,
) -> Counter[str]:
    """Start planned jobs of a lane while the limits leave room. Returns counts of outcomes, as `_start_one` names them.

    Begins no job after `budget_seconds`: the next event or sweep goes on from there. A job that cannot be staged or
    started is given back to wait, so that it holds up no other. Raises the first such error if nothing was started,
    unless the caller keeps `troubles`: the message of each such job says what happened, and a single object that S3
    does not copy for long fails; of several the message is that of a refusal. Without, as uploads have it, a job waits.
    """
    settings, counts = pipeline.settings, Counter[str]()
    limits = chain.Limits(settings.max_jobs_in_flight, settings.job_starts_per_second)
    service = HealthImaging(pipeline)
    deadline = time.monotonic() + budget_seconds
    trouble: Exception | None = None
    if pipeline.run_id:
        chain.recover(pipeline.index, service, silent_seconds=settings.claim_seconds, who=pipeline.run_id)
    while time.monotonic() < deadline:
        job = chain.claim(pipeline.index, SERVICE, limits, pipeline.run_id or "", lane)
        if job is None:
            break
        if isinstance(job, float):
            if time.monotonic() + job > deadline:
                break
            time.sleep(job)
            continue
        try:
            outcome = _start_one(pipeline, service, job, limits, troubles)
        except (BotoCoreError, ClientError) as error:
            trouble, outcome = trouble or error, "trouble"
        counts[outcome] += 1
        if outcome == "service_is_full":
            break
    if trouble and not counts["started"] and troubles is None:
        raise trouble
    return counts


def _start_one(
    pipeline: Pipeline, service: HealthImaging, job: chain.Job, limits: chain.Limits, troubles: Troubles | None
) -> str:
    """Stage and start one claimed job. Returns what became of it.

    Raises what AWS raised, with the job given back to wait, or still claimed when the service may have it.
    """
    index, is_staged = pipeline.index, False
    try:
        with chain.kept(index, job, silent_seconds=pipeline.settings.claim_seconds) as stands:
            job = staging.as_planned(pipeline, job)
            n_failed = None if job.in_place else staging.stage(pipeline, job, troubles=troubles, stands=stands)
        is_staged = True
        if troubles:
            troubles.forget(job.job_key)
        if n_failed == job.n_objects:
            _reject(pipeline, job, "none of its objects is in its bucket any more")
            return "rejected"
        return "started" if chain.start(index, service, job, limits) else "taken_over"
    except chain.RejectedError as error:
        _reject(pipeline, job, str(error))
        return "rejected"
    except chain.BackPressureError as error:
        return "service_is_full" if error.of_service else "pushed_back"
    except (BotoCoreError, ClientError) as error:
        maybe_started = is_transient(error) and getattr(error, "operation_name", "") == "StartDICOMImportJob"
        if not maybe_started:
            code = error_code(error) or type(error).__name__
            may_pass = is_transient(error)
            if may_pass and troubles and not is_staged:
                troubles.note(job.job_key)
                may_pass = not troubles.is_past_help(job.job_key, fewest_times=staging.FEWEST_TRIES)
            message = code if may_pass else f"{REFUSED}{code}"
            chain.give_back(index, job, after_seconds=chain.back_off(job), message=message)
        raise


def _reject(pipeline: Pipeline, job: chain.Job, text: str) -> None:
    """A start that the service refuses ends the job as failed; settling gives its objects another way or a reason."""
    report = chain.Report(job.job_id or "", "REJECTED", ended=True, ended_at=None, message=text, output_folder=None)
    chain.ended(pipeline.index, job, report)
