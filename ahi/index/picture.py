"""The tables as a picture: which kinds there are, and which columns join them. Belongs here: the Mermaid diagram.

Does not belong here: the columns themselves and their page (`dictionary`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.index.registry import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ahi.index.dictionary import Page

CORE = ("patients", "studies", "series", "instances", "frames", "headers")

KINDS = {
    "core": "Core: the levels of DICOM",
    "modality": "By modality: one row for each series of the kind",
    "exploded": "From inside the objects: sequences as rows, geometry, originals",
    "operational": "Operational: the pipeline's own account",
}
"""Kinds of tables in the order of the page, with their headings."""

# An edge goes from the table that a key names to each table that has the key and no key of a lower level.
KEYS = (
    ("SOPInstanceUID", "instances"),
    ("SeriesInstanceUID", "series"),
    ("StudyInstanceUID", "studies"),
    ("patient_key", "patients"),
    ("object_id", "objects"),
    ("image_set_id", "image_sets"),
)


def kind_of(name: str) -> str:
    """The kind of a view, by its name and its place in the registry."""
    if name.removesuffix("_all") in CORE:
        return "core"
    if name.startswith("series_") and _is_side_table(name):
        return "modality"
    table = TABLES.get(name)
    return "exploded" if table and table.row_key == "image_set_id" else "operational"


def _is_side_table(name: str) -> bool:
    """Whether a table of series has attributes of DICOM beyond the keys."""
    known = {column.name for column in TABLES["series"].columns}
    return name in TABLES and any(column.tag and column.name not in known for column in TABLES[name].columns)


def by_kind(pages: Sequence[Page]) -> list[tuple[str, list[Page]]]:
    """Headings with their pages; core tables from the patient down, the others by name."""
    order = {name: number for number, name in enumerate(CORE)}
    ordered = sorted(pages, key=lambda page: (order.get(page.name, len(order)), page.name))
    return [(heading, [page for page in ordered if kind_of(page.name) == kind]) for kind, heading in KINDS.items()]


def diagram(pages: Iterable[Page]) -> list[str]:
    """A Mermaid entity-relationship diagram of the views, with the columns that they are joined by."""
    lines, edges = [], []
    columns = {page.name: {one.name: one.duckdb_type for one in page.columns} for page in pages}
    for name, own in columns.items():
        keys = [key for key, _ in KEYS if key in own]
        if not keys:
            continue
        lines += [f"    {name} {{", *(f"        {own[key]} {key}" for key in keys), "    }"]
        parent = next(((key, table) for key, table in KEYS if key in own and table != name), None)
        edges += [f'    {parent[1]} ||--o{{ {name} : "{parent[0]}"'] if parent else []
    return ["```mermaid", "erDiagram", *edges, *lines, "```"]
