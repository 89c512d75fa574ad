"""What HealthLake has of us: one row for each resource made from the index, and for each ImagingStudy of others.

Belongs here: those rows. Does not belong here: making resources (`ahi.fhir`) and planning batches of them
(`ahi.healthlake.from_index`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa
from more_itertools import chunked

from ahi.index.catalog_fhir import SentState, fhir_imports, fhir_sent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HISTORY, INDEX = "history", "index"
_SYSTEMS = frozenset({"urn:dicom:uid", "urn:ietf:rfc:3986"})


class Study(NamedTuple):
    """An ImagingStudy as a batch carries it."""

    reference: str
    study_uid: str | None
    subject: str | None
    digest: str


def study_of(body: bytes) -> Study:
    """What an ImagingStudy says of its study.

    Three dialects are met in real data: `urn:dicom:uid` with `urn:oid:` as HL7 has it, `urn:ietf:rfc:3986`, and a UID
    without `urn:oid:`.
    """
    content: dict[str, Any] = orjson.loads(body)
    uids = (
        str(one.get("value") or "").removeprefix("urn:oid:")
        for one in content.get("identifier") or ()
        if isinstance(one, dict) and one.get("system") in _SYSTEMS
    )
    subject = content.get("subject")
    patient = str(subject.get("reference") or "").removeprefix("Patient/") if isinstance(subject, dict) else None
    reference = f"ImagingStudy/{content['id']}"
    return Study(reference, next(uids, None) or None, patient or None, hashlib.sha256(body).hexdigest())


def note_history(connection: sa.Connection, import_id: str, batch_id: str, studies: Sequence[Study]) -> None:
    """Enter the ImagingStudies of a batch that was not made from the index; those of the index are entered already."""
    row = connection.execute(sa.select(fhir_imports).where(fhir_imports.c.import_id == import_id)).mappings().one()
    if row["origin"] == INDEX or not studies:
        return
    store, newest = row["datastore_id"], {study.reference: study for study in studies}
    for some in chunked(newest.values(), 300):
        known = _states(connection, store, [study.reference for study in some])
        rows = [
            {**study._asdict(), "datastore_id": store, "origin": HISTORY, "state": SentState.PENDING,
             "batch_id": batch_id}
            for study in some
            if known.get(study.reference) != INDEX
        ]  # fmt: skip
        put(connection, rows)


def _states(connection: sa.Connection, datastore_id: str, references: Sequence[str]) -> dict[str, str]:
    table = fhir_sent
    query = sa.select(table.c.reference, table.c.origin).where(table.c.datastore_id == datastore_id)
    return {row.reference: row.origin for row in connection.execute(query.where(table.c.reference.in_(references)))}


def put(connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows, in place of those with the same data store and reference."""
    table = fhir_sent
    for some in chunked(rows, 300):
        stores = {row["datastore_id"] for row in some}
        for store in stores:
            names = [row["reference"] for row in some if row["datastore_id"] == store]
            gone = sa.and_(table.c.datastore_id == store, table.c.reference.in_(names))
            connection.execute(table.delete().where(gone))
        columns = [column.name for column in table.columns]
        connection.execute(table.insert(), [{name: row.get(name) for name in columns} for row in some])


def settle(connection: sa.Connection, batch_id: str, refused: set[str]) -> None:
    """A batch's results are known: what HealthLake took is current, the rest failed. A newer batch is not touched."""
    table = fhir_sent
    pending = sa.and_(table.c.batch_id == batch_id, table.c.state == SentState.PENDING)
    for some in chunked(sorted(refused), 300):
        failed = sa.and_(pending, table.c.reference.in_(some))
        connection.execute(table.update().where(failed).values(state=SentState.FAILED))
    connection.execute(table.update().where(pending).values(state=SentState.CURRENT))
    retracted = sa.and_(table.c.batch_id == batch_id, table.c.state == SentState.CURRENT)
    withdrawn = sa.and_(retracted, table.c.fingerprint == RETRACTION)
    # Of a study that was deleted nothing stays but the id of its ImagingStudy.
    connection.execute(table.update().where(withdrawn).values(state=SentState.RETRACTED, study_uid=None, subject=None))


RETRACTION = "retraction"
"""Fingerprint of an ImagingStudy that says that its study is withdrawn."""
