"""The published `index.duckdb`. Belongs here: building it beside the old one and swapping the two.

Does not belong here: the views (`views`), the catalog's tables in it (`mirror`).

The file holds views over the live Parquet files, the few rows that no longer count, and what the catalog changed
lately; it is small, whatever the size of the index. Paths in it are absolute: DuckDB takes relative ones from the
reader's working directory, so a moved index must be published again (its next `publish` does).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.index import catalog as c
from ahi.index import slices, whole
from ahi.index.commit import STAMPED
from ahi.index.engine import locked
from ahi.index.mirror import (
    MIRRORS,
    STAMPS,
    delta_name,
    delta_sizes,
    in_delta,
    mirror_files,
    newest_select,
    put_state,
    read_parts,
)
from ahi.index.operational import INFO_COLUMNS
from ahi.index.parquet import spilling
from ahi.index.registry import SCHEMA_VERSION
from ahi.index.relations import append, build_relations, read_snapshot, replace
from ahi.index.slices import DELTA_ROWS, keep_until_replaced, slice_bulk, slice_delta, write_delta
from ahi.index.sql import text
from ahi.index.views import template_statements
from ahi.index.writer import DataFile, sync_folder

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from pathlib import Path

    import duckdb

    from ahi.index.relations import Snapshot
    from ahi.index.store import Index

# DuckDB 1.4 and later read it; by default 2.0 writes files that only 2.0 opens.
STORAGE = "STORAGE_VERSION 'v1.2.0'"
# Raise it when the way of building changes but not the text of the views.
BUILD = "7"
PUBLISHED = "published"
PUBLISH_LOCK = ".publish.lock"


@dataclass(frozen=True)
class Publication:
    """What analysts see now.

    Attributes:
        path: The published file.
        seq: Newest commit in it.
        published_at: When it took the place of the one before.
        is_new: False when nothing had changed and the file was left alone.
    """

    path: Path
    seq: int
    published_at: dt.datetime
    is_new: bool


@dataclass(frozen=True)
class _Built:
    """What a publication names as its time, taken as late as can be; the rows of each mirror's delta; large deltas."""

    published_at: dt.datetime
    deltas: Mapping[str, int]
    bulk: Mapping[str, DataFile]


def publish(index: Index) -> Publication:
    """Show analysts everything committed so far, or leave the file alone if it does already.

    One publisher works at a time; another waits, and then often finds nothing left to do. So an older snapshot never
    takes the place of a newer one. Readers keep the file they have open.
    """
    with locked(index.root / PUBLISH_LOCK):
        _sweep(index.root)
        whole.refresh(index)
        template = _template_id(index)
        # Where it stands is part of what was published: a moved index has other paths.
        marker = f"{template} {index.root}"
        with index.snapshot() as connection:
            current = _current(index, connection, marker)
            unnumbered = current is not None and _has_unnumbered(connection)
        if unnumbered:
            with index.commit(kind="changes"):
                pass  # it gives the rows its number
        elif current:
            return current
        temporary = index.root / f".index-{uuid.uuid4().hex}.duckdb"
        views = _template(index, template)
        with index.snapshot() as connection:
            shown = read_snapshot(connection, index.tables, index.datastore_id)
            built = _build(index, temporary, views, shown, connection)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(index.path)
        sync_folder(index.root)
        _record(index, shown.seq, built, marker)
        for mirror in MIRRORS:
            if mirror.name in built.bulk:
                slice_bulk(index, mirror, built.bulk[mirror.name], shown.seq, built.published_at)
            elif built.deltas[mirror.name] > DELTA_ROWS:
                slice_delta(index, mirror, shown.seq)
    return Publication(index.path, shown.seq, built.published_at, is_new=True)


def _sweep(root: Path) -> None:
    """Remove what killed publishers left. Under the lock nobody is at work on it."""
    for left in root.glob(".index-*.duckdb*"):
        left.unlink(missing_ok=True)


def _current(index: Index, connection: sa.Connection, marker: str) -> Publication | None:
    """The publication there is, if it shows the newest commit with today's views."""
    newest = connection.scalar(sa.select(sa.func.max(c.commits.c.seq))) or 0
    last = connection.execute(sa.select(c.publications).order_by(c.publications.c.seq.desc()).limit(1)).first()
    built = connection.scalar(sa.select(c.state.c.value).where(c.state.c.name == PUBLISHED))
    if last is None or last.seq != newest or built != marker or not index.path.exists():
        return None
    return Publication(index.path, last.seq, last.published_at, is_new=False)


def _has_unnumbered(connection: sa.Connection) -> bool:
    """Whether rows were changed without a commit, such as a job that was claimed."""
    found = (sa.exists().where(table.c.seq.is_(None)) for table in STAMPED)
    return bool(connection.scalar(sa.select(sa.or_(*found))))


