"""FHIR from the index: what HealthLake does not have yet, planned as a batch; what is gone, taken back.

Belongs here: finding changed and deleted studies, comparing resources with those sent before. Does not belong here:
how rows become resources (`ahi.fhir`), what happens to the batch after (`ahi.healthlake.freeze`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from more_itertools import chunked

from ahi.clock import now
from ahi.errors import PermanentError
from ahi.fhir.changes import Comparison, retraction
from ahi.fhir.resources import Resource, study_id
from ahi.fhir.rules import MAPPING_VERSION, Rules, healthimaging_root
from ahi.fhir.source import fhir_resources, study_fingerprints
from ahi.healthlake import sent
from ahi.healthlake.plan import INDEX, SourceFile, Terms, add_batch, datastore, open_import, split
from ahi.healthlake.resubmission import enter_source, next_number
from ahi.healthlake.sent import RETRACTION
from ahi.index.catalog import EPOCH
from ahi.index.catalog_fhir import Policy, SentState, fhir_sent
from ahi.index.query import open_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import duckdb

    from ahi.fhir.imaging_study import Omission
    from ahi.pipeline import Pipeline

LOOKUP = 300


class _Changed(NamedTuple):
    """Studies to look at, and what their states are called now."""

    studies: tuple[str, ...]
    fingerprints: Mapping[str, str]
    deleted: tuple[str, ...]


def plan_changes(pipeline: Pipeline) -> Counter[str]:
    """Plan a batch of what changed in the index since the last one. Returns counts; none when nothing did.

    At most `AHI_FHIR_STUDIES_PER_BATCH` studies at a time: call it again while it counts studies.
    """
    store, counts = datastore(pipeline), Counter[str]()
    if not pipeline.index.path.exists():
        return counts
    with open_index(pipeline.index.path) as connection:
        changed = _changed(pipeline, connection, store)
        if not changed.studies and not changed.deleted:
            return counts
        with tempfile.NamedTemporaryFile(prefix="ahi-fhir-") as written:
            rows = _write(pipeline, connection, changed, written, counts)
            written.flush()
            received = _received(connection, changed.studies)
            source = _put(pipeline, Path(written.name)) if counts["resources"] else None
    with pipeline.index.transaction() as catalog:
        _plan(catalog, pipeline, source, rows, received)
        # A study that was never told of leaves nothing to take back.
        untold = sa.and_(fhir_sent.c.datastore_id == store, fhir_sent.c.subject.is_(None))
        for some in chunked(changed.deleted, LOOKUP):
            catalog.execute(fhir_sent.delete().where(untold, fhir_sent.c.study_uid.in_(some)))
    return counts


def _changed(pipeline: Pipeline, connection: duckdb.DuckDBPyConnection, store: str) -> _Changed:
    table = fhir_sent
    query = sa.select(table.c.study_uid, table.c.fingerprint).where(table.c.datastore_id == store)
    query = query.where(table.c.origin == INDEX, table.c.study_uid.is_not(None))
    with pipeline.index.engine.connect() as rows:
        before = {row.study_uid: row.fingerprint for row in rows.execute(query)}
    limit, chosen = pipeline.settings.fhir_studies_per_batch, dict[str, str]()
    for study, state in study_fingerprints(connection):
        fingerprint = f"{MAPPING_VERSION}:{state}"
        if before.pop(study, None) != fingerprint and len(chosen) < limit:
            chosen[study] = fingerprint
    # What the index no longer has; what was taken back already waits for its batch only.
    deleted = sorted(study for study, fingerprint in before.items() if fingerprint != RETRACTION)
    return _Changed(tuple(chosen), chosen, tuple(deleted[:limit]))


def _rules(pipeline: Pipeline) -> Rules:
    name = pipeline.settings.fhir_time_zone
    try:
        zone: dt.tzinfo | None = ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        raise PermanentError(f"AHI_FHIR_TIME_ZONE is no time zone: {name}.") from None
    return Rules(healthimaging_root(pipeline.aws.healthlake.meta.region_name), zone)


def _write(
    pipeline: Pipeline,
    connection: duckdb.DuckDBPyConnection,
    changed: _Changed,
    written: Any,
    counts: Counter[str],
) -> list[dict[str, Any]]:
    """Write the lines of what differs from what was sent. Returns the new rows of `fhir_sent`."""
    store, rows, seen = pipeline.settings.fhir_datastore_id, list[dict[str, Any]](), set[str]()
    studies = {f"ImagingStudy/{study_id(study)}": study for study in changed.studies}

    def omit(omission: Omission) -> None:
        counts["instances_omitted"] += omission.n_instances

    if changed.studies:
        made = fhir_resources(connection, _rules(pipeline), studies=changed.studies, omit=omit)
        for some in chunked(made, LOOKUP):
            known = _known(pipeline, store, [one.reference for one in some])
            differing = {one.reference for _, one in Comparison(known).changed(some)}
            for one in some:
                study = studies.get(one.reference)
                seen.add(one.reference)
                differs = one.reference in differing
                if differs:
                    written.write(one.body + b"\n")
                    counts["resources"] += 1
                if differs or study:
                    state = SentState.PENDING if differs else None
                    rows.append(_row(store, one, study, changed.fingerprints.get(study or ""), state))
    for reference, study in studies.items():
        if reference not in seen:
            # Nothing of it can be told in FHIR; the row keeps it from being tried again, and closure names it.
            nothing = Resource("ImagingStudy", reference.partition("/")[2], b"")
            rows.append(_row(store, nothing, study, changed.fingerprints[study], SentState.FAILED))
            counts["studies_without_fhir"] += 1
    for one, study in _retractions(pipeline, store, changed.deleted):
        written.write(one.body + b"\n")
        rows.append(_row(store, one, study, RETRACTION, SentState.PENDING))
        counts.update(resources=1, retracted=1)
    counts["studies"] = len(changed.studies)
    return rows


def _row(store: str, one: Resource, study: str | None, fingerprint: str | None, state: str | None) -> dict[str, Any]:
    return {
        "datastore_id": store,
        "reference": one.reference,
        "origin": INDEX,
        "study_uid": study,
        "subject": one.subject or None,
        "fingerprint": fingerprint,
        "digest": one.digest,
        "state": state,
    }


def _known(pipeline: Pipeline, store: str, references: Sequence[str]) -> dict[str, str]:
    table = fhir_sent
    query = sa.select(table.c.reference, table.c.digest).where(table.c.datastore_id == store)
    # What failed is sent again when its study changes, even if its own bytes do not.
    query = query.where(table.c.reference.in_(references), table.c.state != SentState.FAILED)
    with pipeline.index.engine.connect() as connection:
        return {row.reference: row.digest for row in connection.execute(query)}


def _retractions(pipeline: Pipeline, store: str, studies: Sequence[str]) -> Iterator[tuple[Resource, str]]:
    table = fhir_sent
    query = sa.select(table.c.reference, table.c.study_uid, table.c.subject, table.c.digest)
    query = query.where(table.c.datastore_id == store, table.c.origin == INDEX, table.c.subject.is_not(None))
    with pipeline.index.engine.connect() as connection:
        for some in chunked(studies, LOOKUP):
            for row in connection.execute(query.where(table.c.study_uid.in_(some))):
                yield retraction(row.reference.partition("/")[2], row.subject), row.study_uid


def _received(connection: duckdb.DuckDBPyConnection, studies: Sequence[str]) -> dt.datetime:
    """When HealthImaging had the oldest of the changes: the newest version of each study counts."""
    sql = (
        "SELECT min(newest) FROM (SELECT max(epoch_us(coalesce(updated_at, created_at, indexed_at))) AS newest "
        "FROM image_sets "
        "WHERE StudyInstanceUID IN (SELECT unnest(?::VARCHAR[])) GROUP BY StudyInstanceUID)"
    )
    row = connection.execute(sql, [list(studies)]).fetchone()
    found = row[0] if row else None
    return EPOCH + dt.timedelta(microseconds=found) if found is not None else now()


def _put(pipeline: Pipeline, path: Path) -> SourceFile:
    """The lines as a source in the lake, at an exact version."""
    with path.open("rb") as lines:
        digest = hashlib.file_digest(lines, "sha256").hexdigest()
    moment = now()
    bucket, key = pipeline.settings.lake_bucket, f"fhir/made/{moment:%Y%m%d%H%M%S}-{digest[:16]}.ndjson"
    pipeline.aws.s3.upload_file(str(path), bucket, key)
    head = pipeline.aws.s3.head_object(Bucket=bucket, Key=key)
    version = head.get("VersionId")
    kept = version if version and version != "null" else None
    return SourceFile(bucket, key, kept, head["ETag"].strip('"'), head["ContentLength"], moment)


def _plan(
    connection: sa.Connection,
    pipeline: Pipeline,
    source: SourceFile | None,
    rows: Sequence[dict[str, Any]],
    received: dt.datetime,
) -> None:
    store = pipeline.settings.fhir_datastore_id
    batch_id = ""
    if source:
        # One refused resource must not keep all later studies out; a newer state of a study goes after an older one.
        chain = f"index-{store[:8]}"
        open_import(connection, pipeline, chain, INDEX, Terms(Policy.CONTINUE, is_ordered=True))
        enter_source(connection, chain, source)
        parts = list(split(pipeline, source, pipeline.settings.fhir_bytes_per_file))
        number = next_number(connection, chain)
        batch_id = add_batch(connection, chain, parts, number=number, received_at=received)
    same = [row for row in rows if row["state"] is None]
    sent.put(connection, [{**row, "batch_id": batch_id} for row in rows if row["state"] is not None])
    for row in same:
        mine = sa.and_(fhir_sent.c.datastore_id == store, fhir_sent.c.reference == row["reference"])
        connection.execute(fhir_sent.update().where(mine).values(fingerprint=row["fingerprint"]))
