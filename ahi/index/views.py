"""What analysts see. Belongs here: the SQL of the views of DICOM attributes, with their comments, and the list of all.

Does not belong here: building and swapping the file (`publish`), columns of the Parquet tables (`registry`), views of
the pipeline's own account (`operational`).

The views stand on relations of the schema `internal`, which `publish` makes anew each time: `<table>_rows` (live files
without dead rows), the mirrored tables of the catalog, and `info`. No view here needs a window function: they cost
4-5 times the CPU of the anti join of few dead keys that `internal` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.index.conflicts import conflicts
from ahi.index.differences import comparisons, differences
from ahi.index.history import history_view, macros
from ahi.index.mirror import mirror_relations
from ahi.index.operational import INFO_COLUMNS, operational_views
from ahi.index.pending import N_PENDING, N_PENDING_COMMENT, ROW_SOURCE, ROW_SOURCE_COMMENT, SHOWN
from ahi.index.provenance import provenance_views
from ahi.index.relations import empty_relations, fixed_relations
from ahi.index.sql import quoted, text
from ahi.index.tag_registry import known_tags, tag_registry
from ahi.index.view import STUDY_OF_UNKNOWN, View
from ahi.index.whole import WHOLE, whole_views

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.index.columns import Column, Table

CURRENT = "Current and undeleted rows"
PRIMARY = f"{CURRENT} of primary image sets; those that HealthImaging set apart for a conflict are in"


def public_views(tables: Mapping[str, Table]) -> list[View]:
    """Every view of the published index."""
    views = [view for table in tables.values() for view in _table_views(table)]
    views += [history_view(table) for table in tables.values()]
    if "series" in tables:
        views += [*_summaries(tables), conflicts(tables)]
    if {"headers", "instances", "series"} <= set(tables):
        views += [differences(tables), tag_registry(tables)]
    views += [_cast_failures(tables), *operational_views(), *whole_views()]
    return [*views, *provenance_views()] if {"instances", "series"} <= set(tables) else views


def _summaries(tables: Mapping[str, Table]) -> list[View]:
    return [_studies(tables["series"]), _patients(tables["series"])] if "series" in tables else []


def _table_views(table: Table) -> list[View]:
    described = {column.name: column.description for column in table.columns}
    # By a star: a view is kept as a tree, which each publication and each reader pay for by the column.
    select = f"SELECT * FROM internal.{quoted(table.name + '_rows')}"
    if "is_primary" not in described:
        return [View(table.name, select, f"{table.description} {CURRENT}.", described)]
    everything = f"{table.name}_all"
    if table.name in SHOWN:
        counted = {N_PENDING: N_PENDING_COMMENT} if table.name == "series" else {}
        return _shown_views(table, described | {ROW_SOURCE: ROW_SOURCE_COMMENT} | counted, everything)
    return [
        View(table.name, f"{select} WHERE is_primary", f"{table.description} {PRIMARY} {everything}.", described),
        View(everything, select, f"{table.description} {CURRENT}, primary or not.", described),
    ]


_SHOWN_TYPES = {ROW_SOURCE: "VARCHAR", N_PENDING: "BIGINT"}


def _shown_views(table: Table, described: Mapping[str, str], everything: str) -> list[View]:
    """The views of a table that shows header rows too, until their document is indexed."""
    early = "Objects not indexed yet are shown by their header (row_source)."
    return [
        View(
            name,
            f"SELECT * FROM internal.{quoted(relation)}",
            f"{table.description} {rule} {early}",
            described,
            {name: kind for name, kind in _SHOWN_TYPES.items() if name in described},
        )
        for name, relation, rule in (
            (table.name, f"{table.name}_current", f"{PRIMARY} {everything}."),
            (everything, f"{table.name}_current_all", f"{CURRENT}, primary or not."),
        )
    ]


def _agreed(columns: list[Column]) -> str:
    # The smallest of each would make a person who does not exist. No macro: `..._as_of` could not find it.
    return ", ".join(
        f"CASE WHEN min({name}) IS NOT DISTINCT FROM max({name}) THEN min({name}) END AS {name}"
        for column in columns
        for name in [quoted(column.name)]
    )


def _conflicts(columns: list[Column]) -> str:
    cases = (
        f"CASE WHEN min({name}) IS DISTINCT FROM max({name}) THEN {text(column.name)} END"
        for column in columns
        for name in [quoted(column.name)]
    )
    return f"list_filter([{', '.join(cases)}], lambda name: name IS NOT NULL) AS conflict_attrs"


_DERIVED = {
    "VARCHAR": ("row_source",),
    "VARCHAR[]": ("ModalitiesInStudy", "SOPClassesInStudy", "modalities", "conflict_attrs"),
    "BIGINT": (
        *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
        *("n_frames", "n_studies", "n_series", "n_instances", N_PENDING),
    ),
    "DATE": ("first_study_date", "last_study_date"),
}
_SOURCE = (
    f"CASE WHEN min({ROW_SOURCE}) = max({ROW_SOURCE}) THEN min({ROW_SOURCE}) ELSE 'both' END",
    "document: all series shown are from HealthImaging. header: none is yet. both: some are.",
)
_PENDING = (
    f"sum({N_PENDING})::BIGINT",
    "Instances uploaded into series shown by their document, whose own has not come: not counted here otherwise.",
)
_DERIVED_TYPES = {name: kind for kind, found in _DERIVED.items() for name in found}
_CONFLICT_COMMENT = (
    "Columns left null because the series differ: see conflicts. A series without the value does not count."
)


def _studies(series: Table) -> View:
    own = [column for column in series.columns if column.name == "patient_key"]
    own += [column for column in series.columns if column.level == "Study" and column.name != "StudyInstanceUID"]
    own += [column for column in series.columns if column.name in ("study_datetime_utc", "patient_age_years")]
    derived = {
        "ModalitiesInStudy": ("list_sort(list(DISTINCT Modality))", "Modalities of the series shown, sorted."),
        "SOPClassesInStudy": (
            "list_sort(list_distinct(flatten(list(sop_class_uids))))",
            "SOP classes of the series shown, sorted.",
        ),
        "NumberOfStudyRelatedSeries": ("count(DISTINCT SeriesInstanceUID)", "Series shown, counted."),
        "NumberOfStudyRelatedInstances": ("sum(n_instances)::BIGINT", "Instances of the series shown, counted."),
        "n_frames": ("sum(n_frames)::BIGINT", "Frames of the series shown, counted."),
        "indexed_at": ("max(indexed_at)", "Time of the newest commit that changed the study."),
        ROW_SOURCE: _SOURCE,
        N_PENDING: _PENDING,
    }
    sql = (
        "SELECT datastore_id, StudyInstanceUID, "
        f"{_agreed(own)}, {', '.join(f'{how} AS {quoted(name)}' for name, (how, _) in derived.items())}, "
        f"{_conflicts(own)} FROM main.series GROUP BY datastore_id, StudyInstanceUID"
    )
    comments = {column.name: column.description for column in series.columns} | {
        name: comment for name, (_, comment) in derived.items()
    }
    shown = ["datastore_id", "StudyInstanceUID", *(column.name for column in own), *derived]
    return View(
        "studies",
        sql,
        f"One row for each study and data store, from its series. {PRIMARY} series_all.",
        {name: comments[name] for name in shown} | {"conflict_attrs": _CONFLICT_COMMENT},
        _DERIVED_TYPES,
    )


def _patients(series: Table) -> View:
    own = [column for column in series.columns if column.level == "Patient" or column.name == "PatientName_parts"]
    derived = {
        "n_studies": ("count(DISTINCT StudyInstanceUID)", "Studies shown, counted."),
        "n_series": ("count(DISTINCT SeriesInstanceUID)", "Series shown, counted."),
        "n_instances": ("sum(n_instances)::BIGINT", "Instances of the series shown, counted."),
        "first_study_date": ("min(StudyDate)", "Earliest StudyDate."),
        "last_study_date": ("max(StudyDate)", "Latest StudyDate."),
        "modalities": ("list_sort(list(DISTINCT Modality))", "Modalities of the series shown, sorted."),
        "indexed_at": ("max(indexed_at)", "Time of the newest commit that changed the patient."),
        ROW_SOURCE: _SOURCE,
        N_PENDING: _PENDING,
    }
    sql = (
        f"SELECT datastore_id, patient_key, {_agreed(own)}, "
        f"{', '.join(f'{how} AS {quoted(name)}' for name, (how, _) in derived.items())}, "
        f"{_conflicts(own)} FROM main.series GROUP BY datastore_id, patient_key, {STUDY_OF_UNKNOWN}"
    )
    comments = {column.name: column.description for column in series.columns} | {
        name: comment for name, (_, comment) in derived.items()
    }
    return View(
        "patients",
        sql,
        "One row for each patient identity and data store, from the series; without PatientID one for each study. "
        f"{PRIMARY} series_all.",
        {name: comments[name] for name in ["datastore_id", "patient_key", *(x.name for x in own), *derived]}
        | {"conflict_attrs": _CONFLICT_COMMENT},
        _DERIVED_TYPES,
    )


# What tells whose value it is; each table has some of them.
_PLACE = ("datastore_id", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def _cast_failures(tables: Mapping[str, Table]) -> View:
    """The lists of every table that has the column, a row for each entry."""
    selects = (
        f"SELECT {text(table.name)} AS table_name, {', '.join(place)}, unnest(cast_failures, recursive := true) "
        f"FROM internal.{quoted(table.name + '_rows')}"
        for table in tables.values()
        for own in [{column.name for column in table.columns}]
        for place in [[name if name in own else f"NULL::VARCHAR AS {name}" for name in _PLACE]]
        if "cast_failures" in own
    )
    return View(
        "cast_failures",
        " UNION ALL ".join(selects),
        "One row for each value that did not fit its column, of every table that keeps such values; current rows, "
        "primary or not. A value of a header that HealthImaging's document has too is here for both.",
        {
            "table_name": "Table in whose row the value is missing.",
            "datastore_id": "HealthImaging data store; null for headers.",
            "StudyInstanceUID": "Study of that row.",
            "SeriesInstanceUID": "Series of that row.",
            "SOPInstanceUID": "Instance of that row; null for tables of series.",
            "keyword": "Keyword of the attribute.",
            "vr": "Its value representation.",
            "raw": "The value as sent.",
            "reason": "Why it did not fit.",
        },
    )


def all_macros(tables: Mapping[str, Table]) -> list[tuple[str, str, str]]:
    """Every table macro of the published index: name with parameters, SELECT, and what it shows."""
    return macros(tables, _summaries(tables))


def template_statements(tables: Mapping[str, Table], *, is_explained: bool = True) -> list[str]:
    """Everything of the published file that stays the same from one publication to the next.

    Args:
        tables: Parquet tables.
        is_explained: With comments, and with the macros for moments.
    """
    statements = ["CREATE SCHEMA internal"]
    statements += [*empty_relations(tables, {one.name: one.columns for one in WHOLE})]
    statements += [*fixed_relations(tables), *mirror_relations()]
    info = ", ".join(f"{name} {kind}" for name, kind in INFO_COLUMNS.items())
    statements.append(f"CREATE TABLE internal.info ({info})")
    if {"headers", "instances", "series"} <= set(tables):
        statements += [*comparisons(tables), *known_tags(tables)]
    views = {view.name: view for view in public_views(tables)}
    for view in views.values():
        statements.append(f"CREATE VIEW main.{quoted(view.name)} AS {view.sql}")
        if not is_explained:
            continue
        statements.append(f"COMMENT ON VIEW main.{quoted(view.name)} IS {text(view.comment)}")
        statements += [
            f"COMMENT ON COLUMN main.{quoted(view.name)}.{quoted(name)} IS {text(comment)}"
            for name, comment in view.columns.items()
            if not view.of or name not in views[view.of].columns
        ]
    for signature, sql, comment in all_macros(tables) if is_explained else ():
        statements.append(f"CREATE MACRO main.{signature} AS TABLE {sql}")
        statements.append(f"COMMENT ON MACRO TABLE main.{signature.split('(')[0]} IS {text(comment)}")
    return statements
