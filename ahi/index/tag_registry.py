"""The view `tag_registry`: which attributes the index keeps, where, and how often a value did not fit.

Belongs here: that view. Does not belong here: the attributes (`keywords_*`), what else is counted (`operational`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.index.sql import quoted, text
from ahi.index.tiers.rules import lowest_tiers
from ahi.index.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.index.columns import Table


KNOWN = "internal.known_tags"
NAMES = ("table_name", "column_name", "tag", "vr", "vm", "tier", "added_in_version")


def known_tags(tables: Mapping[str, Table]) -> list[str]:
    """Statements that make the table of the registry's attributes, on which the view stands.

    Inside the view they were a text of 50 KB, which each publication and each reader had to read.
    """
    rows = (
        f"({', '.join(text(cell) for cell in cells)})"
        for table in tables.values()
        for tiers in [lowest_tiers(table)]
        for column in table.columns
        if column.tag is not None
        for cells in [
            (
                *(table.name, column.name, f"({column.tag >> 16:04X},{column.tag & 0xFFFF:04X})"),
                *(column.vr or "", column.vm or "", tiers[column.name].value, column.since),
            )
        ]
    )
    columns = ", ".join(f"{name} VARCHAR" for name in NAMES)
    return [f"CREATE TABLE {KNOWN} ({columns})", f"INSERT INTO {KNOWN} VALUES {', '.join(rows)}"]


def tag_registry(tables: Mapping[str, Table]) -> View:
    """The view: the registry's own columns, and the failed casts of the tables counted."""
    failed = " UNION ALL ".join(
        f"SELECT {text(table.name)} AS table_name, unnest(cast_failures).keyword AS keyword "
        f"FROM internal.{quoted(table.name + '_rows')}"
        for table in tables.values()
        if any(column.name == "cast_failures" for column in table.columns)
    )
    return View(
        "tag_registry",
        f"SELECT {', '.join(NAMES)}, coalesce(n, 0)::BIGINT AS n_cast_failures FROM {KNOWN} "
        f"LEFT JOIN (SELECT table_name AS in_table, keyword, count(*) AS n FROM ({failed}) GROUP BY ALL) AS failed "
        "ON in_table = table_name AND keyword = regexp_replace(column_name, '_(min|max)$', '')",
        "One row for each DICOM attribute that a table keeps, and how often a value of it did not fit. Current rows.",
        {
            "table_name": "Table that has it.",
            "column_name": "Column: the attribute's keyword, or the keyword with an end such as _min.",
            "tag": "Group and element.",
            "vr": "Value representation, which gives the column's type.",
            "vm": "Value multiplicity; other than 1, the column is a list.",
            "tier": "The lowest tier that shows it, by the rules; reviewed values (AHI_TIER_TERMS) aside.",
            "added_in_version": "Schema version that brought it.",
            "n_cast_failures": "Values of current rows that did not fit, kept as sent in cast_failures.",
        },
    )
