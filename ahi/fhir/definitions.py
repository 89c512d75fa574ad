"""The table of R4 elements, as compiled. Belongs here: reading `definitions_r4.json` into plain values.

Does not belong here: making the table (`compile_definitions`), checks (`structure`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE = Path(__file__).with_name("definitions_r4.json")
_RESOURCES = frozenset({"Resource", "DomainResource"})
# What has one of these as base inherits its elements; a type with another base, such as Age, lists them itself.
_BASES = _RESOURCES | {"Element", "BackboneElement"}


@dataclass(frozen=True)
class Element:
    """One element of a type.

    Attributes:
        name: Name; `value[x]` for a choice of types.
        required: Whether at least one must be there.
        repeats: Whether it is a list.
        types: What it may hold: a primitive type, a complex type, a part such as `ImagingStudy.series`, `Resource`,
            or a reference with its targets, such as `Reference(Group|Patient)`.
        value_set: URL of the value set that binds its code, if one is required.
    """

    name: str
    required: bool
    repeats: bool
    types: tuple[str, ...]
    value_set: str | None = None


@dataclass(frozen=True)
class Definitions:
    """FHIR as far as structure goes.

    Attributes:
        primitives: Regex of each primitive type; empty where the definitions have none.
        resources: Names of the types that a resource can have.
        value_sets: Codes by system of each value set that is bound as required and lists its codes.
    """

    primitives: Mapping[str, str]
    resources: frozenset[str]
    value_sets: Mapping[str, Mapping[str, frozenset[str]]]
    _rows: Mapping[str, Any]

    @property
    def names(self) -> frozenset[str]:
        """Names of all types, their parts and elements."""
        types = {part for name in self._rows for part in name.split(".")}
        return frozenset(types | {e[0].removesuffix("[x]") for row in self._rows.values() for e in row["elements"]})

    def elements(self, type_name: str) -> tuple[Element, ...]:
        """Elements of a type or of a part of one, those that it inherits first."""
        row = self._rows[type_name]
        base = row["base"]
        while base and base not in _BASES:
            base = self._rows[base]["base"]
        own = tuple(
            Element(name, least > 0, most != "1", tuple(types), value_set[0] if value_set else None)
            for name, least, most, types, *value_set in row["elements"]
        )
        return (*self.elements(base), *own) if base else own


@cache
def load_definitions() -> Definitions:
    """The table in the package."""
    import orjson

    table = orjson.loads(TABLE.read_bytes())
    types = table["types"]
    return Definitions(
        primitives=table["primitives"],
        resources=frozenset(name for name, row in types.items() if row["base"] in _RESOURCES) - _RESOURCES,
        value_sets={
            url: {system: frozenset(codes) for system, codes in systems.items()}
            for url, systems in table["value_sets"].items()
            if isinstance(systems, dict)
        },
        _rows=types,
    )
