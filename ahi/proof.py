"""Proof of erasure: every place that could hold a UID, with what it holds. Belongs here: looking, place by place.

Does not belong here: erasing (`ahi.erasure`). The proof trusts no list: it reads what is stored, each Parquet file by
itself, tiers included, and finds the UID in whichever column it stands; in a lower tier also the keyed hash that stands
for it there. What killed processes leave may be no whole file of any kind, so its bytes are looked at.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ahi.index import catalog as c
from ahi.index.sidecar import SUFFIX
from ahi.index.sql import literal_path, quoted, text
from ahi.index.tiers.rules import LOWER
from ahi.index.tiers.transform import Keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import duckdb

    from ahi.index.store import Index
    from ahi.pipeline import Pipeline

# What the catalog keeps of an erased image set on purpose: by it, rows that come late are known and stay out.
KEPT = {("heads", "image_set_id"), ("sightings", "image_set_id"), ("documents", "image_set_id")}
KEPT |= {("documents", "object_key"), ("objects", "image_set_id"), ("events", "subject"), ("dead", "row_key")}
# The files of these tables lie in folders of their names, `data/<table>/<part>/`.
LAKE = {
    "documents/": "kept documents",
    "inbox/": "inbox batches; a lifecycle rule of the lake bucket removes them",
    "jobs/": "job outputs; a lifecycle rule of the lake bucket removes them",
    "fhir/": "FHIR batches and job outputs; erasure removes those of the index, a rule of the lake bucket the others",
    "archives/": "keys of archives; `ahi archive remove` removes them with the archive",
}
PUBLISHED = "index.duckdb"
BLOCK_BYTES = 4 * 2**20
# Upkeep removes such files once they are old, so neither note stays for long.
UNREADABLE = "unreadable, so searched as bytes: what is compressed in it is not seen, and a longer UID counts"
LEFT_OVER = "of a process at work or killed, searched as bytes: what is compressed is not seen, a longer UID counts"


@dataclass(frozen=True)
class Place:
    """One place, and how many rows or objects of it hold the UID.

    Attributes:
        kind: catalog, table, file or lake.
        name: Table, path or prefix.
        n: Rows, or objects of the lake.
        note: What the place is, where its name does not say.
        counts: Whether anything there means that the UID is not erased.
        unreadable: It could not be read, so that none found is no proof.
    """

    kind: str
    name: str
    n: int
    note: str = ""
    counts: bool = True
    unreadable: bool = False


@dataclass(frozen=True)
class Sought:
    """What is looked for: the UID, and what stands for it in a lower tier, by tier.

    Attributes:
        uid: A UID, or the id of an image set.
        stand_ins: Its keyed hash in each lower tier.
    """

    uid: str
    stand_ins: Mapping[str, str]

    @property
    def pattern(self) -> str:
        """The UID as a whole; for Python and for RE2, which can look neither ahead nor behind."""
        one = re.escape(self.uid)
        if re.fullmatch("[0-9.]+", self.uid):
            # In `in/CT.1.2.3.dcm` it is whole, in 1.2.3.4 it is not: only a digit beyond the point makes it longer.
            return rf"(^\.?|[^0-9.]|[^0-9]\.){one}($|[^0-9.]|\.$|\.[^0-9])"
        return rf"(^|[^0-9A-Za-z.]){one}($|[^0-9A-Za-z.])"

    def words(self, tier: str) -> list[tuple[str, str]]:
        """Words to find in a file of a tier, each with the pattern of it as a whole."""
        stand_in = self.stand_ins.get(tier)
        return [(self.uid, self.pattern), *([(stand_in, stand_in)] if stand_in else [])]


@dataclass(frozen=True)
class Stored:
    """A file to look into: its name in the proof, its tier, and the table whose rows it holds, where a folder says."""

    path: Path
    name: str
    tier: str
    table: str


def prove(
    index: Index, uid: str, *, secret: bytes, pipeline: Pipeline | None = None, copies: Sequence[Path] = ()
) -> list[Place]:
    """Look for a UID (study, series, SOP instance) or image set id everywhere.

    Args:
        index: The index.
        uid: What to look for; nothing longer that it is a part of is found.
        secret: The secret behind `patient_key`, by which the tiers name things too. Empty: none was ever made.
        pipeline: With it, the lake bucket is read too, every object of it.
        copies: Folders of copies, `<tier>/...` below each, whose files are read as those of the index are.
    """
    sought = Sought(uid, {tier.value: Keys(secret, tier).name(uid) for tier in LOWER} if secret else {})
    pattern = re.compile(sought.pattern)
    # The second looks into what is there by then: upkeep may have written anew what the first found.
    found = [
        *_catalog(index, uid, pattern),
        *_published(index, _all(index, copies), sought),
        *_files(index, _all(index, copies), sought),
    ]
    return [*found, *_lake(pipeline, pattern)] if pipeline else found


def _catalog(index: Index, uid: str, pattern: re.Pattern[str]) -> Iterator[Place]:
    """Tables of the catalog, each column of text."""
    with index.snapshot() as connection:
        for table in c.metadata.sorted_tables:
            texts = [column for column in table.columns if isinstance(column.type, sa.String)]
            counts, kept = 0, 0
            if texts:
                some = sa.or_(*(column.contains(uid, autoescape=True) for column in texts))
                for row in connection.execute(sa.select(*texts).where(some)):
                    at = {name for name, value in row._mapping.items() if value and pattern.search(value)}  # noqa: SLF001
                    on_purpose = {name for name in at if (table.name, name) in KEPT}
                    counts += bool(at - on_purpose)
                    kept += bool(on_purpose) and at == on_purpose
            yield Place("catalog", table.name, counts)
            if kept:
                yield Place("catalog", table.name, kept, "the id of the image set, kept for late events", counts=False)


def _published(index: Index, files: Iterable[Stored], sought: Sought) -> Iterator[Place]:
    """Tables inside the published files, and every table of the index with its history as analysts see it."""
    import duckdb

    for file in (file for file in files if file.path.name == PUBLISHED):
        words = sought.words(file.tier)
        try:
            n_rows = _count_inside(file.path, words)
        except duckdb.Error as error:
            yield from _unreadable(file, words, error)
            continue
        yield Place("file", file.name, n_rows, "tables in it")
        if file.path == index.path:
            yield from _history(index, words)


def _history(index: Index, words: Sequence[tuple[str, str]]) -> Iterator[Place]:
    """Every table of the index with its history; one with a file that is torn or gone cannot be read."""
    import duckdb

    try:
        with duckdb.connect(str(index.path), read_only=True) as connection:
            for table in index.tables:
                view = f"{table}_history"
                try:
                    yield Place("table", view, _count(connection, f"main.{quoted(view)}", words))
                except duckdb.Error as error:
                    _refuse_other(error)
                    yield Place("table", view, 0, "unreadable", unreadable=True)
    except duckdb.IOException:
        yield Place("table", "*_history", 0, "unreadable", unreadable=True)


def _count_inside(path: Path, words: Sequence[tuple[str, str]]) -> int:
    """Rows with one of some words in the tables of a DuckDB file."""
    import duckdb

    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        # A key of a row that does not count is an image set id or object id, never a UID of DICOM.
        return sum(
            _count(connection, _rest(f"{schema}.{quoted(one)}", one.removesuffix("_delta")), words)
            for schema, one in tables
            if not one.startswith("dead_")
        )


def _files(index: Index, files: Iterable[Stored], sought: Sought) -> Iterator[Place]:
    """Every other file, live, retired, left over, of a tier or of a copy, read by itself."""
    import duckdb

    database = index.engine.url.database if index.engine.dialect.name == "sqlite" else None
    catalog = {f"{Path(database).resolve()}{end}" for end in ("", "-wal", "-shm", "-journal")} if database else set()
    with duckdb.connect() as connection:
        for file in files:
            path, words = file.path, sought.words(file.tier)
            if path.name == PUBLISHED or path.suffix == SUFFIX or str(path) in catalog:
                continue
            if path.suffix == ".parquet":
                rows = _rest(f"read_parquet({text(literal_path(path))})", file.table)
                try:
                    yield Place("file", file.name, _count(connection, rows, words))
                except duckdb.Error as error:
                    yield from _unreadable(file, words, error)
            else:
                yield from _as_bytes(file, words, LEFT_OVER)


def _all(index: Index, copies: Sequence[Path]) -> Iterator[Stored]:
    """Files of the index and of its copies."""
    for path in _stored(index.root):
        name = path.relative_to(index.root)
        tier = name.parts[1] if name.parts[0] == "tiers" else ""
        yield Stored(path, name.as_posix(), tier, path.parts[-3])
    for folder in copies:
        for path in _stored(folder):
            # No column of a copy is kept on purpose, whatever its folder is called.
            yield Stored(path, str(path), path.relative_to(folder).parts[0], table="")


def _stored(root: Path) -> list[Path]:
    """Every file below a folder. Upkeep may remove folders meanwhile; one that may not be read is an error."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    found = [Path(folder, name) for folder, _, names in os.walk(root, onerror=refuse) for name in names]
    return sorted(path for path in found if path.is_file())


