"""Archives: which there are, and where the lake keeps what we know of them.

Belongs here: adding one, finding one. Does not belong here: looking at its keys (`ahi.archive.inventory`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog_archives as c
from ahi.index.catalog import metadata
from ahi.index.catalog_archives import ShardState, Source
from ahi.index.engine import insert_missing

if TYPE_CHECKING:
    import datetime as dt

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


def remove(pipeline: Pipeline, archive: Archive) -> int:
    """Forget an archive: its looks, shards and all that the lake names of its keys. Returns how many objects went.

    What it imported stays, and so does its account in the ledger. Its own bucket is never touched.

    Raises:
        PermanentError: Shards of it are started: they would be left without a list of what they import.
    """
    shards = c.archive_shards
    mine = (shards.c.archive_id == archive.archive_id, shards.c.state == ShardState.STARTED)
    s3, bucket, n_objects = pipeline.aws.s3, pipeline.settings.lake_bucket, 0
    with pipeline.index.transaction() as connection:
        if started := connection.scalar(sa.select(sa.func.count()).select_from(shards).where(*mine)):
            raise PermanentError(f"{started} shards of {archive.archive_id} are started: let them end first")
        of_shards = sa.select(shards.c.shard_key).where(shards.c.archive_id == archive.archive_id)
        links = c.archive_corrections
        connection.execute(links.delete().where(links.c.shard_key.in_(of_shards)))
        for table in (one for name, one in metadata.tables.items() if name.startswith("archive") and one is not links):
            connection.execute(table.delete().where(table.c.archive_id == archive.archive_id))
    # Rows first: what is left of the files after a kill belongs to no archive, and another call removes it.
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=archive.folder):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
            n_objects += 1
    return n_objects
