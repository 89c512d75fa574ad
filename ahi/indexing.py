"""Kept documents into rows: the tables follow what HealthImaging shows.

Belongs here: bringing the index up to the sightings, and indexing again from kept documents. Does not belong here:
any call to HealthImaging; nothing in this module makes one.
"""

from __future__ import annotations

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from botocore.exceptions import ClientError
from more_itertools import chunked, constrained_batches

from ahi import inbox, quarantine
from ahi.aws import GONE, error_code
from ahi.clock import now
from ahi.collector import collector_paused
from ahi.documents import DocumentHead, Flattened, flatten_all
from ahi.documents_form import DocumentError
from ahi.index import catalog
from ahi.index.catalog import ObjectState
from ahi.index.columnar import TableWriter
from ahi.index.engine import execute_many
from ahi.index.store import Head
from ahi.modalities import modality_shown
from ahi.patients import patient_key_of
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Self

    from ahi.inbox import Batch
    from ahi.index.store import Commit
    from ahi.pipeline import Pipeline

CHUNK_BYTES = 2 * 2**20
"""Compressed bytes of documents in one commit, which bounds its memory: as JSON they are ten times as large or more."""

CHUNK_DOCUMENTS = 500

PAGE_DOCUMENTS = 50_000
"""Documents that are known of at once: a day can have a million."""


@dataclass
class IndexReport:
    """What bringing the index up did, in numbers."""

    documents: int = 0
    deleted: int = 0
    stale: int = 0
    quarantined: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    cast_failures: Counter[str] = field(default_factory=Counter)
    """Values that have no typed form, by table."""

    def __iadd__(self, other: IndexReport) -> Self:
        """Add another's numbers."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        return self


@dataclass(frozen=True, slots=True)
class Kept:
    """A document kept in the lake, and what is known of its image set."""

    datastore_id: str
    image_set_id: str
    version: int
    object_key: str
    size_bytes: int
    is_primary: bool
    created_at: object
    updated_at: object


_KEPT = tuple(one.name for one in fields(Kept))


def catch_up(pipeline: Pipeline, batches: Sequence[Batch] = (), *, only: Collection[str] | None = None) -> IndexReport:
    """Index every sighting that the index does not show, then mark the batches consumed. A replay changes nothing.

    `only` is for who must not wait for others' image sets: the ids of its own.
    """
    report, table = IndexReport(), catalog.sightings
    which: list[sa.ColumnElement[bool]] = [table.c.pending]
    if only is not None:
        which = [sa.and_(table.c.pending, table.c.image_set_id.in_(some)) for some in chunked(only, 500)]
    for where in which:
        for chunk in _newest_kept(pipeline, where):
            _index(pipeline, chunk, report, replace=False)
    _bury(pipeline, report)
    for batch in batches:
        inbox.finish(pipeline, batch)
    return report


def index_again(pipeline: Pipeline, day: str) -> IndexReport:
    """Write the rows of one day's documents again, as the present code reads them, without HealthImaging."""
    report, of_day = IndexReport(), catalog.documents.c.day == day
    # The second is read when the first is through: what that could read now is shown in its newest version.
    for chunk in chain(_newest_kept(pipeline, of_day), _older_shown(pipeline, of_day)):
        _index(pipeline, chunk, report, replace=True)
    return report


def _newest_kept(pipeline: Pipeline, where: sa.ColumnElement[bool]) -> Iterator[tuple[Kept, ...]]:
    """Kept documents of the version that HealthImaging shows, of image sets not gone."""
    sightings, documents = catalog.sightings, catalog.documents
    same = sa.and_(_same_image_set(sightings), sightings.c.version == documents.c.version)
    return _chunks(pipeline, sa.select(documents).join(sightings, same).where(sa.not_(sightings.c.gone), where))


def _older_shown(pipeline: Pipeline, where: sa.ColumnElement[bool]) -> Iterator[tuple[Kept, ...]]:
    """Kept documents of the version that the index shows where it cannot show the newest: that one is unreadable."""
    sightings, documents, heads = catalog.sightings, catalog.documents, catalog.heads
    shown = sa.and_(_same_image_set(heads), heads.c.version == documents.c.version, heads.c.deleted_at.is_(None))
    newer = sa.and_(_same_image_set(sightings), sightings.c.version > documents.c.version, sa.not_(sightings.c.gone))
    return _chunks(pipeline, sa.select(documents).join(heads, shown).join(sightings, newer).where(where))


