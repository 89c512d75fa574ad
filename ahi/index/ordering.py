"""Many rows in order. Belongs here: rows of a relation of DuckDB sorted by keys, in memory that their number is not in.

Does not belong here: writing them (`writer`, `export`), and which order a table has (`registry`).

DuckDB sorts whole rows. Of a million series with 120 columns, most of them null, that is 3 GB, which go through disk
several times: 140 s of CPU within 512 MB, and more than that wall-clock time. Here the first key's values are cut into
ranges by a sample, the rows of a range are read and put in order in memory, and ranges follow each other. Each file is
read once for each range, which statistics of files already sorted keep to a few row groups. Rows of one value, such as
the study that all images of a research project were sent under, are cut into ranges of the next key.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ahi.index.sql import quoted, text
from ahi.index.writer import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb
    import pyarrow as pa

# Rows times columns that DuckDB sorts by itself within the memory of `parquet.spilling`.
CELLS = 8_000_000
# Arrow memory of a range; while it is put in order, twice that is in use.
RANGE_BYTES = 96 * 2**20
# A row group is in memory while it is written and while it is read.
GROUP_BYTES = 96 * 2**20
# Ranges are taken together until they are as large as they may be.
FINE_ROWS = 10_000
_SAMPLES = 50
# Fine ranges that one value fills before its rows are cut by the next key.
MANY_RANGES = 4


def is_large(n_rows: int, n_columns: int) -> bool:
    """Whether so many rows are put in order better here than by DuckDB."""
    return n_rows * n_columns > CELLS


def sorted_groups(
    connection: duckdb.DuckDBPyConnection, rows: str, keys: Sequence[str], group_rows: int
) -> Iterator[pa.Table]:
    """All rows of a SELECT, sorted by keys with nulls last, as the tables to make row groups of; none is empty.

    Args:
        connection: Where the SELECT runs, once for each range.
        rows: The SELECT. It gives the same rows each time.
        keys: Columns to sort by. Rows with the same values of all of them are in memory together.
        group_rows: Rows of a group; fewer where they are large, and in the last one.
    """
    yield from _groups(_ranges(connection, rows, keys), group_rows)


def _ranges(connection: duckdb.DuckDBPyConnection, rows: str, keys: Sequence[str]) -> Iterator[pa.Table]:
    key, later = quoted(keys[0]), keys[1:]
    bounds, has_nulls = _bounds(connection, rows, key)
    at, step = 0, 1
    while at <= len(bounds):
        low, is_large_value = bounds[at - 1] if at else (None, False)
        stop = min(at + step, len(bounds) + 1)
        if is_large_value and later:
            yield from _ranges(connection, f"SELECT * FROM ({rows}) WHERE {key} = {text(str(low))}", later)
            stop, above = at + 1, ">"
        else:
            # A range ends where a value begins that has ranges of its own.
            stop, above = next((n for n in range(at + 1, stop) if bounds[n - 1][1]), stop), ">="
        high = bounds[stop - 1][0] if stop <= len(bounds) else None
        found = _between(connection, rows, (f"{key} {above} ?", low), (f"{key} < ?", high), f"{key} IS NOT NULL")
        step = max(1, min(4 * step, int(step * RANGE_BYTES / max(found.nbytes, 1))))
        at = stop
        yield in_order(found, keys)
    if has_nulls:
        nulls = f"SELECT * FROM ({rows}) WHERE {key} IS NULL"
        if later:
            yield from _ranges(connection, nulls, later)
        else:
            yield connection.sql(nulls).to_arrow_table()


def _bounds(connection: duckdb.DuckDBPyConnection, rows: str, key: str) -> tuple[list[tuple[Any, bool]], bool]:
    """Values that cut a key into ranges of about `FINE_ROWS`, in order, and whether the key is null in some row.

    Each value with whether it fills so many ranges by itself that the next key has to cut them.
    """
    n_rows, n_known = connection.execute(f"SELECT count(*), count({key}) FROM ({rows})").fetchone() or (0, 0)
    n_ranges = n_known // FINE_ROWS
    # REPEATABLE: what a run does is the same each time.
    sample = connection.execute(
        f"SELECT k FROM (SELECT {key} AS k FROM ({rows}) WHERE {key} IS NOT NULL "
        f"USING SAMPLE reservoir({max(1, n_ranges * _SAMPLES)} ROWS) REPEATABLE (1)) ORDER BY k"
    ).fetchall()
    values = [row[0] for row in sample]
    cuts = Counter(values[len(values) * number // n_ranges] for number in range(1, n_ranges))
    return [(value, times >= MANY_RANGES) for value, times in cuts.items()], n_known < n_rows


def _between(
    connection: duckdb.DuckDBPyConnection, rows: str, low: tuple[str, Any], high: tuple[str, Any], known: str
) -> pa.Table:
    """Rows from one bound to another, each a condition and its value; without a value there is no such bound."""
    given = [(condition, value) for condition, value in (low, high) if value is not None]
    sql = f"SELECT * FROM ({rows}) WHERE {' AND '.join(condition for condition, _ in given) or known}"
    found: pa.Table = connection.sql(sql, params=[value for _, value in given] or None).to_arrow_table()
    return found


def _groups(tables: Iterator[pa.Table], group_rows: int) -> Iterator[pa.Table]:
    """The rows of tables in tables of as many rows, or of as many bytes, as a row group may have."""
    import pyarrow as pa

    left: pa.Table | None = None
    for table in tables:
        left = table if left is None else pa.concat_tables([left, table])
        size = max(1, min(group_rows, len(left) * GROUP_BYTES // max(left.nbytes, 1)))
        while len(left) >= size:
            yield left.slice(0, size)
            left = left.slice(size)
    if left is not None and len(left):
        yield left
