"""Conflicts: what is said differently about one patient, study or series, with all sides.

Belongs here: that view. Does not belong here: deciding which side is right. HealthImaging makes the later image set
not primary, whichever is right; and into an image set it takes instances whose own attributes say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.index.differences import COMPARED
from ahi.index.keywords_side import SIDES
from ahi.index.sql import quoted, text
from ahi.index.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ahi.index.columns import Table

# Entity, the column that names it, and the levels whose attributes must agree within it.
ENTITIES = (
    ("patient", "patient_key", ("Patient",)),
    ("study", "StudyInstanceUID", ("Patient", "Study")),
    ("series", "SeriesInstanceUID", ("Series",)),
)
# Entity, the column that names it, and the list of `internal.compared` with what headers say of it.
HEADER_ENTITIES = (("study", "StudyInstanceUID", "of_study"), ("series", "SeriesInstanceUID", "of_series"))
# Not in the series under a name of their own, but among what it calls mixed.
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing")
# What a series takes from the frames of enhanced objects where its instances do not say it.
OF_FRAMES = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
# Every branch gives these columns: one row for each side.
SIDE = ("value", "is_primary", "image_set_ids", "source", "sop_instance_uids", "object_ids")
PADDING = "' ' || chr(0)"
UNION = " UNION ALL "
# What primary image sets show and no other does, or the reverse. HealthImaging puts aside what lacks a value, too, or
# what has an instance a second time, and a study may have none left but those.
_SHOWN_BY = "bool_{0}(is_primary) FILTER (source = 'document')"
_APART = (
    f"{_SHOWN_BY.format('or')} <> {_SHOWN_BY.format('and')} "
    "OR (entity = 'study' AND attribute = 'is_primary' AND NOT bool_or(is_primary))"
)
# Headers that say something else than their document: both entities ask them, and comparing is most of the work.
BESIDE = (
    "SELECT datastore_id, StudyInstanceUID, SeriesInstanceUID, image_set_id, is_primary, SOPInstanceUID, object_id, "
    f"of_study, of_series FROM {COMPARED} WHERE len(of_study) + len(of_series) > 0"
)


def conflicts(tables: Mapping[str, Table]) -> View:
    """The view `conflicts`: a row for each attribute that has two values or more where one was expected."""
    is_told = {"headers", "instances"} <= tables.keys()
    sides = [_of_image_sets(tables["series"], *entity, is_told=is_told) for entity in ENTITIES]
    named = ""
    if is_told:
        told = UNION.join([*(_of_headers(*entity) for entity in HEADER_ENTITIES), _of_instances(tables)])
        named = f"WITH beside AS MATERIALIZED ({BESIDE}), told AS MATERIALIZED ({told}) "
        sides.append("FROM told")
    packed = ", ".join(f"{text(name)}: {name}" for name in SIDE)
    return View(
        "conflicts",
        f"{named}SELECT datastore_id, entity, entity_id, attribute, list({{{packed}}} ORDER BY value, source) AS sides "
        f"FROM ({UNION.join(sides)}) GROUP BY ALL HAVING min(value) <> max(value) OR {_APART}",
        "One row for each attribute of a patient, study or series on which its current image sets, primary or not, the "
        "headers of its objects, or the instances or frames of one image set differ. A null counts as a difference "
        "only of primary image sets from those that are not. Each of the latter is in the row is_primary of its study, "
        "and of its series if that has both, whether or not anything else differs. What headers alone say differently "
        "of a patient stands under the study.",
        {
            "datastore_id": "HealthImaging data store.",
            "entity": "patient, study or series.",
            "entity_id": "Its patient_key, StudyInstanceUID or SeriesInstanceUID.",
            "attribute": "Keyword of the attribute; patient_key of a study whose series have several; is_primary of a "
            "study or series with image sets that HealthImaging put aside.",
            "sides": "Each value as text (null: image sets without it, beside some that were put aside), whether a "
            "primary image set is behind it, those image sets, and its source. document: they show it. header: objects "
            "uploaded into them say it, the document does not. instance, frame: some of their instances, or frames of "
            "enhanced ones, have it, the series or its side table shows null (mixed_attrs); of these the smallest and "
            "the largest value. Of all but document the instances, of headers the objects too.",
        },
    )


def _of_image_sets(series: Table, entity: str, key: str, levels: tuple[str, ...], *, is_told: bool) -> str:
    """What image sets show, each value once, of what may be in conflict: few patients, studies and series.

    Those are found by one number for each image set. Every value of every image set as a row of its own took 190 s and
    14 GB at 1 M series, and that takes 2 s. Two image sets of one patient, study or series that differ have the same
    number once in 10^19 times. A null makes a difference here; `conflicts` sees then that it is none.
    """
    own = [
        column.name
        for column in series.columns
        if column.level in levels and column.tag is not None and column.name not in {key, "StudyInstanceUID"}
    ]
    # An issuer that only some series name gives a study two keys, and no attribute differs.
    own += ["patient_key"] if entity == "study" else []
    # Another series of a patient may lack what this one has; a study or series is put together by these.
    is_joined = entity != "patient"
    own += ["is_primary"] if is_joined else []
    shown = ", ".join(f"{quoted(name)}::VARCHAR AS {quoted(name)}" for name in own)
    number = f"hash({', '.join(map(quoted, own))})"
    suspected = (
        f"SELECT datastore_id, {key} AS entity_id FROM internal.series_rows WHERE {key} IS NOT NULL GROUP BY ALL "
        f"HAVING min({number}) <> max({number})"
    )
    suspected += " OR NOT bool_or(is_primary)" if entity == "study" else ""
    if is_told:
        suspected += f" UNION SELECT datastore_id, entity_id FROM told WHERE entity = {text(entity)}"
    aside = f"{key} IN (SELECT {key} FROM internal.series_rows WHERE NOT is_primary)" if is_joined else "false"
    known = (
        f"SELECT r.datastore_id, entity_id, image_set_id, r.is_primary AS counts, {aside} AS has_aside, {shown} "
        f"FROM internal.series_rows r JOIN ({suspected}) s ON r.datastore_id = s.datastore_id AND r.{key} = s.entity_id"
    )
    return (
        f"SELECT datastore_id, {text(entity)} AS entity, entity_id, attribute, value, "
        "bool_or(counts) AS is_primary, list(image_set_id ORDER BY image_set_id) AS image_set_ids, "
        "'document' AS source, NULL::VARCHAR[] AS sop_instance_uids, NULL::VARCHAR[] AS object_ids "
        f"FROM ({known}) UNPIVOT INCLUDE NULLS (value FOR attribute IN ({', '.join(map(quoted, own))})) "
        "WHERE value IS NOT NULL OR has_aside GROUP BY ALL"
    )


def _of_headers(entity: str, key: str, differing: str) -> str:
    """What headers say and their document does not; every header of an attribute that the document leaves null."""
    return (
        f"SELECT datastore_id, {text(entity)} AS entity, {key} AS entity_id, attribute, "
        f"nullif(trim(header_value, {PADDING}), '') AS value, bool_or(is_primary) AS is_primary, "
        "list_sort(list(DISTINCT image_set_id)) AS image_set_ids, 'header' AS source, "
        "list_sort(list(DISTINCT SOPInstanceUID)) AS sop_instance_uids, list_sort(list(object_id)) AS object_ids "
        f"FROM (SELECT datastore_id, {key}, image_set_id, is_primary, SOPInstanceUID, object_id, "
        f"unnest({differing}, recursive := true) FROM beside) "
        f"WHERE nullif(trim(header_value, {PADDING}), '') IS NOT NULL GROUP BY ALL"
    )


def _of_instances(tables: Mapping[str, Table]) -> str:
    """Values of instances and frames behind what their series calls mixed: the smallest and the largest.

    Only instances and frames of such series are looked at; few series have any.
    """
    kept = {column.name for column in tables["series"].columns if column.level == "Instance"}
    own = [column.name for column in tables["instances"].columns if column.name in kept or column.name in SPACINGS]
    found = [_of_mixed("instance", "instances", own)]
    if frames := tables.get("frames_functional"):
        of_frames = [column.name for column in frames.columns if column.name in OF_FRAMES]
        found.append(_of_mixed("frame", frames.name, of_frames))
    if "instance_metadata" in tables:
        found.append(_of_side_tables([name for name in SIDES if name in tables]))
    side = ", ".join(f"{text(name)}: {name}" for name in SIDE)
    # As numbers where they are numbers.
    place = "{'number': TRY_CAST(value AS DOUBLE), 'words': value, 'source': source}"
    ends = ", ".join(f"{end}({{{side}}}, {place})" for end in ("arg_min", "arg_max"))
    return (
        "SELECT datastore_id, 'series' AS entity, entity_id, attribute, "
        f"unnest([{ends}], recursive := true) FROM ({' UNION ALL '.join(found)}) "
        "GROUP BY datastore_id, entity_id, attribute"
    )


def _of_side_tables(names: Sequence[str]) -> str:
    """Each value once of what side tables call mixed, from the instances' documents: `instances` has no such column.

    What stands in sequences is not found, but by the frames of enhanced objects.
    """
    keys = ("datastore_id", "image_set_id", "StudyInstanceUID", "SeriesInstanceUID")
    mixed = UNION.join(
        f"SELECT {', '.join(keys)}, is_primary, unnest(mixed_attrs) AS attribute "
        f"FROM internal.{quoted(name + '_rows')} WHERE mixed_attrs IS NOT NULL"
        for name in names
    )
    said = (
        f"SELECT {', '.join(f'm.{key}' for key in keys)}, m.SOPInstanceUID, s.is_primary, attribute, "
        f"trim(json_extract_string(m.metadata_json, attribute), {PADDING}) AS value "
        f"FROM internal.instance_metadata_rows m JOIN ({mixed}) s "
        f"ON {' AND '.join(f's.{key} = m.{key}' for key in keys)}"
    )
    return (
        "SELECT datastore_id, SeriesInstanceUID AS entity_id, attribute, value, "
        f"{_each_once('instance')} FROM ({said}) WHERE value <> '' GROUP BY ALL"
    )


def _of_mixed(source: str, table: str, own: list[str]) -> str:
    """Each value once that rows of a table have in attributes which their series calls mixed."""
    shown = ", ".join(f"i.{quoted(name)}::VARCHAR AS {quoted(name)}" for name in own)
    uids = ("image_set_id", "StudyInstanceUID", "SeriesInstanceUID")
    known = (
        f"SELECT i.datastore_id, i.SeriesInstanceUID AS entity_id, i.image_set_id, i.SOPInstanceUID, s.is_primary, "
        f"s.mixed_attrs, {shown} FROM internal.{quoted(table + '_rows')} i JOIN internal.series_rows s "
        f"ON s.mixed_attrs IS NOT NULL AND {' AND '.join(f's.{uid} = i.{uid}' for uid in uids)}"
    )
    return (
        f"SELECT datastore_id, entity_id, attribute, value, {_each_once(source)} "
        f"FROM ({known}) UNPIVOT (value FOR attribute IN ({', '.join(map(quoted, own))})) "
        "WHERE list_contains(mixed_attrs, attribute) GROUP BY ALL"
    )


def _each_once(source: str) -> str:
    """What there is of each value that instances or frames have, to be selected beside it."""
    return (
        f"bool_or(is_primary) AS is_primary, list_sort(list(DISTINCT image_set_id)) AS image_set_ids, {text(source)} "
        "AS source, list_sort(list(DISTINCT SOPInstanceUID)) AS sop_instance_uids, NULL::VARCHAR[] AS object_ids"
    )
