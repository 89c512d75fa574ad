"""A shard of an archive into the ledger: its objects read by their headers, as those of uploads are.

Belongs here: from the shard's manifest to one commit. Does not belong here: the header reader, the form of rows
(`ahi.uploads`), and what becomes of ready objects (`ahi.archive.jobs`).
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from more_itertools import chunked

from ahi import ledger, staging, uploads
from ahi.archive.isolation import ShardStalledError
from ahi.archive.known import count_final
from ahi.archive.shards import read_shard
from ahi.aws import FORBIDDEN, GONE, error_code, is_of_object
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
    import datetime as dt
    from collections.abc import Iterable, Mapping

    from ahi.index.store import Commit
    from ahi.pipeline import Pipeline

CHANGED = "PreconditionFailed"
"""S3's code where the object has another entity tag than asked for ("Conditional requests", S3 user guide)."""

REFUSALS = (Reason.ACCESS_DENIED, Reason.UNREADABLE)
"""What S3 does not give, whatever is in it."""


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
    started_at: dt.datetime | None
    """When its objects entered the ledger; None: they have not."""


class ObjectBytes(uploads.S3Bytes):
    """One object of an archive as a source of ranged GETs: what lies there now, if it is what the look saw.

    Never an older version, though an S3 Inventory may name one: a hospital overwrites or deletes for a reason.
    """

    def __init__(self, pipeline: Pipeline, item: ObjectCreated) -> None:
        super().__init__(pipeline, replace(item, version_id=None))
        if item.etag:
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


def enter(pipeline: Pipeline, shard: Shard, *, at_last: bool = False) -> uploads.UploadReport:
    """Enter the objects of a shard. A replay changes nothing.

    Objects that the ledger has already, as from a landing bucket that is read as an archive, stay with what entered
    them. Raises what S3 raises beyond "gone", "forbidden" and "changed": nothing is entered then. `at_last`: what S3
    still cannot give is failed, having been waited for.

    Raises:
        ahi.archive.isolation.ShardStalledError: S3 gives less than half of several: that is no single object's doing,
            and would stand in the ledger for good. Nothing is entered, unless a person has said that it be.
    """
    if shard.started_at or _is_entered(pipeline, shard):
        return uploads.UploadReport(already_committed=True)
    moment = now()
    # An archive may be forgotten and entered again under its name: what is committed is a manifest, not a key.
    manifest = hashlib.sha256(shard.manifest_key.encode()).hexdigest()[:16]
    batch_id = f"archive:{shard.shard_key}:{manifest}"
    batch = Batch(batch_id, Queue.UPLOADS, day_of(moment), shard.manifest_key, shard.n_objects, moment)
    created = {}
    for item in read_shard(pipeline, shard.shard_key):
        # Known by its entity tag, whichever way the look named it: a listing gives no versions, an Inventory may.
        object_id = ledger.object_id_of(item.bucket, item.key, None, item.etag)
        created[object_id] = ObjectCreated(
            item.bucket, item.key, None, item.etag, item.size_bytes, "", item.last_modified
        )
    with pipeline.index.engine.connect() as connection:
        known = ledger.known(connection, created)
    fresh = {object_id: item for object_id, item in created.items() if object_id not in known}
    report = uploads.UploadReport(duplicates=len(known))
    with ThreadPoolExecutor(pipeline.settings.header_threads) as pool:
        outcomes = list(pool.map(lambda item: read_object(pipeline, item, at_last=at_last), fresh.values()))
    if not staging.is_set_down(pipeline, shard.shard_key):
        _admit(outcomes)
    rows, headers = uploads.rows_of(pipeline, batch, fresh, outcomes, report)
    for row in rows:
        row["shard_key"], row["state"] = shard.shard_key, state_of(row)
    file = pipeline.index.write("headers", headers, batch_id=batch.batch_id)
    files = [file] if file else []
    try:
        commit_ = pipeline.index.commit(batch_id=batch.batch_id, kind="archive", run_id=pipeline.run_id, files=files)
        with commit_ as commit:
            report.duplicates -= _adopt(commit, shard, known)
            _commit(commit, pipeline, shard, rows, known, report)
    except AlreadyCommittedError:
        return uploads.UploadReport(already_committed=True)
    return report


