"""Patient keys of header rows, made again. Belongs here: finding rows with another key than today's, and writing them.

Does not belong here: the key itself (`ahi.documents`), rows of documents (`ahi.indexing`, which makes theirs anew).
A key changes with its secret, or with the rule that makes it; a header is not kept, so its row is all there is.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi.index import catalog as c
from ahi.index.parquet import spilling
from ahi.index.relations import table_select
from ahi.patients import patient_key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ahi.index.store import Index
    from ahi.pipeline import Pipeline

    KeyOf = Callable[[str | None, str | None], str | None]

Row = dict[str, Any]

ROWS = 10_000
"""Rows of a commit, which bounds memory."""
_CHUNK = 500


def remake_header_keys(pipeline: Pipeline, days: Collection[str] | None = None) -> int:
    """Give the header rows that count the patient key of today. Returns how many had another; a replay finds none.

    Args:
        pipeline: Index and secret.
        days: Only rows of objects that arrived on these days; all without it.
    """
    index, key_of = pipeline.index, patient_key_of(pipeline)
    live = sa.select(c.files).where(c.files.c.table_name == "headers", c.files.c.retired_seq.is_(None))
    with index.snapshot() as connection:
        files = connection.execute(live).fetchall()
    return sum(_write(pipeline, rows, days) for file in files for rows in _wrong(index, file, key_of))


def _wrong(index: Index, file: sa.Row[Any], key_of: KeyOf) -> Iterator[list[Row]]:
    """Rows of a file with another key than today's, with today's."""
    with spilling(index.root) as connection:
        connection.sql(table_select(index, index.tables["headers"], [file])).create_view("held")
        found = connection.execute("SELECT DISTINCT IssuerOfPatientID, PatientID, patient_key FROM held").fetchall()
        wrong = [(issuer, patient, key, key_of(issuer, patient)) for issuer, patient, key in found]
        wrong = [one for one in wrong if one[2] != one[3]]
        if not wrong:
            return
        connection.execute("CREATE OR REPLACE TEMP TABLE wrong (issuer TEXT, patient TEXT, old TEXT, remade TEXT)")
        connection.executemany("INSERT INTO wrong VALUES (?, ?, ?, ?)", wrong)
        connection.execute(
            "SELECT held.* REPLACE (remade AS patient_key) FROM held JOIN wrong "
            "ON IssuerOfPatientID IS NOT DISTINCT FROM issuer AND PatientID IS NOT DISTINCT FROM patient "
            "AND patient_key IS NOT DISTINCT FROM old"
        )
        columns = [column[0] for column in connection.description or ()]
        while rows := connection.fetchmany(ROWS):
            yield [dict(zip(columns, row, strict=True)) for row in rows]


def _write(pipeline: Pipeline, rows: Sequence[Row], days: Collection[str] | None) -> int:
    """Write rows anew, if they count and arrived on one of the days."""
    index = pipeline.index
    with index.snapshot() as connection:
        shown = _shown(connection, rows, days)
    # Replaced and erased rows lie in their files until compaction; they must not come back.
    rows = [row | {"dagster_run_id": pipeline.run_id, "indexed_at": None} for row in rows if _key(row) in shown]
    if not rows:
        return 0
    batch_id = f"header-keys:{uuid.uuid4().hex}"
    read = {str(row["object_id"]): _key(row) for row in rows}
    file = index.write("headers", rows, batch_id=batch_id)
    with index.commit(batch_id=batch_id, kind="header-keys", run_id=pipeline.run_id, files=[file]) as commit:
        still = _shown(commit.connection, rows)
        commit.discard("headers", [object_id for object_id, key in read.items() if key not in still])
        winners = commit.raise_headers([object_id for object_id, key in read.items() if key in still], replace=True)
        for some in chunked(sorted(winners), _CHUNK):
            change = c.objects.update().where(c.objects.c.object_id.in_(some))
            commit.connection.execute(change.values(header_seq=commit.seq, changed_seq=commit.seq))
    return len(winners)


def _key(row: Row) -> tuple[str, str]:
    return str(row["object_id"]), str(row["batch_id"])


def _shown(connection: sa.Connection, rows: Sequence[Row], days: Collection[str] | None = None) -> set[tuple[str, str]]:
    """Object and batch of those rows that the ledger names, of some days if any are given, and nothing has buried."""
    found: set[tuple[str, str]] = set()
    named = sa.select(c.objects.c.object_id, c.commits.c.batch_id, c.objects.c.day).join(
        c.commits, c.commits.c.seq == c.objects.c.header_seq
    )
    buried = sa.select(c.dead.c.row_key, c.dead.c.batch_id).where(c.dead.c.table_name == "headers")
    for some in chunked([str(row["object_id"]) for row in rows], _CHUNK):
        known = connection.execute(named.where(c.objects.c.object_id.in_(some)))
        here = {(object_id, batch_id) for object_id, batch_id, day in known if days is None or day in days}
        found |= here - {(row[0], row[1]) for row in connection.execute(buried.where(c.dead.c.row_key.in_(some)))}
    return found