def _unreadable(file: Stored, words: Sequence[tuple[str, str]], error: duckdb.Error) -> Iterator[Place]:
    """The place of a file that DuckDB cannot read, as a killed writer leaves it; none when the file is gone."""
    _refuse_other(error)
    yield from _as_bytes(file, words, UNREADABLE)


def _as_bytes(file: Stored, words: Sequence[tuple[str, str]], note: str) -> Iterator[Place]:
    try:
        found = _bytes_hold(file.path, words)
    except OSError as error:
        yield Place("file", file.name, 0, f"unreadable: {error.strerror}", unreadable=True)
        return
    if found is not None:
        yield Place("file", file.name, int(found), note, unreadable=note == UNREADABLE)


def _refuse_other(error: duckdb.Error) -> None:
    """Raise an error that says nothing of the file."""
    import duckdb

    if isinstance(error, (duckdb.OutOfMemoryException, duckdb.InterruptException)):
        raise error


def _bytes_hold(path: Path, words: Sequence[tuple[str, str]]) -> bool | None:
    """Whether one of some words stands in a file's bytes, also inside a longer one; None: there is no such file.

    Where a word ends cannot be told: DuckDB stores texts without anything between them, and in Parquet the next one's
    length follows, which may look like a digit.
    """
    sought = [word.encode() for word, _ in words]
    overlap = max(map(len, sought)) - 1
    try:
        with path.open("rb") as file:
            tail = b""
            while block := file.read(BLOCK_BYTES):
                tail += block
                if any(word in tail for word in sought):
                    return True
                tail = tail[max(len(tail) - overlap, 0) :]
    except FileNotFoundError:
        return None
    return False


