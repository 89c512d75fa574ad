"""A copy of the published index for elsewhere: a laptop, a bucket. Belongs here: its files, its `index.duckdb`, README.

Does not belong here: the live index (`publish`) and what a tier shows (`tiers`); a copy holds what the views of its
source show at one moment: current rows of primary image sets, one Parquet file for each table.

**Order.** Rows stand as the registry says, series by study. Measured on 1 M series (`benchmarks/bench_published.py`,
CPU of one thread on a busy machine): six columns of one study cost 146 ms in the order of modality and date and 25 ms
by study, and the file is 78 instead of 116 MB; counting by modality costs 20 ms either way. Row groups: see `writer`.

**Inside.** From Parquet all 120 columns of one study of 1 M series take 13 ms (p95 18 ms), as each has its reader; from
a table inside `index.duckdb` with an index on its UID 7 ms (p95 10 ms), counting by modality 9 ms. With 1 M instances
the file has 574 bytes for each series, beside Parquet of 94 bytes a series and 75 an instance, and making the copy
takes 86 s of CPU. So tables of up to `INSIDE_BYTES` are inside as well.

**A folder that moves.** DuckDB takes a relative path from the working directory of whoever asks. What is inside opens
from anywhere; larger tables are views on the files beside it, found in the working directory or where
`SET VARIABLE index_folder = '...'` says, a bucket as well.
"""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ahi.clock import now
from ahi.index.columns import Tier
from ahi.index.leftovers import SPILL, export_folder
from ahi.index.ordering import is_large, sorted_groups
from ahi.index.packing import group_rows, write_groups
from ahi.index.parquet import spilling
from ahi.index.publish import STORAGE
from ahi.index.query import IndexNotPublishedError
from ahi.index.registry import SCHEMA_VERSION, TABLES
from ahi.index.sidecar import SUFFIX, digest_of, write_sidecar
from ahi.index.sql import quoted, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import duckdb
    from mypy_boto3_s3 import S3Client


# A copy is written once and sent around.
ZSTD_LEVEL = 3
INSIDE_BYTES = 256 * 2**20
FOLDER_VARIABLE = "index_folder"
# What is looked up in a table; of the others it is their study. DuckDB's own account of where values are compares their
# first eight bytes, and UIDs of a scanner have these in common: of 10 M instances one study took 130 ms instead of 20.
BY_STUDY = ("StudyInstanceUID",)
INDEXED = {"patients": ("patient_key",), "studies": BY_STUDY} | {
    "series": ("StudyInstanceUID", "SeriesInstanceUID"),
    "instances": ("StudyInstanceUID", "SeriesInstanceUID"),
}
S3 = "s3://"


class ExportError(Exception):
    """The copy cannot be made. The text is a sentence for the person who asked."""


@dataclass(frozen=True)
class Exported:
    """One table of a copy: its name, rows, bytes of its Parquet file, and whether it is inside `index.duckdb` too."""

    name: str
    n_rows: int
    n_bytes: int
    is_inside: bool


def export(
    source: Path, tier: Tier, destination: str, *, s3: S3Client | None = None, run_id: str | None = None
) -> list[Exported]:
    """Copy what a published index shows now.

    Args:
        source: `index.duckdb` of the live index or of a tier.
        tier: Which it is.
        destination: A folder that does not exist or is empty, or `s3://bucket/prefix`.
        s3: Client for such a one.
        run_id: Dagster run that makes the copy, for the metadata of its files; None: none does.

    Raises:
        IndexNotPublishedError: There is nothing to copy.
        ExportError: The destination is not free, or not reachable.
    """
    if not source.exists():
        raise IndexNotPublishedError(source)
    if destination.startswith(S3):
        if s3 is None:
            raise ExportError("No client of S3 was given.")
        _refuse_taken(s3, destination)
        # Below the index, where upkeep finds it when this process is killed: it is a whole copy, with names in it.
        # For nobody else, whatever the umask of the person who asked.
        try:
            with export_folder(source.parent, 0o700) as folder:
                tables = _write(source, tier, folder, run_id)
                _upload(s3, folder, destination)
        except OSError as error:
            raise ExportError(
                f"{source.parent} cannot be written: run it as the user of the pipeline, or export to a folder."
            ) from error
        return tables
    target = Path(destination).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} exists and is not an empty folder: name another one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the copy appears whole or not at all.
    with export_folder(target.parent) as temporary:
        tables = _write(source, tier, temporary, run_id)
        temporary.replace(target)
    return tables


