"""A look at an archive: all its keys, into Parquet parts in the lake.

Belongs here: one look from start to end, going on after a kill, and what differs from the look before. Does not belong
here: where keys come from (`listing`, `s3_inventory`), and what is imported (`plan`).

A look is cut into units: ranges of keys, or files of an S3 Inventory report. Each unit is written as a chain of parts:
a part notes the unit, the key behind which it begins, the key it ends with, and whether the unit ends there. Whoever
goes on follows each chain to its end and begins behind it. Two who work at once waste their work and nothing more:
parts have names of their own, and the end of the look names the parts that count. Memory holds one part a thread.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from ahi.archive import archives, listing, parts, s3_inventory
from ahi.archive.shards import RangedObject
from ahi.clock import now
from ahi.errors import PermanentError
from ahi.index import catalog_archives as c
from ahi.index.catalog_archives import Source
from ahi.index.engine import insert_missing
from ahi.index.parquet import spilling
from ahi.index.sql import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from ahi.archive.archives import Archive
    from ahi.pipeline import Pipeline

Unit = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """A complete look at an archive. The counts of differences are of the complete look before it."""

    archive_id: str
    generation: int
    source: Source
    as_of: dt.datetime
    n_objects: int
    n_bytes: int
    n_added: int
    n_changed: int
    n_vanished: int
    parts_key: str


@dataclass(frozen=True)
class _Part:
    key: str
    unit: int
    after: str
    last: str
    ended: bool
    n_rows: int


def look(pipeline: Pipeline, archive: Archive, *, progress: Callable[[int], None] | None = None) -> Look:
    """Read all keys of an archive, or go on with a look that broke off. Returns the complete look.

    A report that the newest look has read already is not read again.

    Args:
        pipeline: The pipeline.
        archive: The archive.
        progress: Called with the number of keys of each part, those of an earlier try included.

    Raises:
        PermanentError: An S3 Inventory report is not whole, or not of this archive.
        ClientError: The bucket cannot be listed. What was read is kept.
    """
    row = _begin(pipeline, archive)
    if row["ended_at"] is not None:
        return _look(row)
    units = cast("list[Unit]", parts.get_json(pipeline, row["units_key"]))
    done = _chains(pipeline, row, units)
    for part in (part for chain in done.values() for part in chain):
        _tell(progress, part.n_rows)
    todo = [number for number in range(len(units)) if not (done.get(number) and done[number][-1].ended)]

    def work(number: int) -> list[_Part]:
        chain = done.get(number, [])
        after = chain[-1].last if chain else None
        return [*chain, *_read_unit(pipeline, archive, row, number, units[number], after, progress)]

    chains = {number: chain for number, chain in done.items() if number not in todo}
    with ThreadPoolExecutor(pipeline.settings.archive_list_threads) as pool:
        try:
            chains |= dict(zip(todo, pool.map(work, todo), strict=True))
        finally:
            # One that failed ends the look: what was not begun is left to the next try.
            pool.shutdown(cancel_futures=True)
    return _finish(pipeline, archive, row, [part.key for number in sorted(chains) for part in chains[number]])


def newest(pipeline: Pipeline, archive: Archive) -> Look | None:
    """The newest complete look at an archive, if there was one."""
    table = c.archive_looks
    where = (table.c.archive_id == archive.archive_id, table.c.ended_at.is_not(None))
    with pipeline.index.engine.connect() as connection:
        query = sa.select(table).where(*where).order_by(table.c.generation.desc()).limit(1)
        row = connection.execute(query).mappings().first()
    return _look(dict(row)) if row is not None else None


def _look(row: Mapping[str, Any]) -> Look:
    return Look(**({name: row[name] for name in Look.__dataclass_fields__} | {"source": Source(row["source"])}))


def part_keys(pipeline: Pipeline, of: Look) -> list[str]:
    """Lake keys of the parts of a complete look."""
    return cast("list[str]", parts.get_json(pipeline, of.parts_key))


def _begin(pipeline: Pipeline, archive: Archive) -> Mapping[str, Any]:
    """The catalog's row of the look to work on: one that broke off not long ago, or a new one; or one that ended."""
    table, moment = c.archive_looks, now()
    oldest = moment - dt.timedelta(hours=pipeline.settings.archive_resume_hours)
    mine = table.c.archive_id == archive.archive_id
    with pipeline.index.engine.connect() as connection:
        last = connection.execute(sa.select(table).where(mine).order_by(table.c.generation.desc()).limit(1)).mappings()
        row = last.first()
    if row and row["ended_at"] is None and row["started_at"] >= oldest and row["source"] == archive.source:
        return dict(row)
    generation = (row["generation"] if row else 0) + 1
    report = s3_inventory.newest_report(pipeline, archive) if archive.source is Source.S3_INVENTORY else None
    if report and row and row["ended_at"] is not None and row["report_key"] == report.key:
        return dict(row)
    found = report.files if report else listing.cut(pipeline, archive)
    units = [vars(unit) for unit in found]
    units_key = f"{_folder(archive, generation)}units-{uuid.uuid4().hex}.json"
    parts.put_json(pipeline, units_key, units)
    new = {"archive_id": archive.archive_id, "generation": generation, "source": archive.source}
    new |= {"report_key": report.key if report else None, "units_key": units_key, "started_at": moment}
    new |= {"as_of": report.as_of if report else moment}
    with pipeline.index.transaction() as connection:
        # Another process may have begun it since: its units count, ours are forgotten.
        insert_missing(connection, table, [new])
        of = sa.select(table).where(mine, table.c.generation == generation)
        return dict(connection.execute(of).mappings().one())


