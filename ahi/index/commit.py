"""One commit: what becomes true together. Belongs here: which rows count after it.

Does not belong here: the files (`writer`), the lock (`engine`), and the rows of the ledger, which their owners write
on `Commit.connection`.

Rows are never changed in their files. A row counts while its (table, key, batch) is not in `dead`, so raising a head
or deleting an image set is one small insert, whatever the size of the image set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi.index import catalog as c
from ahi.index.engine import execute_many, insert_many, insert_missing

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

# SQLite before 3.32 took 999 parameters in a statement, and short statements are cached better.
CHUNK = 500
# Rows of these tables are written without a number, and get the one of the next commit, for incremental publishing.
STAMPED = (c.jobs, c.quarantine, c.events, c.documents)
# Of a head. Erased too: what comes back after its erasure and is deleted again has to be erased again.
DELETION = ("deleted_at", "delete_reason", "deleted_version", "erased_at")
# Statements are made once: making one costs as much as executing it.
_UNNUMBERED = sa.select(*(sa.exists().where(table.c.seq.is_(None)).label(table.name) for table in STAMPED))
_HEADS = sa.select(c.heads).where(c.heads.c.image_set_id.in_(sa.bindparam("ids", expanding=True)))


class AlreadyCommittedError(Exception):
    """A commit of this batch is there: everything the batch says is true already, and nothing was changed."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"Batch {batch_id} is committed already; nothing is left to do for it.")
        self.batch_id = batch_id


AlreadyCommitted = AlreadyCommittedError


@dataclass(frozen=True)
class Head:
    """One version of an image set, as read from its document."""

    datastore_id: str
    image_set_id: str
    version: int
    is_primary: bool
    study_uid: str | None
    series_uid: str | None
    n_instances: int
    patient_key: str | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None


