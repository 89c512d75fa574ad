"""What HealthLake has of us: one row for each resource made from the index, and for each ImagingStudy of others.

Belongs here: those rows, and which of them are to be sent again. Does not belong here: making resources (`ahi.fhir`)
and planning batches of them (`ahi.healthlake.from_index`).

A resource is current only when HealthLake's counts leave no doubt. What it failed on, or did not tell of, has failed
and is sent again after a while; what it refused is not, until it changes.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa
from more_itertools import chunked

from ahi.clock import now
from ahi.healthlake import made_good
from ahi.index.catalog import Instant
from ahi.index.catalog_fhir import BatchState, SentState, fhir_batches, fhir_imports, fhir_sent

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

HISTORY, INDEX = "history", "index"
_SYSTEMS = frozenset({"urn:dicom:uid", "urn:ietf:rfc:3986"})

RETRACTION = "retraction"
"""Fingerprint of a resource that says that its study, or its patient's last one, is gone."""

NOWHERE = ""
"""Batch of a row that no batch carried."""

LONGEST_RETRY = 86_400.0
MOST_TRIES = 20
"""Tries, of two weeks, after which a study waits for its next change, or for `ahi fhir again`."""


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
    uids: Iterator[str] = (
        str(one.get("value") or "").removeprefix("urn:oid:")
        for one in content.get("identifier") or ()
        if isinstance(one, dict) and one.get("system") in _SYSTEMS
    )
    subject = content.get("subject")
    patient = str(subject.get("reference") or "").removeprefix("Patient/") if isinstance(subject, dict) else None
    reference = f"ImagingStudy/{content['id']}"
    if content.get("status") == "entered-in-error":
        uids = iter(())  # It says of no study that it is there.
    return Study(reference, next(uids, None) or None, patient or None, hashlib.sha256(body).hexdigest())


def note_history(connection: sa.Connection, import_id: str, batch_id: str, studies: Sequence[Study]) -> None:
    """Enter the ImagingStudies of a batch that was not made from the index; those of the index are entered already."""
    row = connection.execute(sa.select(fhir_imports).where(fhir_imports.c.import_id == import_id)).mappings().one()
    if row["origin"] == INDEX or not studies:
        return
    store, newest = row["datastore_id"], {study.reference: study for study in studies}
    for some in chunked(newest.values(), 300):
        known = {one.reference: one.origin for one in _rows(connection, store, [study.reference for study in some])}
        rows = [
            {**study._asdict(), "datastore_id": store, "origin": HISTORY, "state": SentState.PENDING,
             "batch_id": batch_id}
            for study in some
            if known.get(study.reference) != INDEX
        ]  # fmt: skip
        put(connection, rows)


def _rows(connection: sa.Connection, datastore_id: str, references: Collection[str]) -> Sequence[sa.Row[Any]]:
    table = fhir_sent
    query = sa.select(table).where(table.c.datastore_id == datastore_id)
    return connection.execute(query.where(table.c.reference.in_(references))).all()


