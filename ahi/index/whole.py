"""Tables of the catalog that are published whole. Belongs here: which, their views, and keeping their copies fresh.

Does not belong here: tables that grow with the archive, of which a publication takes what changed (`mirror`).

What archives and HealthLake imports keep in the catalog is small beside objects: a shard or a batch is thousands of
them. Each of these tables is a Parquet file of the index, written anew by the first publication after a transaction
changed it, which the engine notes (`catalog.NOTED`); nothing changed costs nothing. Columns that a sender's text
can be in are left out: no erasure has to look for it here. No lower tier has any of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import peekable

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index import catalog_archives as a
from ahi.index import catalog_fhir as f
from ahi.index.engine import CHANGED
from ahi.index.mirror import Mirror, arrow_schema, put_state, read_parts
from ahi.index.sql import quoted
from ahi.index.view import View
from ahi.index.writer import write_parts

if TYPE_CHECKING:
    from ahi.index.store import Index
    from ahi.index.writer import DataFile

COPIED = "copied:"
_COMMENTS = {
    a.archives: "One row for each archive: a bucket or folder of DICOM whose years are imported shard by shard.",
    a.archive_looks: "One row for each look at the keys of an archive, with what had changed since the look before.",
    a.archive_shards: "One row for each shard of an archive, which is one import job, with what became of its objects.",
    a.archive_set_aside: "Objects of an archive that no shard imports, counted by reason.",
    f.fhir_imports: "One row for each chain of FHIR batches that HealthLake was to import.",
    f.fhir_batches: "One row for each FHIR batch, which is one HealthLake import job, with counts of its resources.",
    f.fhir_failures: "One row for each FHIR resource that was refused or failed, with why; values of it are nowhere.",
}
# A folder of an archive may be named for a patient, and so may a resource. Leases change each second (`UNNOTED`).
_HIDDEN = {a.archive_shards: ("in_place_prefix", "lease_until"), f.fhir_failures: ("resource_id",)}
WHOLE = tuple(Mirror(table.name, table, "", hidden=_HIDDEN.get(table, ())) for table in _COMMENTS)


def whole_views() -> list[View]:
    """Their views."""
    return [
        View(
            one.name,
            f"SELECT * FROM internal.{quoted(one.name)}",
            _COMMENTS[one.table],
            {name: one.table.c[name].comment or "" for name, _ in one.columns},
        )
        for one in WHOLE
    ]


def refresh(index: Index) -> None:
    """Write what changed since its last copy, in one commit. Call it under the lock of publishing."""
    marks = [prefix + one.name for one in WHOLE for prefix in (CHANGED, COPIED)]
    with index.snapshot() as connection:
        state = c.state
        found = connection.execute(sa.select(state.c.name, state.c.value).where(state.c.name.in_(marks)))
        known = {str(name): str(value) for name, value in found}
        stale = [one for one in WHOLE if known.get(CHANGED + one.name) != known.get(COPIED + one.name)]
        if not stale:
            return
        files = {one.name: _copy(index, connection, one) for one in stale}
    from ahi.index.store import file_row

    with index.commit(kind="changes") as commit:
        table = c.files
        for one in stale:
            old = sa.and_(table.c.table_name == one.name, table.c.retired_seq.is_(None))
            commit.connection.execute(table.update().where(old).values(retired_seq=commit.seq, retired_at=now()))
            if file := files[one.name]:
                commit.connection.execute(table.insert(), [file_row(file, 0, commit.seq, commit.seq)])
            put_state(commit.connection, COPIED + one.name, known[CHANGED + one.name])


def _copy(index: Index, connection: sa.Connection, one: Mirror) -> DataFile | None:
    parts = peekable(read_parts(connection, one))
    if not parts:
        return None
    return write_parts(index.root, f"{one.name}/whole", parts, arrow_schema(one), table=one.name, columns=one.columns)
