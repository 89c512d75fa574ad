"""The end of an archive's import: does every study close, and what is missing.

Belongs here: counting each study in six places that know it by different ways, and naming what did not get through.
Does not belong here: where an import stands while it runs (`ahi.archive.progress`), counting a shard (`shard_account`).

The six: what looks at the archive saw and plans named, from their files; what went into jobs, from the jobs; what the
jobs' summaries say; what their success and failure lines say, both read again from S3; the instances of the image sets,
from HealthImaging's documents; the rows of the index. The ledger says which study an object is of, and what became of
those that are in fewer than six places. Memory holds one shard at a time; the rest is on local disk.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi.archive import archives, inventory, parts
from ahi.archive.keys import set_aside_files
from ahi.archive.shard_account import Missing, ShardAccount, of_shard
from ahi.errors import PermanentError
from ahi.index import catalog
from ahi.index import catalog_archives as c
from ahi.index.catalog import ObjectState
from ahi.index.parquet import spilling
from ahi.index.query import IndexNotPublishedError, open_index
from ahi.index.sql import text
from ahi.ledger import object_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import duckdb

    from ahi.archive.archives import Archive
    from ahi.pipeline import Pipeline

SOME = 500
ROWS = 20_000
"""Rows in memory at a time."""

NOT_IN_INDEX = "NOT_IN_INDEX"
"""Reason shown for an instance that was imported, and whose image set has no row of it in the index."""

SIX = ("inventory", "staged", "job_summary", "success_lines", "failure_lines", "image_set_instances", "index_rows")
"""The counts that close; of the six, lines are shown as two."""


@dataclass(frozen=True)
class Study:
    """One study of an archive, counted six times, and what explains a difference between two counts."""

    study_uid: str | None
    """None: objects that have no study, or none yet."""
    inventory: int = 0
    """Objects that looks saw and plans named."""
    staged: int = 0
    """Those that went into an import job."""
    job_summary: int = 0
    success_lines: int = 0
    failure_lines: int = 0
    image_set_instances: int = 0
    index_rows: int = 0
    unplanned: int = 0
    """Seen by the newest look, in no plan yet."""
    unstarted: int = 0
    """In shards that nobody has launched."""
    in_flight: int = 0
    set_down: int = 0
    """In no job, with a reason: set aside by the plan, or by its header."""
    known: int = 0
    """In the ledger by another way: an upload, another archive."""
    without_line: int = 0
    """In jobs that failed as a whole or did not mention it; failed for that."""
    imported: int = 0
    """Objects that the ledger has as imported."""
    repeated: int = 0
    """Those of them whose instance another of them has brought."""
    deleted: int = 0
    """Those of them whose image set was deleted since."""
    others: int = 0
    """Instances of the same image sets that came by another way."""
    known_imported: int = 0
    """Of the known those that the ledger has as imported."""
    known_lines: int = 0
    """Those of them with a success line in the files of the job that brought them."""

    @property
    def open(self) -> str:
        """Which of the counts do not agree, or what is still to come; empty when the study closes."""
        to_come = {
            "in no plan yet": self.unplanned,
            "in shards that nobody launched": self.unstarted,
            "on their way": self.in_flight,
        }
        planned = self.staged + self.set_down + self.known + self.unplanned + self.unstarted
        lines = self.success_lines + self.failure_lines + self.without_line
        instances = self.imported + self.known_imported - self.repeated - self.deleted + self.others
        pairs = {
            "inventory and what became of it": (self.inventory, planned),
            "staged and lines": (self.staged, lines),
            "success lines and job summaries": (self.success_lines, self.job_summary),
            "success lines and ledger": (self.success_lines, self.imported),
            "known, by success lines and ledger": (self.known_lines, self.known_imported),
            "imported and image sets": (instances, self.image_set_instances),
            "image sets and index": (self.image_set_instances, self.index_rows),
        }
        said = [f"{what}: {number}" for what, number in to_come.items() if number]
        # Of what is on its way counts differ, and that says nothing.
        differs = [] if self.in_flight else [f"{what}: {a} and {b}" for what, (a, b) in pairs.items() if a != b]
        return "; ".join([*said, *differs])


NUMBERS = tuple(one.name for one in fields(Study) if one.name != "study_uid")


class Account:
    """An archive counted, on local disk."""

    def __init__(self, duck: duckdb.DuckDBPyConnection) -> None:
        self._duck = duck
        sums = ", ".join(f"coalesce(sum(n) FILTER (name = '{name}'), 0)::BIGINT" for name in NUMBERS)
        self._duck.execute(
            f"CREATE TABLE account.studies AS SELECT study, {sums} FROM account.counts GROUP BY study ORDER BY study"
        )

    @property
    def n_studies(self) -> int:
        """Studies with a UID."""
        return int(self._duck.execute("SELECT count(study) FROM account.studies").fetchall()[0][0])

    @property
    def n_missing(self) -> int:
        """Objects that cannot be queried."""
        return int(self._duck.execute("SELECT count(*) FROM account.missing").fetchall()[0][0])

    def studies(self) -> Iterator[Study]:
        """Every study, by UID, and in front the line of what has none."""
        yield from (Study(*row) for row in self._rows("SELECT * FROM account.studies ORDER BY study NULLS FIRST"))

    def missing(self) -> Iterator[Missing]:
        """Objects that failed, were set aside, or are not in the index, by bucket and key."""
        sql = (
            "SELECT m.*, (SELECT min(corrected_by) FROM account.corrected WHERE original = m.object_id) "
            "FROM account.missing m ORDER BY bucket, key"
        )
        yield from (Missing(*row) for row in self._rows(sql))

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        cursor = self._duck.cursor().execute(sql)
        while rows := cursor.fetchmany(1_000):
            yield from rows


@contextmanager
def account(pipeline: Pipeline, archive_id: str) -> Iterator[Account]:
    """Count an archive. Reads the files of all its plans and jobs again, a shard at a time.

    Raises:
        PermanentError: There is no such archive, or nobody has looked at it yet.
    """
    archive = archives.find(pipeline, archive_id)
    with parts.scratch(pipeline) as folder, spilling(folder) as duck:
        duck.execute(f"ATTACH {text(str(folder / 'account.duckdb'))} AS account")
        duck.execute("CREATE TABLE account.counts (study VARCHAR, name VARCHAR, n BIGINT)")
        duck.execute(
            "CREATE TABLE account.imported (image_set_id VARCHAR, study VARCHAR, sop VARCHAR, object_id VARCHAR)"
        )
        duck.execute("CREATE TABLE account.corrected (original VARCHAR, corrected_by VARCHAR)")
        names = ", ".join(f"{one.name} VARCHAR" for one in fields(Missing)[:-1])
        duck.execute(f"CREATE TABLE account.missing ({names})")
        try:
            _count_plans(pipeline, archive, duck, folder)
            _count_shards(pipeline, archive, duck)
            _count_image_sets(pipeline, duck)
            _count_index(pipeline, duck)
            _name_absent(pipeline, duck)
            yield Account(duck)
        finally:
            duck.execute("DETACH account")


def studies(pipeline: Pipeline, archive_id: str) -> list[Study]:
    """Every study of an archive, by UID, and in front the line of what has none. Raises as `account` does."""
    with account(pipeline, archive_id) as found:
        return list(found.studies())


def missing(pipeline: Pipeline, archive_id: str) -> list[Missing]:
    """Objects of an archive that failed, were set aside, or are not in the index. Raises as `account` does."""
    with account(pipeline, archive_id) as found:
        return list(found.missing())


def _insert(duck: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[object]]) -> None:
    for some in chunked(rows, ROWS):
        _fill(duck.cursor(), f"account.{table}", some)


def _fill(duck: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[object]]) -> None:
    import pyarrow as pa

    given = {str(number): pa.array(column) for number, column in enumerate(zip(*rows, strict=True))}
    duck.register("given", pa.table(given))
    duck.execute(f"INSERT INTO {table} SELECT * FROM given")
    duck.unregister("given")


def _count_plans(pipeline: Pipeline, archive: Archive, duck: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """What no shard has: set aside by the newest plan, or seen by the newest look and in no plan yet."""
    shards, aside = c.archive_shards, set_aside_files(pipeline, archive, folder / "aside")
    with pipeline.index.engine.connect() as connection:
        whole = sa.select(shards.c.manifest_key).where(shards.c.archive_id == archive.archive_id).distinct()
        manifests = connection.execute(whole).scalars().all()
    look = inventory.newest(pipeline, archive)
    set_aside = inventory.files(aside)
    if aside:
        cursor = duck.cursor().execute(f"SELECT key, etag, hindrance FROM {set_aside}")
        while rows := cursor.fetchmany(ROWS):
            _insert(duck, "missing", [_set_aside(archive.bucket, *row) for row in rows])
            _insert(duck, "counts", [(None, name, len(rows)) for name in ("inventory", "set_down")])
    if look is None and not manifests:
        raise PermanentError(f"Nobody has looked at {archive.archive_id} yet: `ahi archive plan` does")
    if look is None:
        return
    seen = inventory.files(parts.fetch(pipeline, inventory.part_keys(pipeline, look), folder / "look"))
    planned = inventory.files(parts.fetch(pipeline, manifests, folder / "plans"))
    both = " UNION ALL ".join(f"SELECT key, etag, size_bytes FROM {some}" for some in (planned, set_aside))
    sql = f"SELECT count(*) FROM {seen} n ANTI JOIN ({both}) USING (key, etag, size_bytes)"
    [(number,)] = duck.execute(sql).fetchall()
    _insert(duck, "counts", [(None, name, number) for name in ("inventory", "unplanned")])


def _set_aside(bucket: str, key: str, etag: str, reason: str) -> tuple[str | None, ...]:
    object_id = object_id_of(bucket, key, None, etag)
    return (None, None, None, reason, "set aside when it was planned", object_id, bucket, key)


def _count_shards(pipeline: Pipeline, archive: Archive, duck: duckdb.DuckDBPyConnection) -> None:
    table = c.archive_shards
    mine = table.c.archive_id == archive.archive_id
    query = sa.select(table.c.shard_key, table.c.n_objects, table.c.started_at).where(mine).order_by(table.c.number)
    with pipeline.index.engine.connect() as connection:
        rows = connection.execute(query).all()
    for shard_key, n_objects, started_at in rows:
        if started_at is None:
            found = ShardAccount()
            found.add(None, "inventory", "unstarted", number=n_objects)
        else:
            found = of_shard(pipeline, shard_key)
        _insert(duck, "counts", [(study, name, n) for (study, name), n in found.counts.items() if n])
        _insert(duck, "imported", found.imported)
        _insert(duck, "corrected", found.corrected)
        _insert(duck, "missing", [astuple(one)[:-1] for one in found.missing])


def _count_image_sets(pipeline: Pipeline, duck: duckdb.DuckDBPyConnection) -> None:
    """Instances by HealthImaging's documents, and by the ledger: what this archive brought and what others did."""
    duck.execute(
        "CREATE TABLE account.image_sets AS SELECT image_set_id, min(study) AS study, count(*) AS n_files, "
        "count(DISTINCT sop) AS n_own FROM account.imported WHERE image_set_id IS NOT NULL GROUP BY image_set_id"
    )
    heads, table = catalog.heads, catalog.objects
    cursor = duck.cursor().execute("SELECT * FROM account.image_sets")
    while rows := cursor.fetchmany(SOME):
        some = [row[0] for row in rows]
        sop = sa.func.coalesce(table.c.SOPInstanceUID, table.c.object_id)
        imported = sa.select(table.c.image_set_id, sa.func.count(sop.distinct())).where(
            table.c.image_set_id.in_(some), table.c.state == ObjectState.IMPORTED
        )
        head = sa.select(heads.c.image_set_id, heads.c.n_instances, heads.c.deleted_at)
        with pipeline.index.engine.connect() as connection:
            of_all = {row[0]: int(row[1]) for row in connection.execute(imported.group_by(table.c.image_set_id))}
            by_set = {row.image_set_id: row for row in connection.execute(head.where(heads.c.image_set_id.in_(some)))}
        counted: list[tuple[str | None, str, int]] = []
        for image_set_id, study, n_files, n_own in rows:
            found = by_set.get(image_set_id)
            if found is not None and found.deleted_at is not None:
                counted.append((study, "deleted", n_files))
                continue
            counted += [
                (study, "repeated", n_files - n_own),
                (study, "others", of_all.get(image_set_id, 0) - n_own),
                (study, "image_set_instances", found.n_instances if found else 0),
            ]
        _insert(duck, "counts", counted)


