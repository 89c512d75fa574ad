"""Rows of many documents of one instance each, by column. Belongs here: radiographs, captures, stills and the like.

Does not belong here: documents of any other form, and what the rows say (`ahi.documents` and its levels). A document
gives the same rows here as it gives alone; together they take a third of the time, as most of what one image needs is
the same for the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from ahi.documents_form import all_as_json, transposed
from ahi.documents_instances import (
    OFFSET,
    Source,
    add_references,
    failed,
    instance_tables,
    same,
    vrs_of,
)
from ahi.documents_series import (
    AGREED,
    CASTERS,
    DERIVED_FROM,
    EMPTY,
    FROM_INSTANCES,
    LEVELS_JSON,
    counted,
    derived,
    pair,
)
from ahi.documents_side import CONTAINERS, PLANS, show
from ahi.exploded import add_levels, explode_series
from ahi.exploded.volume import NEEDED, geometry_of
from ahi.index.columnar import Rows
from ahi.index.keywords_side import SIDES, TABLE_OF_MODALITY
from ahi.index.values import parse_offset

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence

    from ahi.documents_series import PatientKey
    from ahi.index.casting import Failures
    from ahi.index.keywords_side import Side

Row = dict[str, object]
Columns = dict[str, "Sequence[Any]"]
Shape = tuple["str | None", tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Modality, and the keywords of patient, study, series and instance: documents of one shape go together."""

# With these, values of the acquisition are looked for elsewhere than at the levels themselves.
_UNUSUAL = CONTAINERS | {side.also for sides in SIDES.values() for side in sides if side.also}


@dataclass(frozen=True, slots=True)
class Single:
    """A document of one series with one instance, taken apart: its levels are objects, its ids are texts."""

    document: Mapping[str, Any]
    shape: Shape
    levels: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
    datastore_id: str
    image_set_id: str
    study_uid: str
    series_uid: str
    uid: str
    entry: dict[str, Any]
    attributes: dict[str, Any]


