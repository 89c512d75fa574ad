"""What could not be taken from a document. Belongs here: counting it, and reading items without ever raising.

Does not belong here: which items there are to read (the other modules of this package).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Row = dict[str, object]
Item = dict[str, Any]

# Beyond these an object is hostile or broken; what is left out is said in `skipped_content`.
MAX_DEPTH = 48
MAX_ITEMS = 500_000
MAX_ROWS = 100_000

NOT_ITEMS = "not a list of items"
NOT_AN_ITEM = "not an item"
TOO_DEEP = f"deeper than {MAX_DEPTH} sequences"
TOO_MANY = f"more than {MAX_ITEMS} items"
TOO_MANY_ROWS = f"more than {MAX_ROWS} rows"


class Notes:
    """Places of one object that were skipped, and why."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, str]] = Counter()

    def skip(self, path: str, reason: str, times: int = 1) -> None:
        """Note that something at a path of keywords was left out."""
        self._seen[path, reason] += times

    def rows(self) -> list[Row]:
        """Rows of `skipped_content`."""
        return [
            {"sequence_path": path or None, "reason": reason, "n_skipped": times}
            for (path, reason), times in self._seen.items()
        ]

    def items(self, parent: Mapping[str, Any], keyword: str) -> list[Item]:
        """Items of a sequence; none when it is missing, empty or something else."""
        value = parent.get(keyword)
        if not value:
            return []
        if not isinstance(value, list):
            self.skip(keyword, NOT_ITEMS)
            return []
        items = [item for item in value if isinstance(item, dict)]
        if len(items) < len(value):
            self.skip(keyword, NOT_AN_ITEM, len(value) - len(items))
        return items

    def first(self, parent: Mapping[str, Any], keyword: str) -> Item:
        """First item of a sequence, or an empty one."""
        items = self.items(parent, keyword)
        return items[0] if items else {}


def alike(values: Sequence[object]) -> bool:
    """Whether all values are equal. Those that are nested too deeply to be compared are not."""
    try:
        return values.count(values[0]) == len(values)
    except RecursionError:
        return False


def text(item: Mapping[str, Any], keyword: str) -> str | None:
    """A value as text without padding; None when it is empty or no text."""
    value = item.get(keyword)
    if isinstance(value, str):
        return value.strip(" \0") or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return "\\".join(str(one).strip(" \0") for one in value if isinstance(one, str | int | float)) or None
    return None


_CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")


def code_of(item: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Code, scheme and meaning of an item (PS3.3 table 8.8-1)."""
    code = next((found for name in _CODE_VALUES if name in item and (found := text(item, name))), None)
    return code, text(item, "CodingSchemeDesignator"), text(item, "CodeMeaning")
