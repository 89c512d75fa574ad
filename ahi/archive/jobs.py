"""Import jobs of shards: one for a shard, more where something of it has to be tried again.

Belongs here: which ready objects of a shard share a job, and when a job of an archive may start. Does not belong here:
staging and starting (`ahi.imports`), and the chain (`ahi.chain`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked, constrained_batches

from ahi import chain, closure, imports, pacing, staging
from ahi.archive.isolation import (
    COMPLETED,
    ShardStalledError,
    Verdict,
    alone_since,
    found_before,
    give_up,
    others_complete,
    parted,
    verdict,
)
from ahi.clock import now
from ahi.import_service import SERVICE
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import JobState, ObjectState
from ahi.ledger import NO_JOB

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from ahi.archive.entry import Shard
    from ahi.imports import Ready
    from ahi.index.store import Commit
    from ahi.pipeline import Pipeline
    from ahi.settings import Settings


MOST_REFUSALS = 3
"""Attempts to stage and start a job that AWS refuses before its shard stalls; 5 and 10 seconds lie between them."""


class ArchiveLane:
    """Jobs of some shards. They start behind those of uploads, within the archives' share, at the archive's own pace.

    Everything is read inside the claim's transaction, so that a pause or another rate counts from the next start on,
    in every run and process.
    """

    def __init__(self, pipeline: Pipeline, shard_keys: Sequence[str]) -> None:
        self._settings = pipeline.settings
        self._shard_keys = list(shard_keys)

    def condition(self) -> sa.ColumnElement[bool]:
        """Jobs of these shards whose archive is not paused."""
        jobs, shards = catalog.jobs, c.archive_shards
        paused = sa.exists().where(
            shards.c.shard_key == jobs.c.shard_key,
            c.archives.c.archive_id == shards.c.archive_id,
            c.archives.c.paused_at.is_not(None),
        )
        return sa.and_(jobs.c.shard_key.in_(self._shard_keys), sa.not_(paused))

    def wants(self, connection: sa.Connection, job_key: str) -> list[pacing.Want] | None:
        """The archive's own token; None while uploads wait, or archives have their share, or the index is behind."""
        jobs = catalog.jobs
        uploads = sa.and_(jobs.c.service == SERVICE, jobs.c.shard_key.is_(None), chain.is_due(now()))
        if connection.execute(sa.select(jobs.c.job_key).where(uploads).limit(1)).first():
            return None
        of_archives = sa.and_(jobs.c.service == SERVICE, jobs.c.shard_key.is_not(None))
        running = sa.select(sa.func.count()).where(
            of_archives, jobs.c.state.in_((JobState.CLAIMED, JobState.SUBMITTED))
        )
        if connection.execute(running).scalar_one() >= most_in_flight(self._settings):
            return None
        if connection.execute(_behind(self._settings.archive_backlog)).scalar_one() > self._settings.archive_backlog:
            return None
        shards = c.archive_shards
        query = sa.select(c.archives.c.archive_id, c.archives.c.rate).where(
            jobs.c.job_key == job_key,
            shards.c.shard_key == jobs.c.shard_key,
            c.archives.c.archive_id == shards.c.archive_id,
        )
        archive_id, rate = connection.execute(query).one()
        return [pacing.Want(f"archive:{archive_id}:start", rate)] if rate else []


def most_in_flight(settings: Settings) -> int:
    """Jobs in flight that archives may have at a time: at least one."""
    return max(1, int(settings.max_jobs_in_flight * settings.archive_share))


def _behind(most: int) -> sa.Select[int]:
    """How many objects of archives are imported and not indexed, counted no further than it matters."""
    table, image_sets = catalog.objects, closure.explained_image_sets()
    joined = table.outerjoin(image_sets, image_sets.c.image_set_id == table.c.image_set_id)
    waits = sa.and_(table.c.shard_key.is_not(None), closure.not_indexed(), sa.not_(closure.is_explained(image_sets)))
    some = sa.select(table.c.object_id).select_from(joined).where(waits).limit(most + 1).subquery()
    return sa.select(sa.func.count()).select_from(some)