@dataclass
class Commit:
    """An open commit. Only usable inside `with index.commit(...)`.

    Attributes:
        connection: Its transaction; the ledger and the job chain are written here.
        seq: Its number. Rows of `objects` that it changes get it as `changed_seq`.
        batch_id: Its batch.
        committed_at: Its time.
        image_set_tables: Tables whose rows are replaced by image set.
        wrote: Tables of which the batch has files.
    """

    connection: sa.Connection
    seq: int
    batch_id: str
    committed_at: dt.datetime
    image_set_tables: tuple[str, ...]
    wrote: tuple[str, ...] = ()
    _raised: set[tuple[str, str]] = field(default_factory=set)

    def raise_heads(self, heads: Sequence[Head], *, replace: bool = False) -> list[Head]:
        """Make these versions the ones that the index shows, unless it shows newer ones.

        The rows of the loser stop to count, be it the version shown before or this batch's own. An image set that was
        deleted stays deleted unless the version is newer than the deletion.

        Args:
            heads: One for each image set that this batch wrote rows of.
            replace: Let an equal version win, which is re-indexing.

        Returns:
            The heads whose rows the index shows from now on.

        Raises:
            ValueError: An image set comes twice in a commit. Its rows could not be told apart: write the highest only.
                Or another data store has one of the same id, which HealthImaging never gives out twice.
        """
        keys = [(head.datastore_id, head.image_set_id) for head in heads]
        if len(set(keys)) < len(keys) or self._raised.intersection(keys):
            raise ValueError("An image set comes twice in one commit: write rows of its highest version only.")
        self._raised.update(keys)
        shown = self._heads(keys)
        if strangers := {image_set_id for _, image_set_id in shown.keys() - keys}:
            # Rows are told apart by the id of their image set alone: a deletion in one store would reach both.
            raise ValueError(f"Image sets of two data stores have the same id: {', '.join(sorted(strangers))}.")
        winners: list[Head] = []
        inserts: list[dict[str, Any]] = []
        updates: list[dict[str, Any]] = []
        buried: list[tuple[str, str]] = []
        for head, key in zip(heads, keys, strict=True):
            old = shown.get(key)
            if old is None:
                winners.append(head)
                inserts.append(self._head_row(head))
            elif _wins(head, old, replace=replace):
                winners.append(head)
                buried.append((head.image_set_id, old.batch_id))
                updates.append(self._head_row(head) | dict.fromkeys(DELETION))
            else:
                buried.append((head.image_set_id, self.batch_id))
                if old.deleted_at is not None and old.erased_at is None and head.version > old.version:
                    # It loses to a deletion, but still says what was deleted, whichever of the two came first.
                    updates.append(self._head_row(head) | {name: getattr(old, name) for name in DELETION})
        self._insert(c.heads, inserts)
        self._update_heads(updates)
        self._bury(self.image_set_tables, buried)
        return winners

    def bury(self, datastore_id: str, image_set_id: str, *, version: int | None, reason: str, at: dt.datetime) -> None:
        """Delete an image set from the index. Rows that come late stay out too.

        Args:
            datastore_id: Its data store.
            image_set_id: Its id.
            version: Last version that is deleted; an image set shown with a newer one stays. None: all, for good.
            reason: Why, without PHI.
            at: When.
        """
        old = self._heads([(datastore_id, image_set_id)]).get((datastore_id, image_set_id))
        if old is None:
            nothing = Head(
                datastore_id, image_set_id, 0, is_primary=False, study_uid=None, series_uid=None, n_instances=0
            )
            deletion = {"deleted_at": at, "delete_reason": reason, "deleted_version": version}
            self._insert(c.heads, [self._head_row(nothing) | deletion])
            return
        row = dict(old._mapping) | {"seq": self.seq}  # noqa: SLF001 - the documented way to a row's mapping
        if old.deleted_at is None:
            if version is not None and version < old.version:
                return
            row |= {"deleted_at": at, "delete_reason": reason, "deleted_version": version}
        elif old.deleted_version is None or (version is not None and version <= old.deleted_version):
            return
        else:
            row["deleted_version"] = version
        self._update_heads([row])
        self._bury(self.image_set_tables, [(image_set_id, old.batch_id)])
        self.bury_headers_of_deleted(c.objects.c.image_set_id == image_set_id)

    def raise_headers(self, object_ids: Iterable[str], *, replace: bool = False) -> set[str]:
        """Make this batch's header rows count, unless the ledger names an earlier commit's for the same object.

        Call it before writing `header_seq` to the ledger, and write it for the winners only.

        Args:
            object_ids: Objects that this batch wrote header rows of.
            replace: Let this batch win, which is re-indexing.

        Returns:
            The objects whose row of this batch counts.
        """
        wanted = list(dict.fromkeys(object_ids))
        shown = {object_id: row for object_id, row in self._header_batches(wanted).items() if row != self.batch_id}
        if replace:
            self._bury(("headers",), list(shown.items()))
            return set(wanted)
        self._bury(("headers",), [(object_id, self.batch_id) for object_id in wanted if object_id in shown])
        return set(wanted) - set(shown)

    def bury_headers(self, object_ids: Iterable[str]) -> None:
        """Take the header rows of objects out of the index. The ledger's `header_seq` says which rows they are."""
        self._bury(("headers",), list(self._header_batches(list(object_ids)).items()))

    def bury_headers_of_deleted(self, some: sa.ColumnElement[bool]) -> None:
        """Take the header rows of objects whose image set is deleted out of the index, too.

        Args:
            some: Condition of the objects that may be concerned.
        """
        deleted = sa.and_(c.heads.c.image_set_id == c.objects.c.image_set_id, c.heads.c.deleted_at.is_not(None))
        gone = sa.select(c.objects.c.object_id).join(c.heads, deleted).where(some)
        self.bury_headers(list(self.connection.scalars(gone)))

    def discard(self, table: str, row_keys: Iterable[str]) -> None:
        """Take rows that this batch itself wrote to a table out of it again."""
        self._bury((table,), [(key, self.batch_id) for key in row_keys])

    def close(self) -> None:
        """Number the rows that were written without a number. `Index.commit` calls it last."""
        for table, has_some in zip(STAMPED, self.connection.execute(_UNNUMBERED).one(), strict=True):
            if has_some:
                self.connection.execute(table.update().where(table.c.seq.is_(None)).values(seq=self.seq))

    def _head_row(self, head: Head) -> dict[str, Any]:
        return {
            "datastore_id": head.datastore_id,
            "image_set_id": head.image_set_id,
            "version": head.version,
            "batch_id": self.batch_id,
            "is_primary": head.is_primary,
            "StudyInstanceUID": head.study_uid,
            "SeriesInstanceUID": head.series_uid,
            "n_instances": head.n_instances,
            "patient_key": head.patient_key,
            "created_at": head.created_at,
            "updated_at": head.updated_at,
            "indexed_at": self.committed_at,
            "seq": self.seq,
        }

    def _heads(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], sa.Row[Any]]:
        found: dict[tuple[str, str], sa.Row[Any]] = {}
        for part in chunked({image_set_id for _, image_set_id in keys}, CHUNK):
            for row in self.connection.execute(_HEADS, {"ids": part}):
                found[row.datastore_id, row.image_set_id] = row
        return found

    def _header_batches(self, object_ids: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        query = sa.select(c.objects.c.object_id, c.commits.c.batch_id).join(
            c.commits, c.commits.c.seq == c.objects.c.header_seq
        )
        for part in chunked(object_ids, CHUNK):
            rows = self.connection.execute(query.where(c.objects.c.object_id.in_(part)))
            found.update({row.object_id: row.batch_id for row in rows})
        return found

    def _insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        insert_many(self.connection, table, rows)

    def _update_heads(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        names = tuple(rows[0])
        parameters = [{f"new_{name}": row[name] for name in names} for row in rows]
        execute_many(self.connection, _heads_update(names), parameters)

    def _bury(self, tables: Iterable[str], keys: Sequence[tuple[str, str]]) -> None:
        """Insert (row key, batch) into `dead` for each table of which the batch has rows."""
        if not keys:
            return
        wrote: dict[str, tuple[int, Sequence[str] | None]] = {self.batch_id: (self.seq, self.wrote)}
        query = sa.select(c.commits.c.batch_id, c.commits.c.seq, c.commits.c.tables)
        for part in chunked({batch_id for _, batch_id in keys} - set(wrote), CHUNK):
            for row in self.connection.execute(query.where(c.commits.c.batch_id.in_(part))):
                wrote[row.batch_id] = (row.seq, None if row.tables is None else row.tables.split(","))
        dead = [
            {"table_name": table, "row_key": key, "batch_id": batch, "seq": self.seq, "rows_seq": rows_seq}
            for table in tables
            for key, batch in keys
            for rows_seq, names in [wrote[batch]]
            if names is None or table in names
        ]
        insert_missing(self.connection, c.dead, dead)


@cache
def _heads_update(names: tuple[str, ...]) -> sa.Update:
    """UPDATE of heads by their keys; every parameter is `new_` and its column."""
    table, keys = c.heads, ("datastore_id", "image_set_id")
    new = {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in names}
    values = {name: value for name, value in new.items() if name not in keys}
    return table.update().where(*(table.c[key] == new[key] for key in keys)).values(values)


def _wins(head: Head, old: sa.Row[Any], *, replace: bool) -> bool:
    if old.deleted_at is not None:
        return old.deleted_version is not None and head.version > old.deleted_version
    return head.version > old.version or (replace and head.version == old.version)