def state_of(row: Mapping[str, object]) -> ObjectState:
    """The state in which an object of an archive begins, from its row as it would be of an upload."""
    if row["state"] == ObjectState.HELD:
        return ObjectState.READY  # no manifest closes a folder of an archive
    if row["reason_code"] == Reason.SUPERSEDED:
        return ObjectState.SET_ASIDE
    return ObjectState(str(row["state"]))


def _admit(outcomes: list[Header | HeaderFailure]) -> None:
    """Nothing, unless S3 refuses most of what was read."""
    refused = [one for one in outcomes if isinstance(one, HeaderFailure) and one.reason in REFUSALS]
    if staging.are_most(len(refused), len(outcomes)):
        raise ShardStalledError(
            f"S3 does not give {len(refused)} of its {len(outcomes)} objects: {refused[0].text}. Look at the policies "
            "of bucket, key and role and at the storage classes, then launch the partitions again; or set down as "
            "failed what is refused: `ahi archive retry NAME --set-down`"
        )


def _is_entered(pipeline: Pipeline, shard: Shard) -> bool:
    table = c.archive_shards
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.started_at).where(table.c.shard_key == shard.shard_key)
        return connection.execute(query).scalar_one_or_none() is not None


def _commit(
    commit: Commit,
    pipeline: Pipeline,
    shard: Shard,
    rows: list[dict[str, object]],
    known: set[str],
    report: uploads.UploadReport,
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
    # Of what was known only what is through counts; the rest is counted when the shard is closed.
    n_known = count_final(commit.connection, known | taken)
    values = {"state": ShardState.STARTED, "started_at": commit.committed_at, "n_known": n_known}
    change = c.archive_shards.update().where(c.archive_shards.c.shard_key == shard.shard_key)
    if not commit.connection.execute(change.values(run_id=pipeline.run_id, **values)).rowcount:
        raise ShardStalledError("Its archive was removed while its headers were read; nothing of it was entered")


def _adopt(commit: Commit, shard: Shard, known: set[str]) -> int:
    """Make ready again, as this shard's, what an archive had that was removed before it was imported. Returns how much.

    All else that is known stays with what entered it.
    """
    table, number = catalog.objects, 0
    withdrawn = sa.and_(table.c.state == ObjectState.SET_ASIDE, table.c.reason_code == Reason.WITHDRAWN)
    values = {"state": ObjectState.READY, "state_since": now(), "shard_key": shard.shard_key}
    values |= dict.fromkeys(("reason_code", "reason_text", "settled_at", "job_key", "input_key"))
    for some in chunked(sorted(known), 500):
        change = table.update().where(withdrawn, table.c.object_id.in_(some))
        number += commit.connection.execute(change.values(changed_seq=commit.seq, **values)).rowcount
    return number


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


def read_object(pipeline: Pipeline, item: ObjectCreated, *, at_last: bool = False) -> Header | HeaderFailure:
    """The header of an object of an archive, or why there is none. Raises what may pass by itself, but not at last."""
    try:
        return read_header(ObjectBytes(pipeline, item))
    except ParamValidationError:
        return HeaderFailure(Reason.UNREADABLE, "S3 takes no such key or version", 0)
    except (BotoCoreError, ClientError) as error:
        code = error_code(error)
        if code in GONE:
            return HeaderFailure(Reason.OBJECT_GONE, "not in the bucket when its header was read", 0)
        if code == CHANGED:
            return HeaderFailure(Reason.SUPERSEDED, "overwritten since the look at the archive", 0)
        if code in FORBIDDEN:
            return HeaderFailure(Reason.ACCESS_DENIED, "S3 refused to let us read it", 0)
        if not is_of_object(error, at_last=at_last):
            raise
        text = f"S3 answered {code}" if code else f"S3 gave no whole answer: {type(error).__name__}"
        return HeaderFailure(Reason.UNREADABLE, text, 0)
