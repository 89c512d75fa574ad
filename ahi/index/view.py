"""What a view of the published index is. Belongs here: its parts, and SQL that several views share.

Does not belong here: any one view (`views`, `operational`, `conflicts`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ahi.index.sql import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

# Nothing tells whose a study without PatientID is: each is of a patient of its own.
STUDY_OF_UNKNOWN = "CASE WHEN patient_key IS NULL THEN StudyInstanceUID END"


@dataclass(frozen=True)
class View:
    """One view: its SELECT, what it shows and leaves out, and what its columns are."""

    name: str
    sql: str
    comment: str
    columns: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    """DuckDB types of columns that come from no column of the registry."""
    of: str = ""
    """View that has the same columns and comments on them, if there is one: here only the others are commented on."""


def names(columns: Mapping[str, str] | list[str]) -> str:
    """A list of columns for SELECT."""
    return ", ".join(quoted(name) for name in columns)
