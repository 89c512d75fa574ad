"""A copy of the published index for elsewhere: a laptop, a bucket. Belongs here: its files, its `index.duckdb`, README.

Does not belong here: the live index (`publish`) and what a tier shows (`tiers`); a copy holds what the views of its
source show at one moment: current rows of primary image sets, one Parquet file for each table.

**Order and row groups.** Rows stand by study, so that the statistics of a row group leave out all but one for the
question asked most: everything of one study. Measured on 1 M series (`benchmarks/bench_published.py`): in the order of
modality and date, a look at one study reads the UIDs of every row group, 300 to 430 ms of CPU; by study, with groups of
`ROW_GROUP_ROWS`, see the benchmark. Counting by modality reads one column of a few kilobytes either way.

**A folder that moves.** DuckDB takes a relative path from the working directory of whoever asks. Tables of up to
`INSIDE_BYTES` are therefore inside `index.duckdb`, which opens from anywhere; larger ones are views on the Parquet
files beside it, found in the working directory or where `SET VARIABLE index_folder = '...'` says, a bucket as well.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ahi.clock import now
from ahi.index.parquet import spilling
from ahi.index.publish import STORAGE
from ahi.index.query import IndexNotPublishedError
from ahi.index.registry import SCHEMA_VERSION, TABLES
from ahi.index.sidecar import SUFFIX, write_sidecar
from ahi.index.sql import quoted, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    from mypy_boto3_s3 import S3Client

    from ahi.index.columns import Tier

ROW_GROUP_ROWS = 20_000
# A copy is written once and sent around: a quarter less bytes than level 1 for twice its CPU.
ZSTD_LEVEL = 3
INSIDE_BYTES = 64 * 2**20
FOLDER_VARIABLE = "index_folder"
# Columns by which rows stand, as far as a table has them.
ORDER = ("StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "SOPInstanceUID", "frame_number")
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


def export(source: Path, tier: Tier, destination: str, *, s3: S3Client | None = None) -> list[Exported]:
    """Copy what a published index shows now.

    Args:
        source: `index.duckdb` of the live index or of a tier.
        tier: Which it is.
        destination: A folder that does not exist or is empty, or `s3://bucket/prefix`.
        s3: Client for such a one.

    Raises:
        IndexNotPublishedError: There is nothing to copy.
        ExportError: The destination is not free, or not reachable.
    """
    if not source.exists():
        raise IndexNotPublishedError(
            f"There is no published index at {source}: start the pipeline and send data first."
        )
    if destination.startswith(S3):
        if s3 is None:
            raise ExportError("No client of S3 was given.")
        with tempfile.TemporaryDirectory(prefix="ahi-export-") as folder:
            tables = _write(source, tier, Path(folder))
            _upload(s3, Path(folder), destination)
        return tables
    target = Path(destination).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} exists and is not an empty folder: name another one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the copy appears whole or not at all.
    temporary = target.parent / f".export-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        tables = _write(source, tier, temporary)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tables


def _write(source: Path, tier: Tier, folder: Path) -> list[Exported]:
    with spilling(folder) as connection:
        connection.execute(f"ATTACH {text(str(source))} AS source (READ_ONLY)")
        connection.execute("USE source")
        about = {"schema_version": SCHEMA_VERSION, "tier": tier.value, "exported_at": now().isoformat()}
        tables = [_copy(connection, name, folder, about) for name in _names(connection)]
        _index(connection, folder, tables)
        connection.execute("USE memory")
        connection.execute("DETACH source")
    shutil.rmtree(folder / ".spill", ignore_errors=True)
    (folder / "README.txt").write_text(_readme(tier, tables, about["exported_at"]), "utf-8")
    write_sidecar(folder / "index.duckdb", _digest(folder / "index.duckdb"))
    return tables


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
    columns = {str(row[0]) for row in connection.execute(f"DESCRIBE main.{quoted(name)}").fetchall()}
    order = [column for column in ORDER if column in columns] or ["patient_key"]
    metadata = ", ".join(f"{text(key)}: {text(value)}" for key, value in ({"table": name} | dict(about)).items())
    copied = connection.execute(
        f"COPY (SELECT * FROM main.{quoted(name)} ORDER BY {', '.join(map(quoted, order))}) TO {text(str(path))} "
        f"(FORMAT parquet, KV_METADATA {{{metadata}}}, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL}, "
        f"ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
    ).fetchone()
    write_sidecar(path, _digest(path))
    n_bytes = path.stat().st_size
    return Exported(name, int(copied[0]) if copied else 0, n_bytes, n_bytes <= INSIDE_BYTES)


def _index(connection: duckdb.DuckDBPyConnection, folder: Path, tables: Sequence[Exported]) -> None:
    """The copy's `index.duckdb`, with the comments of its source."""
    connection.execute(f"ATTACH {text(str(folder / 'index.duckdb'))} AS copy ({STORAGE})")
    connection.execute(f"SET VARIABLE {FOLDER_VARIABLE} = {text(str(folder))}")
    comments = connection.execute(
        "SELECT table_name, column_name, comment FROM duckdb_columns() "
        "WHERE database_name = 'source' AND schema_name = 'main' AND comment IS NOT NULL"
    ).fetchall()
    connection.execute("CREATE TABLE copy.main.index_info AS FROM source.main.index_info")
    connection.execute("USE copy")
    connection.execute("BEGIN")
    for table in tables:
        name, file = f"main.{quoted(table.name)}", f"{table.name}.parquet"
        if table.is_inside:
            connection.execute(f"CREATE TABLE {name} AS FROM read_parquet({text(str(folder / file))})")
        else:
            path = f"coalesce(getvariable('{FOLDER_VARIABLE}'), '.') || {text(f'/{file}')}"
            connection.execute(f"CREATE VIEW {name} AS FROM read_parquet({path})")
        for _, column, comment in (row for row in comments if row[0] == table.name):
            connection.execute(f"COMMENT ON COLUMN {name}.{quoted(column)} IS {text(comment)}")
    connection.execute("COMMIT")
    connection.execute("USE source")
    connection.execute("DETACH copy")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


