"""Another try for what failed: corrected files, or the same once more. Belongs here: making their shard.

Does not belong here: importing it, which is a shard like any other (`ahi.archive.imports`).
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked, unique_justseen

from ahi import ledger, uploads
from ahi.archive import archives, inventory, parts
from ahi.archive.entry import read_object, state_of
from ahi.archive.keys import set_aside_files
from ahi.archive.shards import ArchiveObject, read_shard, write_manifest
from ahi.clock import day_of, now
from ahi.errors import PermanentError
from ahi.events import ObjectCreated
from ahi.inbox import Batch, Queue
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import ObjectState
from ahi.index.catalog_archives import ShardState
from ahi.index.parquet import spilling
from ahi.index.sql import text
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import duckdb

    from ahi.archive.archives import Archive
    from ahi.index.store import Commit
    from ahi.index.writer import DataFile
    from ahi.pipeline import Pipeline

NOT_GIVEN = (Reason.ACCESS_DENIED, Reason.OBJECT_GONE, Reason.UNREADABLE, Reason.SUPERSEDED)
"""S3 did not give the object: a policy, a key or a storage class, which a person mends, or other bytes in its place."""

MAY_PASS = (Reason.JOB_FAILED, Reason.IMPORT_SERVER_ERROR, Reason.NOT_REPORTED, *NOT_GIVEN)
"""Failures that say nothing against the file itself."""

ROWS = 20_000
"""Rows in memory at a time."""

_OF_HEADER = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "Manufacturer"),
    *("TransferSyntaxUID", "state_since", "reason_code", "reason_text"),
)


@dataclass(frozen=True)
class Retry:
    """What another try is made of."""

    shard_keys: list[str]
    """Partitions to launch, those of an earlier retry among them that nobody has launched yet."""
    objects: int
    unmatched: int
    """Objects under the prefix that correspond to nothing that failed; they are left alone."""
    repeated: int = 0
    """Objects that are in a shard of an earlier retry as they lie there, or that are the very ones that failed."""
    still_failing: int = 0
    """Objects that S3 does not give, or whose header is no good, as before."""


def corrected(pipeline: Pipeline, archive: Archive, uri: str) -> Retry:
    """Plan corrected files as shards of their archive, each linked to the original that failed or was set aside.

    A corrected file has the key of its original, below the prefix that is given instead of the archive's own. The same
    again plans nothing twice.

    Raises:
        PermanentError: No file there corresponds to an object that failed.
    """
    bucket, prefix = archives.split_uri(uri)
    planned = _planned_before(pipeline, archive)
    found, again, waiting, unmatched = list[tuple[ArchiveObject, str]](), 0, set[str](), 0
    with _open_failed(pipeline, archive) as failed:
        listed = unique_justseen(uploads.listing(pipeline, bucket, prefix), key=attrgetter("key"))
        for some in chunked(listed, ROWS):
            there = {item.key.removeprefix(prefix).lstrip("/"): item for item in some}
            originals = _originals(failed, archive, there)
            unmatched += len(there) - len(originals)
            for key, original in originals.items():
                item = there[key]
                etag, at = item.etag or "", item.at or now()
                if ledger.object_id_of(bucket, item.key, None, etag) == original:
                    again += 1
                elif (place := (bucket, item.key, etag)) in planned:
                    again += 1
                    waiting |= planned[place]
                else:
                    found.append((ArchiveObject(bucket, item.key, None, etag, item.size or 0, at), original))
    if not found and not waiting:
        said = "those are in already, or the very objects that failed" if again else "no file there has the key of one"
        raise PermanentError(f"Nothing to try again: {said}. Without a prefix, what may pass by itself is tried again")
    shards = list(chunked(sorted(found, key=lambda pair: pair[0].key), pipeline.settings.max_files_per_job))
    keys = _keep(pipeline, archive, shards) if shards else []
    return Retry([*sorted(waiting), *keys], len(found), unmatched, again)


@contextmanager
def _open_failed(pipeline: Pipeline, archive: Archive) -> Iterator[duckdb.DuckDBPyConnection]:
    """What of an archive failed, or was set aside by the newest plan, as `work.failed` on local disk, by key.

    A key is one below the archive's prefix, and has its last object: the id, or where it has none the entity tag.
    """
    import pyarrow as pa

    table, shards = catalog.objects, c.archive_shards
    mine = sa.select(shards.c.shard_key).where(shards.c.archive_id == archive.archive_id)
    query = sa.select(table.c.key, table.c.object_id, table.c.state_since)
    query = query.where(table.c.shard_key.in_(mine), table.c.state == ObjectState.FAILED)
    key = f"CASE WHEN starts_with(key, {text(archive.prefix)}) THEN substr(key, {len(archive.prefix) + 1}) ELSE key END"
    with parts.scratch(pipeline) as folder, spilling(folder) as duck:
        duck.execute(f"ATTACH {text(str(folder / 'work.duckdb'))} AS work")
        duck.execute("CREATE TABLE work.every (key VARCHAR, object_id VARCHAR, etag VARCHAR, since TIMESTAMPTZ)")
        if aside := set_aside_files(pipeline, archive, folder):
            duck.execute(f"INSERT INTO work.every SELECT {key}, NULL, etag, NULL FROM {inventory.files(aside)}")
        with pipeline.index.engine.connect() as connection:
            for rows in connection.execution_options(yield_per=ROWS).execute(query).partitions():
                columns = dict(zip(("key", "object_id", "since"), map(list, zip(*rows, strict=True)), strict=True))
                duck.register("given", pa.table(columns))
                duck.execute(f"INSERT INTO work.every SELECT {key}, object_id, NULL, since FROM given")
                duck.unregister("given")
        # In order of keys, as a listing is, so that each lot of it is looked up in a small part of the table.
        duck.execute(
            "CREATE TABLE work.failed AS SELECT key, arg_max(coalesce(object_id, ''), coalesce(since, '-infinity')) "
            "AS object_id, any_value(etag) AS etag FROM work.every GROUP BY key ORDER BY key"
        )
        try:
            yield duck
        finally:
            duck.execute("DETACH work")


def _originals(failed: duckdb.DuckDBPyConnection, archive: Archive, there: Mapping[str, object]) -> dict[str, str]:
    """Of some keys below the archive's prefix those in `work.failed`, with the object that failed."""
    import pyarrow as pa

    failed.register("given", pa.table({"key": list(there)}))
    rows = failed.execute(
        "SELECT key, object_id, etag FROM work.failed SEMI JOIN given USING (key) WHERE key BETWEEN ? AND ?",
        [min(there), max(there)],
    ).fetchall()
    failed.unregister("given")
    return {
        key: object_id or ledger.object_id_of(archive.bucket, archive.prefix + key, None, etag)
        for key, object_id, etag in rows
    }


