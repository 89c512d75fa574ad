"""Erasure in the index: what was deleted leaves history, ledger and every file. Belongs here: doing that, resumably.

Does not belong here: kept documents and when it is time (`ahi.erasure`), showing that nothing is left (`ahi.proof`).

Each step can be repeated, and the rows that say what is to be erased are emptied last: a killed erasure goes on with
the next one. Ledger rows stay, without what identifies, so the counts close; so does the tombstone, which keeps late
rows out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi.index import catalog as c
from ahi.index.catalog import IN_FLIGHT, ObjectState
from ahi.index.compaction import COMPACT_LOCK, Inputs, merge
from ahi.index.engine import empty_log, locked
from ahi.index.fold import fold
from ahi.index.history import history_table
from ahi.index.mirror import MIRRORS, put_state
from ahi.index.parquet import spilling
from ahi.index.publish import PUBLISH_LOCK
from ahi.index.relations import read_dead, table_select
from ahi.index.slices import slice_delta
from ahi.index.sql import quoted

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Sequence

    from ahi.index.columns import Table
    from ahi.index.store import Commit, Index

CHUNK = 500
# Its series and its own UID, as the header says.
Instance = tuple[str | None, str | None]
# Set while files of the catalog's tables may hold what was erased from its rows.
ERASING = "erasing"
# Of the ledger, besides the key. Message and line name the object until their bucket's lifecycle ends them. All that
# a header says goes: a sender may write a name into any of it, Modality too.
IDENTIFYING = (
    *("etag", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "association_prefix", "input_key"),
    *("SOPClassUID", "Modality", "Manufacturer", "TransferSyntaxUID", "event_id", "manifest_line"),
)


@dataclass(frozen=True)
class Erased:
    """What an erasure took out: image sets, objects of the ledger, rows of Parquet files; files written again."""

    image_sets: int = 0
    objects: int = 0
    rows: int = 0
    files: int = 0


@dataclass(frozen=True)
class Sealed:
    """What an erasure is about: image sets with the version that their deletion covers, objects, and since when."""

    image_sets: Sequence[tuple[str, str, int | None]] = ()
    object_ids: Sequence[str] = ()
    seq: int = 0


def due(index: Index, before: dt.datetime) -> list[tuple[str, str]]:
    """Image sets (data store, id) that were deleted before a moment and of which something is left."""
    heads, objects, dead = c.heads, c.objects, c.dead
    left = sa.and_(objects.c.erased_at.is_(None), sa.not_(_waits()))
    late_object = sa.exists().where(objects.c.image_set_id == heads.c.image_set_id, left)
    late_rows = sa.exists().where(
        dead.c.row_key == heads.c.image_set_id, dead.c.purged_seq.is_(None), dead.c.seq >= heads.c.seq
    )
    query = sa.select(heads.c.datastore_id, heads.c.image_set_id).where(
        heads.c.deleted_at <= before, sa.or_(heads.c.erased_at.is_(None), late_object, late_rows)
    )
    with index.snapshot() as connection:
        return [(row.datastore_id, row.image_set_id) for row in connection.execute(query)]


def erase(
    index: Index,
    image_sets: Sequence[tuple[str, str]],
    *,
    before: dt.datetime | None = None,
    delete_documents: Callable[[str, str, int | None], None] | None = None,
) -> Erased:
    """Take deleted image sets out of history, ledger and files for good; those that came back since stay.

    Files that held them are retired, and go when `expire` finds that no reader can have them open any more.

    Args:
        index: The index.
        image_sets: What `due` gave.
        before: The moment that `due` was asked for.
        delete_documents: Deletes the kept documents of an image set up to a version (None: all), before its rows go.
    """
    done, sealed = Erased(), Sealed()
    if image_sets:
        with index.commit(kind="erase") as commit:
            sealed = _seal(commit, image_sets, before)
    if sealed.image_sets:
        ids = [image_set_id for _, image_set_id, _ in sealed.image_sets]
        if delete_documents:
            for image_set in sealed.image_sets:
                delete_documents(*image_set)
        with locked(index.root / COMPACT_LOCK):
            for table in index.tables.values():
                keys = sealed.object_ids if table.row_key == "object_id" else ids
                done = _erase_rows(index, table, keys, done)
        with index.commit(kind="erase") as commit:
            _empty(commit, sealed)
        done = Erased(len(ids), len(sealed.object_ids), done.rows, done.files)
    with index.snapshot() as connection:
        begun = connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == ERASING))
    if begun:
        _rewrite_mirrors(index)
    return done


def _seal(commit: Commit, image_sets: Sequence[tuple[str, str]], before: dt.datetime | None) -> Sealed:
    """Of image sets those that are deleted now: no later version brings them back, no header row of them counts."""
    heads, wanted = c.heads, set(image_sets)
    gone = heads.c.deleted_at.is_not(None) if before is None else heads.c.deleted_at <= before
    query = sa.select(heads.c.datastore_id, heads.c.image_set_id, heads.c.deleted_version).where(gone)
    still: list[tuple[str, str, int | None]] = []
    found: set[str] = set()
    for part in chunked(sorted({image_set_id for _, image_set_id in wanted}), CHUNK):
        rows = commit.connection.execute(query.where(heads.c.image_set_id.in_(part))).fetchall()
        here = [(row.datastore_id, row.image_set_id, row.deleted_version) for row in rows if tuple(row[:2]) in wanted]
        ids = [image_set_id for _, image_set_id, _ in here]
        final = heads.update().where(gone, heads.c.image_set_id.in_(ids))
        commit.connection.execute(final.values(deleted_version=None, seq=commit.seq))
        own = _instances(commit.connection, sa.and_(c.objects.c.image_set_id.in_(ids), sa.not_(_waits())))
        found |= own.keys() | _never_in(commit.connection, set(own.values()))
        still += here
    commit.bury_headers(sorted(found))
    return Sealed(still, sorted(found), commit.seq)


def _waits() -> sa.ColumnElement[bool]:
    """Whether the instance of an object is on its way, as another object.

    The object then stays, and with it its image set's only word of the instance: when the other has ended in no image
    set, both are erased. Nothing else would ever ask about the other.
    """
    other = c.objects.alias()
    return sa.exists().where(
        other.c.SOPInstanceUID == c.objects.c.SOPInstanceUID,
        other.c.SeriesInstanceUID.is_not_distinct_from(c.objects.c.SeriesInstanceUID),
        other.c.state.in_(IN_FLIGHT),
    )


def _instances(connection: sa.Connection, where: sa.ColumnElement[bool]) -> dict[str, Instance]:
    """The instances of objects."""
    columns = (c.objects.c.object_id, c.objects.c.SeriesInstanceUID, c.objects.c.SOPInstanceUID)
    return {row[0]: (row[1], row[2]) for row in connection.execute(sa.select(*columns).where(where))}


def _never_in(connection: sa.Connection, instances: set[Instance]) -> set[str]:
    """Objects of some instances that got into no image set, unless the instance is in one that is not deleted."""
    o, heads = c.objects.c, c.heads.c
    gone = sa.exists().where(heads.image_set_id == o.image_set_id, heads.deleted_at.is_not(None))
    query = sa.select(o.object_id, o.SeriesInstanceUID, o.SOPInstanceUID, o.state, gone.label("gone"))
    found: dict[str, Instance] = {}
    alive: set[Instance] = set()
    for part in chunked(sorted({uid for _, uid in instances if uid}), CHUNK):
        # By the UID alone: SQLite would take the index of states, and read every object that ever failed.
        for row in connection.execute(query.where(o.SOPInstanceUID.in_(part))):
            instance = (row.SeriesInstanceUID, row.SOPInstanceUID)
            if row.state in (ObjectState.FAILED, ObjectState.SET_ASIDE):
                found[row.object_id] = instance
            elif not row.gone:
                alive.add(instance)
    return {object_id for object_id, instance in found.items() if instance in instances - alive}


def _erase_rows(index: Index, table: Table, keys: Sequence[str], done: Erased) -> Erased:
    """Write the files of a table that hold rows of some keys again without them: live ones, then those of history."""
    for one in (table, history_table(table)):
        for path in _holding(index, one, keys):
            inputs = _inputs(index, one, path, keys)
            result = merge(index, one, inputs)
            n_rows = inputs.files[0].n_rows - result.rows_out - result.rows_past
            done = Erased(done.image_sets, done.objects, done.rows + n_rows, done.files + 1)
    return done


def _inputs(index: Index, table: Table, path: str, keys: Sequence[str]) -> Inputs:
    """A file and the keys that do not count, read in one transaction."""
    with index.snapshot() as connection:
        file = connection.execute(sa.select(c.files).where(c.files.c.path == path)).one()
        seq = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
        return Inputs(seq, [file], read_dead(connection, [table.name])[table.name], keys)


def _holding(index: Index, table: Table, keys: Sequence[str]) -> list[str]:
    """Live files of a table with rows of some keys. Of each file one column is read, or its statistics suffice."""
    import pyarrow as pa

    with index.snapshot() as connection:
        live = sa.and_(c.files.c.table_name == table.name, c.files.c.retired_seq.is_(None))
        files = connection.execute(sa.select(c.files).where(live)).fetchall()
    found: list[str] = []
    if not files:  # as most tables are here: a connection costs more than all the rest
        return found
    with spilling(index.root) as duck:
        duck.register("wanted", pa.table({"key": pa.array(keys, pa.string())}))
        for file in files:
            rows = table_select(index, table, [file])
            has = duck.execute(
                f"SELECT 1 FROM ({rows}) WHERE {quoted(table.row_key)} IN (SELECT key FROM wanted) LIMIT 1"
            )
            if has.fetchone():
                found.append(str(file.path))
    return found


def _empty(commit: Commit, sealed: Sealed) -> None:
    """Clear what identifies in the catalog, and say when; from here on nothing says what was erased."""
    at, connection = commit.committed_at, commit.connection
    for part in chunked(sealed.object_ids, CHUNK):
        mine = c.objects.c.object_id.in_(part)
        in_place = sa.select(c.objects.c.job_key).where(mine, c.objects.c.job_key.is_not(None))
        jobs = set(connection.scalars(in_place))
        _forget_statements(connection, mine, commit.seq)
        values = dict.fromkeys(IDENTIFYING) | {"key": "", "erased_at": at, "changed_seq": commit.seq}
        connection.execute(c.objects.update().where(mine).values(values))
        _empty_jobs(connection, jobs)
    nothing = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "patient_key"))
    for sets in chunked(sealed.image_sets, CHUNK):
        part = [image_set_id for _, image_set_id, _ in sets]
        gone = sa.and_(c.heads.c.image_set_id.in_(part), c.heads.c.deleted_at.is_not(None))
        # Rows may have come behind the back of this erasure: such an image set stays due.
        late = sa.exists().where(c.dead.c.row_key == c.heads.c.image_set_id, c.dead.c.seq > sealed.seq)
        when = sa.case((late, sa.null()), else_=sa.literal(at, c.heads.c.erased_at.type))
        connection.execute(c.heads.update().where(gone).values(**nothing, erased_at=when, seq=commit.seq))
        for datastore_id, image_set_id, version in sets:
            own = sa.and_(c.documents.c.datastore_id == datastore_id, c.documents.c.image_set_id == image_set_id)
            upto = sa.true() if version is None else c.documents.c.version <= version
            connection.execute(c.documents.update().where(own, upto).values(erased_at=at))
    put_state(connection, ERASING, str(commit.seq))


def _forget_statements(connection: sa.Connection, mine: sa.ColumnElement[bool], seq: int) -> None:
    """What a manifest states of an association says nothing of what is left of it: that would be partial for ever."""
    o = c.objects.c
    stated = sa.select(o.bucket, o.association_prefix).where(mine, o.stated_objects.is_not(None)).distinct()
    for bucket, prefix in connection.execute(stated).all():
        # By the key, which has an index.
        under = sa.and_(o.bucket == bucket, o.key >= prefix, o.key < prefix[:-1] + "0", o.association_prefix == prefix)
        connection.execute(c.objects.update().where(under).values(stated_objects=None, changed_seq=seq))


def _empty_jobs(connection: sa.Connection, jobs: Iterable[str]) -> None:
    """A job in place has its sender's prefix; it is forgotten with the last of its objects."""
    left = sa.exists().where(c.objects.c.job_key == c.jobs.c.job_key, c.objects.c.erased_at.is_(None))
    for part in chunked(sorted(jobs), CHUNK):
        whole = sa.and_(c.jobs.c.job_key.in_(part), c.jobs.c.in_place, sa.not_(left))
        connection.execute(c.jobs.update().where(whole).values(input_uri=""))


def _rewrite_mirrors(index: Index) -> None:
    """Bring the emptied rows into the files of the catalog's tables, whose older states go with the files."""
    publication = index.publish()
    with locked(index.root / PUBLISH_LOCK):
        for mirror in MIRRORS:
            slice_delta(index, mirror, publication.seq)
    with locked(index.root / COMPACT_LOCK):
        for mirror in MIRRORS:
            fold(index, mirror, whole=True)
    if empty_log(index.engine):
        with index.transaction() as connection:
            connection.execute(c.state.delete().where(c.state.c.name == ERASING))
    index.publish()