def plan(pipeline: Pipeline, shard: Shard) -> int:
    """Put what is ready of a shard into planned jobs. Returns how many were planned.

    Raises:
        ahi.archive.isolation.ShardStalledError: Its jobs fail without any object being at fault.
    """
    with pipeline.index.engine.connect() as connection:
        if not imports.ready(connection, shard.shard_key):
            return 0
    is_whole = bool(shard.in_place_prefix) and _lies_as_seen(pipeline, shard)
    along: list[str] = []
    set_down = staging.is_set_down(pipeline, shard.shard_key)
    with pipeline.index.commit(kind="planned", run_id=pipeline.run_id) as commit:
        chosen = imports.choose(commit.connection, imports.ready(commit.connection, shard.shard_key))
        if is_whole:
            along = _refused_anyway(commit.connection, shard)
        whole = len(chosen) + len(along) == shard.n_objects
        untouched = is_whole and whole and not any(item.attempts for item in chosen)
        fresh, failed = _apart(commit.connection, chosen)
        filled = [group for some in _anew(commit, fresh) for group in _filled(pipeline.settings, some)]
        groups: list[tuple[list[Ready], dt.datetime | None]] = [(group, None) for group in filled]
        prefix = shard.in_place_prefix if untouched and len(groups) == 1 else None
        stalled = False
        for job_key, group in failed.items():
            again = _again(commit, pipeline.settings, job_key, group, set_down=set_down)
            stalled = stalled or again is None
            since = alone_since(commit.connection, job_key)
            groups += [(part, since) for part in again or ()]
        for group, since in groups:
            beside = along if prefix else ()
            imports.insert_job(commit, pipeline, group, prefix, shard.shard_key, along=beside, alone_since=since)
        stalled = stalled and not groups and not _is_importing(commit.connection, shard)
        if stalled:
            _start_over(commit, shard)
    if stalled:
        raise ShardStalledError(
            "All their import jobs fail and no other completes: see their messages in `import_jobs` (role, key, "
            "quota), mend that, then launch the partitions again; or set down as failed what makes them fail: "
            "`ahi archive retry NAME --set-down`"
        )
    return len(groups)


def unplan(pipeline: Pipeline, shard_keys: Sequence[str], *, held_by: str | None = None) -> None:
    """Take back planned jobs of shards that no run is at any more: their objects are ready again.

    While an object waits in a job no upload of the same instance is imported, and a person may take a week.

    Args:
        pipeline: The pipeline.
        shard_keys: Which shards.
        held_by: Only those that this run had last.
    """
    jobs, shards, planned = catalog.jobs, c.archive_shards, is_planned()
    if held_by is not None:
        mine = sa.exists().where(shards.c.shard_key == jobs.c.shard_key, shards.c.run_id == held_by)
        planned = sa.and_(planned, mine)
    found = list[str]()
    with pipeline.index.engine.connect() as connection:
        for some in chunked(shard_keys, 500):
            query = sa.select(jobs.c.job_key).where(jobs.c.shard_key.in_(some), planned)
            found += connection.execute(query).scalars()
    if not found:
        return
    with pipeline.index.commit(kind="planned", run_id=pipeline.run_id) as commit:
        for some in chunked(found, 500):
            take_back(commit, sa.and_(jobs.c.job_key.in_(some), planned))


def is_planned() -> sa.ColumnElement[bool]:
    """Jobs that wait to be started: the service has nothing of them."""
    return sa.and_(catalog.jobs.c.service == SERVICE, catalog.jobs.c.state == JobState.PLANNED)


def take_back(commit: Commit, which: sa.ColumnElement[bool]) -> int:
    """Make the objects of some planned jobs ready again. Returns how many jobs those were."""
    jobs, objects = catalog.jobs, catalog.objects
    found = commit.connection.execute(sa.select(jobs.c.job_key).where(which)).scalars().all()
    for keys in chunked(found, 500):
        of_job = objects.c.job_key.in_(keys)
        waits = sa.and_(of_job, objects.c.state == ObjectState.IMPORTING)
        # As if it had not been planned, so that a folder goes in as it lies when its archive goes on.
        values = {"state": ObjectState.READY, "state_since": now(), "attempts": objects.c.attempts - 1}
        none = {**NO_JOB, "changed_seq": commit.seq}
        commit.connection.execute(objects.update().where(waits).values(**values, **none))
        commit.connection.execute(objects.update().where(of_job).values(**none))
        end = {"state": JobState.SETTLED, "status": chain.WITHDRAWN, "settled_at": now(), "ended_at": now()}
        commit.connection.execute(jobs.update().where(jobs.c.job_key.in_(keys)).values(**end))
    return len(found)


def _apart(connection: sa.Connection, chosen: Sequence[Ready]) -> tuple[list[Ready], dict[str, list[Ready]]]:
    """Objects that are new or were in completed jobs, and by job those whose job failed as a whole."""
    statuses = _statuses(connection, {item.job_key for item in chosen if item.job_key})
    fresh, failed = list["Ready"](), defaultdict[str, list["Ready"]](list)
    for item in chosen:
        if item.job_key and statuses.get(item.job_key) != COMPLETED:
            failed[item.job_key].append(item)
        else:
            fresh.append(item)
    return fresh, failed


def _anew(commit: Commit, fresh: Sequence[Ready]) -> tuple[list[Ready], list[Ready]]:
    """Objects that have no failed job behind them, and apart from them those that made whole jobs fail once.

    What comes without a job was taken back, by a person or with its run, or stalled: it begins anew, with all attempts
    before it.
    """
    table, anew = catalog.objects, {item.object_id for item in fresh if item.job_key is None}
    again = [item.object_id for item in fresh if item.object_id in anew and item.attempts]
    for some in chunked(again, 500):
        change = table.update().where(table.c.object_id.in_(some))
        commit.connection.execute(change.values(attempts=0, changed_seq=commit.seq))
    suspects, parts = found_before(commit.connection, anew), (list["Ready"](), list["Ready"]())
    for item in fresh:
        one = replace(item, attempts=0) if item.object_id in anew else item
        parts[item.object_id in suspects].append(one)
    return parts


