"""Rows of headers until their document comes. Belongs here: which objects they are, and their rows as other tables'.

Does not belong here: the views (`views`), building the published file (`publish`).

An object counts from the commit of its header until its image set is indexed; not when it failed or was set aside.
Keys go into the published file, and queries read the rows from the few header files that hold them. Nothing pending
costs nothing: then no view mentions header files.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi.index import catalog as c
from ahi.index.catalog import IN_FLIGHT, ObjectState
from ahi.index.sql import distinct_list, quoted, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from ahi.index.columns import Column, Table

# Tables whose views show header rows. `studies` and `patients` stand on `series`.
SHOWN = ("instances", "series")
ROW_SOURCE = "row_source"
ROW_SOURCE_COMMENT = "document: from HealthImaging. header: from the uploaded object; its document has not come yet."
# FHIR goes by what row_source says today, so a series that has a document is of that, whatever else was uploaded.
N_PENDING = "n_pending"
# Reading so many keys costs a publication about 0.2 s; of a larger backlog the newest are shown, `headers` has all.
LIMIT = 50_000
N_PENDING_COMMENT = (
    "Instances uploaded whose document has not come: not in n_instances, which is the document's. 0 where row_source "
    f"is header, since all of those are counted. Of more than {LIMIT:,} pending objects the newest are looked at."
)
CHUNK = 500
WAITING = (*IN_FLIGHT, ObjectState.IMPORTED)
# The series of header rows shows what its objects agree on, as that of a document does.
LEVELS = ("Patient", "Study", "Series")


@dataclass(frozen=True)
class Pending:
    """Objects without a document, and where to look for documents that came before their results did.

    Attributes:
        objects: object_id, batch_id, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, landed_at.
        commits: Numbers of the commits of their headers, sorted.
        heads: StudyInstanceUID, SeriesInstanceUID, is_primary of image sets with their series.
        head_commits: Numbers of the commits of those, sorted.
    """

    objects: pa.Table
    commits: Sequence[int]
    heads: pa.Table
    head_commits: Sequence[int]


def read_pending(connection: sa.Connection, datastore_id: str = "") -> Pending | None:
    """What is pending in the catalog now; None if nothing is.

    `datastore_id` is the data store that pending objects go into: a document of another has none of them. Empty: the
    only one.
    """
    import pyarrow as pa

    table, heads = c.objects, c.heads
    deleted = sa.exists().where(heads.c.image_set_id == table.c.image_set_id, heads.c.deleted_at.is_not(None))
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    landed = sa.type_coerce(table.c.landed_at, sa.BigInteger)
    rows: list[Any] = connection.execute(
        sa.select(table.c.object_id, c.commits.c.batch_id, *(table.c[name] for name in names), landed, c.commits.c.seq)
        .join(c.commits, c.commits.c.seq == table.c.header_seq)
        .where(table.c.indexed_seq.is_(None), table.c.state.in_(WAITING), sa.not_(deleted))
        .order_by(table.c.state_since.desc())
        .limit(LIMIT)
    ).fetchall()  # type: ignore[assignment]
    if not rows:
        return None
    found: list[Any] = list(zip(*rows, strict=True))
    columns = ["object_id", "batch_id", *names, "landed_at"]
    kinds = [pa.string()] * 5 + [pa.int64()]
    objects = pa.table({name: pa.array(one, kind) for name, one, kind in zip(columns, found, kinds, strict=False)})
    shown = _heads(connection, {str(uid) for uid in found[3] if uid}, datastore_id)
    heads_table = pa.table(
        {
            "StudyInstanceUID": pa.array([row.StudyInstanceUID for row in shown], pa.string()),
            "SeriesInstanceUID": pa.array([row.SeriesInstanceUID for row in shown], pa.string()),
            "is_primary": pa.array([row.is_primary for row in shown], pa.bool_()),
        }
    )
    return Pending(objects, sorted(set(found[6])), heads_table, sorted({int(row.seq) for row in shown}))


def _heads(connection: sa.Connection, series: set[str], datastore_id: str) -> list[sa.Row[Any]]:
    heads = c.heads
    own = heads.c.datastore_id == datastore_id if datastore_id else sa.true()
    found: list[Any] = []
    query = sa.select(heads.c.StudyInstanceUID, heads.c.SeriesInstanceUID, heads.c.is_primary, c.commits.c.seq).join(
        c.commits, c.commits.c.batch_id == heads.c.batch_id
    )
    for part in chunked(sorted(series), CHUNK):
        here = sa.and_(heads.c.SeriesInstanceUID.in_(part), heads.c.deleted_at.is_(None), own)
        found += connection.execute(query.where(here)).fetchall()
    return found


def holding(files: Sequence[Any], commits: Sequence[int]) -> list[Any]:
    """Those of a table's files that may hold rows of some commits."""

    def reaches(row: Any) -> bool:
        at = bisect_left(commits, row.first_seq)
        return at < len(commits) and commits[at] <= row.last_seq

    return [row for row in files if reaches(row)]


