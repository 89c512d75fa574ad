"""Image sets: what HealthImaging shows, its documents kept, their rows in the index.

Belongs here: looking an image set up, reading its document once, and indexing what the index does not show yet.
Does not belong here: the form of a document (`ahi.documents`) and the tables (`ahi.index`).

HealthImaging charges for a metadata read and moves the set back to the dear tier, so each (image set, version) is
read once and kept in the lake; every later look, re-index and new column works from there.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError
from more_itertools import chunked
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ahi import leases, pacing
from ahi.aws import FORBIDDEN, GONE, THROTTLED, error_code
from ahi.clock import day_of, now
from ahi.errors import PermanentError
from ahi.index import catalog

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Mapping

    from ahi.pipeline import Pipeline

T = TypeVar("T")

LEASE_SECONDS = 90.0
"""Longer than a read takes with all its retries."""


@dataclass(frozen=True)
class Sighting:
    """What HealthImaging shows of one image set now."""

    image_set_id: str
    version: int
    is_primary: bool
    state: str
    created_at: dt.datetime | None
    updated_at: dt.datetime | None


def sight(pipeline: Pipeline, image_set_ids: Iterable[str]) -> Counter[str]:
    """Look image sets up, keep the documents we lack, and note what the index has to catch up with.

    Returns counts: active, locked, gone, refused, kept (documents read), known (already kept), bytes.
    Raises the first error that another look may cure, when all others have been looked at.
    """
    counts, trouble = sight_some(pipeline, image_set_ids)
    if trouble:
        raise trouble[0]
    return counts


def sight_some(pipeline: Pipeline, image_set_ids: Iterable[str]) -> tuple[Counter[str], list[Exception]]:
    """The same as `sight`, with the errors that another look may cure beside the counts."""
    ids = sorted(set(image_set_ids))
    looks = _Looks.of(pipeline)
    counts, trouble = Counter[str](), list[Exception]()

    def one(image_set_id: str) -> Counter[str] | Exception:
        try:
            return _sight_one(pipeline, looks, image_set_id)
        except (BotoCoreError, ClientError) as error:
            # An id that HealthImaging calls invalid will never be anything; it must not hold up the others.
            return Counter(refused=1) if error_code(error) == "ValidationException" else error

    with ThreadPoolExecutor(pipeline.settings.document_threads) as pool:
        for outcome in pool.map(one, ids):
            if isinstance(outcome, Exception):
                trouble.append(outcome)
            else:
                counts += outcome
    return counts, trouble


def seen_versions(pipeline: Pipeline, image_set_ids: Iterable[str]) -> dict[str, int]:
    """The version in which we have seen each of some image sets: none for one never seen.

    0 for one that was gone, and for one to be looked at again: the index has it otherwise, or its document is lost.
    """
    table, seen = catalog.sightings, dict[str, int]()
    unseen = sa.or_(table.c.gone, _astray(), _without_document())
    columns = (table.c.image_set_id, sa.case((unseen, 0), else_=table.c.version))
    with pipeline.index.engine.connect() as connection:
        for some in chunked(image_set_ids, 500):
            mine = sa.and_(table.c.datastore_id == pipeline.settings.datastore_id, table.c.image_set_id.in_(some))
            query = sa.select(*columns).select_from(_with_heads()).where(mine)
            seen |= {str(row[0]): int(row[1]) for row in connection.execute(query)}
    return seen


@dataclass(frozen=True)
class _Looks:
    """What the looks of one call share: the pace of each operation."""

    look: pacing.Pace
    read: pacing.Pace

    @classmethod
    def of(cls, pipeline: Pipeline) -> _Looks:
        settings = pipeline.settings
        look = pacing.Pace(pipeline.index, "medical-imaging:look", rate=settings.image_set_looks_per_second)
        read = pacing.Pace(pipeline.index, "medical-imaging:metadata", rate=settings.metadata_reads_per_second)
        return cls(look, read)


def _sight_one(pipeline: Pipeline, looks: _Looks, image_set_id: str) -> Counter[str]:
    looks.look.wait()
    sighting = look_up(pipeline, image_set_id)
    if sighting is None:
        sighting = _look_again(pipeline, looks, image_set_id)
    if sighting is None or sighting.state == "DELETED":
        with pipeline.index.transaction() as connection:
            _note(connection, pipeline, image_set_id, version=sighting.version if sighting else 0, gone=True)
        return Counter(gone=1)
    if sighting.state == "LOCKED":
        # Mid-change. The event of its end brings us back, or the sweep does.
        return Counter(locked=1)
    read = _keep_once(pipeline, looks, sighting)
    return Counter(active=1, bytes=read, kept=int(read > 0), known=int(not read))


def _look_again(pipeline: Pipeline, looks: _Looks, image_set_id: str) -> Sighting | None:
    """A second look at what HealthImaging says it does not have, once it is sure that we ask in the right place.

    Raises PermanentError when the data store itself is not to be found: then nothing can be called deleted.
    """
    datastore_id = pipeline.settings.datastore_id
    try:
        answer = _patiently(lambda: pipeline.aws.imaging.get_datastore(datastoreId=datastore_id))
    except ClientError as error:
        if error_code(error) != "ResourceNotFoundException":
            raise
        raise PermanentError("The data store is not there: check AHI_DATASTORE_ID and the region") from None
    if answer["datastoreProperties"]["datastoreStatus"] != "ACTIVE":
        raise PermanentError("The data store is not active, so nothing is concluded from what it does not show")
    looks.look.wait()
    return look_up(pipeline, image_set_id)


def _keep_once(pipeline: Pipeline, looks: _Looks, sighting: Sighting) -> int:
    """Keep a document unless it is kept, and note what was seen. Returns the bytes read from HealthImaging, or 0.

    Several runs may hear of one version at once; a lease lets one of them read and the others wait for it.
    """
    name = f"document:{sighting.image_set_id}:{sighting.version}"
    while not _kept(pipeline, sighting.image_set_id, sighting.version):
        if _take(pipeline, name):
            try:
                # Another may have kept it and let go between our look and our lease.
                if _kept(pipeline, sighting.image_set_id, sighting.version):
                    _release(pipeline, name)
                    break
                return _keep(pipeline, looks, sighting, name)
            except BaseException:
                _release(pipeline, name)
                raise
        time.sleep(0.1)
    with pipeline.index.transaction() as connection:
        _note(connection, pipeline, sighting.image_set_id, version=sighting.version, gone=False)
    return 0


def _take(pipeline: Pipeline, name: str) -> bool:
    with pipeline.index.transaction() as connection:
        return leases.take(connection, name, seconds=LEASE_SECONDS) is not None


def _release(pipeline: Pipeline, name: str) -> None:
    with pipeline.index.transaction() as connection:
        leases.let_go(connection, name)


def look_up(pipeline: Pipeline, image_set_id: str) -> Sighting | None:
    """GetImageSet: the present version and state; None when HealthImaging does not know it. Not an access to it."""
    try:
        answer = _patiently(
            lambda: pipeline.aws.imaging.get_image_set(
                datastoreId=pipeline.settings.datastore_id, imageSetId=image_set_id
            )
        )
    except ClientError as error:
        if error_code(error) == "ResourceNotFoundException":
            return None
        raise
    version, primary = int(answer["versionId"]), bool(answer.get("isPrimary", True))
    created, updated = answer.get("createdAt"), answer.get("updatedAt")
    return Sighting(image_set_id, version, primary, answer["imageSetState"], created, updated)


def document_key(pipeline: Pipeline, image_set_id: str, version: int) -> str:
    """Where the lake keeps a document: spread over 256 prefixes, named by ids of the service alone."""
    datastore_id = pipeline.settings.datastore_id
    return f"documents/{datastore_id}/{image_set_id[:2]}/{image_set_id}/{version}.json.gz"


def _keep(pipeline: Pipeline, looks: _Looks, sighting: Sighting, lease: str) -> int:
    """The document into lake and catalog, the lease let go in the same transaction. Returns the bytes read, if any."""
    settings = pipeline.settings
    key = document_key(pipeline, sighting.image_set_id, sighting.version)
    kept = blob = _kept_before(pipeline, sighting, key)
    if blob is None:
        looks.read.wait()
        blob = _read(pipeline, sighting)
        pipeline.aws.s3.put_object(Bucket=settings.lake_bucket, Key=key, Body=blob, ContentType="application/gzip")
    moment = now()
    row = {
        "datastore_id": settings.datastore_id,
        "image_set_id": sighting.image_set_id,
        "version": sighting.version,
        "object_key": key,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "size_bytes": len(blob),
        "is_primary": sighting.is_primary,
        "created_at": sighting.created_at,
        "updated_at": sighting.updated_at,
        "fetched_at": moment,
        "day": day_of(moment),
    }
    with pipeline.index.transaction() as connection:
        again = _enter(connection, row)
        _note(connection, pipeline, sighting.image_set_id, version=sighting.version, gone=False, again=again)
        leases.let_go(connection, lease)
    return 0 if kept else len(blob)


def _enter(connection: sa.Connection, row: Mapping[str, Any]) -> bool:
    """Put a document into the catalog. Returns whether the catalog had it before and it was gone from the lake."""
    table = catalog.documents
    mine = sa.and_(*(column == row[column.name] for column in table.primary_key))
    old = connection.execute(sa.select(table.c.erased_at).where(mine)).first()
    if old is None:
        connection.execute(table.insert().values(row))
    elif old.erased_at is not None:
        # The day stays: rows are published by it.
        news = {name: value for name, value in row.items() if name != "day"} | {"erased_at": None, "seq": None}
        connection.execute(table.update().where(mine).values(news))
    return old is not None and old.erased_at is not None


def _kept_before(pipeline: Pipeline, sighting: Sighting, key: str) -> bytes | None:
    """What the lake has of a version under a key, although the catalog, lost or restored, does not know it.

    Only of versions old enough: the lake has nothing of fresh ones, and asking for each would cost a request.
    """
    age = (now() - sighting.updated_at).total_seconds() if sighting.updated_at else 0.0
    if age < pipeline.settings.kept_before_seconds:
        return None
    try:
        return pipeline.aws.s3.get_object(Bucket=pipeline.settings.lake_bucket, Key=key)["Body"].read()
    except ClientError as error:
        # Who may not list a bucket is refused what is not in it.
        if error_code(error) not in GONE | FORBIDDEN:
            raise
        return None


def _read(pipeline: Pipeline, sighting: Sighting) -> bytes:
    """GetImageSetMetadata, compressed."""
    answer = _patiently(
        lambda: pipeline.aws.imaging.get_image_set_metadata(
            datastoreId=pipeline.settings.datastore_id,
            imageSetId=sighting.image_set_id,
            versionId=str(sighting.version),
        )
    )
    blob = answer["imageSetMetadataBlob"].read()
    return blob if blob.startswith(b"\x1f\x8b") else gzip.compress(blob, mtime=0)


def _kept(pipeline: Pipeline, image_set_id: str, version: int) -> bool:
    table = catalog.documents
    mine = (table.c.datastore_id == pipeline.settings.datastore_id, table.c.image_set_id == image_set_id)
    query = sa.select(table.c.version).where(*mine, table.c.version == version, table.c.erased_at.is_(None))
    with pipeline.index.engine.connect() as connection:
        return connection.execute(query).first() is not None


def _note(
    connection: sa.Connection,
    pipeline: Pipeline,
    image_set_id: str,
    *,
    version: int,
    gone: bool,
    again: bool = False,
) -> None:
    """Raise the sighting: the highest version wins, and what the service calls deleted is.

    `again`: the index has to read the document of this version once more.
    """
    table, moment = catalog.sightings, now()
    mine = sa.and_(table.c.datastore_id == pipeline.settings.datastore_id, table.c.image_set_id == image_set_id)
    query = sa.select(table, _astray().label("astray")).select_from(_with_heads()).where(mine)
    row = connection.execute(query).mappings().first()
    seen = {"gone": gone, "seen_at": moment, "pending": True}
    if row is None:
        key = {"datastore_id": pipeline.settings.datastore_id, "image_set_id": image_set_id}
        connection.execute(table.insert().values(**key, version=version, **seen))
    elif version > row["version"] or gone != row["gone"] or row["astray"] or again:
        connection.execute(table.update().where(mine).values(version=max(version, row["version"]), **seen))
        if not gone and (row["gone"] or row["astray"]):
            _unbury(connection, pipeline.settings.datastore_id, image_set_id, version)


def _with_heads() -> sa.Join:
    """Sightings, each with its head where there is one."""
    table, heads = catalog.sightings, catalog.heads
    same = sa.and_(heads.c.datastore_id == table.c.datastore_id, heads.c.image_set_id == table.c.image_set_id)
    return table.outerjoin(heads, same)


def _astray() -> sa.ColumnElement[bool]:
    """Whether the index shows what is gone, or has buried what is there, and nothing is pending that mends it.

    Earlier code left such rows, when what HealthImaging said changed while a commit was under way.
    """
    table, heads = catalog.sightings, catalog.heads
    shown = sa.and_(heads.c.image_set_id.is_not(None), heads.c.deleted_at.is_(None))
    unreadable = sa.func.coalesce(table.c.unreadable_version, -1) == table.c.version
    buried = sa.and_(heads.c.deleted_at.is_not(None), sa.not_(unreadable))
    return sa.and_(sa.not_(table.c.pending), sa.case((table.c.gone, shown), else_=buried))


def _without_document() -> sa.ColumnElement[bool]:
    """Whether the lake has lost the document of the version seen."""
    table, documents = catalog.sightings, catalog.documents
    return sa.exists().where(
        documents.c.datastore_id == table.c.datastore_id,
        documents.c.image_set_id == table.c.image_set_id,
        documents.c.version == table.c.version,
        documents.c.erased_at.is_not(None),
    )


def _unbury(connection: sa.Connection, datastore_id: str, image_set_id: str, version: int) -> None:
    """Let a version that HealthImaging shows after all win over its own deletion."""
    heads = catalog.heads
    mine = sa.and_(heads.c.datastore_id == datastore_id, heads.c.image_set_id == image_set_id)
    connection.execute(heads.update().where(mine, heads.c.deleted_at.is_not(None)).values(deleted_version=version - 1))


def _patiently(call: Callable[[], T]) -> T:
    """Repeat a call that HealthImaging throttles, or refuses because fresh metadata "is not consistent yet" (409)."""
    soon = THROTTLED | {"ConflictException"}
    retrying = Retrying(
        retry=retry_if_exception(lambda error: error_code(error) in soon if isinstance(error, Exception) else False),
        wait=wait_random_exponential(multiplier=0.5, max=8),
        stop=stop_after_delay(60),
        reraise=True,
    )
    return retrying(call)
