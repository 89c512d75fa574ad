"""The ledger: one row per object, in exactly one state.

Belongs here: identity of an object, entering it, and the state changes that uploads and deletions cause. Does not
belong here: reading headers (`ahi.uploads`) and what jobs change (`ahi.results`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.clock import now
from ahi.events import newer
from ahi.index import catalog
from ahi.index.catalog import ObjectState
from ahi.index.engine import insert_many
from ahi.reasons import Reason

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence

    from ahi.events import ObjectRemoved
    from ahi.index.store import Commit

NOT_STARTED = (ObjectState.HELD, ObjectState.READY)
"""States that an overwrite or a deletion by the sender still changes."""


NO_JOB: Mapping[str, None] = dict.fromkeys(("job_key", "input_key", "manifest_line"))
"""Values of an object that is in no job."""


def object_id_of(bucket: str, key: str, version_id: str | None, etag: str | None) -> str:
    """Identity of one object version: digest of bucket, key and version, or of the ETag where versions are off."""
    version = version_id if version_id and version_id != "null" else f"etag:{etag or ''}".replace('"', "")
    return hashlib.sha256(f"{bucket}\0{key}\0{version}".encode()).hexdigest()[:32]


def known(connection: sa.Connection, object_ids: Iterable[str]) -> set[str]:
    """Those of `object_ids` that the ledger has."""
    wanted, found, table = sorted(set(object_ids)), set[str](), catalog.objects
    for start in range(0, len(wanted), 500):
        query = sa.select(table.c.object_id).where(table.c.object_id.in_(wanted[start : start + 500]))
        found |= set(connection.execute(query).scalars())
    return found


def enter(commit: Commit, rows: Sequence[dict[str, object]]) -> int:
    """Insert objects and settle which version of each key counts. Returns how many were superseded.

    S3 orders the events of a key by their sequencer, not by their arrival: the highest is what the sender means.
    """
    if not rows:
        return 0
    insert_many(commit.connection, catalog.objects, [{**row, "changed_seq": commit.seq} for row in rows])
    keys = {(str(row["bucket"]), str(row["key"])) for row in rows}
    return sum(_supersede(commit, bucket, key) for bucket, key in _several(commit.connection, keys))


def _several(connection: sa.Connection, keys: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keys of which the ledger has more than one version."""
    table, found, ordered = catalog.objects, [], sorted(keys)
    for start in range(0, len(ordered), 300):
        some = ordered[start : start + 300]
        query = sa.select(table.c.bucket, table.c.key).where(table.c.key.in_([key for _, key in some]))
        query = query.group_by(table.c.bucket, table.c.key).having(sa.func.count() > 1)
        found += [(row.bucket, row.key) for row in connection.execute(query)]
    return found


def _supersede(commit: Commit, bucket: str, key: str) -> int:
    table = catalog.objects
    columns = (table.c.object_id, table.c.sequencer, table.c.landed_at, table.c.state)
    rows = commit.connection.execute(sa.select(*columns).where(table.c.bucket == bucket, table.c.key == key)).all()
    newest = rows[0]
    for row in rows[1:]:
        if _later(row.sequencer, row.landed_at, newest.sequencer, newest.landed_at):
            newest = row
    old = [row.object_id for row in rows if row is not newest and row.state in NOT_STARTED]
    _set_aside(commit, old, Reason.SUPERSEDED, "overwritten by a newer version of its key")
    return len(old)


def _later(sequencer: str | None, landed: dt.datetime, other: str | None, other_landed: dt.datetime) -> bool:
    """Whether one version of a key came after another.

    A listing gives no sequencer, and its times in whole seconds; what it shows as latest wins a tie with an event.
    """
    if sequencer and other:
        return newer(sequencer, other)
    one, two = landed.replace(microsecond=0), other_landed.replace(microsecond=0)
    return one > two if one != two else not sequencer and bool(other)


def remove(commit: Commit, removed: Iterable[ObjectRemoved]) -> int:
    """Note deletions in the landing bucket. Returns how many objects were set aside by them.

    What is imported stays imported: senders clean up their bucket; an image set is deleted in HealthImaging.
    """
    table, count = catalog.objects, 0
    for event in removed:
        here = sa.and_(table.c.bucket == event.bucket, table.c.key == event.key)
        if event.version_id:
            here = sa.and_(here, table.c.version_id == event.version_id)
        columns = (table.c.object_id, table.c.sequencer, table.c.landed_at, table.c.state)
        rows = commit.connection.execute(sa.select(*columns).where(here)).all()
        gone = [row for row in rows if event.version_id or _before(row, event)]
        if not gone:
            continue
        ids = [row.object_id for row in gone]
        seen = table.update().where(table.c.object_id.in_(ids), table.c.landing_deleted_at.is_(None))
        commit.connection.execute(seen.values(landing_deleted_at=event.at or now(), changed_seq=commit.seq))
        old = [row.object_id for row in gone if row.state in NOT_STARTED]
        _set_aside(commit, old, Reason.DELETED_BEFORE_IMPORT, "deleted by its sender")
        count += len(old)
    return count


def _before(row: sa.Row[Any, Any, Any, Any], event: ObjectRemoved) -> bool:
    """Whether a version lay under the key when the key was deleted."""
    if row.sequencer and event.sequencer:
        return newer(event.sequencer, row.sequencer)
    return event.at is not None and row.landed_at <= event.at


def release(commit: Commit, bucket: str, prefix: str, *, association: bool, stated: int | None = None) -> int:
    """Make held objects under a prefix ready: its manifest came, or was waited for long enough. Returns how many.

    Args:
        commit: Open commit.
        bucket: Where they lie.
        prefix: What their keys begin with.
        association: Whether the manifest came. Objects that can never be ready are then part of the association, too.
        stated: Objects that the manifest states.
    """
    table = catalog.objects
    under = sa.and_(table.c.bucket == bucket, table.c.key >= prefix, table.c.key < prefix[:-1] + "0")
    freed = table.update().where(under, table.c.state == ObjectState.HELD)
    values = {"state": ObjectState.READY, "state_since": now(), "changed_seq": commit.seq}
    of_manifest = {"association_prefix": prefix, "stated_objects": stated} if association else {}
    if association:
        ended = table.c.state.in_((ObjectState.FAILED, ObjectState.SET_ASIDE))
        theirs = table.update().where(under, ended, table.c.association_prefix.is_(None))
        commit.connection.execute(theirs.values(changed_seq=commit.seq, **of_manifest))
    return commit.connection.execute(freed.values(**values, **of_manifest)).rowcount


def _set_aside(commit: Commit, object_ids: Sequence[str], reason: Reason, text: str) -> None:
    if not object_ids:
        return
    table = catalog.objects
    values = {"state": ObjectState.SET_ASIDE, "state_since": now(), "reason_code": reason, "reason_text": text}
    change_them = table.update().where(table.c.object_id.in_(object_ids))
    commit.connection.execute(change_them.values(changed_seq=commit.seq, **values))
