"""The content tree of structured reports. Belongs here: reading it (PS3.3 C.17.3), and rows of `sr_content`.

Does not belong here: what templates mean (`measurements`, `dose`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ahi.exploded.cells import Cells
from ahi.exploded.notes import MAX_DEPTH, MAX_ROWS, TOO_DEEP, TOO_MANY_ROWS, code_of, text
from ahi.index.columns import Column, Tier
from ahi.index.tables_reports import SR_CONTENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ahi.exploded.notes import Item, Notes, Row

Code = tuple[str | None, str | None, str | None]
NO_CODE: Code = (None, None, None)

_COLUMNS = {column.name: column for column in SR_CONTENT.columns}
_OWN = tuple(_COLUMNS[name] for name in ("RelationshipType", "ValueType"))
_REFERENCE = tuple(
    _COLUMNS[name]
    for name in (
        "ReferencedSOPClassUID",
        "ReferencedSOPInstanceUID",
        "ReferencedFrameNumber",
        "ReferencedSegmentNumber",
    )
)
_NUMBER = Column("NumericValue", "DOUBLE", "", Tier.DEIDENTIFIED, 0x0040A30A, "DS", "1")
_FLOATING = replace(_NUMBER, name="FloatingPointValue", tag=0x0040A161, vr="FD")
_TIMES = {"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}
_TEXTS = {"TEXT": "TextValue", "PNAME": "PersonName"}
# Coordinates of a point (PS3.3 C.18.6 and C.18.9).
_DIMENSIONS = {"SCOORD": 2, "SCOORD3D": 3}


@dataclass(slots=True)
class Node:
    """One content item: its place, its name, and what is below it."""

    path: str
    parent: str | None
    depth: int
    item: Item
    kind: str | None
    concept: Code
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """The node and all below it, in document order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def having(self, codes: frozenset[str]) -> Iterator[Node]:
        """Children of that name."""
        return (child for child in self.children if child.concept[0] in codes)

    def below(self, codes: frozenset[str]) -> Iterator[Node]:
        """All nodes of that name below this one."""
        return (node for child in self.children for node in child.walk() if node.concept[0] in codes)

    def coded(self, notes: Notes) -> Code:
        """Value of a CODE item."""
        return code_of(notes.first(self.item, "ConceptCodeSequence"))


def tree(attributes: Item, notes: Notes) -> Node:
    """The content tree of a report."""
    counted = [0]

    def node(item: Item, path: str, parent: str | None, depth: int) -> Node:
        concept = code_of(notes.first(item, "ConceptNameCodeSequence"))
        made = Node(path, parent, depth, item, text(item, "ValueType"), concept)
        if "ContentSequence" not in item:
            return made
        children = notes.items(item, "ContentSequence")
        if children and depth >= MAX_DEPTH:
            notes.skip("ContentSequence", TOO_DEEP, len(children))
            return made
        for number, child in enumerate(children, 1):
            counted[0] += 1
            if counted[0] >= MAX_ROWS:
                notes.skip("ContentSequence", TOO_MANY_ROWS, len(children) - number + 1)
                break
            made.children.append(node(child, f"{path}.{number}", path, depth + 1))
        return made

    return node(attributes, "1", None, 0)


def content_rows(root: Node, notes: Notes) -> list[Row]:
    """Rows of `sr_content`."""
    return [_row(node, notes) for node in root.walk()]


def coded(prefix: str, code: Code) -> Row:
    """Three columns of a code."""
    return {f"{prefix}_code": code[0], f"{prefix}_scheme": code[1], f"{prefix}_meaning": code[2]}


def measured(cells: Cells, node: Node, notes: Notes) -> float | None:
    """Value of a NUM item; its unit and qualifier go into the row."""
    value = notes.first(node.item, "MeasuredValueSequence")
    cells.row |= coded("unit", code_of(notes.first(value, "MeasurementUnitsCodeSequence")))
    cells.row |= coded("qualifier", code_of(notes.first(node.item, "NumericValueQualifierCodeSequence")))
    number = cells.cast(_NUMBER, value.get("NumericValue"))
    if number is None:
        number = cells.cast(_FLOATING, value.get("FloatingPointValue"))
    return number if isinstance(number, float) else None


def number_of(node: Node, notes: Notes) -> tuple[float | None, str | None, Row]:
    """Value and unit of a NUM item, and a row that holds its cast failures if it has any."""
    cells = Cells()
    number = measured(cells, node, notes)
    unit = cells.row["unit_code"]
    return number, unit if isinstance(unit, str) else None, cells.done()


def value_text(node: Node) -> str | None:
    """Text of a TEXT, PNAME or UIDREF item, or of one that is a moment."""
    for keyword in ("TextValue", "PersonName", "UID", "DateTime", "Date", "Time"):
        if keyword in node.item:
            return text(node.item, keyword)
    return None


def first_code(nodes: Iterable[Node], notes: Notes) -> Code:
    """Value of the first of some CODE items."""
    return next((node.coded(notes) for node in nodes), NO_CODE)


def first_text(nodes: Iterable[Node]) -> str | None:
    """Text of the first of some items."""
    return next((value_text(node) for node in nodes), None)


def _row(node: Node, notes: Notes) -> Row:
    item, kind = node.item, node.kind or ""
    cells = Cells()
    cells.take(_OWN, item)
    cells.row |= {"item_path": node.path, "parent_path": node.parent, "depth": node.depth}
    cells.row |= coded("concept", node.concept)
    if kind == "NUM":
        cells.row["numeric_value"] = measured(cells, node, notes)
    elif kind == "CODE":
        cells.row |= coded("value", node.coded(notes))
    elif kind in _TEXTS:
        cells.row["text_value"] = text(item, _TEXTS[kind])
    elif kind in _TIMES:
        cells.row["datetime_value"] = text(item, _TIMES[kind])
    elif kind == "UIDREF":
        cells.row["uid_value"] = text(item, "UID")
    elif kind == "CONTAINER":
        cells.row["TemplateIdentifier"] = text(notes.first(item, "ContentTemplateSequence"), "TemplateIdentifier")
    elif kind in _DIMENSIONS:
        cells.row["graphic_type"] = text(item, "GraphicType")
        cells.row["n_graphic_points"] = _length(item.get("GraphicData")) // _DIMENSIONS[kind]
    if "ReferencedSOPSequence" in item:
        cells.take(_REFERENCE, notes.first(item, "ReferencedSOPSequence"))
    if "ReferencedContentItemIdentifier" in item:
        cells.row["referenced_item_path"] = _path(item["ReferencedContentItemIdentifier"])
    return cells.done()


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _path(value: Any) -> str | None:
    """Where an item by reference stands: numbers of items from the root, which is 1 (PS3.3 C.17.3.2.5)."""
    numbers = value if isinstance(value, list) else [value]
    return ".".join(str(number) for number in numbers if isinstance(number, int | str)) or None
