"""How large Parquet files are packed. Belongs here: row groups, pages, dictionaries and filters, and why.

Does not belong here: the small file of a batch (`writer`), the order of rows (`ordering`).

A look at one study reads about every row group, and of one row group a page of every column. Measured with DuckDB on
1 M series of 120 columns, in row groups of 30,000 with pyarrow's own pages and a dictionary wherever it starts one: a
look at all columns took 26 ms of CPU; without dictionaries of values that hardly repeat 23; with pages of 4,096 rows
besides 17, in a tenth fewer bytes; with statistics of few columns a tenth less again. Pages of 8,192 took as long, and
in 10 M instances a sixth fewer bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from more_itertools import peekable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import IO

    import pyarrow as pa
    import pyarrow.parquet as pq

# Readers skip whole groups by their statistics. Small groups make a look at one study cheap, and every query pay for
# reading about them: of 1 M series, 100,000 / 30,000 / 10,000 rows a group cost a look at all columns of one study
# 123 / 71 / 122 ms of CPU, at six columns 25 / 21 / 62 ms. Tables with many more rows keep large groups. Of 1 M and of
# 10 M instances, 100,000 rows a group: a study 10.1 and 12.0 ms, an instance 12.2 and 16.4; 131,072: 11.3 and 12.4,
# 13.5 and 15.7; 262,144: at 1 M already 11.9 and 19.1, as lists are read from the start of a group and pages of
# SOPInstanceUID all. 131,072 fill their filter half: it is wrong about 6 groups in 10,000, at 100,000 about 7 in 1,000,
# and each time 4 ms of reading UIDs are for nothing.
ROW_GROUP_ROWS = 131_072
SERIES_GROUP_ROWS = 30_000
# DuckDB unpacks whole pages. Each page costs some hundred bytes and a look at its header, so smaller ones gain no more.
PAGE_ROWS = 8_192
# Level 1 costs half of level 3's CPU and few bytes more (storage reference, 2.1).
ZSTD_LEVEL = 1
# Columns that people look for one value of, and how often a filter may be wrong about a row group.
LOOKED_UP = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "patient_key")
FALSE_POSITIVES = 0.01
# A first row group of few values may be followed by others of many. So many take 2 KB.
LEAST_VALUES = 1_000
# In a table of more columns than this, their least and largest values in each row group are most of what a reader has
# to know of a file, and DuckDB goes through them while it plans. Only those of the columns named may tell it to skip a
# group: rows stand by study, so in other columns each group has about every value.
WIDE = 60
SKIPPED_BY = (
    *LOOKED_UP,
    *("image_set_id", "object_id", "batch_id", "is_primary"),
    *("Modality", "StudyDate", "indexed_at", "valid_from", "valid_to"),
)
# A dictionary is read whole before any value: it is worth that where each value stands so often.
REPEATS = 10


def group_rows(table: str) -> int:
    """Rows in a row group of a table."""
    return SERIES_GROUP_ROWS if table in ("series", "studies", "patients") else ROW_GROUP_ROWS


def packed_writer(
    sink: Path | IO[bytes], schema: pa.Schema, first: pa.Table | None, *, level: int = ZSTD_LEVEL
) -> pq.ParquetWriter:
    """A writer of a large file.

    Args:
        sink: Path or open file.
        schema: Of the rows.
        first: Rows of the first row group, which tell how often values repeat; None: there are none.
        level: Of zstd.
    """
    import pyarrow.parquet as pq

    counts, n_rows = (_distinct(first), len(first)) if first is not None else ({}, 0)
    # Arrow's own copy of the schema, with every column's description, would be half of a small file.
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=level,
        store_schema=False,
        max_rows_per_page=PAGE_ROWS,
        write_statistics=[name for name in SKIPPED_BY if name in schema.names] if len(schema) > WIDE else True,
        use_dictionary=_with_dictionary(first, counts) if first is not None else True,  # type: ignore[arg-type] # or a list
        bloom_filter_options=_bloom_filters(counts, n_rows) or None,
    )


def write_groups(
    path: Path,
    groups: Iterable[pa.Table],
    metadata: Mapping[str, str],
    *,
    schema: pa.Schema | None = None,
    level: int = ZSTD_LEVEL,
) -> None:
    """Write tables of one schema to a file, each as a row group.

    Args:
        path: The file.
        groups: The tables.
        metadata: Key-value metadata of the file.
        schema: Theirs; needed where there may be none.
        level: Of zstd.
    """
    some = peekable(groups)
    with packed_writer(path, schema or some.peek().schema, some.peek(None), level=level) as writer:
        for group in some:
            writer.write_table(group, row_group_size=len(group))
        writer.add_key_value_metadata(dict(metadata))


def _distinct(part: pa.Table) -> dict[str, int]:
    """How many values each column has that is neither nested nor of a kind that Arrow does not count."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counted = (pa.types.is_primitive, pa.types.is_string, pa.types.is_large_string)
    flat = (field.name for field in part.schema if any(is_one(field.type) for is_one in counted))
    return {name: int(pc.count_distinct(part[name]).as_py()) for name in flat}


def _with_dictionary(part: pa.Table, counts: Mapping[str, int]) -> list[str]:
    """Columns of the file that get a dictionary: all but those whose values hardly repeat; nested ones are several."""
    import pyarrow.parquet as pq

    different = {name for name, n in counts.items() if n * REPEATS > len(part) - part[name].null_count}
    with pq.ParquetWriter(sink := io.BytesIO(), part.schema, store_schema=False):
        pass
    found = pq.ParquetFile(sink).schema
    paths = (found.column(number).path for number in range(len(found.names)))
    return [path for path in paths if path not in different]


def _bloom_filters(counts: Mapping[str, int], n_rows: int) -> dict[str, dict[str, float]]:
    """Options of pyarrow's writer for a filter of each row group by which readers know that a value is not in it.

    Least and largest value tell that of the column that rows are sorted by; one series of 10 M instances took 165 ms of
    CPU without these filters, and 28 with them. A reader reads the whole filter, whose size is a power of two: room for
    more values than the first group has rows made those of SOPInstanceUID twice as large. Where a later group has more
    rows, its filter is more often wrong, and some of it is read for nothing.
    """
    n_values = {name: max(LEAST_VALUES, min(2 * counts[name], n_rows)) for name in LOOKED_UP if name in counts}
    return {name: {"ndv": n, "fpp": FALSE_POSITIVES} for name, n in n_values.items()}