def keys_select(objects: str, heads: str, documents: str) -> str:
    """SELECT of the keys: one object for each instance, the newest, unless a document has the instance.

    With the series of each, and whether that is shown by headers (`in_series`).

    Args:
        objects: Relation of `Pending.objects`.
        heads: Relation of `Pending.heads`.
        documents: Relation with the rows of `instances` of those image sets.
    """
    uids = "StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID"
    return (
        "SELECT p.object_id, p.batch_id, p.StudyInstanceUID AS of_study, p.SeriesInstanceUID AS of_series, "
        "h.SeriesInstanceUID IS NULL AS in_series FROM ("
        "SELECT unnest(max({'landed_at': landed_at, 'object_id': object_id, 'batch_id': batch_id})), "
        f"{uids} FROM {objects} GROUP BY {uids}) p "
        f"ANTI JOIN ({documents}) d USING ({uids}) "
        f"LEFT JOIN (SELECT DISTINCT StudyInstanceUID, SeriesInstanceUID FROM {heads} WHERE is_primary) h "
        "ON h.StudyInstanceUID = p.StudyInstanceUID AND h.SeriesInstanceUID = p.SeriesInstanceUID"
    )


def rows_select(rows: str, keys: str) -> str:
    """SELECT of the header rows of the keys; `rows` is a SELECT from header files."""
    same = "k.object_id = r.object_id AND k.batch_id = r.batch_id"
    return f"SELECT r.*, k.in_series FROM ({rows}) r JOIN {keys} k ON {same}"


def counts_select(keys: str) -> str:
    """SELECT of how many of the keys are beyond what a document shows of a series; of other series none."""
    return f"SELECT of_study, of_series, count(*) AS {N_PENDING} FROM {keys} WHERE NOT in_series GROUP BY ALL"


def documents_select(name: str, picked: str, relation: str, *, is_counted: bool = False) -> str:
    """SELECT of what a table shows of documents, straight from its files.

    Each view that stands on another costs a question of all columns 2 ms of planning, and of four columns 1 ms: a look
    at one study took a quarter less, at four columns of it a third, than over views of live files and of rows that
    count.

    Args:
        name: The table.
        picked: Its columns as a list for SELECT.
        relation: Its rows.
        is_counted: Whether `with_counts` gives it `n_pending`.
    """
    return f"SELECT {picked}, 'document' AS {ROW_SOURCE}{_none_pending(name, is_counted)} FROM {relation}"


def _none_pending(name: str, is_counted: bool) -> str:
    return f", 0::BIGINT AS {N_PENDING}" if name == "series" and not is_counted else ""