def _folder(archive: Archive, generation: int) -> str:
    return f"{archive.folder}inventory/{generation:05d}/"


def _chains(pipeline: Pipeline, row: Mapping[str, Any], units: Sequence[Unit]) -> dict[int, list[_Part]]:
    """What an earlier try has written of each unit: parts that follow each other from the unit's start."""
    folder = row["units_key"].rpartition("/")[0] + "/"
    keys = parts.lake_keys(pipeline, folder, ".parquet")
    with ThreadPoolExecutor(8) as pool:
        found = [part for part in pool.map(lambda key: _noted(pipeline, key, row["units_key"]), keys) if part]
    chains: dict[int, list[_Part]] = {}
    for number, unit in enumerate(units):
        mine = {part.after: part for part in found if part.unit == number}
        at, chain = unit.get("after", ""), list[_Part]()
        while (part := mine.pop(at, None)) is not None:
            chain.append(part)
            at = part.last
        if chain:
            chains[number] = chain
    return chains


def _noted(pipeline: Pipeline, key: str, units_key: str) -> _Part | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = RangedObject(pipeline.aws.s3, pipeline.settings.lake_bucket, key)
    with pq.ParquetFile(pa.PythonFile(source, mode="r")) as file:
        note = json.loads((file.schema_arrow.metadata or {}).get(parts.NOTE, b"{}"))
        if note.get("units_key") != units_key:
            return None
        return _Part(key, note["unit"], note["after"], note["last"], note["ended"], file.metadata.num_rows)


def _read_unit(
    pipeline: Pipeline,
    archive: Archive,
    row: Mapping[str, Any],
    number: int,
    unit: Unit,
    after: str | None,
    progress: Callable[[int], None] | None,
) -> Iterator[_Part]:
    """Read a unit to its end, from its start or behind a key, and write it as parts."""
    import pyarrow as pa

    folder, most = _folder(archive, row["generation"]), pipeline.settings.archive_part_keys
    start = unit.get("after", "") if after is None else after
    held, n_held, at = list[pa.Table](), 0, start

    def put(*, ended: bool) -> _Part:
        rows = pa.concat_tables(held) if held else parts.schema().empty_table()
        note = {"units_key": row["units_key"], "unit": number, "after": start, "last": at, "ended": ended}
        key = parts.put_part(pipeline, folder, number, rows, note)
        _tell(progress, rows.num_rows)
        return _Part(key, number, start, at, ended, rows.num_rows)

    for rows, last in _pages(pipeline, archive, unit, start):
        held.append(rows)
        n_held, at = n_held + rows.num_rows, last
        if n_held >= most:
            yield put(ended=False)
            held, n_held, start = [], 0, at
    # The end is a part even when it is empty: it says that nothing is missing.
    at = at + "\0"
    yield put(ended=True)


def _pages(pipeline: Pipeline, archive: Archive, unit: Unit, after: str) -> Iterator[tuple[pa.Table, str]]:
    if archive.source is Source.S3_INVENTORY:
        return s3_inventory.pages(pipeline, archive, s3_inventory.ReportFile(**unit), after)
    return listing.pages(pipeline, archive, listing.KeyRange(after, unit["last"]))


def _tell(progress: Callable[[int], None] | None, number: int) -> None:
    if progress:
        progress(number)