def _rest(rows: str, table: str) -> str:
    """Rows of a table of the catalog without what is kept on purpose; others as they are."""
    kept = sorted(column for name, column in KEPT if name == table)
    return f"(SELECT * EXCLUDE ({', '.join(kept)}) FROM {rows})" if kept else rows


def _count(connection: duckdb.DuckDBPyConnection, rows: str, words: Sequence[tuple[str, str]]) -> int:
    """Rows with one of some words in any column, at any depth."""
    some = " OR ".join("(contains(t::VARCHAR, ?) AND regexp_matches(t::VARCHAR, ?))" for _ in words)
    sql = f"SELECT count(*) FROM {rows} t WHERE {some}"
    found = connection.execute(sql, [one for pair in words for one in pair]).fetchone()
    return int(found[0]) if found else 0


def _lake(pipeline: Pipeline, pattern: re.Pattern[str]) -> Iterator[Place]:
    """Objects of the lake bucket, every version of them."""
    s3, bucket = pipeline.aws.s3, pipeline.settings.lake_bucket
    for prefix, note in LAKE.items():
        n_objects = 0
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Versions", []):
                n_objects += bool(pattern.search(entry["Key"])) or _holds(s3, bucket, entry, pattern)
        yield Place("lake", prefix, n_objects, note)


def _holds(s3: Any, bucket: str, entry: Any, pattern: re.Pattern[str]) -> bool:
    version = {"VersionId": entry["VersionId"]} if entry.get("VersionId") not in (None, "null") else {}
    body = s3.get_object(Bucket=bucket, Key=entry["Key"], **version)["Body"].read()
    if body.startswith(b"PAR1"):
        return _parquet_holds(body, pattern)
    # Of a damaged stream, what it holds in the clear is looked at.
    with suppress(OSError, EOFError, zlib.error):
        body = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    return bool(pattern.search(body.decode("utf-8", "replace")))


def _parquet_holds(body: bytes, pattern: re.Pattern[str]) -> bool:
    """Whether a text in a Parquet file or its notes matches; part by part, since one names a million keys."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(body)) as file:
        notes = b" ".join((file.schema_arrow.metadata or {}).values()).decode("utf-8", "replace")
        names = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
        return bool(pattern.search(notes)) or any(
            pc.any(pc.match_substring_regex(batch[name], pattern.pattern)).as_py()
            for batch in file.iter_batches(50_000, columns=names)
            for name in names
        )