def with_counts(select: str, counts: str, datastore_id: str) -> str:
    """SELECT of series that has `n_pending` besides.

    DuckDB 2 leaves the join out where nobody asks for the column, but only in this form: of one row for each key, by
    equality alone, and outside of a UNION. Inside one, a count by modality of 1 M series took 160 ms instead of 20.

    Args:
        select: SELECT of series.
        counts: Relation of `counts_select`.
        datastore_id: Data store that the pending objects go into; empty: the only one.
    """
    keys = "of_study, of_series"
    one = f"SELECT {keys}, sum({N_PENDING})::BIGINT AS {N_PENDING} FROM {counts} GROUP BY {keys}"
    same = "p.of_study = r.StudyInstanceUID AND p.of_series = r.SeriesInstanceUID"
    here = f" AND r.datastore_id = {text(datastore_id)}" if datastore_id else ""
    counted = f"CASE WHEN r.is_primary{here} THEN coalesce(p.{N_PENDING}, 0) ELSE 0 END AS {N_PENDING}"
    return f"SELECT r.*, {counted} FROM ({select}) r LEFT JOIN ({one}) p ON {same}"


def as_instances(table: Table, headers: Table, rows: str, datastore_id: str) -> str:
    """SELECT of header rows with the columns of `instances` and `row_source`."""
    own = {column.name for column in headers.columns}
    return _select(table, {name: quoted(name) for name in own} | _datastore(datastore_id), rows)


def as_series(table: Table, headers: Table, rows: str, datastore_id: str, *, is_counted: bool) -> str:
    """SELECT of header rows by series with the columns of `series` and `row_source`; not of series with a document.

    Unless `with_counts` gives them `n_pending`, they have that, too.
    """
    own = {column.name: column for column in headers.columns}
    keys = ("StudyInstanceUID", "SeriesInstanceUID")
    agreed = [column for column in table.columns if column.name in own and column.tag is not None]
    values = {column.name: _agreed(column) for column in agreed} | {name: quoted(name) for name in keys}
    differs = (f"CASE WHEN {_differs(x)} THEN {text(x.name)} END" for x in agreed if x.name not in keys)
    spacing = "CASE WHEN min(PixelSpacing) = max(PixelSpacing) THEN min(PixelSpacing) END"
    numbers = "max(InstanceNumber) - min(InstanceNumber) + 1 - count(DISTINCT InstanceNumber)"
    kinds = "array_to_string(ImageType, '\\')"
    values |= {
        "n_instances": "count(*)",
        "sop_class_uids": distinct_list("SOPClassUID"),
        "transfer_syntax_uids": distinct_list("TransferSyntaxUID"),
        "image_types_all": distinct_list(kinds),
        "is_original": f"min_by(ImageType, coalesce(InstanceNumber, 2147483647))[1] = {text('ORIGINAL')}",
        "is_localizer": "bool_or(list_contains(ImageType, 'LOCALIZER'))",
        "pixel_spacing_row_mm": f"({spacing})[1]",
        "pixel_spacing_col_mm": f"({spacing})[2]",
        "instance_number_gaps": numbers,
        "mixed_attrs": f"nullif(list_sort(list_filter([{', '.join(differs)}], lambda x: x IS NOT NULL)), [])",
        **{name: f"min({quoted(name)})" for name in ("patient_key", "PatientName_parts", "schema_version")},
        **{name: f"max({quoted(name)})" for name in ("batch_id", "indexed_at", "parser_version", "dagster_run_id")},
    }
    by = ", ".join(map(quoted, keys))
    values |= _datastore(datastore_id)
    return f"{_select(table, values, f'({rows}) WHERE in_series', is_counted=is_counted)} GROUP BY {by}"


def _datastore(datastore_id: str) -> dict[str, str]:
    return {"datastore_id": text(datastore_id)} if datastore_id else {}


def _select(table: Table, values: Mapping[str, str], rows: str, *, is_counted: bool = False) -> str:
    picked = (f"({values.get(x.name, 'NULL')})::{x.duckdb_type} AS {quoted(x.name)}" for x in table.columns)
    return f"SELECT {', '.join(picked)}, 'header' AS {ROW_SOURCE}{_none_pending(table.name, is_counted)} FROM {rows}"


def _agreed(column: Column) -> str:
    name = quoted(column.name)
    if column.name == "ImageType":
        return "min_by(ImageType, coalesce(InstanceNumber, 2147483647))"
    return f"CASE WHEN min({name}) = max({name}) THEN min({name}) END"


def _differs(column: Column) -> str:
    name = quoted(column.name)
    return "false" if column.name == "ImageType" else f"min({name}) <> max({name})"