def _planned_before(pipeline: Pipeline, archive: Archive) -> dict[tuple[str, str, str], set[str]]:
    """Bucket, key and entity tag of what earlier retries planned, with the shard where it was not launched yet."""
    links, shards = c.archive_corrections, c.archive_shards
    query = sa.select(shards.c.shard_key, shards.c.started_at).where(shards.c.archive_id == archive.archive_id)
    query = query.where(shards.c.shard_key.in_(sa.select(links.c.shard_key)))
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(query).all()
    found: dict[tuple[str, str, str], set[str]] = {}
    for shard_key, started_at in rows:
        for item in read_shard(pipeline, shard_key):
            found[item.bucket, item.key, item.etag] = set() if started_at else {shard_key}
    return found


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
    """Take back the failures that say nothing against the file: their shards go on when they are launched again.

    Objects that S3 did not give are read again now, a shard at a time; those that it still does not give stay as they
    are.
    """
    table, shards = catalog.objects, c.archive_shards
    of_archive = sa.select(shards.c.shard_key).where(shards.c.archive_id == archive.archive_id)
    may_pass = sa.and_(table.c.shard_key.in_(of_archive), _is_out(), table.c.reason_code.in_(MAY_PASS))
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table.c.shard_key).where(may_pass).distinct().order_by(table.c.shard_key)
        keys = list(connection.execute(query).scalars())
    reopened, number, still = list[str](), 0, 0
    for shard_key in keys:
        again = _read_again(pipeline, shard_key)
        # One that was refused by S3 as it was copied has its header.
        which = sa.and_(may_pass, table.c.shard_key == shard_key, sa.not_(_without_header()))
        # One transaction: no run goes on with what is ready in a shard that is done.
        commit_ = pipeline.index.commit(
            batch_id=again.batch_id, kind="retry", run_id=pipeline.run_id, files=[again.file] if again.file else []
        )
        with commit_ as commit:
            n_ready, n_failing = _take_back(commit, shard_key, again)
            values = {"state": ObjectState.READY, "state_since": now(), "reason_code": None, "reason_text": None}
            values |= {**ledger.NO_JOB, "not_before": None, "changed_seq": commit.seq}
            n_ready += commit.connection.execute(table.update().where(which).values(**values)).rowcount
            if n_ready:
                change = shards.update().where(shards.c.shard_key == shard_key)
                commit.connection.execute(change.values(state=ShardState.CANCELLED, ended_at=None))
                reopened.append(shard_key)
        number, still = number + n_ready, still + n_failing
    if not keys:
        raise PermanentError("Nothing of it failed for a reason that may pass; give the corrected files' prefix")
    return Retry(reopened, number, 0, still_failing=still)