_README = """\
DICOM metadata index, {tier} tier, copied {exported_at}, schema version {version}.

One Parquet file for each table: current rows of primary image sets, sorted by study.

DuckDB, in this folder:    duckdb -readonly index.duckdb "SELECT Modality, count(*) FROM series GROUP BY ALL"
DuckDB, from elsewhere:    SET VARIABLE {variable} = 'HERE';   for the tables marked *, which are views on the files;
                           HERE may be a bucket, after LOAD httpfs
pandas, polars, pyarrow:   read_parquet('HERE/series.parquet')
What columns mean:         SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'series'
Check the files:           sha256sum -c *{suffix}

"""


def _readme(tier: Tier, tables: Sequence[Exported], exported_at: str) -> str:
    head = _README.format(
        tier=tier.value, exported_at=exported_at, version=SCHEMA_VERSION, variable=FOLDER_VARIABLE, suffix=SUFFIX
    )
    width = max((len(table.name) for table in tables), default=0)
    lines = (
        f"{table.name:{width}} {' ' if table.is_inside else '*'} {table.n_rows:>14,} rows {table.n_bytes:>14,} bytes\n"
        for table in tables
    )
    return head + "".join(lines)


def _upload(s3: S3Client, folder: Path, destination: str) -> None:
    """Put the files into the bucket; `index.duckdb` comes last, so that whoever finds it finds what it names."""
    bucket, _, prefix = destination.removeprefix(S3).partition("/")
    if not bucket:
        raise ExportError(f"{destination} names no bucket: write s3://bucket/prefix.")
    for path in sorted(folder.iterdir(), key=lambda path: path.name.startswith("index.duckdb")):
        s3.upload_file(str(path), bucket, f"{prefix.strip('/')}/{path.name}".lstrip("/"))
