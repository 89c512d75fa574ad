"""Rows by column. Belongs here: rows that are kept as columns from the start, and one Parquet file of many of them.

Does not belong here: what the rows say (`ahi.documents`), the file itself (`writer`). A dict for each row costs more
than everything else that makes a row; most columns of a series have one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, overload

from ahi.clock import now
from ahi.index.registry import TABLES, arrow_schema
from ahi.index.writer import IndexWriteError, write_batch

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

    from ahi.index.columns import Column, Table
    from ahi.index.writer import DataFile

Row = dict[str, object]

_WAITING_ROWS = 10_000


class Rows(Sequence[Row]):
    """Rows as columns: `constants` have one value for all rows, `columns` a list each. Reads like a list of dicts."""

    __slots__ = ("columns", "constants", "n_rows")

    def __init__(self, n_rows: int, constants: Row | None = None, columns: dict[str, list[Any]] | None = None) -> None:
        self.n_rows = n_rows
        self.constants: Row = {} if constants is None else constants
        self.columns: dict[str, list[Any]] = {} if columns is None else columns

    def __len__(self) -> int:
        """Number of rows."""
        return self.n_rows

    def __eq__(self, other: object) -> bool:
        """Whether the rows are the same, however they are kept."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """One row or several, as dicts."""
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(self.n_rows))]
        if not -self.n_rows <= index < self.n_rows:
            raise IndexError(index)
        return {**self.constants, **{name: cells[index] for name, cells in self.columns.items()}}

    def __iter__(self) -> Iterator[Row]:
        """The rows as dicts."""
        return (self[n] for n in range(self.n_rows))

    def values(self, name: str) -> Sequence[Any]:
        """A column's values, one for each row."""
        cells = self.columns.get(name)
        return [self.constants.get(name)] * self.n_rows if cells is None else cells

    def settled(self) -> Rows:
        """The rows as they are kept best once they are complete: one row has constants only."""
        if self.n_rows != 1 or not self.columns:
            return self
        return Rows(1, self.constants | {name: cells[0] for name, cells in self.columns.items()})

    def put(self, name: str, cells: tuple[bool, Any]) -> None:
        """Set a column: (True, the one value) or (False, a list)."""
        is_constant, found = cells
        if is_constant:
            self.constants[name] = found
        else:
            self.columns[name] = found

    def __add__(self, other: Rows) -> Rows:
        """These rows and then the other's."""
        names = dict.fromkeys((*self.constants, *self.columns, *other.constants, *other.columns))
        columns = {name: [*self.values(name), *other.values(name)] for name in names}
        return Rows(self.n_rows + other.n_rows, {}, columns)

    @staticmethod
    def of(rows: Sequence[Mapping[str, object]], constants: Row) -> Rows:
        """Dicts as columns, with what they all share."""
        if len(rows) == 1:
            return Rows(1, {**constants, **rows[0]})
        names = dict.fromkeys(name for row in rows for name in row)
        return Rows(len(rows), constants, {name: [row.get(name) for row in rows] for name in names})


def write_rows(root: Path, table: Table, rows: Sequence[Mapping[str, object]], *, batch_id: str) -> DataFile | None:
    """Write rows as one immutable, sorted Parquet file. It is synced by the commit that takes it in (`sync_files`).

    Args:
        root: Folder of the index.
        table: Table of the registry.
        rows: Values by column name. A missing column is null; `batch_id` and, if missing, `indexed_at` are filled in.
        batch_id: Batch whose commit will make the file part of the table.

    Returns:
        The file, or None if there are no rows.

    Raises:
        IndexWriteError: A column is not in the registry, or a value is not of its column's type.
    """
    if not rows:
        return None
    stamp, part = now(), rows if isinstance(rows, Rows) else Rows.of(rows, {})
    # Rows of a batch come from one run.
    run_id = str(part.values("dagster_run_id")[0] or "")
    data = to_arrow(table, [part], batch_id=batch_id, stamp=stamp)
    return write_batch(root, table, data, stamp, batch_id=batch_id, run_id=run_id)