@lru_cache(maxsize=8)
def _template_id(index: Index) -> str:
    """Digest of the views. They follow from the code, so an index asks once."""
    parts = [BUILD, *template_statements(index.tables)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _template(index: Index, template: str) -> Path:
    """A file with all views, empty, and their comments. Making it costs two seconds: once."""
    path = index.root / f".template-{template}.duckdb"
    if path.exists():
        return path
    temporary = index.root / f".index-{uuid.uuid4().hex}.duckdb"
    with spilling(index.root) as connection:
        _attach(connection, temporary)
        connection.execute("BEGIN")
        for statement in template_statements(index.tables):
            connection.execute(statement)
        connection.execute("COMMIT")
        _detach(connection)
    for old in index.root.glob(".template-*.duckdb"):
        old.unlink(missing_ok=True)
    return temporary.rename(path)


def _attach(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    # The few rows in the file are all new each time: trying each column's codecs took 15 ms and saved nothing.
    connection.execute("SET force_compression = 'uncompressed'")
    # Several views stand on the same files, and making each reads about the first of them: 11 ms of a million rows.
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute(f"ATTACH {text(str(path))} AS published ({STORAGE})")
    connection.execute("USE published")


def _detach(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("USE memory")
    connection.execute("DETACH published")
    connection.execute("RESET force_compression")
    connection.execute("RESET parquet_metadata_cache")


def _build(index: Index, path: Path, template: Path, shown: Snapshot, source: sa.Connection) -> _Built:
    """Write the file. The catalog's rows go into it part by part, in the transaction that the rest was read in."""
    # What has no rows stays as the template has it: a typed, empty view.
    shutil.copyfile(template, path)
    deltas, bulk = dict.fromkeys((mirror.name for mirror in MIRRORS), 0), dict[str, DataFile]()
    with spilling(index.root) as connection:
        _attach(connection, path)
        connection.execute("BEGIN")
        build_relations(connection, index, shown)
        sizes = delta_sizes(source, slices.BULK_ROWS + 1)
        for mirror in MIRRORS:
            (floor, deltas[mirror.name]), delta = sizes[mirror.name], delta_name(mirror)
            if deltas[mirror.name] > slices.BULK_ROWS:
                file = bulk[mirror.name] = write_delta(index, source, mirror, floor)
                deltas[mirror.name] = file.n_rows
                delta = f"({mirror_files(index, mirror, [file])})"
            elif deltas[mirror.name]:
                for part in read_parts(source, mirror, in_delta(mirror, floor)):
                    append(connection, delta, part)
            live = shown.live(mirror.name)
            if live or mirror.name in bulk:
                replace(connection, mirror.name, newest_select(index, mirror, live, delta))
        for one in whole.WHOLE:
            if live := shown.live(one.name):
                replace(connection, one.name, mirror_files(index, one, live))
        published_at = _write_info(connection, index, shown, deltas)
        connection.execute("COMMIT")
        _detach(connection)
    return _Built(published_at, deltas, bulk)


def _write_info(
    connection: duckdb.DuckDBPyConnection, index: Index, shown: Snapshot, deltas: Mapping[str, int]
) -> dt.datetime:
    stored = [*index.tables, *(mirror.name for mirror in MIRRORS)]
    rows = {name: sum(int(row.n_rows) for row in shown.live(name)) for name in stored}
    files = {name: len(shown.live(name)) for name in stored}
    rows |= {name: rows[name] + n_rows for name, n_rows in deltas.items()}
    published_at = now()
    values = ", ".join(f"?::{kind} AS {name}" for name, kind in INFO_COLUMNS.items())
    connection.execute(
        f"INSERT INTO internal.info SELECT {values}",
        [shown.seq, shown.committed_at, published_at, SCHEMA_VERSION, rows, files],
    )
    return published_at


def _record(index: Index, seq: int, built: _Built, marker: str) -> None:
    """Tell the catalog, and give the objects that are shown for the first time their publishing time."""
    published_at = built.published_at
    with index.transaction() as connection:
        last = connection.scalar(sa.select(sa.func.max(c.publications.c.seq))) or 0
        if last == seq and last:
            connection.execute(
                c.publications.update().where(c.publications.c.seq == seq).values(published_at=published_at)
            )
        else:
            connection.execute(c.publications.insert().values(seq=seq, published_at=published_at))
        put_state(connection, PUBLISHED, marker)
        keep_until_replaced(connection, list(built.bulk.values()), seq)
        for stamp, number in ((c.objects.c[stamp], c.objects.c[number]) for stamp, number in STAMPS):
            connection.execute(
                # Only rows changed since the last publication can lack it, and those an index finds.
                c.objects.update()
                .where(c.objects.c.changed_seq > last, stamp.is_(None), number <= seq)
                .values({stamp: published_at})
            )