def _count_index(pipeline: Pipeline, duck: duckdb.DuckDBPyConnection) -> None:
    """Rows of the published index, and the instances that it lacks, by name."""
    duck.execute("CREATE TABLE account.indexed (image_set_id VARCHAR, sop VARCHAR)")
    try:
        index = open_index(pipeline.index.path)
    except IndexNotPublishedError:
        return
    with index:
        index.execute("CREATE TEMP TABLE wanted (image_set_id VARCHAR)")
        cursor = duck.cursor().execute("SELECT image_set_id FROM account.image_sets")
        while rows := cursor.fetchmany(ROWS):
            _fill(index, "wanted", rows)
        sql = "SELECT image_set_id, SOPInstanceUID FROM instances_all SEMI JOIN wanted USING (image_set_id)"
        found = index.execute(sql)
        while rows := found.fetchmany(ROWS):
            _insert(duck, "indexed", rows)
    duck.execute(
        "INSERT INTO account.counts SELECT study, 'index_rows', count(*) FROM account.indexed "
        "JOIN account.image_sets USING (image_set_id) GROUP BY study"
    )


def _name_absent(pipeline: Pipeline, duck: duckdb.DuckDBPyConnection) -> None:
    """Name instances that the ledger has as indexed and the index does not show; others that it lacks are named."""
    table = catalog.objects
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "object_id", "bucket", "key")
    cursor = duck.cursor().execute(
        "SELECT object_id FROM account.imported ANTI JOIN account.indexed USING (image_set_id, sop)"
    )
    while found := cursor.fetchmany(SOME):
        which = (table.c.object_id.in_([row[0] for row in found]), table.c.indexed_seq.is_not(None))
        there = sa.select(*(table.c[name] for name in names)).where(*which, table.c.erased_at.is_(None))
        deleted = sa.exists().where(
            catalog.heads.c.image_set_id == table.c.image_set_id, catalog.heads.c.deleted_at.is_not(None)
        )
        with pipeline.index.engine.connect() as connection:
            rows = connection.execute(there.where(sa.not_(deleted))).all()
        why = (NOT_IN_INDEX, "imported, but the published index has no row of it")
        _insert(duck, "missing", [(*row[:3], *why, *row[3:]) for row in rows])