def set_down(pipeline: Pipeline, archive: Archive) -> Retry:
    """Let fail what is refused of the shards that have stalled: the rest of them goes in when they are launched again.

    For what cannot be mended, as a lost key: each object is tried once more by itself and named with its reason.

    Raises:
        PermanentError: No shard of it has stalled.
    """
    table, moment = c.archive_shards, now()
    free = sa.or_(table.c.lease_until.is_(None), table.c.lease_until <= moment)
    waits = table.c.state.in_((ShardState.PLANNED, ShardState.CANCELLED))
    stalled = sa.and_(table.c.archive_id == archive.archive_id, waits, free, table.c.message.is_not(None))
    with pipeline.index.transaction() as connection:
        query = sa.select(table.c.shard_key, table.c.n_objects).where(stalled).order_by(table.c.shard_key)
        rows = connection.execute(query).all()
        connection.execute(table.update().where(stalled).values(set_down_at=moment))
    if not rows:
        raise PermanentError("No shard of it has stalled; a run that ends red names those that have")
    return Retry([row.shard_key for row in rows], sum(row.n_objects for row in rows), 0)


def _without_header() -> sa.ColumnElement[bool]:
    table = catalog.objects
    return sa.and_(table.c.reason_code.in_(NOT_GIVEN), table.c.SOPInstanceUID.is_(None))


@dataclass(frozen=True)
class _Again:
    """Objects of a shard that S3 did not give, as it gave them now."""

    batch_id: str
    rows: list[dict[str, object]]
    file: DataFile | None
    """Their headers."""


def _not_given(shard_key: str) -> sa.ColumnElement[bool]:
    table = catalog.objects
    return sa.and_(table.c.shard_key == shard_key, _is_out(), _without_header())


def _is_out() -> sa.ColumnElement[bool]:
    """Failed, or overwritten before it was read: what was put back is in no later plan, which knows it by its tag."""
    table = catalog.objects
    overwritten = sa.and_(table.c.state == ObjectState.SET_ASIDE, table.c.reason_code == Reason.SUPERSEDED)
    return sa.or_(table.c.state == ObjectState.FAILED, sa.and_(overwritten, table.c.SOPInstanceUID.is_(None)))


def _read_again(pipeline: Pipeline, shard_key: str) -> _Again:
    """Read the headers of a shard's objects that S3 did not give."""
    table, moment, which = catalog.objects, now(), _not_given(shard_key)
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(sa.select(table).where(which)).mappings().all()
    items = {
        row["object_id"]: ObjectCreated(
            row["bucket"], row["key"], row["version_id"], row["etag"], row["size_bytes"], "", row["landed_at"]
        )
        for row in rows
    }
    batch_id = f"retry:{shard_key}:{uuid.uuid4().hex}"
    if not items:
        return _Again(batch_id, [], None)
    batch = Batch(batch_id, Queue.UPLOADS, day_of(moment), "", len(items), moment)
    with ThreadPoolExecutor(pipeline.settings.header_threads) as pool:
        outcomes = list(pool.map(lambda item: read_object(pipeline, item, at_last=True), items.values()))
    entries, headers = uploads.rows_of(pipeline, batch, items, outcomes, uploads.UploadReport())
    return _Again(batch_id, entries, pipeline.index.write("headers", headers, batch_id=batch_id))


def _take_back(commit: Commit, shard_key: str, again: _Again) -> tuple[int, int]:
    """Note what was read again. Returns how many are ready, and how many are not."""
    if not again.rows:
        return 0, 0
    table, counts = catalog.objects, dict.fromkeys((ObjectState.READY, ObjectState.FAILED, ObjectState.SET_ASIDE), 0)
    # Somebody else may have read some meanwhile: those are theirs.
    query = sa.select(table.c.object_id, table.c.state).where(_not_given(shard_key))
    open_ = {row.object_id: row.state for row in commit.connection.execute(query)}
    commit.discard("headers", sorted({str(row["object_id"]) for row in again.rows} - open_.keys()))
    for row in (row for row in again.rows if row["object_id"] in open_):
        state = state_of(row)
        counts[state] += 1
        if open_[row["object_id"]] == ObjectState.SET_ASIDE and state is not ObjectState.READY:
            continue  # as it is counted in its shard
        values = {name: row[name] for name in _OF_HEADER} | {"state": state, **ledger.NO_JOB}
        values |= {"settled_at": None} if state is ObjectState.READY else {}
        values |= {"header_at": commit.committed_at, "header_seq": commit.seq, "changed_seq": commit.seq}
        commit.connection.execute(table.update().where(table.c.object_id == row["object_id"]).values(**values))
    return counts[ObjectState.READY], counts[ObjectState.FAILED] + counts[ObjectState.SET_ASIDE]
