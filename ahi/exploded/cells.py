"""Cells of rows. Belongs here: typed values of the columns that are attributes, with their cast failures.

Does not belong here: casts (`ahi.index.values`), which item is which row (the other modules of this package).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.index.values import CastFailure, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timezone

    from ahi.exploded.notes import Row
    from ahi.index.columns import Column, Table

_IDS = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"})


def attributes_of(table: Table) -> tuple[Column, ...]:
    """Columns of a table that are attributes of its items."""
    return tuple(column for column in table.columns if column.tag is not None and column.name not in _IDS)


class Cells:
    """One row in the making."""

    def __init__(self, offset: timezone | None = None) -> None:
        self.row: Row = {}
        self._offset = offset
        self._failures: list[CastFailure] = []

    def take(self, columns: Iterable[Column], item: Mapping[str, Any]) -> None:
        """Add the typed values that an item has for the columns; what is there already stays."""
        for column in columns:
            value = item.get(column.name)
            if value is not None and self.row.get(column.name) is None:
                self.row[column.name] = self.cast(column, value)

    def cast(self, column: Column, value: object) -> object:
        """Typed value of a column; when it does not fit, None and an entry of `cast_failures`."""
        return cast(column, value, self._failures, self._offset)

    def fail(self, keyword: str, vr: str, value: object, reason: str) -> None:
        """Note a value that does not fit for another reason."""
        self._failures.append(CastFailure(keyword, vr, str(value)[:256], reason))

    def done(self) -> Row:
        """The row, with what did not fit."""
        if self._failures:
            self.row["cast_failures"] = [failure.as_row() for failure in self._failures]
        return self.row


def distinct(values: Iterable[str | None]) -> list[str] | None:
    """Distinct texts, sorted; None when there are none."""
    return sorted({value for value in values if value}) or None


def only(values: Iterable[str | None]) -> str | None:
    """The one text among values, or None when there is none or several differ."""
    found = {value for value in values if value}
    return found.pop() if len(found) == 1 else None