def _write(source: Path, tier: Tier, folder: Path, run_id: str | None) -> list[Exported]:
    with spilling(folder) as connection:
        connection.execute(f"ATTACH {text(str(source))} AS source (READ_ONLY)")
        connection.execute("USE source")
        about = {"schema_version": SCHEMA_VERSION, "tier": tier.value, "exported_at": now().isoformat()}
        about |= _shown(connection, tier) | ({"run_id": run_id} if run_id else {})
        tables = [_copy(connection, name, folder, about) for name in _names(connection)]
        _index(connection, folder, tables)
        connection.execute("USE memory")
        connection.execute("DETACH source")
    shutil.rmtree(folder / SPILL, ignore_errors=True)
    (folder / "README.txt").write_text(_readme(tables, about), "utf-8")
    write_sidecar(folder / "index.duckdb", digest_of(folder / "index.duckdb"))
    return tables


def _shown(connection: duckdb.DuckDBPyConnection, tier: Tier) -> dict[str, str]:
    """What the source shows, as its `index_info` says: newest commit and time; the run behind it, but of no lower tier.

    A tier names the time at which its files were put together.
    """
    asked = connection.execute("FROM main.index_info")
    names = [column[0] for column in asked.description or ()]
    info = dict(zip(names, asked.fetchone() or (), strict=False))
    moment = info.get("published_at") or info.get("built_at")
    shown = {"seq": info.get("seq"), "published_at": moment and moment.astimezone(dt.UTC).isoformat()}
    if tier is Tier.IDENTIFIED:
        run = "SELECT run_id FROM main.index_versions WHERE seq = ?"
        shown["dagster_run_id"] = (connection.execute(run, [info["seq"]]).fetchone() or (None,))[0]
    return {name: str(value) for name, value in shown.items() if value is not None}


def _names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Views to copy: patients, studies, and the tables of image sets that the source has."""
    found = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE database_name = 'source' AND schema_name = 'main' AND NOT internal"
    ).fetchall()
    wanted = ["patients", "studies", *(table.name for table in TABLES.values() if table.row_key == "image_set_id")]
    present = {str(row[0]) for row in found}
    return [name for name in wanted if name in present]


def _copy(connection: duckdb.DuckDBPyConnection, name: str, folder: Path, about: Mapping[str, str]) -> Exported:
    path = folder / f"{name}.parquet"
    order = TABLES[name].sort_by if name in TABLES else INDEXED[name]
    present = {str(row[0]) for row in connection.execute(f"DESCRIBE main.{quoted(name)}").fetchall()}
    order = tuple(column for column in order if column in present)
    (n_rows,) = connection.execute(f"SELECT count(*) FROM main.{quoted(name)}").fetchone() or (0,)
    rows, metadata = f"SELECT * FROM main.{quoted(name)}", {"table": name} | dict(about)
    if is_large(n_rows, len(present)):
        write_groups(path, sorted_groups(connection, rows, order, group_rows(name)), metadata, level=ZSTD_LEVEL)
    else:
        pairs = ", ".join(f"{text(key)}: {text(value)}" for key, value in metadata.items())
        connection.execute(
            f"COPY ({rows} ORDER BY {', '.join(map(quoted, order))}) TO {text(str(path))} "
            f"(FORMAT parquet, KV_METADATA {{{pairs}}}, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL}, "
            f"ROW_GROUP_SIZE {group_rows(name)})"
        )
    write_sidecar(path, digest_of(path))
    n_bytes = path.stat().st_size
    return Exported(name, n_rows, n_bytes, n_bytes <= INSIDE_BYTES)


def _index(connection: duckdb.DuckDBPyConnection, folder: Path, tables: Sequence[Exported]) -> None:
    """The copy's `index.duckdb`, with the comments of its source."""
    connection.execute(f"ATTACH {text(str(folder / 'index.duckdb'))} AS copy ({STORAGE})")
    connection.execute(f"SET VARIABLE {FOLDER_VARIABLE} = {text(str(folder))}")
    comments = connection.execute(
        "SELECT table_name, column_name, comment FROM duckdb_columns() "
        "WHERE database_name = 'source' AND schema_name = 'main' AND comment IS NOT NULL"
    ).fetchall()
    about = connection.execute(
        "SELECT view_name, comment FROM duckdb_views() "
        "WHERE database_name = 'source' AND schema_name = 'main' AND comment IS NOT NULL"
    ).fetchall()
    connection.execute("CREATE TABLE copy.main.index_info AS FROM source.main.index_info")
    connection.execute("USE copy")
    for table in tables:
        # An index cannot spill before a checkpoint: those of 16 tables of a million rows were more than the memory.
        for statement in _statements(table, folder):
            connection.execute(statement)
            connection.execute("CHECKPOINT copy")
    connection.execute("BEGIN")
    kinds = {table.name: "TABLE" if table.is_inside else "VIEW" for table in tables} | {"index_info": "TABLE"}
    for name, comment in (row for row in about if row[0] in kinds):
        connection.execute(f"COMMENT ON {kinds[name]} main.{quoted(name)} IS {text(comment)}")
    for name, column, comment in (row for row in comments if row[0] in kinds):
        connection.execute(f"COMMENT ON COLUMN main.{quoted(name)}.{quoted(column)} IS {text(comment)}")
    connection.execute("COMMIT")
    connection.execute("USE source")
    connection.execute("DETACH copy")


