"""What a large file is packed like, and that it holds what was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ahi.index.packing import PAGE_ROWS, ROW_GROUP_ROWS, WIDE, packed_writer

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 3 * PAGE_ROWS + 1
TABLE = pa.table(
    {
        "StudyInstanceUID": [f"1.{n // 20}" for n in range(ROWS)],
        "SeriesInstanceUID": [f"1.{n}" for n in range(ROWS)],
        "StudyDate": [None if n % 20 else n for n in range(ROWS)],
        "kind": pa.array(["one", "two"] * (ROWS // 2) + ["one"]).dictionary_encode(),
        "Modality": ["CT" if n % 3 else "MR" for n in range(ROWS)],
        "nothing": pa.nulls(ROWS, pa.string()),
        "codes": [[{"code": str(n), "scheme": "DCM"}] if n % 2 else None for n in range(ROWS)],
    }
)


@pytest.mark.parametrize("part", [TABLE, TABLE.slice(0, 1), TABLE.slice(0, 0)], ids=["many rows", "one", "none"])
def test_what_was_given_is_read_back(tmp_path: Path, part: pa.Table) -> None:
    with packed_writer(tmp_path / "file", part.schema, part if len(part) else None) as writer:
        writer.write_table(part)
    assert pq.read_table(tmp_path / "file").to_pylist() == part.to_pylist()


def test_values_that_hardly_repeat_have_no_dictionary_to_be_read_before_them(tmp_path: Path) -> None:
    with packed_writer(tmp_path / "file", TABLE.schema, TABLE) as writer:
        writer.write_table(TABLE)
    group = pq.ParquetFile(tmp_path / "file").metadata.row_group(0)
    found = {one.path_in_schema: one for one in (group.column(n) for n in range(group.num_columns))}
    without = {name for name, one in found.items() if not one.has_dictionary_page}
    assert without == {"SeriesInstanceUID", "StudyDate"}


def test_a_page_holds_few_rows(tmp_path: Path) -> None:
    """DuckDB unpacks whole pages: one row was as dear as all of a row group."""
    with packed_writer(tmp_path / "file", TABLE.schema, TABLE) as writer:
        writer.write_table(TABLE)
    column = pq.ParquetFile(tmp_path / "file").metadata.row_group(0).column(1)
    with (tmp_path / "file").open("rb") as handle:
        handle.seek(column.data_page_offset)
        stored = handle.read(column.total_compressed_size)
    # Each page is a frame of zstd with its own magic number.
    assert stored.count(b"\x28\xb5\x2f\xfd") == 4


def test_of_many_columns_only_those_that_tell_what_to_skip_have_statistics(tmp_path: Path) -> None:
    wide = TABLE
    for number in range(WIDE):
        wide = wide.append_column(f"column {number}", TABLE["StudyDate"])
    known = {"StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "Modality"}
    for part, expected in ((TABLE, known | {"kind"}), (wide, known)):
        with packed_writer(tmp_path / "file", part.schema, part) as writer:
            writer.write_table(part)
        group = pq.ParquetFile(tmp_path / "file").metadata.row_group(0)
        columns = (group.column(n) for n in range(group.num_columns))
        found = {one.path_in_schema for one in columns if one.statistics is not None and one.statistics.has_min_max}
        assert {path for path in found if "." not in path} == expected


def test_the_filter_of_a_full_row_group_whose_values_are_all_different_has_256_kib(tmp_path: Path) -> None:
    rows = pa.table({"SOPInstanceUID": [f"1.{n}" for n in range(ROW_GROUP_ROWS)]})
    with packed_writer(tmp_path / "file", rows.schema, rows) as writer:
        writer.write_table(rows)
    length = pq.ParquetFile(tmp_path / "file").metadata.row_group(0).column(0).bloom_filter_length
    assert 0 <= length - 2**18 < 64, "beside its header"