def _finish(pipeline: Pipeline, archive: Archive, row: Mapping[str, Any], keys: Sequence[str]) -> Look:
    """Compare with the look before, and make the look true in one transaction."""
    folder = _folder(archive, row["generation"])
    before = newest(pipeline, archives.find(pipeline, archive.archive_id))
    with parts.scratch(pipeline) as local:
        mine = parts.fetch(pipeline, keys, local / "now")
        theirs = parts.fetch(pipeline, part_keys(pipeline, before), local / "before") if before else []
        counts, path = _compare(mine, theirs, local)
        differences_key = f"{folder}differences-{uuid.uuid4().hex}.parquet"
        pipeline.aws.s3.upload_file(str(path), pipeline.settings.lake_bucket, differences_key)
    parts_key = f"{folder}parts-{uuid.uuid4().hex}.json"
    parts.put_json(pipeline, parts_key, list(keys))
    table = c.archive_looks
    values = {**counts, "ended_at": now(), "parts_key": parts_key, "differences_key": differences_key}
    with pipeline.index.transaction() as connection:
        mine_ = sa.and_(table.c.archive_id == archive.archive_id, table.c.generation == row["generation"])
        connection.execute(table.update().where(mine_, table.c.ended_at.is_(None)).values(values))
        change = c.archives.update().where(
            c.archives.c.archive_id == archive.archive_id, c.archives.c.generation < row["generation"]
        )
        connection.execute(change.values(generation=row["generation"]))
    found = newest(pipeline, archive)
    if found is None:
        raise PermanentError(f"The archive {archive.archive_id} was removed while it was looked at")
    _prune(pipeline, archive, found.generation)
    return found


def _prune(pipeline: Pipeline, archive: Archive, newest_generation: int) -> None:
    """Delete the parts of looks before the last two: what differed from one to the next stays in their differences."""
    table, s3, bucket = c.archive_looks, pipeline.aws.s3, pipeline.settings.lake_bucket
    old = (table.c.archive_id == archive.archive_id, table.c.generation < newest_generation - 1)
    kept = sa.or_(table.c.parts_key.is_not(None), table.c.ended_at.is_(None))
    with pipeline.index.engine.connect() as connection:
        generations = connection.execute(sa.select(table.c.generation).where(*old, kept)).scalars().all()
    for generation in generations:
        for key in parts.lake_keys(pipeline, _folder(archive, generation), ""):
            if "/differences-" not in key:
                s3.delete_object(Bucket=bucket, Key=key)
    with pipeline.index.transaction() as connection:
        # One that broke off and was begun anew has nothing to tell.
        connection.execute(table.delete().where(*old, table.c.ended_at.is_(None)))
        connection.execute(table.update().where(*old).values(parts_key=None))


def _compare(mine: Sequence[Path], theirs: Sequence[Path], local: Path) -> tuple[dict[str, int], Path]:
    """Counts of a look and of its differences to the one before, and a file that names each."""
    path = local / "differences.parquet"
    with spilling(local) as duck:
        n_objects, n_bytes, n_keys = duck.execute(
            f"SELECT count(*), coalesce(sum(size_bytes), 0)::BIGINT, count(DISTINCT key) FROM {files(mine)}"
        ).fetchall()[0]
        if n_keys != n_objects:
            raise PermanentError("The inventory names keys more than once: is it of all versions without IsLatest?")
        duck.execute(
            "COPY (SELECT coalesce(n.key, b.key) AS key, b.etag AS etag_before, n.etag AS etag, "
            "CASE WHEN b.key IS NULL THEN 'added' WHEN n.key IS NULL THEN 'vanished' ELSE 'changed' END AS difference "
            f"FROM {files(mine)} n FULL JOIN {files(theirs)} b ON n.key = b.key "
            "WHERE b.key IS NULL OR n.key IS NULL OR n.etag <> b.etag OR n.size_bytes <> b.size_bytes) "
            f"TO {text(str(path))} (FORMAT parquet, COMPRESSION zstd)"
        )
        sql = f"SELECT difference, count(*) FROM read_parquet({text(str(path))}) GROUP BY ALL"
        found = dict(duck.execute(sql).fetchall())
    named = {f"n_{name}": int(found.get(name, 0)) for name in ("added", "changed", "vanished")}
    return {"n_objects": n_objects, "n_bytes": n_bytes, **named}, path


def files(paths: Sequence[Path]) -> str:
    """Parts on local disk as DuckDB reads them."""
    if not paths:
        kinds = {"size_bytes": "BIGINT", "last_modified": "TIMESTAMPTZ"}
        columns = ", ".join(f"NULL::{kinds.get(name, 'VARCHAR')} AS {name}" for name in parts.schema().names)
        return f"(SELECT {columns} WHERE false)"
    return f"read_parquet([{', '.join(text(str(path)) for path in paths)}])"
