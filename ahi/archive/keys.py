"""The keys of one look as a table of DuckDB on local disk, for planning.

Belongs here: bringing them there, what hinders an object, and questions about folders. Does not belong here: what a
shard is (`packing`), reading headers (`screening`).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from more_itertools import chunked

from ahi.archive import inventory, parts
from ahi.archive.packing import Folder, Piece
from ahi.archive.s3_inventory import ARCHIVE_TIERS, TIERED
from ahi.index import catalog_archives as c
from ahi.index.parquet import spilling
from ahi.index.sql import text
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import duckdb

    from ahi.archive.archives import Archive
    from ahi.archive.inventory import Look
    from ahi.archive.packing import Limits
    from ahi.pipeline import Pipeline

KNOWN = "KNOWN"
"""What hinders an object that is in a shard already."""

ROWS = 20_000
"""Rows in memory at a time."""

_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE", *(f"{TIERED}:{tier}" for tier in ARCHIVE_TIERS))
"""Storage classes, and tiers of Intelligent-Tiering, whose objects S3 gives only after a restore."""

# "Creating object key names" of the S3 user guide calls these safe; other keys are copied to a name of ours.
_PLAIN = "[A-Za-z0-9!_.*''()/-]*"

_NOT_IMAGES = (
    *("txt", "xml", "json", "csv", "tsv", "html", "htm", "pdf", "doc", "docx", "xls", "xlsx", "jpg", "jpeg", "png"),
    *("gif", "bmp", "svg", "mp4", "avi", "mov", "zip", "gz", "tar", "7z", "rar", "exe", "dll", "jar", "inf", "ini"),
    *("log", "md5", "sha1", "sha256", "db", "sqlite", "lnk", "js", "css", "bak", "tmp", "ds_store"),
)
"""Endings of names that are seldom DICOM: a header is read of each before it is set aside."""

_TINY_BYTES = 512
"""No instance with its identity, preamble and transfer syntax is smaller."""


@dataclass(frozen=True)
class Totals:
    """Objects and bytes of a kind."""

    n_objects: int
    n_bytes: int


class Keys:
    """The table `work.keys`: one row for each object of a look.

    Markers of folders are objects too, empty ones. Whether HealthImaging takes them for files is not documented, so a
    folder with one is not used in place.
    """

    def __init__(self, duck: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._duck, self.folder = duck, folder

    def judge(self, judged: Iterable[tuple[str, str]]) -> None:
        """Set down what hinders objects, by key."""
        for some in chunked(judged, ROWS):
            self._insert("judged", ("key", "hindrance"), some)
        self._duck.execute("UPDATE work.keys SET hindrance = j.hindrance FROM work.judged j WHERE j.key = keys.key")

    def suspects(self, *, every: bool = False) -> Iterator[list[dict[str, Any]]]:
        """Objects whose header should be read before they are planned, some at a time."""
        endings = ", ".join(text(ending) for ending in _NOT_IMAGES)
        name = "lower(regexp_extract(key, '[^/]*$'))"
        ending = f"regexp_extract({name}, '[^.]*$') IN ({endings})"
        suspect = "true" if every else f"(size_bytes < {_TINY_BYTES} OR {name} = 'dicomdir' OR {ending})"
        sql = f"SELECT key, version_id, etag, size_bytes FROM work.keys WHERE hindrance IS NULL AND {suspect}"
        for batch in self._stream(sql):
            yield batch.to_pylist()

    def folders(self) -> Iterator[Folder]:
        """Folders with what lies directly in them, ordered by path."""
        sql = (
            "SELECT folder, count(*) FILTER (hindrance IS NULL), "
            "coalesce(sum(size_bytes) FILTER (hindrance IS NULL), 0)::BIGINT, "
            f"count(*) FILTER (hindrance IS NOT NULL), bool_and(regexp_full_match(key, '{_PLAIN}')) "
            "FROM work.keys GROUP BY folder ORDER BY folder"
        )
        for batch in self._stream(sql):
            columns = [column.to_pylist() for column in batch.columns]
            yield from (Folder(*values) for values in zip(*columns, strict=True))

    def cut(self, folder: Folder, limits: Limits) -> Iterator[Piece]:
        """Pieces of one folder in the order of its keys, each as much as a job holds."""
        first, last, n_objects, n_bytes = "", "", 0, 0
        sql = "SELECT key, size_bytes FROM work.keys WHERE folder = ? AND hindrance IS NULL ORDER BY key"
        for batch in self._stream(sql, [folder.path]):
            for key, size in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                if n_objects and not limits.hold(n_objects + 1, n_bytes + size):
                    yield Piece(folder.path, n_objects, n_bytes, first, last)
                    n_objects = n_bytes = 0
                first, last = key if not n_objects else first, key
                n_objects, n_bytes = n_objects + 1, n_bytes + size
        if n_objects:
            yield Piece(folder.path, n_objects, n_bytes, first, last)

    def assign(self, pieces: Iterable[tuple[int, Piece]]) -> None:
        """Set down which shard, by its number, each piece belongs to."""
        rows = ((number, piece.path, piece.first, piece.last) for number, piece in pieces)
        for some in chunked(rows, ROWS):
            self._insert("pieces", ("number", "path", "first_key", "last_key"), some)

    def assigned(self) -> Iterator[Any]:
        """Objects of all shards as Arrow batches, ordered by shard and key, with the shard's number in front."""
        yield from self._stream(
            "SELECT p.number, k.key, k.version_id, k.etag, k.size_bytes, k.last_modified "
            "FROM work.keys k JOIN work.pieces p ON p.path = k.folder "
            "WHERE k.hindrance IS NULL AND (p.first_key IS NULL OR k.key BETWEEN p.first_key AND p.last_key) "
            "ORDER BY p.number, k.key"
        )

    def totals(self) -> dict[str | None, Totals]:
        """Objects and bytes by what hinders them; None: nothing does."""
        sql = "SELECT hindrance, count(*), sum(size_bytes)::BIGINT FROM work.keys GROUP BY ALL"
        return {hindrance: Totals(n, size) for hindrance, n, size in self._duck.execute(sql).fetchall()}

    def write_set_aside(self) -> Path:
        """A file that names each object that no shard takes, and why."""
        path = self.folder / "set_aside.parquet"
        aside = f"SELECT * EXCLUDE (folder) FROM work.keys WHERE hindrance <> '{KNOWN}' ORDER BY key"
        self._duck.execute(f"COPY ({aside}) TO {text(str(path))} (FORMAT parquet, COMPRESSION zstd)")
        return path

    def neighbours(self, number: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Some objects to be imported, picked evenly, each with the one that follows it in its folder."""
        fields = ("key", "version_id", "etag", "size_bytes")
        one, other = (", ".join(f"{name}.{field}" for field in fields) for name in ("s", "k"))
        sql = (
            "WITH s AS (SELECT * FROM (SELECT * FROM work.keys WHERE hindrance IS NULL) "
            f"USING SAMPLE reservoir({number} ROWS) REPEATABLE (1)), "
            "following AS (SELECT s.key, min(k.key) AS next FROM s JOIN work.keys k ON k.folder = s.folder "
            "AND k.key > s.key AND k.hindrance IS NULL GROUP BY s.key) "
            f"SELECT {one}, {other} FROM following f JOIN s ON s.key = f.key JOIN work.keys k ON k.key = f.next"
        )
        rows = self._duck.execute(sql).fetchall()
        return [
            (dict(zip(fields, row[:4], strict=True)), dict(zip(fields, row[4:], strict=True))) for row in sorted(rows)
        ]

    def _stream(self, sql: str, values: Sequence[object] = ()) -> Iterator[Any]:
        reader: Any = self._duck.cursor().sql(sql, params=values or None).to_arrow_reader(ROWS)
        yield from reader

    def _insert(self, table: str, names: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
        import pyarrow as pa

        columns = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
        cursor = self._duck.cursor()
        kinds = {name: pa.int64() if name == "number" else pa.string() for name in names}
        cursor.register("given", pa.table(columns, pa.schema(kinds)))
        cursor.execute(f"INSERT INTO work.{table} SELECT * FROM given")


def set_aside_files(pipeline: Pipeline, archive: Archive, folder: Path) -> list[Path]:
    """The file of what the newest plan set aside, brought to a local folder; none where that was nothing."""
    table = c.archive_set_aside
    of_plan = (table.c.archive_id == archive.archive_id, table.c.generation == archive.planned_generation)
    with pipeline.index.engine.connect() as connection:
        found = connection.execute(sa.select(table.c.object_key).where(*of_plan).distinct()).scalars().all()
    return parts.fetch(pipeline, found, folder)


@contextmanager
def open_keys(pipeline: Pipeline, of: Look, manifests: Sequence[str]) -> Iterator[Keys]:
    """The keys of a look on local disk for as long as the block lasts.

    Args:
        pipeline: The pipeline.
        of: A complete look at an archive.
        manifests: Lake keys of the manifests whose objects are in shards already.
    """
    with parts.scratch(pipeline) as folder, spilling(folder) as duck:
        found = parts.fetch(pipeline, inventory.part_keys(pipeline, of), folder / "parts")
        taken = parts.fetch(pipeline, manifests, folder / "manifests")
        duck.execute(f"ATTACH {text(str(folder / 'work.duckdb'))} AS work")
        duck.execute("CREATE TABLE work.judged (key VARCHAR, hindrance VARCHAR)")
        duck.execute("CREATE TABLE work.pieces (number BIGINT, path VARCHAR, first_key VARCHAR, last_key VARCHAR)")
        known = "false"
        if taken:
            known = f"(n.key, n.etag, n.size_bytes) IN (SELECT (key, etag, size_bytes) FROM {inventory.files(taken)})"
        hindrances: Mapping[str, str] = {
            known: KNOWN,
            "n.size_bytes = 0": Reason.EMPTY,
            f"n.size_bytes > {pipeline.settings.max_bytes_per_job}": Reason.TOO_LARGE,
            f"n.storage_class IN {_ARCHIVED}": Reason.ARCHIVED,
        }
        cases = " ".join(f"WHEN {condition} THEN {text(reason)}" for condition, reason in hindrances.items())
        duck.execute(
            "CREATE TABLE work.keys AS SELECT n.*, regexp_extract(n.key, '(?s)^(.*/)?') AS folder, "
            f"CASE {cases} END AS hindrance FROM {inventory.files(found)} n"
        )
        try:
            yield Keys(duck, folder)
        finally:
            duck.execute("DETACH work")
