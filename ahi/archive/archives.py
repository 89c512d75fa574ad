"""Archives: which there are, and where the lake keeps what we know of them.

Belongs here: adding, finding and removing one. Does not belong here: looking at its keys (`ahi.archive.inventory`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi import chain
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import IN_FLIGHT, JOBS_UNDER_WAY, JobState, ObjectState, metadata
from ahi.index.catalog_archives import ShardState, Source
from ahi.index.engine import insert_missing
from ahi.reasons import Reason

if TYPE_CHECKING:
    import datetime as dt

    from ahi.index.store import Commit, Index
    from ahi.pipeline import Pipeline

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
"""What an archive may be called: it starts partition keys, job names and lake keys."""

_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Archive:
    """One archive, as the catalog has it."""

    archive_id: str
    uri: str
    bucket: str
    prefix: str
    source: Source
    report_uri: str | None
    created_at: dt.datetime
    is_continuous: bool
    rate: float | None
    paused_at: dt.datetime | None
    generation: int
    planned_generation: int
    last_planned_at: dt.datetime | None

    @property
    def folder(self) -> str:
        """Where the lake bucket keeps its inventories and manifests."""
        return f"archives/{self.archive_id}/"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key, or start of keys, of `s3://bucket/key`. Raises PermanentError for anything else."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise PermanentError("That is no address in S3. Write it as s3://bucket or s3://bucket/folder/")
    return found[1], found[2] or ""


def add(
    pipeline: Pipeline,
    uri: str,
    *,
    name: str | None = None,
    report_uri: str | None = None,
    is_continuous: bool = False,
) -> Archive:
    """Enter an archive whose bucket can be listed; nothing is imported yet. The same again is the same archive.

    Args:
        pipeline: The pipeline.
        uri: `s3://bucket/folder/`; a folder named without its last slash is meant as one.
        name: What to call it; none: the bucket and a digest of the folder, which may name a patient.
        report_uri: Its S3 Inventory: a `manifest.json`, or the folder of a report configuration, of which the newest
            counts. None: its keys are listed.
        is_continuous: A schedule picks up what is added to it.

    Raises:
        PermanentError: The address or the name is not one, or the archive holds the pipeline's own buckets.
        ClientError: The bucket is not there, or cannot be listed.
    """
    bucket, prefix = split_uri(uri)
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    settings = pipeline.settings
    if bucket in {settings.landing_bucket, settings.lake_bucket, settings.staging_bucket}:
        raise PermanentError("That is a bucket of the pipeline itself: what lands there is imported without an archive")
    if report_uri:
        split_uri(report_uri)
    archive_id = name or f"{bucket.replace('.', '-')[:31]}-{hashlib.sha256(prefix.encode()).hexdigest()[:6]}"
    if not NAME.fullmatch(archive_id):
        raise PermanentError("A name of an archive is 1 to 40 lower case letters, digits and hyphens")
    pipeline.aws.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    row = {
        "archive_id": archive_id,
        "uri": f"s3://{bucket}/{prefix}",
        "bucket": bucket,
        "prefix": prefix,
        "source": Source.S3_INVENTORY if report_uri else Source.LISTING,
        "report_uri": report_uri,
        "created_at": now(),
        "is_continuous": is_continuous,
        "generation": 0,
        "planned_generation": 0,
    }
    with pipeline.index.transaction() as connection:
        insert_missing(connection, c.archives, [row])
        change = {name: row[name] for name in ("source", "report_uri", "is_continuous")}
        same = sa.and_(c.archives.c.archive_id == archive_id, c.archives.c.uri == row["uri"])
        if not connection.execute(c.archives.update().where(same).values(change)).rowcount:
            raise PermanentError(f"{archive_id} is the name of another archive: give this one a name of its own")
    return find(pipeline, archive_id)


def all_archives(pipeline: Pipeline) -> list[Archive]:
    """Every archive, by name."""
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(sa.select(c.archives).order_by(c.archives.c.archive_id)).mappings().all()
    names = Archive.__dataclass_fields__
    return [Archive(**({name: row[name] for name in names} | {"source": Source(row["source"])})) for row in rows]


def find(pipeline: Pipeline, name_or_uri: str) -> Archive:
    """An archive by its name, or by its address where only one lies there. Raises PermanentError when there is none."""
    wanted = name_or_uri.rstrip("/")
    found = [one for one in all_archives(pipeline) if wanted in {one.archive_id, one.uri.rstrip("/")}]
    if len(found) != 1:
        problem = "is not known" if not found else "has several names"
        raise PermanentError(f"This archive {problem}: `ahi archive list` shows names, `ahi archive add` enters one")
    return found[0]


def last_number(connection: sa.Connection, archive_id: str) -> int:
    """Number of the last shard that an archive of this name ever had.

    The ledger, jobs and Dagster know shards by their keys for good, also those of an archive that was removed.
    """
    here, gone = c.archive_shards, c.archive_numbers
    newest = connection.scalar(sa.select(sa.func.max(here.c.number)).where(here.c.archive_id == archive_id))
    before = connection.scalar(sa.select(gone.c.last_number).where(gone.c.archive_id == archive_id))
    return max(newest or 0, before or 0)


def shards_as_of(index: Index) -> str:
    """What differs as soon as shards of any archive are planned, or go with it: their number and their newest."""
    table = c.archive_shards
    with index.engine.connect() as connection:
        number, newest = connection.execute(sa.select(sa.func.count(), sa.func.max(table.c.planned_at))).one()
    return f"{number} {newest.isoformat() if newest else '-'}"


def _refuse_if_at_work(connection: sa.Connection, archive_id: str) -> None:
    shards, jobs = c.archive_shards, catalog.jobs
    of_archive = shards.c.archive_id == archive_id
    started = sa.select(sa.func.count()).where(of_archive, shards.c.state == ShardState.STARTED)
    if number := connection.scalar(started):
        raise PermanentError(f"{number} shards of {archive_id} are started: let them end first")
    at_work = sa.select(sa.func.count()).where(of_archive, shards.c.lease_until > now())
    if number := connection.scalar(at_work):
        raise PermanentError(f"A run has {number} shards of {archive_id}: cancel it, or let it end first")
    running = jobs.c.state.in_(JOBS_UNDER_WAY)
    mine = jobs.c.shard_key.in_(sa.select(shards.c.shard_key).where(of_archive))
    if number := connection.scalar(sa.select(sa.func.count()).select_from(jobs).where(mine, running)):
        raise PermanentError(f"{number} import jobs of {archive_id} are under way: let them end first")


def _withdraw(commit: Commit, archive_id: str) -> None:
    """Set aside what waits for a job, with its planned jobs: no run would ever come for it."""
    objects, jobs, moment = catalog.objects, catalog.jobs, now()
    keys = sa.select(c.archive_shards.c.shard_key).where(c.archive_shards.c.archive_id == archive_id)
    values = {"state": ObjectState.SET_ASIDE, "state_since": moment, "settled_at": moment, "not_before": None}
    values |= {"reason_code": Reason.WITHDRAWN, "reason_text": "its archive was removed before it was imported"}
    mine = sa.and_(objects.c.shard_key.in_(keys), objects.c.state.in_(IN_FLIGHT))
    commit.connection.execute(objects.update().where(mine).values(changed_seq=commit.seq, **values))
    planned = sa.and_(jobs.c.shard_key.in_(keys), jobs.c.state == JobState.PLANNED)
    ended = {"state": JobState.SETTLED, "status": chain.WITHDRAWN, "message": "its archive was removed"}
    commit.connection.execute(jobs.update().where(planned).values(settled_at=moment, ended_at=moment, **ended))


def remove(pipeline: Pipeline, archive: Archive) -> int:
    """Forget an archive: its looks, shards and all that the lake names of its keys. Returns how many objects went.

    What it imported stays, and so does its account in the ledger. Its own bucket is never touched.

    What of it waited for a job is set aside; entered again by another archive, it goes on from there.

    Raises:
        PermanentError: Shards of it are started, or jobs of it run: they would be left without a list of what they
            import.
    """
    shards = c.archive_shards
    s3, bucket, n_objects = pipeline.aws.s3, pipeline.settings.lake_bucket, 0
    with pipeline.index.commit(kind="archive_removed", run_id=pipeline.run_id) as commit:
        connection = commit.connection
        _refuse_if_at_work(connection, archive.archive_id)
        _withdraw(commit, archive.archive_id)
        last, numbers = last_number(connection, archive.archive_id), c.archive_numbers
        connection.execute(numbers.delete().where(numbers.c.archive_id == archive.archive_id))
        connection.execute(numbers.insert().values(archive_id=archive.archive_id, last_number=last))
        of_shards = sa.select(shards.c.shard_key).where(shards.c.archive_id == archive.archive_id)
        links = c.archive_corrections
        connection.execute(links.delete().where(links.c.shard_key.in_(of_shards)))
        kept = (links, numbers)
        for table in (one for name, one in metadata.tables.items() if name.startswith("archive") and one not in kept):
            connection.execute(table.delete().where(table.c.archive_id == archive.archive_id))
    # Rows first: what is left of the files after a kill belongs to no archive, and another call removes it.
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=archive.folder):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
            n_objects += 1
    return n_objects