def _same_image_set(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row of a table and one of the documents are about the same image set."""
    documents = catalog.documents
    same = table.c.datastore_id == documents.c.datastore_id
    return sa.and_(same, table.c.image_set_id == documents.c.image_set_id)


def _chunks(pipeline: Pipeline, query: sa.Select[Any]) -> Iterator[tuple[Kept, ...]]:
    """Documents of a query that the lake has, in groups for a commit."""
    kept = _paged(pipeline, query.where(catalog.documents.c.erased_at.is_(None)))
    return constrained_batches(kept, CHUNK_BYTES, CHUNK_DOCUMENTS, get_len=lambda one: one.size_bytes, strict=False)


def _paged(pipeline: Pipeline, query: sa.Select[Any]) -> Iterator[Kept]:
    """Documents of a query, oldest first and page by page; those that come meanwhile are left to the next time."""
    table = catalog.documents
    key = (table.c.fetched_at, table.c.datastore_id, table.c.image_set_id)
    page = query.order_by(*key).limit(PAGE_DOCUMENTS)
    rows = _read(pipeline, page)
    if len(rows) == PAGE_DOCUMENTS:
        ((newest,),) = _read(pipeline, query.with_only_columns(sa.func.max(table.c.fetched_at)))
        page = page.where(table.c.fetched_at <= newest)
    while rows:
        for row in rows:
            yield Kept(*(row._mapping[name] for name in _KEPT))  # noqa: SLF001 - the documented way to its mapping
        if len(rows) < PAGE_DOCUMENTS:
            return
        last = [sa.literal(rows[-1]._mapping[column.name], column.type) for column in key]  # noqa: SLF001
        rows = _read(pipeline, page.where(sa.tuple_(*key) > sa.tuple_(*last)))


def _read(pipeline: Pipeline, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
    with pipeline.index.engine.connect() as connection:
        return connection.execute(query).all()


def _index(pipeline: Pipeline, chunk: Sequence[Kept], report: IndexReport, *, replace: bool) -> None:
    """One commit of the documents of a chunk, fetched from the lake side by side."""

    def fetch(kept: Kept) -> bytes | None:
        try:
            return pipeline.aws.s3.get_object(Bucket=settings.lake_bucket, Key=kept.object_key)["Body"].read()
        except ClientError as error:
            if error_code(error) not in GONE:
                raise
            return None

    settings = pipeline.settings

    with ThreadPoolExecutor(settings.document_threads) as pool:
        index_documents(pipeline, chunk, pool.map(fetch, chunk), report, replace=replace)


def index_documents(
    pipeline: Pipeline,
    chunk: Sequence[Kept],
    blobs: Iterable[bytes | None],
    report: IndexReport,
    *,
    replace: bool = False,
) -> None:
    """One commit: files of rows, heads raised, objects marked as indexed.

    Args:
        pipeline: Index and settings.
        chunk: What is known of each document.
        blobs: The documents, in the same order; None for one that the lake does not have.
        report: Takes the numbers.
        replace: Let an equal version win, which is indexing again.
    """
    batch_id = f"index:{uuid.uuid4().hex}"
    heads, good, bad = [], list[Kept](), list[tuple[Kept, quarantine.Item]]()
    gone = list[Kept]()
    key_of = patient_key_of(pipeline)
    stamp = {"indexed_at": now(), "dagster_run_id": pipeline.run_id}
    writer = TableWriter(pipeline.index.root, pipeline.index.tables, batch_id=batch_id)
    with collector_paused():
        for flat in flatten_all(_there(chunk, blobs, gone), patient_key=key_of, stamp=stamp):
            for kept, head in flat.documents:
                if isinstance(head, DocumentError):
                    why = Reason.DOCUMENT_NOT_UNDERSTOOD
                    bad.append((kept, quarantine.Item("documents", why, str(head), kept.object_key)))
                    continue
                good.append(kept)
                heads.append(_head(kept, head))
            for part in flat.parts:
                writer.add(part)
            _count(report, flat)
        files = writer.files()
    with pipeline.index.commit(batch_id=batch_id, kind="index", run_id=pipeline.run_id, files=files) as commit:
        won = {head.image_set_id for head in commit.raise_heads(heads, replace=replace)}
        report.stale += len(heads) - len(won)
        _shown(commit, good)
        items = [*(item for _, item in bad), *_lost(commit, gone)]
        report.quarantined += quarantine.enter(commit.connection, items, batch_id)
        _caught_up(commit, [kept for kept, _ in bad], unreadable=True)


def _there(chunk: Sequence[Kept], blobs: Iterable[bytes | None], gone: list[Kept]) -> Iterator[tuple[Kept, bytes]]:
    """Documents with their bytes; those without any go into `gone`."""
    for kept, blob in zip(chunk, blobs, strict=True):
        if blob is None:
            gone.append(kept)
        else:
            yield kept, blob


def _lost(commit: Commit, gone: Iterable[Kept]) -> Iterator[quarantine.Item]:
    """Note documents that the lake has lost, so that the next look at their image sets reads them again.

    What was erased meanwhile is not lost. The sighting is left as it is: nothing has been dealt with.
    """
    table, sightings = catalog.documents, catalog.sightings
    for kept in gone:
        names = ("datastore_id", "image_set_id")
        mine = [table.c[name] == getattr(kept, name) for name in (*names, "version")]
        theirs = [sightings.c[name] == getattr(kept, name) for name in names]
        wanted = sa.exists().where(*theirs, sa.not_(sightings.c.gone))
        change = table.update().where(*mine, table.c.erased_at.is_(None), wanted)
        if commit.connection.execute(change.values(erased_at=commit.committed_at, seq=commit.seq)).rowcount:
            text = "The lake does not have the document that it kept"
            yield quarantine.Item("documents", Reason.DOCUMENT_GONE, text, kept.object_key)


def _count(report: IndexReport, flat: Flattened[Kept]) -> None:
    report.documents += sum(isinstance(head, DocumentHead) for _, head in flat.documents)
    for table, rows in chain.from_iterable(part.items() for part in flat.parts):
        report.rows[table] += rows.n_rows
        if table == "series":
            report.modalities.update(map(modality_shown, rows.values("Modality")))
        report.cast_failures[table] += sum(map(len, filter(None, rows.values("cast_failures"))))


def _head(kept: Kept, document: DocumentHead) -> Head:
    return Head(
        datastore_id=kept.datastore_id,
        image_set_id=kept.image_set_id,
        version=kept.version,
        is_primary=kept.is_primary,
        study_uid=document.study_uid,
        series_uid=document.series_uid,
        n_instances=document.n_instances,
        patient_key=document.patient_key,
        created_at=kept.created_at,  # type: ignore[arg-type]
        updated_at=kept.updated_at,  # type: ignore[arg-type]
    )


def _shown(commit: Commit, chunk: Sequence[Kept]) -> None:
    """The index shows these versions now: no longer pending, and their objects are indexed."""
    _caught_up(commit, chunk)
    if not chunk:
        return
    seen = {"shown_at": commit.committed_at, "shown_seq": commit.seq}
    rows = [{"shown_id": kept.image_set_id, "shown_version": kept.version, **seen} for kept in chunk]
    execute_many(commit.connection, _SHOWN, rows)


def _shown_update() -> sa.Update:
    """UPDATE of the objects of an image set whose rows the index shows from now on."""
    table, version = catalog.objects, sa.bindparam("shown_version", type_=sa.Integer)
    seq = sa.bindparam("shown_seq", type_=sa.Integer)
    reached = sa.or_(table.c.image_set_version.is_(None), table.c.image_set_version <= version)
    change = table.update().where(
        table.c.image_set_id == sa.bindparam("shown_id"),
        table.c.indexed_seq.is_(None),
        reached,
        table.c.state == ObjectState.IMPORTED,
    )
    moment = sa.bindparam("shown_at", type_=table.c.indexed_at.type)
    return change.values(indexed_at=moment, indexed_seq=seq, changed_seq=seq)


def _caught_up(commit: Commit, chunk: Sequence[Kept], *, unreadable: bool = False) -> None:
    if not chunk:
        return
    rows = [
        {
            "kept_store": kept.datastore_id,
            "kept_id": kept.image_set_id,
            "kept_version": kept.version,
            "unreadable": kept.version if unreadable else None,
        }
        for kept in chunk
    ]
    execute_many(commit.connection, _CAUGHT_UP, rows)


def _caught_up_update() -> sa.Update:
    """UPDATE of a sighting that has been dealt with.

    A deletion leaves the version as it is. One that comes while rows are made is dealt with when they are buried.
    """
    table = catalog.sightings
    change = table.update().where(
        sa.not_(table.c.gone),
        table.c.datastore_id == sa.bindparam("kept_store"),
        table.c.image_set_id == sa.bindparam("kept_id"),
        table.c.version <= sa.bindparam("kept_version", type_=sa.Integer),
    )
    return change.values(pending=False, unreadable_version=sa.bindparam("unreadable", type_=sa.Integer))


# Made once: making them costs as much as executing them.
_SHOWN, _CAUGHT_UP = _shown_update(), _caught_up_update()


def _bury(pipeline: Pipeline, report: IndexReport) -> None:
    """Take the rows of deleted image sets out of the index."""
    table = catalog.sightings
    query = sa.select(table).where(table.c.pending, table.c.gone)
    if not _read(pipeline, query.limit(1)):
        return
    batch_id = f"bury:{uuid.uuid4().hex}"
    with pipeline.index.commit(batch_id=batch_id, kind="bury", run_id=pipeline.run_id, files=()) as commit:
        # Read in here: one that HealthImaging showed again since would be buried, and nothing would dig it out.
        gone = commit.connection.execute(query).mappings().all()
        for row in gone:
            commit.bury(
                row["datastore_id"],
                row["image_set_id"],
                version=row["version"],
                reason="deleted in HealthImaging",
                at=row["seen_at"],
            )
            mine = sa.and_(table.c.datastore_id == row["datastore_id"], table.c.image_set_id == row["image_set_id"])
            commit.connection.execute(table.update().where(mine).values(pending=False))
        report.deleted += len(gone)