def _statements(table: Exported, folder: Path) -> Iterator[str]:
    """SQL that makes a table of the copy, or a view of its file."""
    name, file = f"main.{quoted(table.name)}", f"{table.name}.parquet"
    if not table.is_inside:
        path = f"coalesce(getvariable('{FOLDER_VARIABLE}'), '.') || {text(f'/{file}')}"
        yield f"CREATE VIEW {name} AS FROM read_parquet({path})"
        return
    yield f"CREATE TABLE {name} AS FROM read_parquet({text(str(folder / file))})"
    for column in INDEXED.get(table.name, BY_STUDY):
        yield f"CREATE INDEX {quoted(f'{table.name}_by_{column}')} ON {name} ({quoted(column)})"


_README = """\
DICOM metadata index, {tier} tier, copied {exported_at}, schema version {schema_version}.
{shown}
One Parquet file for each table: current rows of primary image sets, sorted by study.

DuckDB, in this folder:    duckdb -readonly index.duckdb "SELECT Modality, count(*) FROM series GROUP BY ALL"
DuckDB, from elsewhere:    SET VARIABLE {variable} = 'HERE';   for the tables marked *, which are views on the files;
                           HERE may be a bucket, after LOAD httpfs
pandas, polars, pyarrow:   read_parquet('HERE/series.parquet')
What columns mean:         SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'series'
Check the files:           sha256sum -c *{suffix}

"""


def _readme(tables: Sequence[Exported], about: Mapping[str, str]) -> str:
    shown = "".join(f"It shows {name} {about[name]}.\n" for name in ("seq", "published_at") if name in about)
    head = _README.format(**about, shown=shown, variable=FOLDER_VARIABLE, suffix=SUFFIX)
    width = max((len(table.name) for table in tables), default=0)
    lines = (
        f"{table.name:{width}} {' ' if table.is_inside else '*'} {table.n_rows:>14,} rows {table.n_bytes:>14,} bytes\n"
        for table in tables
    )
    return head + "".join(lines)


def _place(destination: str) -> tuple[str, str]:
    """Bucket, and what keys in it start with: nothing, or a prefix and a slash."""
    bucket, _, prefix = destination.removeprefix(S3).partition("/")
    if not bucket:
        raise ExportError(f"{destination} names no bucket: write s3://bucket/prefix.")
    return bucket, f"{prefix.strip('/')}/".lstrip("/")


def _refuse_taken(s3: S3Client, destination: str) -> None:
    """Files of another tier or another day must not stand beside those of this copy."""
    bucket, prefix = _place(destination)
    # Consoles make an empty object of the prefix itself; it is no file.
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=2).get("Contents", [])
    if any(entry["Key"] != prefix for entry in found):
        raise ExportError(f"{S3}{bucket}/{prefix} holds objects already: name another prefix, or remove them first.")


def _upload(s3: S3Client, folder: Path, destination: str) -> None:
    """Put the files into the bucket; `index.duckdb` comes last, so that whoever finds it finds what it names."""
    bucket, prefix = _place(destination)
    for path in sorted(folder.iterdir(), key=lambda path: path.name.startswith("index.duckdb")):
        s3.upload_file(str(path), bucket, f"{prefix}{path.name}")
