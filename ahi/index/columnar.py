"""Rows by column. Belongs here: rows that are kept as columns from the start, and one Parquet file of many of them.

Does not belong here: what the rows say (`ahi.documents`), the file itself (`writer`). A dict for each row costs more
than everything else that makes a row; most columns of a series have one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, overload

from ahi.clock import now
from ahi.index.registry import TABLES, arrow_schema
from ahi.index.writer import IndexWriteError, write_batch

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

    from ahi.index.columns import Table
    from ahi.index.writer import DataFile

Row = dict[str, object]

_WAITING_ROWS = 20_000


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
        self._ready: dict[str, list[pa.RecordBatch]] = {}
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
        self._convert()
        return [
            write_batch(
                self._root,
                self._tables[table],
                _joined(parts),
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


def to_arrow(table: Table, parts: Sequence[Rows], *, batch_id: str, stamp: dt.datetime) -> pa.RecordBatch:
    """Rows as Arrow has them, under the table's schema."""
    import pyarrow as pa

    form = _form(table)
    varying = set(chain.from_iterable(part.columns for part in parts))
    if unknown := sorted(varying.union(*(part.constants for part in parts)) - form.places.keys()):
        raise IndexWriteError(f"Table {table.name} has no column {', '.join(unknown)}: add it to the registry.")
    constants = [
        {**part.constants, "batch_id": batch_id, "indexed_at": part.constants.get("indexed_at") or stamp}
        for part in parts
    ]
    sizes = [part.n_rows for part in parts]
    found = _same_cells(form, constants[0], sizes[0]) if len(parts) == 1 else _cells(form, constants, sizes)
    for name in varying - {"batch_id"}:
        values = list(chain.from_iterable([part.values(name) for part in parts]))
        found[name] = _array(form, name, [value or stamp for value in values] if name == "indexed_at" else values)
    n_rows = sum(sizes)
    arrays = [found[name] if name in found else form.nulls(place, n_rows) for name, place in form.places.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=form.schema)


class _Form:
    """What Arrow needs to know of a table: its schema, and the place of each column in it."""

    def __init__(self, table: Table) -> None:
        import pyarrow as pa

        self.table = table
        # Without the descriptions, which the files of batches do not have.
        self.schema = pa.schema([field.remove_metadata() for field in arrow_schema(table)])
        self.places = {column.name: place for place, column in enumerate(table.columns)}
        self.lists = [column.name for column in table.columns if column.is_list]
        self._nulls: dict[tuple[int, int], pa.Array[Any]] = {}

    def nulls(self, place: int, n_rows: int) -> pa.Array[Any]:
        """A column without any value. Those of a few rows, as most batches have, are made once."""
        import pyarrow as pa

        found = self._nulls.get((place, n_rows))
        if found is None:
            kind: Any = self.schema.types[place]
            found = pa.nulls(n_rows, kind)
            if n_rows <= _REMEMBERED_ROWS:
                self._nulls[place, n_rows] = found
        return found


# A column of so many rows without values has 1 KB.
_REMEMBERED_ROWS = 100
_FORMS: dict[str, _Form] = {}


def _form(table: Table) -> _Form:
    """Form of a table; the registry's are made once."""
    if TABLES.get(table.name) is not table:
        return _Form(table)
    if table.name not in _FORMS:
        _FORMS[table.name] = _Form(table)
    return _FORMS[table.name]


def _same_cells(form: _Form, row: Row, n_rows: int) -> dict[str, pa.Array[Any]]:
    """Columns of rows that are all alike, by name; without those that have no value.

    As the fields of one struct: one by one, they took three times as long.
    """
    import pyarrow as pa

    row = {name: value for name, value in row.items() if value is not None}
    kind = pa.struct([form.schema.field(form.places[name]) for name in row])
    # A text in the place of a list would be taken for the list of its letters.
    if not any(isinstance(row.get(name), str) for name in form.lists):
        try:
            cells: Any = pa.array([row], kind)
            return dict(zip(row, (pa.repeat(cells[0], n_rows) if n_rows > 1 else cells).flatten(), strict=True))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            pass
    # Says which it is.
    return {name: _array(form, name, [value] * n_rows) for name, value in row.items()}


def _cells(form: _Form, rows: Sequence[Row], sizes: Sequence[int]) -> dict[str, pa.Array[Any]]:
    """Columns of parts that have one value each, by name; without those that have no value."""
    import pyarrow as pa

    found: dict[str, pa.Array[Any]] = {}
    n_rows = sum(sizes)
    of_part = pa.array(list(chain.from_iterable(map(repeat, range(len(rows)), sizes))), pa.int32())
    for name, values in _by_column(rows).items():
        n_same = values.count(values[0])
        if n_same == len(values) and values[0] is None:
            continue
        if n_same == len(values) and not form.table.columns[form.places[name]].is_nested:
            found[name] = pa.repeat(_array(form, name, values[:1])[0], n_rows)
        else:
            cells = _array(form, name, values)
            found[name] = cells if n_rows == len(rows) else cells.take(of_part)
    return found


def _by_column(rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    """Dicts as a sequence for each name. Most have the same names in the same order."""
    first = list(rows[0])
    if list(map(list, rows)).count(first) == len(rows):
        return dict(zip(first, zip(*map(dict.values, rows), strict=True), strict=True))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _array(form: _Form, name: str, values: Sequence[Any]) -> pa.Array[Any]:
    import pyarrow as pa

    column = form.table.columns[form.places[name]]
    misfit = f"A value of {form.table.name}.{name} is not a {column.duckdb_type}: cast it with ahi.index.values."
    if column.is_list and any(issubclass(kind, str) for kind in set(map(type, values))):
        # Arrow would take a text for the list of its letters.
        raise IndexWriteError(misfit)
    try:
        return pa.array(values, type=form.schema.types[form.places[name]])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Arrow's text quotes the value, which may be a patient's.
        raise IndexWriteError(misfit) from None


def _joined(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    import pyarrow as pa

    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)  # type: ignore[attr-defined] # the stubs are older
