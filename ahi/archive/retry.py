"""Another try for what failed: corrected files, or the same once more. Belongs here: making their shard.

Does not belong here: importing it, which is a shard like any other (`ahi.archive.imports`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi import uploads
from ahi.archive import archives
from ahi.archive.shards import ArchiveObject, write_manifest
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import ObjectState
from ahi.index.catalog_archives import ShardState
from ahi.reasons import Reason

if TYPE_CHECKING:
    from ahi.archive.archives import Archive
    from ahi.pipeline import Pipeline

MAY_PASS = (Reason.JOB_FAILED, Reason.IMPORT_SERVER_ERROR, Reason.NOT_REPORTED)
"""Failures that say nothing against the file itself."""


@dataclass(frozen=True)
class Retry:
    """What another try is made of."""

    shard_keys: list[str]
    """Partitions to launch."""
    objects: int
    unmatched: int
    """Objects under the prefix that correspond to nothing that failed; they are left alone."""


def corrected(pipeline: Pipeline, archive: Archive, uri: str) -> Retry:
    """Plan corrected files as shards of their archive, each linked to the original that failed.

    A corrected file has the key of its original, below the prefix that is given instead of the archive's own.

    Raises:
        PermanentError: No file there corresponds to an object that failed.
    """
    bucket, prefix = archives.split_uri(uri)
    originals = {key.removeprefix(archive.prefix): object_id for key, object_id in _failed(pipeline, archive)}
    found, unmatched = [], 0
    for item in uploads.listing(pipeline, bucket, prefix):
        original = originals.get(item.key.removeprefix(prefix).lstrip("/"))
        if original is None or item.at is None:
            unmatched += 1
            continue
        one = ArchiveObject(bucket, item.key, None, item.etag or "", item.size or 0, item.at)
        found.append((one, original))
    if not found:
        raise PermanentError("No file there has the key of an object that failed, below its prefix")
    shards = list(chunked(sorted(found, key=lambda pair: pair[0].key), pipeline.settings.max_files_per_job))
    return Retry(_keep(pipeline, archive, shards), len(found), unmatched)


def _failed(pipeline: Pipeline, archive: Archive) -> list[tuple[str, str]]:
    table, shards = catalog.objects, c.archive_shards
    mine = sa.select(shards.c.shard_key).where(shards.c.archive_id == archive.archive_id)
    query = sa.select(table.c.key, table.c.object_id)
    query = query.where(table.c.shard_key.in_(mine), table.c.state == ObjectState.FAILED)
    with pipeline.index.engine.connect() as connection:
        return [(key, object_id) for key, object_id in connection.execute(query.order_by(table.c.state_since))]


def _keep(pipeline: Pipeline, archive: Archive, shards: list[list[tuple[ArchiveObject, str]]]) -> list[str]:
    """Write the manifest, then make shards and links true in one transaction."""
    table, moment = c.archive_shards, now()
    manifest = f"{archive.folder}retries/{moment:%Y%m%dT%H%M%S%f}.parquet"
    write_manifest(pipeline, manifest, [[item for item, _ in shard] for shard in shards])
    keys = []
    with pipeline.index.transaction() as connection:
        last = archives.last_number(connection, archive.archive_id)
        for row_group, shard in enumerate(shards):
            number = last + 1 + row_group
            key = f"{archive.archive_id}-{number:05d}"
            row = {"shard_key": key, "archive_id": archive.archive_id, "number": number, "row_group": row_group}
            row |= {"generation": archive.generation, "state": ShardState.PLANNED, "planned_at": moment}
            row |= {"n_objects": len(shard), "n_bytes": sum(item.size_bytes for item, _ in shard)}
            connection.execute(table.insert().values(manifest_key=manifest, **row))
            links = [
                {"shard_key": key, "bucket": item.bucket, "key": item.key, "object_id": original}
                for item, original in shard
            ]
            connection.execute(c.archive_corrections.insert(), links)
            keys.append(key)
    return keys


def once_more(pipeline: Pipeline, archive: Archive) -> Retry:
    """Take back the failures that say nothing against the file: their shards go on when they are launched again."""
    table, shards = catalog.objects, c.archive_shards
    with pipeline.index.commit(kind="retry", run_id=pipeline.run_id) as commit:
        mine = sa.select(shards.c.shard_key).where(shards.c.archive_id == archive.archive_id)
        which = sa.and_(
            table.c.shard_key.in_(mine), table.c.state == ObjectState.FAILED, table.c.reason_code.in_(MAY_PASS)
        )
        keys = sorted(commit.connection.execute(sa.select(table.c.shard_key).where(which).distinct()).scalars())
        values = {"state": ObjectState.READY, "state_since": now(), "reason_code": None, "reason_text": None}
        values |= {"job_key": None, "input_key": None, "not_before": None, "changed_seq": commit.seq}
        number = commit.connection.execute(table.update().where(which).values(**values)).rowcount
        reopened = shards.update().where(shards.c.shard_key.in_(keys))
        commit.connection.execute(reopened.values(state=ShardState.CANCELLED, ended_at=None))
    if not number:
        raise PermanentError("Nothing of it failed for a reason that may pass; give the corrected files' prefix")
    return Retry(keys, number, 0)