class TableWriter:
    """Rows of many documents on their way to one file for each table.

    Rows wait as Python's values until there are enough to be worth turning into Arrow's, which take a tenth of the
    memory; whoever adds rows need not keep them.
    """

    def __init__(self, root: Path, tables: Mapping[str, Table], *, batch_id: str) -> None:
        """Files go under `root` and are for the commit of the batch."""
        self._root, self._tables, self._batch_id = root, tables, batch_id
        self._stamp = now()
        self._waiting: dict[str, list[Rows]] = {}
        self._n_waiting = 0
        self._ready: dict[str, list[pa.Table]] = {}
        self._run_id = ""

    def add(self, rows: Mapping[str, Rows]) -> None:
        """Take rows in, by table.

        Raises:
            IndexWriteError: A column is not in the registry, or a value is not of its column's type.
        """
        for table, part in rows.items():
            if part.n_rows:
                self._waiting.setdefault(table, []).append(part)
                self._n_waiting += part.n_rows
        if self._n_waiting >= _WAITING_ROWS:
            self._convert()

    def files(self) -> list[DataFile]:
        """Write what was added, each table to a file, sorted. The commit syncs them."""
        import pyarrow as pa

        self._convert()
        return [
            write_batch(
                self._root,
                self._tables[table],
                pa.concat_tables(parts).combine_chunks(),
                self._stamp,
                batch_id=self._batch_id,
                run_id=self._run_id,
            )
            for table, parts in self._ready.items()
        ]

    def _convert(self) -> None:
        for table, parts in self._waiting.items():
            self._run_id = self._run_id or str(parts[0].constants.get("dagster_run_id") or "")
            data = to_arrow(self._tables[table], parts, batch_id=self._batch_id, stamp=self._stamp)
            self._ready.setdefault(table, []).append(data)
        self._waiting, self._n_waiting = {}, 0


def to_arrow(table: Table, parts: Sequence[Rows], *, batch_id: str, stamp: dt.datetime) -> pa.Table:
    """Rows as Arrow has them, under the table's schema."""
    import pyarrow as pa

    constants = _by_column([part.constants for part in parts])
    varying = {name for part in parts for name in part.columns}
    if unknown := sorted((varying | constants.keys()) - {column.name for column in table.columns}):
        raise IndexWriteError(f"Table {table.name} has no column {', '.join(unknown)}: add it to the registry.")
    sizes = [part.n_rows for part in parts]
    n_rows = sum(sizes)
    of_part: pa.Array[Any] | None = None
    constants["batch_id"] = [batch_id] * len(parts)
    constants["indexed_at"] = [value or stamp for value in constants.get("indexed_at", [None] * len(parts))]
    schema = _schema(table)
    arrays: list[pa.Array[Any]] = []
    for column, kind in zip(table.columns, schema.types, strict=True):
        name = column.name
        if name in varying and name != "batch_id":
            values = list(chain.from_iterable([part.values(name) for part in parts]))
            if name == "indexed_at":
                values = [value or stamp for value in values]
            arrays.append(_array(table, column, kind, values))
            continue
        one_each = constants.get(name, (None,))
        n_same = one_each.count(one_each[0])
        if n_same == len(one_each) and one_each[0] is None:
            arrays.append(pa.nulls(n_rows, kind))  # type: ignore[call-overload]
        elif n_same == len(one_each) and not column.is_nested:
            arrays.append(pa.repeat(_array(table, column, kind, one_each[:1])[0], n_rows))
        elif n_rows == len(parts):
            arrays.append(_array(table, column, kind, one_each))
        else:
            if of_part is None:
                of_part = pa.array([number for number, size in enumerate(sizes) for _ in range(size)], pa.int32())
            arrays.append(_array(table, column, kind, one_each).take(of_part))
    return pa.Table.from_arrays(arrays, schema=schema)


def _by_column(rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    """Dicts as a sequence for each name. Most have the same names in the same order."""
    first = list(rows[0])
    if list(map(list, rows)).count(first) == len(rows):
        return dict(zip(first, zip(*map(dict.values, rows), strict=True), strict=True))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


_SCHEMAS: dict[str, pa.Schema] = {}


def _schema(table: Table) -> pa.Schema:
    """Arrow schema of a table; the registry's are made once."""
    if TABLES.get(table.name) is not table:
        return arrow_schema(table)
    if table.name not in _SCHEMAS:
        _SCHEMAS[table.name] = arrow_schema(table)
    return _SCHEMAS[table.name]


def _array(table: Table, column: Column, kind: pa.DataType, values: Sequence[Any]) -> pa.Array[Any]:
    import pyarrow as pa

    misfit = f"A value of {table.name}.{column.name} is not a {column.duckdb_type}: cast it with ahi.index.values."
    if column.is_list and str in set(map(type, values)):
        # Arrow would take a text for the list of its letters.
        raise IndexWriteError(misfit)
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Arrow's text quotes the value, which may be a patient's.
        raise IndexWriteError(misfit) from None