def single_of(document: Mapping[str, Any]) -> Single | None:
    """A document as one of many alike; None for one of another form, which goes its own way."""
    try:
        study = document["Study"]
        ((series_uid, series),) = study["Series"].items()
        ((uid, entry),) = series["Instances"].items()
        levels = document["Patient"]["DICOM"], study["DICOM"], series["DICOM"]
        attributes = entry["DICOM"]
        ids = document["DatastoreID"], document["ImageSetID"], study["DICOM"]["StudyInstanceUID"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if set(map(type, (*levels, entry, attributes))) != {dict} or set(map(type, ids)) != {str} or not all(ids):
        return None
    modality = levels[2].get("Modality")
    if not (modality is None or isinstance(modality, str)):
        return None
    shape = modality, tuple(levels[0]), tuple(levels[1]), tuple(levels[2]), tuple(attributes)
    return Single(document, shape, levels, *ids, series_uid, uid, entry, attributes) if _is_usual(shape) else None


@lru_cache(1024)
def _is_usual(shape: Shape) -> bool:
    return _UNUSUAL.isdisjoint(chain.from_iterable(shape[1:])) and "Modality" not in (*shape[1], *shape[2], *shape[4])


def rows_together(singles: Sequence[Single], bases: Sequence[Row], patient_key: PatientKey) -> list[dict[str, Rows]]:
    """Rows by table of documents of one shape: those of all, then what each holds in sequences and private elements.

    Args:
        singles: The documents.
        bases: Columns that every row of each gets; all have the same names in the same order.
        patient_key: See `ahi.documents.patient_key_function`.

    Raises:
        DocumentError: One of them has a form that no document has.
    """
    levels = [transposed([one.levels[n] for one in singles])[1] for n in range(3)]
    above = levels[0] | levels[1] | levels[2]
    base = Rows(len(singles))
    for name, values in transposed(bases)[1].items():
        base.put(name, same(values))
    source, own = _source(singles, base.constants, above)
    tables = instance_tables(source)
    instances, frames = tables["instances"], tables.pop("frames")
    tables["series"] = _series_rows(above, own, instances, base.constants, patient_key)
    texts = {name: all_as_json([one.levels[n] for one in singles]) for n, name in enumerate(LEVELS_JSON)}
    tables["series_metadata"] = Rows(len(singles), dict(base.constants), texts)
    if side := _side_rows(tables["series"].values("Modality")[0], source):
        tables[side[0]] = side[1]
    for part in tables.values():
        part.columns |= base.columns
    n_frames = instances.columns["n_frames"]
    frames.columns |= {name: _repeated(values, n_frames) for name, values in base.columns.items()}
    tables["frames"] = frames
    exploded = _exploded(singles, source, bases, instances)
    if shapes := _geometries(instances, above.get("FrameOfReferenceUID"), bases):
        tables["series_geometry"] = Rows.of(shapes, {})
    return [{table: part.settled() for table, part in tables.items() if part.n_rows}, *exploded]


def _repeated(values: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    return list(chain.from_iterable(map(repeat, values, sizes)))


def _source(singles: Sequence[Single], base: Row, above: Columns) -> tuple[Source, Columns]:
    """The instances, as if they were those of one series whose levels say nothing; their own attributes by column."""
    attributes, entries = [one.attributes for one in singles], [one.entry for one in singles]
    own, told = dict(transposed(attributes)[1]), transposed(entries)[1]
    values = above | own
    offsets: list[dt.timezone | None] = list(map(parse_offset, values.get(OFFSET, repeat(None, len(singles)))))
    uids = [one.uid for one in singles]
    vrs = vrs_of(told, entries)
    return Source(base, {}, uids, entries, attributes, frozenset(values), offsets, values, told, vrs), own


def _series_rows(above: Columns, own: Columns, instances: Rows, base: Row, patient_key: PatientKey) -> Rows:
    """Rows of `series`: as `ahi.documents_series.series_row` makes each."""
    n_rows = instances.n_rows
    rows = Rows(n_rows, EMPTY | base)
    failures: Failures = {}
    offsets = list(map(parse_offset, above.get(OFFSET, repeat(None, n_rows))))
    for one in CASTERS:
        values, mine = above.get(one.name), own.get(one.name)
        if values is None:
            values = mine
        elif mine is not None and None in values:
            values = [other if value is None else value for value, other in zip(values, mine, strict=True)]
        if values is not None:
            rows.put(one.name, one.all(values, failures, offsets))
    for name in AGREED:
        rows.put(name, _cells(instances, name))
    rows.columns |= _by_name(
        derived(dict(zip(DERIVED_FROM, values, strict=True)), patient_key)
        for values in zip(*map(rows.values, DERIVED_FROM), strict=True)
    )
    rows.columns |= _by_name(_counted(instances))
    spacings = zip(instances.values("PixelSpacing"), instances.values("ImagerPixelSpacing"), strict=True)
    pairs = [pair(imager if spacing is None else spacing) for spacing, imager in spacings]
    rows.columns["pixel_spacing_row_mm"], rows.columns["pixel_spacing_col_mm"] = map(list, zip(*pairs, strict=True))
    rows.put("source_aet", _cells(instances, "SourceApplicationEntityTitle"))
    by_name = {number: sorted(found, key=lambda one: one.keyword) for number, found in failures.items()}
    rows.put("cast_failures", failed(by_name, n_rows))
    return rows


def _cells(rows: Rows, name: str) -> tuple[bool, Any]:
    """A column as `Rows.put` takes it."""
    return (False, rows.columns[name]) if name in rows.columns else (True, rows.constants.get(name))


def _by_name(rows: Iterable[Row]) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in transposed(list(rows))[1].items()}


def _counted(instances: Rows) -> Iterable[Row]:
    """What each series counts of its one instance; most say the same."""
    known: dict[tuple[object, ...], Row] = {}
    for cells in zip(*map(instances.values, FROM_INSTANCES), instances.columns["n_frames"], strict=True):
        values = dict(zip(FROM_INSTANCES, cells, strict=False))
        kind, number = values["ImageType"], values["InstanceNumber"]
        key = (*cells[2:-1], number is None, kind and tuple(kind))
        row = known.get(key)
        if row is None:
            row = known[key] = counted(Rows(1, values, {"n_frames": [0]}))
        yield row | {"n_frames": cells[-1]}


def _side_rows(modality: object, source: Source) -> tuple[str, Rows] | None:
    """Table and rows of series of a modality, as `ahi.documents_side.side_row` makes each; None if it has no table."""
    table = TABLE_OF_MODALITY.get(modality) if isinstance(modality, str) else None
    if table is None:
        return None
    rows = Rows(len(source.uids), dict(source.base))
    failures: Failures = {}
    for side, one in PLANS[table]:
        cells = source.typed(one, failures) if one.name in source.keys else None
        if cells is None:
            continue
        is_constant, found = cells
        shown = [_shown(side, value) for value in ([found] if is_constant else found)]
        for name in dict.fromkeys(chain.from_iterable(shown)):
            values = [row.get(name) for row in shown]
            rows.put(name, (True, values[0]) if is_constant else (False, values))
    rows.put("cast_failures", failed(failures, rows.n_rows))
    return table, rows


def _shown(side: Side, value: object) -> Row:
    """Columns of one attribute of a series with one instance."""
    row: Row = {}
    if value is not None:
        show(side, [value], row, [])
    return row


def _exploded(
    singles: Sequence[Single], source: Source, bases: Sequence[Row], instances: Rows
) -> list[dict[str, Rows]]:
    """Rows by table of what each document holds inside; adds what each instance refers to."""
    tables: list[dict[str, Rows]] = []
    references: list[Row] = []
    vrs: Sequence[Mapping[str, Any]] = source.vrs or [{}] * len(singles)
    for single, own_vrs, offset, base in zip(singles, vrs, source.offsets, bases, strict=True):
        found = explode_series([single.uid], [single.attributes], [own_vrs], single.attributes, [offset])
        add_levels(found, single.levels)
        alone = Rows(1, {}, {"SOPInstanceUID": [single.uid]})
        add_references(alone, found.get("object_references", ()))
        references.append({name: cells[0] for name, cells in alone.columns.items() if name != "SOPInstanceUID"})
        if found:
            # Its own part, as it can have hundreds of rows that share their base.
            tables.append({table: Rows.of(rows, base) for table, rows in found.items() if rows})
    for name in dict.fromkeys(chain.from_iterable(references)):
        instances.columns[name] = [row.get(name) for row in references]
    return tables


def _geometries(instances: Rows, frames_of_reference: Sequence[Any] | None, bases: Sequence[Row]) -> list[Row]:
    """Rows of `series_geometry` of series of one slice; those without pixels have none."""
    above = frames_of_reference or [None] * instances.n_rows
    cells = zip(*map(instances.values, NEEDED), strict=True)
    slices = [dict(zip(NEEDED, ((cell,) for cell in each), strict=True)) for each in cells]
    return [
        {**base, **geometry_of(one, reference)}
        for one, reference, base in zip(slices, above, bases, strict=True)
        if one["Rows"] != (None,)
    ]
