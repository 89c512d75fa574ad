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
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from botocore.exceptions import ClientError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ahi import pacing
from ahi.aws import THROTTLED, error_code
from ahi.clock import day_of, now
from ahi.index import catalog

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable

    from ahi.pipeline import Pipeline

T = TypeVar("T")


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

    Returns counts: active, locked, gone, kept (documents read), known (already kept), bytes.
    """
    ids = sorted(set(image_set_ids))
    counts = Counter[str]()
    with ThreadPoolExecutor(pipeline.settings.document_threads) as pool:
        for outcome in pool.map(lambda image_set_id: _sight_one(pipeline, image_set_id), ids):
            counts += outcome
    return counts


def _sight_one(pipeline: Pipeline, image_set_id: str) -> Counter[str]:
    sighting = look_up(pipeline, image_set_id)
    if sighting is None or sighting.state == "DELETED":
        _note(pipeline, image_set_id, version=sighting.version if sighting else 0, gone=True)
        return Counter(gone=1)
    if sighting.state == "LOCKED":
        # Mid-change. The event of its end brings us back, or the sweep does.
        return Counter(locked=1)
    counts = Counter(active=1)
    if _kept(pipeline, image_set_id, sighting.version):
        counts["known"] += 1
    else:
        counts["bytes"] += _keep(pipeline, sighting)
        counts["kept"] += 1
    _note(pipeline, image_set_id, version=sighting.version, gone=False)
    return counts


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


def _keep(pipeline: Pipeline, sighting: Sighting) -> int:
    """GetImageSetMetadata, once, into the lake. Returns the bytes kept."""
    settings = pipeline.settings
    _take_read_token(pipeline)
    answer = _patiently(
        lambda: pipeline.aws.imaging.get_image_set_metadata(
            datastoreId=settings.datastore_id, imageSetId=sighting.image_set_id, versionId=str(sighting.version)
        )
    )
    blob = answer["imageSetMetadataBlob"].read()
    if not blob.startswith(b"\x1f\x8b"):
        blob = gzip.compress(blob, mtime=0)
    key = document_key(pipeline, sighting.image_set_id, sighting.version)
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
        if not _document(connection, settings.datastore_id, sighting.image_set_id, sighting.version):
            connection.execute(catalog.documents.insert().values(row))
    return len(blob)


def _take_read_token(pipeline: Pipeline) -> None:
    rate = pipeline.settings.metadata_reads_per_second
    while True:
        with pipeline.index.transaction() as connection:
            wait = pacing.take(connection, "medical-imaging:metadata", rate=rate, burst=max(1.0, rate))
        if not wait:
            return
        time.sleep(wait)


def _kept(pipeline: Pipeline, image_set_id: str, version: int) -> bool:
    with pipeline.index.engine.connect() as connection:
        return _document(connection, pipeline.settings.datastore_id, image_set_id, version)


def _document(connection: sa.Connection, datastore_id: str, image_set_id: str, version: int) -> bool:
    table = catalog.documents
    where = (table.c.datastore_id == datastore_id, table.c.image_set_id == image_set_id, table.c.version == version)
    return connection.execute(sa.select(table.c.version).where(*where)).first() is not None


def _note(pipeline: Pipeline, image_set_id: str, *, version: int, gone: bool) -> None:
    """Raise the sighting: the highest version wins, and what the service calls deleted is."""
    table, moment = catalog.sightings, now()
    mine = sa.and_(table.c.datastore_id == pipeline.settings.datastore_id, table.c.image_set_id == image_set_id)
    with pipeline.index.transaction() as connection:
        row = connection.execute(sa.select(table).where(mine)).mappings().first()
        if row is None:
            connection.execute(
                table.insert().values(
                    datastore_id=pipeline.settings.datastore_id,
                    image_set_id=image_set_id,
                    version=version,
                    gone=gone,
                    seen_at=moment,
                    pending=True,
                )
            )
        elif version > row["version"] or gone != row["gone"]:
            highest = max(version, row["version"])
            connection.execute(
                table.update().where(mine).values(version=highest, gone=gone, seen_at=moment, pending=True)
            )


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
