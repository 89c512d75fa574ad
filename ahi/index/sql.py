"""Names, texts and paths in SQL for DuckDB. Belongs here: quoting. Does not belong here: any statement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_WILDCARDS = str.maketrans({"[": "[[]", "*": "[*]", "?": "[?]"})


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def literal_path(path: Path) -> str:
    """A path for `read_parquet`, with the characters that DuckDB takes for wildcards made literal."""
    return str(path).translate(_WILDCARDS)


def distinct_list(value: str) -> str:
    """SQL of the values of a group, each once, sorted and without null; null where there is none."""
    return f"list_sort(list(DISTINCT {value}) FILTER ({value} IS NOT NULL))"
