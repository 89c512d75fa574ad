"""What a document says inside its sequences, as rows. Belongs here: which module makes which table.

Does not belong here: columns and their types (`ahi.index.tables_*`), ids and stamps (`ahi.documents`).
No function of this package raises because of what a document holds: what cannot be taken is a row of
`skipped_content`, or a `cast_failures` entry when only a value did not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.exploded import radiotherapy
from ahi.exploded.content import content_rows, tree
from ahi.exploded.dose import dose_rows
from ahi.exploded.frames import frame_rows
from ahi.exploded.measurements import measurement_rows
from ahi.exploded.notes import Notes, Row, alike
from ahi.exploded.private import plain_keys, private_of_series
from ahi.exploded.segments import segment_rows
from ahi.exploded.walk import may_hold_items, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import timezone

    Attributes = Mapping[str, Any]
    Maker = Callable[[Any, Notes, timezone | None], dict[str, list[Row]]]

Tables = dict[str, list[Row]]
_STRUCTURES = ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence")
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")

_OBJECTS = frozenset(("SegmentSequence", "ContentSequence", *_GROUPS, *_STRUCTURES))
_RT = radiotherapy.PLANS | {radiotherapy.DOSE}


def explode(uid: str, attributes: Attributes, vrs: Attributes) -> Tables:
    """Rows by table of one instance; own columns and SOPInstanceUID only.

    Args:
        uid: SOP Instance UID.
        attributes: The instance's own attributes.
        vrs: VRs of its private elements.
    """
    return explode_series([uid], [attributes], [vrs], attributes)


def explode_level(level: str, attributes: Attributes) -> Tables:
    """Rows by table of what a series, study or patient says for all of its instances; own columns only."""
    tables: Tables = {}
    for keyword in may_hold_items(attributes):
        found, notes = walk(keyword, attributes[keyword])
        _add(tables, found, {"level": level})
        _add(tables, {"skipped_content": notes.rows()}, {"level": level})
    return tables


def add_levels(tables: Tables, levels: Sequence[Attributes]) -> None:
    """Add the rows of patient, study and series to those of their instances."""
    for name, attributes in zip(("patient", "study", "series"), levels, strict=True):
        _add(tables, explode_level(name, attributes), {})


def explode_series(
    uids: Sequence[str],
    attributes: Sequence[Attributes],
    vrs: Sequence[Attributes],
    keys: Iterable[str],
    offsets: Sequence[timezone | None] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Tables:
    """Rows by table of the instances of a series; own columns and SOPInstanceUID only.

    What all of several instances say alike of codes and private elements is one row of level series.

    Args:
        uids: SOP Instance UID of each instance.
        attributes: Own attributes of each. Those that they inherit belong to `add_levels`.
        vrs: VRs of the private elements of each.
        keys: Attributes that at least one instance has.
        offsets: Offset from UTC of each, for moments that have none of their own.
        columns: Values of attributes, as far as they are known by column.
    """
    columns = columns or {}
    tables: Tables = {}
    heads: list[Row] = [{"level": "instance", "SOPInstanceUID": uid} for uid in uids]
    all_of_them: Row = {"level": "series", "n_instances": len(uids)}
    plain: frozenset[str] = frozenset()
    if any(vrs):
        plain = plain_keys(vrs)
        for number, row in private_of_series(attributes, vrs, columns):
            head = all_of_them if number is None else {**heads[number], "n_instances": 1}
            tables.setdefault("private_elements", []).append(row | head)
    # A set has another order in each process.
    for keyword in sorted(may_hold_items([key for key in keys if key not in plain] if plain else keys)):
        values = columns.get(keyword) or [one.get(keyword) for one in attributes]
        _sequence(tables, keyword, values, heads, all_of_them)
    _objects(tables, uids, attributes, keys, offsets or [None] * len(uids))
    return tables


def _sequence(tables: Tables, keyword: str, values: Sequence[Any], heads: Sequence[Row], all_of_them: Row) -> None:
    """Add the rows of one attribute of all instances of a series."""
    if len(values) > 1 and alike(values):
        found, notes = walk(keyword, values[0])
        references = found.pop("object_references", [])
        for head in heads if references else ():
            _add(tables, {"object_references": references}, head)
        _add(tables, found, all_of_them)
        _add(tables, {"skipped_content": notes.rows()}, {"level": "series"})
        return
    for value, head in zip(values, heads, strict=True):
        if value:
            found, notes = walk(keyword, value)
            references = found.pop("object_references", [])
            _add(tables, {"object_references": references, "skipped_content": notes.rows()}, head)
            _add(tables, found, {**head, "n_instances": 1})


def _add(tables: Tables, found: Mapping[str, list[Row]], head: Row) -> None:
    for table, rows in found.items():
        if rows:
            tables.setdefault(table, []).extend([row | head for row in rows])


def _report(attributes: Any, notes: Notes, _: object) -> Tables:
    root = tree(attributes, notes)
    return {
        "sr_content": content_rows(root, notes),
        "measurements": measurement_rows(root, notes),
        "dose_events": dose_rows(root, notes),
    }


def _makers(attributes: Attributes) -> Iterable[tuple[str, Maker]]:
    """What kinds of object an instance is, and what makes their rows."""
    if "SegmentSequence" in attributes:
        yield "SegmentSequence", lambda one, notes, _: {"segments": segment_rows(one, notes)}
    if any(name in attributes for name in _GROUPS):
        yield _GROUPS[0], lambda one, notes, offset: {"frames_functional": frame_rows(one, notes, offset)}
    if "ContentSequence" in attributes:
        yield "ContentSequence", _report
    if any(name in attributes for name in _STRUCTURES):
        yield _STRUCTURES[0], lambda one, notes, _: {"rt_rois": radiotherapy.roi_rows(one, notes)}
    sop_class = str(attributes.get("SOPClassUID"))
    if sop_class == radiotherapy.DOSE:
        yield "", lambda one, notes, _: {"rt_doses": radiotherapy.dose_rows(one, notes)}
    elif sop_class in radiotherapy.PLANS:
        yield "", lambda one, notes, _: {"rt_plans": radiotherapy.plan_rows(one, notes)}


def _objects(
    tables: Tables,
    uids: Sequence[str],
    attributes: Sequence[Attributes],
    keys: Iterable[str],
    offsets: Sequence[timezone | None],
) -> None:
    """Add the rows of tables of one kind of object."""
    if _OBJECTS.isdisjoint(keys) and _RT.isdisjoint([str(one.get("SOPClassUID")) for one in attributes]):
        return
    for uid, one, offset in zip(uids, attributes, offsets, strict=True):
        for place, make in _makers(one):
            notes = Notes()
            found: Tables = {}
            try:
                found = make(one, notes, offset)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
                # No form of a document is known that ends here; if one comes, its other tables must not suffer.
                notes.skip(place, f"not understood: {type(error).__name__}")
            _add(tables, found, {"SOPInstanceUID": uid})
            _add(tables, {"skipped_content": notes.rows()}, {"level": "instance", "SOPInstanceUID": uid})
