"""A large index in minutes: rows made by column and by SQL, none of them one by one.

Belongs here: filling an index as if image sets had been imported and indexed. Does not belong here: what is measured.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from synthetic_series import uids

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index.mirror import MIRRORS, put_state
from ahi.index.writer import write_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ahi.index.columns import Table
    from ahi.index.store import Index
    from ahi.index.writer import DataFile

STORE = "d" * 32
DAY = "2026-11-21"
FILE_SETS = 2_500
"""Image sets in one file of instances, which has as many rows as one that compaction no longer calls small."""
PER_SET = 100


def fill(index: Index, n_sets: int, instances: pa.Table, series: pa.Table) -> None:
    """Make an index of image sets of 100 instances.

    Args:
        index: An empty one, with a SQLite catalog.
        n_sets: Number of image sets, a multiple of `FILE_SETS`.
        instances: 100 rows as the pipeline writes them, to be taken for every image set under UIDs of its own.
        series: The row of their series.
    """
    with index.commit(kind="fill", batch_id="fill") as commit:
        seq = commit.seq
    files = []
    for start in range(0, n_sets, FILE_SETS):
        some = range(start, start + FILE_SETS)
        # By study, as the files of the index are.
        sets = pa.array([number for _, number in sorted(zip(study_uids(some), some, strict=True))], pa.int64())
        numbers = sets.take(pa.array([n // PER_SET for n in range(FILE_SETS * PER_SET)]))
        rows = instances.take(pa.array([n % PER_SET for n in range(FILE_SETS * PER_SET)]))
        files.append(_written(index, index.tables["instances"], rows, numbers))
        files.append(_written(index, index.tables["series"], series.take(pa.array([0] * FILE_SETS)), sets))
    fill_catalog(index, n_sets, seq)
    from ahi.index.store import file_row

    with index.transaction() as connection:
        connection.execute(c.files.insert(), [file_row(file, seq, seq, seq) for file in files])
        for mirror in MIRRORS:
            # As if the ledger had been moved to files long ago.
            put_state(connection, mirror.floor_name, str(seq))


def study_uids(numbers: Sequence[int]) -> list[str]:
    """UID of the study of each image set; in no order, nor is that of its series."""
    return uids(np.array(numbers), 2)


def _written(index: Index, table: Table, rows: pa.Table, numbers: pa.Array) -> DataFile:
    """One file of rows, each with the ids of its image set."""
    padded = pc.add(numbers, 100_000_000).cast(pa.string())
    sets = numbers.dictionary_encode()
    series_uid = pa.array(uids(sets.dictionary.to_numpy(), 1)).take(sets.indices)
    values: dict[str, object] = {
        "image_set_id": pc.utf8_lpad(numbers.cast(pa.string()), 32, "0"),
        "StudyInstanceUID": pa.array(study_uids(sets.dictionary.to_numpy())).take(sets.indices),
        "SeriesInstanceUID": series_uid,
        "batch_id": pa.array(["fill"] * len(rows)),
    }
    if "PatientID" in rows.column_names:
        values["PatientID"] = pc.binary_join_element_wise("P", padded, "")
    if "SOPInstanceUID" in rows.column_names:
        # UIDs that do not compress, as a scanner's.
        within = pa.array(np.random.default_rng(0).integers(10**15, 10**16, len(rows)).astype(str))
        values["SOPInstanceUID"] = pc.binary_join_element_wise(pc.utf8_slice_codeunits(series_uid, 0, 45), within, ".")
    for name, value in values.items():
        rows = rows.set_column(rows.column_names.index(name), name, value)
    columns = [(column.name, column.duckdb_type) for column in table.columns]
    return write_parts(
        index.root, f"{table.name}/{DAY}", [rows], rows.schema, table=table.name, columns=columns, batch_id="fill"
    )


def fill_catalog(index: Index, n_sets: int, seq: int) -> None:
    """The ledger's rows, heads, sightings and documents, with indexes made afterwards."""
    moment = int(now().timestamp() * 1e6)
    n_objects = n_sets * PER_SET
    # In order, so that the tree grows at its end, and over all ids, so that new ones fall between old ones.
    spread = (2**63 - 1) // n_objects
    set_id, study = "printf('%032d', {n})", "'1.2.826.0.1.' || (100000000 + {n})"
    of_object = {
        "object_id": f"printf('%016x%016x', i * {spread}, i)",
        "bucket": "'landing'",
        "key": f"'site/scanner/' || {study.format(n='i')} || '.dcm'",
        "etag": "printf('%032x', i)",
        "size_bytes": "526336",
        "state": "'imported'",
        "state_since": str(moment),
        "StudyInstanceUID": study.format(n=f"i / {PER_SET}"),
        "SeriesInstanceUID": study.format(n=f"i / {PER_SET}") + " || '.1'",
        "SOPInstanceUID": study.format(n=f"i / {PER_SET}") + f" || '.1.' || (i % {PER_SET})",
        "Modality": "'CT'",
        "job_key": "printf('job-%d', i / 5000)",
        "attempts": "1",
        "image_set_id": set_id.format(n=f"i / {PER_SET}"),
        "image_set_version": "1",
        "is_primary": "1",
        "batch_id": "printf('%032x', i / 100)",
        "day": f"'{DAY}'",
        "indexed_seq": str(seq),
        "header_seq": str(seq),
        "changed_seq": str(seq),
    } | dict.fromkeys(("landed_at", "header_at", "settled_at", "indexed_at", "published_at"), f"{moment} + i")
    of_set = {"datastore_id": f"'{STORE}'", "image_set_id": set_id.format(n="i"), "version": "1"}
    of_head = of_set | {"batch_id": "'fill'", "is_primary": "1", "n_instances": str(PER_SET), "seq": str(seq)}
    of_head |= {"SeriesInstanceUID": study.format(n="i") + " || '.1'", "indexed_at": str(moment)}
    of_sighting = of_set | {"gone": "0", "seen_at": str(moment), "pending": "0"}
    connection = sqlite3.connect(index.root / "catalog.sqlite", isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    for table, n_rows, values in (
        (c.objects, n_objects, of_object),
        (c.heads, n_sets, of_head),
        (c.sightings, n_sets, of_sighting),
    ):
        _insert(connection, table.name, n_rows, values)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()


def _insert(connection: sqlite3.Connection, table: str, n_rows: int, values: dict[str, str]) -> None:
    indexes: Sequence[tuple[str, str]] = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", [table]
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f'DROP INDEX "{name}"')
    connection.execute("BEGIN")
    connection.execute(
        f"INSERT INTO {table} ({', '.join(values)}) "
        f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT {n_rows}) "
        f"SELECT {', '.join(values.values())} FROM n"
    )
    connection.execute("COMMIT")
    for _, sql in indexes:
        connection.execute(sql)


def template(index: Index, files: Sequence[DataFile], table: str) -> pa.Table:
    """What was written for one table, to be multiplied."""
    (path,) = [file.path for file in files if file.table_name == table]
    return pq.read_table(index.root / path, partitioning=None)