def _filled(settings: Settings, items: Sequence[Ready]) -> Iterator[list[Ready]]:
    groups = constrained_batches(
        items,
        settings.max_bytes_per_job,
        settings.max_files_per_job,
        get_len=lambda item: item.size_bytes,
        strict=False,
    )
    return (list(group) for group in groups)


def _again(
    commit: Commit, settings: Settings, job_key: str, group: list[Ready], *, set_down: bool
) -> list[list[Ready]] | None:
    """How objects of a failed job are tried again; an empty list for a culprit. None: not at all, as things are."""
    attempts, ids = min(item.attempts for item in group), {item.object_id for item in group}
    # That culprits fail again, whom a person lets be tried once more, blames nobody anew.
    works = set_down or others_complete(commit.connection, job_key) or found_before(commit.connection, ids) == ids
    match verdict(len(group), attempts, most_attempts=settings.max_attempts, others_complete=works):
        case Verdict.TOGETHER:
            return [group]
        case Verdict.PARTED:
            return parted(group)
        case Verdict.GIVEN_UP:
            give_up(commit, group[0].object_id, job_key, attempts)
            return []
        case Verdict.STALLED:
            return None


def _is_importing(connection: sa.Connection, shard: Shard) -> bool:
    table = catalog.objects
    query = sa.select(table.c.object_id).where(
        table.c.shard_key == shard.shard_key, table.c.state == ObjectState.IMPORTING
    )
    return connection.execute(query.limit(1)).first() is not None


def _start_over(commit: Commit, shard: Shard) -> None:
    """Nothing is known of the objects of a stalled shard: when it is launched again they go together, as if new."""
    table = catalog.objects
    ready = sa.and_(table.c.shard_key == shard.shard_key, table.c.state == ObjectState.READY)
    values = {**NO_JOB, "changed_seq": commit.seq}
    commit.connection.execute(table.update().where(ready).values(**values))


def _statuses(connection: sa.Connection, job_keys: set[str]) -> dict[str, str | None]:
    table = catalog.jobs
    query = sa.select(table.c.job_key, table.c.status).where(table.c.job_key.in_(sorted(job_keys)))
    return {row.job_key: row.status for row in connection.execute(query)}


def _lies_as_seen(pipeline: Pipeline, shard: Shard) -> bool:
    """Whether its folder still holds what the ledger has of the shard and nothing else; the start will look again."""
    table = catalog.objects
    surely = sa.or_(table.c.state == ObjectState.READY, _bad_header())
    query = sa.select(table.c.bucket, table.c.key, table.c.etag).where(table.c.shard_key == shard.shard_key, surely)
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(query).all()
    bucket = rows[0].bucket if rows else ""
    return staging.holds(pipeline, bucket, shard.in_place_prefix or "", {(row.key, row.etag) for row in rows})


def _refused_anyway(connection: sa.Connection, shard: Shard) -> list[str]:
    """Objects of a shard that failed by their headers and may lie in a folder that is imported as it is."""
    table = catalog.objects
    query = sa.select(table.c.object_id).where(table.c.shard_key == shard.shard_key, _bad_header())
    return list(connection.execute(query.order_by(table.c.key)).scalars())


def _bad_header() -> sa.ColumnElement[bool]:
    table = catalog.objects
    return sa.and_(
        table.c.state == ObjectState.FAILED,
        table.c.job_key.is_(None),
        table.c.reason_code.in_(staging.SURELY_REFUSED),
    )


def refused(pipeline: Pipeline, shard_keys: Sequence[str]) -> dict[str, str]:
    """Shards with a job that AWS refuses again and again, with what to do. Their jobs are tried anew when launched."""
    table, found = catalog.jobs, dict[str, str]()
    wait = sa.and_(
        table.c.state == JobState.PLANNED,
        table.c.starts >= MOST_REFUSALS,
        table.c.message.startswith(imports.REFUSED, autoescape=True),
    )
    with pipeline.index.engine.connect() as connection:
        for some in chunked(shard_keys, 500):
            mine = sa.and_(table.c.shard_key.in_(some), wait)
            for key, message in connection.execute(sa.select(table.c.shard_key, table.c.message).where(mine)):
                found[key] = (
                    f"Its import job was {message}, {MOST_REFUSALS} times. Look at roles, bucket and key policies and "
                    "storage classes, then launch the partitions again; or set down as failed what is refused: "
                    "`ahi archive retry NAME --set-down`"
                )
    if found:
        # Asked every second by every run, it takes the lock of writers only then.
        with pipeline.index.transaction() as connection:
            again = table.update().where(table.c.shard_key.in_(sorted(found)), wait)
            connection.execute(again.values(starts=0, not_before=None))
    return found