def put(connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> set[str]:
    """Insert rows, in place of those with the same data store and reference. Returns the batches of those before.

    The same bytes that failed before keep their count of tries, so that the wait before the next grows.
    """
    table, columns, batches = fhir_sent, [column.name for column in fhir_sent.columns], set[str]()
    for some in chunked(rows, 300):
        for store in {row["datastore_id"] for row in some}:
            own = [row for row in some if row["datastore_id"] == store]
            names = [row["reference"] for row in own]
            before = {row.reference: row for row in _rows(connection, store, names)}
            batches |= {row.batch_id for row in before.values()}
            gone = sa.and_(table.c.datastore_id == store, table.c.reference.in_(names))
            connection.execute(table.delete().where(gone))
            values = []
            for row in own:
                old = before.get(row["reference"])
                tries = old.tries if old is not None and old.digest == row["digest"] else 0
                values.append({name: row.get(name) for name in columns} | {"tries": tries})
            connection.execute(table.insert(), values)
    return batches


def settle(
    connection: sa.Connection,
    batch_id: str,
    failed: Mapping[str, bool],
    *,
    is_unknown: bool = False,
    retry_seconds: float = 0.0,
) -> None:
    """A batch's results are known. A row that a newer batch carries is not touched.

    Args:
        connection: In a transaction.
        batch_id: The batch.
        failed: References that HealthLake named, with whether it failed itself, so that the same bytes may go in.
        is_unknown: Whether more failed than were named: then nobody knows of the rest, and it has failed, too.
        retry_seconds: Wait before the first that failed is sent again.
    """
    table = fhir_sent
    carried = sa.and_(table.c.batch_id == batch_id, table.c.state.in_((SentState.PENDING, SentState.FAILED)))
    # What failed in an earlier job of the batch was in this one as well.
    connection.execute(table.update().where(carried).values(state=SentState.PENDING, retry_at=None))
    rest = sa.and_(table.c.batch_id == batch_id, table.c.state == SentState.PENDING)
    for may_go in (False, True):
        for some in chunked(sorted(one for one, is_own in failed.items() if is_own == may_go), 300):
            named = sa.and_(rest, table.c.reference.in_(some))
            # A deleted study must not stay: its retraction is sent until it goes in.
            again = sa.true() if may_go else table.c.fingerprint == RETRACTION
            _fail(connection, sa.and_(named, again), retry_seconds)
            connection.execute(table.update().where(named).values(state=SentState.FAILED))
    if is_unknown:
        _fail(connection, rest, retry_seconds)
    connection.execute(table.update().where(rest).values(state=SentState.CURRENT, tries=0))
    withdrawn = sa.and_(
        table.c.batch_id == batch_id, table.c.state == SentState.CURRENT, table.c.fingerprint == RETRACTION
    )
    # Of a study that was deleted nothing stays but the id of its ImagingStudy.
    connection.execute(table.update().where(withdrawn).values(state=SentState.RETRACTED, study_uid=None, subject=None))


def _fail(connection: sa.Connection, where: sa.ColumnElement[bool], retry_seconds: float) -> None:
    """Rows have failed. Those of the index are sent again: after a wait that doubles each time, a day at most."""
    table, moment = fhir_sent, now()
    tries = connection.execute(sa.select(table.c.tries).where(where).distinct()).scalars().all()
    for n in tries:
        wait = dt.timedelta(seconds=min(LONGEST_RETRY, retry_seconds * 2 ** min(n, 20)))
        # A deleted study must not stay, and what many studies refer to is small.
        goes_on = sa.or_(table.c.study_uid.is_(None), table.c.fingerprint == RETRACTION, n + 1 < MOST_TRIES)
        index = sa.and_(table.c.origin == INDEX, goes_on)
        again = sa.case((index, sa.literal(moment + wait, Instant)), else_=None)
        values = {"state": SentState.FAILED, "tries": n + 1, "retry_at": again}
        connection.execute(table.update().where(where, table.c.tries == n).values(values))


def refuse(connection: sa.Connection, batch_id: str, references: Iterable[str]) -> None:
    """Lines of a batch were not sent, as they are invalid. Of the index each resource is in a batch once."""
    table = fhir_sent
    mine = sa.and_(table.c.batch_id == batch_id, table.c.origin == INDEX, table.c.state == SentState.PENDING)
    for some in chunked(references, 300):
        refused = table.update().where(mine, table.c.reference.in_(some))
        connection.execute(refused.values(state=SentState.FAILED, batch_id=NOWHERE, retry_at=None))


def mend(connection: sa.Connection, retry_seconds: float) -> None:
    """Nothing waits for a batch that has failed."""
    table = fhir_sent
    lost = sa.select(fhir_batches.c.batch_id).where(fhir_batches.c.state == BatchState.FAILED)
    _fail(connection, sa.and_(table.c.state == SentState.PENDING, table.c.batch_id.in_(lost)), retry_seconds)


def again(connection: sa.Connection, batch_id: str) -> None:
    """What a batch of the index was the last to carry is to be made from the index and sent again, now.

    What a later batch has carried since is newer than its lines, and of a study that is gone nothing is to come back.
    """
    table = fhir_sent
    mine = sa.and_(table.c.batch_id == batch_id, table.c.origin == INDEX, table.c.state != SentState.RETRACTED)
    connection.execute(table.update().where(mine).values(state=SentState.FAILED, retry_at=now()))


def superseded(connection: sa.Connection, datastore_id: str, batch_id: str, references: Iterable[str]) -> set[str]:
    """Those of a batch's resources that have been sent again since, or went in: its own lines are out of date."""
    found = set[str]()
    for some in chunked(references, 300):
        for row in _rows(connection, datastore_id, some):
            is_ours = row.origin == INDEX and row.batch_id in (batch_id, NOWHERE) and row.state == SentState.FAILED
            found |= {row.reference} if row.origin == INDEX and not is_ours else set()
    return found


def carry(connection: sa.Connection, datastore_id: str, batch_id: str, digests: Mapping[str, str]) -> None:
    """Another batch carries resources of the index again: corrected, or as they were."""
    table = fhir_sent
    for reference, digest in digests.items():
        mine = sa.and_(table.c.datastore_id == datastore_id, table.c.reference == reference, table.c.origin == INDEX)
        values = {"state": SentState.PENDING, "batch_id": batch_id, "digest": digest, "retry_at": None}
        connection.execute(table.update().where(mine).values(values))


def failed_batches(engine: sa.Engine) -> list[str]:
    """Batches that failed and of which something is still not in, and that nobody dismissed."""
    batch = fhir_batches
    query = sa.select(batch.c.batch_id).where(batch.c.state == BatchState.FAILED)
    query = query.where(sa.not_(made_good.is_dismissed()), sa.not_(made_good.is_superseded()))
    with engine.connect() as connection:
        return list(connection.execute(query.order_by(batch.c.batch_id)).scalars())
