"""A shard of an archive into the ledger: its objects read by their headers, as those of uploads are.

Belongs here: from the shard's manifest to one commit. Does not belong here: the header reader, the form of rows
(`ahi.uploads`), and what becomes of ready objects (`ahi.archive.jobs`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import ClientError, ParamValidationError

from ahi import ledger, uploads
from ahi.archive.shards import read_shard
from ahi.aws import FORBIDDEN, GONE, error_code, is_transient
from ahi.clock import day_of, now
from ahi.dicom.headers import Header, HeaderFailure, read_header
from ahi.events import ObjectCreated
from ahi.inbox import Batch, Queue
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import ObjectState
from ahi.index.catalog_archives import ShardState
from ahi.index.store import AlreadyCommittedError
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ahi.index.store import Commit
    from ahi.pipeline import Pipeline

CHANGED = "PreconditionFailed"
"""S3's code where the object has another entity tag than asked for ("Conditional requests", S3 user guide)."""


@dataclass(frozen=True)
class Shard:
    """One shard, as the catalog has it."""

    shard_key: str
    archive_id: str
    state: ShardState
    n_objects: int
    n_bytes: int
    in_place_prefix: str | None
    manifest_key: str


class ObjectBytes(uploads.S3Bytes):
    """One object of an archive as a source of ranged GETs, in the version that the look at the archive saw."""

    def __init__(self, pipeline: Pipeline, item: ObjectCreated) -> None:
        super().__init__(pipeline, item)
        if item.etag and not item.version_id:
            self._where["IfMatch"] = item.etag


def shards(pipeline: Pipeline, shard_keys: Iterable[str]) -> list[Shard]:
    """Shards by their keys, in that order; those that the catalog does not know are left out."""
    table, wanted = c.archive_shards, list(shard_keys)
    found: dict[str, Shard] = {}
    with pipeline.index.engine.connect() as connection:
        for start in range(0, len(wanted), 500):
            query = sa.select(table).where(table.c.shard_key.in_(wanted[start : start + 500]))
            for row in connection.execute(query).mappings():
                values = {name: row[name] for name in Shard.__dataclass_fields__}
                found[row["shard_key"]] = Shard(**{**values, "state": ShardState(row["state"])})
    return [found[key] for key in wanted if key in found]


def enter(pipeline: Pipeline, shard: Shard) -> uploads.UploadReport:
    """Enter the objects of a shard. A replay changes nothing.

    Objects that the ledger has already, as from a landing bucket that is read as an archive, stay with what entered
    them. Raises what S3 raises beyond "gone", "forbidden" and "changed": nothing is entered then.
    """
    moment = now()
    batch = Batch(
        f"archive:{shard.shard_key}", Queue.UPLOADS, day_of(moment), shard.manifest_key, shard.n_objects, moment
    )
    if _is_entered(pipeline, batch.batch_id):
        return uploads.UploadReport(already_committed=True)
    created = {}
    for item in read_shard(pipeline, shard.shard_key):
        object_id = ledger.object_id_of(item.bucket, item.key, item.version_id, item.etag)
        created[object_id] = ObjectCreated(
            item.bucket, item.key, item.version_id, item.etag, item.size_bytes, "", item.last_modified
        )
    with pipeline.index.engine.connect() as connection:
        known = ledger.known(connection, created)
    fresh = {object_id: item for object_id, item in created.items() if object_id not in known}
    report = uploads.UploadReport(duplicates=len(known))
    with ThreadPoolExecutor(pipeline.settings.header_threads) as pool:
        outcomes = pool.map(lambda item: _outcome(pipeline, item), fresh.values())
        rows, headers = uploads.rows_of(pipeline, batch, fresh, outcomes, report)
    for row in rows:
        row["shard_key"] = shard.shard_key
        if row["state"] == ObjectState.HELD:
            row["state"] = ObjectState.READY  # no manifest closes a folder of an archive
        elif row["reason_code"] == Reason.SUPERSEDED:
            row["state"] = ObjectState.SET_ASIDE
    file = pipeline.index.write("headers", headers, batch_id=batch.batch_id)
    files = [file] if file else []
    try:
        commit_ = pipeline.index.commit(batch_id=batch.batch_id, kind="archive", run_id=pipeline.run_id, files=files)
        with commit_ as commit:
            _commit(commit, pipeline, shard, rows, report)
    except AlreadyCommittedError:
        return uploads.UploadReport(already_committed=True)
    return report


def _is_entered(pipeline: Pipeline, batch_id: str) -> bool:
    commits = catalog.commits
    with pipeline.index.engine.connect() as connection:
        query = sa.select(commits.c.seq).where(commits.c.batch_id == batch_id)
        return connection.execute(query).first() is not None


def _commit(
    commit: Commit, pipeline: Pipeline, shard: Shard, rows: list[dict[str, object]], report: uploads.UploadReport
) -> None:
    # An event may have entered some of them since we looked: their rows count, ours do not.
    taken = ledger.known(commit.connection, [str(row["object_id"]) for row in rows])
    commit.discard("headers", sorted(taken))
    stamp = {"header_at": commit.committed_at, "header_seq": commit.seq}
    entered = [{**row, **stamp} for row in rows if row["object_id"] not in taken]
    report.duplicates += len(taken)
    for row, original in zip(entered, _originals(commit.connection, shard, entered), strict=True):
        row["corrects_object_id"] = original
    report.superseded = ledger.enter(commit, entered)
    values = {"state": ShardState.STARTED, "started_at": commit.committed_at, "n_known": report.duplicates}
    change = c.archive_shards.update().where(c.archive_shards.c.shard_key == shard.shard_key)
    commit.connection.execute(change.values(run_id=pipeline.run_id, **values))


def _originals(connection: sa.Connection, shard: Shard, rows: list[dict[str, object]]) -> list[str | None]:
    """For each row the object that it corrects: one that a person named, or that failed before under the same key."""
    table, found = catalog.objects, dict[tuple[str, str], str]()
    keys = [str(row["key"]) for row in rows]
    for start in range(0, len(keys), 500):
        query = sa.select(table.c.bucket, table.c.key, table.c.object_id).where(
            table.c.state == ObjectState.FAILED, table.c.key.in_(keys[start : start + 500])
        )
        # The last of several attempts at a correction is what the next one corrects.
        for bucket, key, object_id in connection.execute(query.order_by(table.c.state_since)):
            found[bucket, key] = object_id
    links = c.archive_corrections
    query = sa.select(links.c.bucket, links.c.key, links.c.object_id).where(links.c.shard_key == shard.shard_key)
    found |= {(bucket, key): object_id for bucket, key, object_id in connection.execute(query)}
    return [found.get((str(row["bucket"]), str(row["key"]))) for row in rows]


def _outcome(pipeline: Pipeline, item: ObjectCreated) -> Header | HeaderFailure:
    try:
        return read_header(ObjectBytes(pipeline, item))
    except ClientError as error:
        code = error_code(error)
        if code in GONE:
            return HeaderFailure(Reason.OBJECT_GONE, "not in the bucket when its header was read", 0)
        if code == CHANGED:
            return HeaderFailure(Reason.SUPERSEDED, "overwritten since the look at the archive", 0)
        if code in FORBIDDEN:
            return HeaderFailure(Reason.ACCESS_DENIED, "S3 refused to let us read it", 0)
        if is_transient(error):
            raise
        return HeaderFailure(Reason.UNREADABLE, f"S3 answered {code}", 0)
    except ParamValidationError:
        return HeaderFailure(Reason.UNREADABLE, "S3 takes no such key or version", 0)
