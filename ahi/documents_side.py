"""Rows of the modalities' side tables from a metadata document. Belongs here: where values lie, and the series' one.

Does not belong here: which attributes a modality has, and how a series shows each (`ahi.index.keywords_side`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.index.casting import caster
from ahi.index.keywords_side import DISTINCT, RANGE, SAME, SIDES, TABLE_OF_MODALITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ahi.documents_instances import Source
    from ahi.index.casting import Caster, Failures
    from ahi.index.keywords_side import Side
    from ahi.index.values import CastFailure

Row = dict[str, object]
Failed = dict[tuple[str, str], "CastFailure"]
"""What did not fit, once for each attribute and value as sent."""

# Sequences whose items hold attributes of the acquisition: functional groups (PS3.3 C.7.6.16), the radiopharmaceutical
# (C.8.9.2), optical paths (C.8.12.5), the dose and material of a projection (C.8.7.10).
CONTAINERS = frozenset(
    (
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
        *("RadiopharmaceuticalInformationSequence", "OpticalPathSequence"),
    )
)
_MAX_DEPTH = 4
PLANS: dict[str, list[tuple[Side, Caster]]] = {
    table: [(side, caster(side.attribute)) for side in sides] for table, sides in SIDES.items()
}
_WANTED = {
    table: frozenset(name for side in sides for name in (side.attribute.name, side.also) if name)
    for table, sides in SIDES.items()
}


def side_row(source: Source, modality: object) -> tuple[str, Row] | None:
    """Table and row of a series; None when its modality has no table."""
    table = TABLE_OF_MODALITY.get(modality) if isinstance(modality, str) else None
    if table is None:
        return None
    inside = _inside(source, _WANTED[table])
    row, mixed = dict(source.base), list[str]()
    failures = Failed()
    present = source.keys | source.inherited.keys()
    for side, one in PLANS[table]:
        failed = Failed()
        values = _values(source, one, failed) if one.name in present else []
        if not values and one.name in inside:
            values = _found(inside[one.name], one, source, failed)
        if not values and side.also and (side.also in present or side.also in inside):
            values = _found([*_also(source, side.also), *inside.get(side.also, ())], one, source, failed)
        failures |= failed
        # A value that did not fit is another one than those that did, so these are not the series'.
        if side.rule is SAME and len(failed) + bool(values) > 1:
            mixed.append(one.name)
        elif values:
            show(side, values, row, mixed)
    row["mixed_attrs"] = sorted(mixed) or None
    row["cast_failures"] = [failure.as_row() for failure in failures.values()] or None
    return table, row


def _values(source: Source, one: Caster, failed: Failed) -> list[Any]:
    """Typed values of an attribute that the instances, or the levels above, have as their own."""
    own: Failures = {}
    cells = source.typed(one, own)
    if cells is None:
        return []
    for found in own.values():
        failed |= {(failure.keyword, failure.raw): failure for failure in found}
    is_constant, value = cells
    return [each for each in ([value] if is_constant else value) if each is not None]


def _also(source: Source, name: str) -> list[Any]:
    return _flat(source.raw(name) or ())


def _found(values: Sequence[Any], one: Caster, source: Source, failed: Failed) -> list[Any]:
    """Typed values of those found inside sequences."""
    found: list[CastFailure] = []
    offset = source.offsets[0] if source.offsets else None
    typed = [one.one(value, found, offset) for value in values]
    if found:
        failed |= {(failure.keyword, failure.raw): failure for failure in found}
    return [value for value in typed if value is not None]


def show(side: Side, values: list[Any], row: Row, mixed: list[str]) -> None:
    """Set the columns of one attribute."""
    name = side.attribute.name
    if side.rule is RANGE:
        row[f"{name}_min"], row[f"{name}_max"] = min(values), max(values)
    elif side.rule is DISTINCT:
        row[name] = _sorted(values, flat=side.attribute.is_list and side.attribute.vm == "1-n")
    elif values.count(values[0]) == len(values):
        row[name] = values[0]
    else:
        mixed.append(name)


def _sorted(values: Iterable[Any], *, flat: bool) -> list[Any]:
    """Distinct values in order; those of lists, or the lists themselves."""
    if flat:
        values = _flat(values)
    different = {tuple(value) if isinstance(value, list) else value for value in values if value is not None}
    key = (lambda one: [(part is None, part) for part in one]) if different and _is_nested(different) else None
    return [list(value) if isinstance(value, tuple) else value for value in sorted(different, key=key)]


def _is_nested(values: set[Any]) -> bool:
    return isinstance(next(iter(values)), tuple)


def _flat(values: Iterable[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _inside(source: Source, wanted: frozenset[str]) -> dict[str, list[Any]]:
    """Values of the wanted attributes inside the containers of the instances, in order."""
    found: dict[str, list[Any]] = {}
    for name in CONTAINERS:
        if name not in source.keys and name not in source.inherited:
            continue
        for value in source.raw(name) or ():
            _gather(value, wanted, found, 0)
    return found


def _gather(sequence: Any, wanted: frozenset[str], found: dict[str, list[Any]], depth: int) -> None:
    if not isinstance(sequence, list) or depth > _MAX_DEPTH:
        return
    for item in sequence:
        if not isinstance(item, dict):
            continue
        for name, value in item.items():
            if name in wanted:
                found.setdefault(name, []).append(value)
            elif type(value) is list and value and type(value[0]) is dict:
                _gather(value, wanted, found, depth + 1)
