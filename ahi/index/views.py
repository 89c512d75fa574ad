"""What analysts see. Belongs here: the SQL of each view of the published index, and its comments.

Does not belong here: building and swapping the file (`publish`), columns of the Parquet tables (`registry`).

The views stand on relations of the schema `internal`, which `publish` makes anew each time: `<table>_rows` (live files
without dead rows), the mirrored tables of the catalog, and `info`. No view here needs a window function: they cost
4-5 times the CPU of the anti join of few dead keys that `internal` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ahi.index import catalog as c
from ahi.index.catalog import IN_FLIGHT, ObjectState
from ahi.index.mirror import STAMPS
from ahi.index.parquet import empty_select
from ahi.index.sql import quoted, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

    from ahi.index.columns import Column, Table

HOPS = {
    "arrival to received": ("landed_at", "received_at"),
    "received to header": ("received_at", "header_at"),
    "header to header queryable": ("header_at", "header_published_at"),
    "header to job started": ("header_at", "submitted_at"),
    "job started to ended": ("submitted_at", "job_ended_at"),
    "job ended to settled": ("job_ended_at", "settled_at"),
    "job ended to indexed": ("job_ended_at", "indexed_at"),
    "indexed to queryable": ("indexed_at", "published_at"),
    "arrival to header queryable": ("landed_at", "header_published_at"),
    "arrival to queryable": ("landed_at", "published_at"),
}
"""Name of each hop, and the columns of the ledger between which it lies. The view `freshness` has a column for each.

An object is settled and indexed side by side, so both are counted from the end of its job.
"""
CURRENT = "Current and undeleted rows"
PRIMARY = f"{CURRENT} of primary image sets; those that HealthImaging set apart for a conflict are in"


@dataclass(frozen=True)
class View:
    """One view: its SELECT, what it shows and leaves out, and what its columns are."""

    name: str
    sql: str
    comment: str
    columns: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    """DuckDB types of columns that come from no column of the registry."""


def names(columns: Mapping[str, str] | list[str]) -> str:
    """A list of columns for SELECT."""
    return ", ".join(quoted(name) for name in columns)


def hop_column(hop: str) -> str:
    """Column of the view `freshness` that holds the seconds of a hop."""
    return f"{hop.replace(' ', '_')}_s"


def public_views(tables: Mapping[str, Table]) -> list[View]:
    """Every view of the published index."""
    views = [view for table in tables.values() for view in _table_views(table)]
    if "series" in tables:
        views += [_studies(tables["series"]), _patients(tables["series"])]
    return [*views, *_operational_views()]


def _table_views(table: Table) -> list[View]:
    described = {column.name: column.description for column in table.columns}
    select = f"SELECT {names(described)} FROM internal.{quoted(table.name + '_rows')}"
    if "is_primary" not in described:
        return [View(table.name, select, f"{table.description} {CURRENT}.", described)]
    everything = f"{table.name}_all"
    return [
        View(table.name, f"{select} WHERE is_primary", f"{table.description} {PRIMARY} {everything}.", described),
        View(everything, select, f"{table.description} {CURRENT}, primary or not.", described),
    ]


def _agreed(columns: list[Column]) -> str:
    return ", ".join(f"min({quoted(column.name)}) AS {quoted(column.name)}" for column in columns)


def _conflicts(columns: list[Column]) -> str:
    cases = (
        f"CASE WHEN min({name}) IS DISTINCT FROM max({name}) THEN {text(column.name)} END"
        for column in columns
        for name in [quoted(column.name)]
    )
    return f"list_filter([{', '.join(cases)}], lambda name: name IS NOT NULL) AS conflict_attrs"


_DERIVED = {
    "VARCHAR[]": ("ModalitiesInStudy", "SOPClassesInStudy", "modalities", "conflict_attrs"),
    "BIGINT": (
        *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
        *("n_frames", "n_studies", "n_series", "n_instances"),
    ),
    "DATE": ("first_study_date", "last_study_date"),
}
_DERIVED_TYPES = {name: kind for kind, found in _DERIVED.items() for name in found}
_CONFLICT_COMMENT = (
    "Columns in which the series differ; the smallest value is shown. Nulls do not count as a difference."
)


def _studies(series: Table) -> View:
    own = [column for column in series.columns if column.level == "Study" and column.name != "StudyInstanceUID"]
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
    }
    sql = (
        "SELECT datastore_id, StudyInstanceUID, min(patient_key) AS patient_key, "
        f"{_agreed(own)}, {', '.join(f'{how} AS {quoted(name)}' for name, (how, _) in derived.items())}, "
        f"{_conflicts(own)} FROM main.series GROUP BY datastore_id, StudyInstanceUID"
    )
    comments = {column.name: column.description for column in series.columns} | {
        name: comment for name, (_, comment) in derived.items()
    }
    shown = ["datastore_id", "StudyInstanceUID", "patient_key", *(column.name for column in own), *derived]
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
    }
    sql = (
        f"SELECT datastore_id, patient_key, {_agreed(own)}, "
        f"{', '.join(f'{how} AS {quoted(name)}' for name, (how, _) in derived.items())}, "
        f"{_conflicts(own)} FROM main.series GROUP BY datastore_id, patient_key"
    )
    comments = {column.name: column.description for column in series.columns} | {
        name: comment for name, (_, comment) in derived.items()
    }
    return View(
        "patients",
        sql,
        f"One row for each patient identity and data store, from the series. {PRIMARY} series_all.",
        {name: comments[name] for name in ["datastore_id", "patient_key", *(x.name for x in own), *derived]}
        | {"conflict_attrs": _CONFLICT_COMMENT},
        _DERIVED_TYPES,
    )


def _catalog_comments(table: sa.Table, *hidden: str) -> dict[str, str]:
    return {column.name: column.comment for column in table.columns if column.comment and column.name not in hidden}


def _image_sets() -> View:
    own = _catalog_comments(c.heads, "seq", "batch_id", "version")
    sql = (
        f"SELECT {', '.join(f'h.{quoted(name)}' for name in own)}, nullif(h.version, 0) AS version, "
        "d.object_key AS document_key, d.sha256 AS document_sha256, d.size_bytes AS document_bytes, "
        "d.fetched_at AS document_fetched_at FROM internal.heads h LEFT JOIN internal.documents d "
        "ON d.datastore_id = h.datastore_id AND d.image_set_id = h.image_set_id AND d.version = h.version"
    )
    return View(
        "image_sets",
        sql,
        "One row for each image set that was ever seen, at its newest version; primary or not, deleted ones too.",
        own
        | {
            "version": "Newest version read; null: deleted before any was.",
            "document_key": "Where the lake bucket keeps HealthImaging's document of this version.",
            "document_sha256": "Digest of the document.",
            "document_bytes": "Size of the kept document.",
            "document_fetched_at": "When HealthImaging was asked for it.",
        },
    )


def _operational_views() -> list[View]:
    published = ", ".join(
        f"coalesce({stamp}, CASE WHEN {seq} IS NOT NULL THEN (SELECT published_at FROM internal.info) END) AS {stamp}"
        for stamp, seq in STAMPS
    )
    timed = {hop_column(name): pair for name, pair in HOPS.items()}
    hops = ", ".join(
        f"date_diff('microsecond', {start}, {end}) / 1e6 AS {name}" for name, (start, end) in timed.items()
    )
    flying = ", ".join(text(state) for state in IN_FLIGHT)
    settled = (ObjectState.IMPORTED, ObjectState.FAILED, ObjectState.SET_ASIDE)
    counts = ", ".join(f"count(*) FILTER (state = {text(state)}) AS {state}" for state in [*settled, *IN_FLIGHT])
    return [
        View(
            "objects",
            f"SELECT * REPLACE ({published}) FROM internal.objects",
            "The ledger: one row for each object that arrived, none left out, with the state it is in.",
            _catalog_comments(c.objects),
        ),
        View(
            "freshness",
            f"SELECT object_id, state, day, Modality, {hops} FROM main.objects",
            "One row for each object that arrived: seconds between the stations of its way; null: not reached.",
            {name: f"Seconds from {start} to {end}." for name, (start, end) in timed.items()}
            | {
                "object_id": "Object of the ledger.",
                "state": "Its state.",
                "Modality": "From its header.",
                "day": "Its arrival day in UTC.",
            },
        ),
        View(
            "closure",
            f"SELECT *, landed = imported + failed + set_aside + in_flight AS closes FROM ("
            f"SELECT count(*) AS landed, {counts}, count(*) FILTER (state IN ({flying})) AS in_flight "
            "FROM internal.objects)",
            "One row: do the counts of the ledger add up? landed = imported + failed + set_aside + in_flight.",
            {
                "landed": "Objects that arrived.",
                "in_flight": "Objects in a state that is not final: held, ready or importing.",
                "closes": "Whether every object is in exactly one known state.",
            }
            | {state: f"Objects in state {state}." for state in [*settled, *IN_FLIGHT]},
        ),
        View(
            "import_jobs",
            "SELECT * EXCLUDE (seq), date_diff('microsecond', submitted_at, ended_at) / 1e6 AS run_s, "
            "date_diff('microsecond', planned_at, submitted_at) / 1e6 AS queued_s FROM internal.jobs "
            "WHERE service = 'medical-imaging'",
            "One row for each HealthImaging import job, planned ones included.",
            _catalog_comments(c.jobs, "seq")
            | {"run_s": "Seconds from start to end at the service.", "queued_s": "Seconds from plan to start."},
        ),
        _image_sets(),
        View(
            "quarantine",
            "SELECT * EXCLUDE (seq) FROM internal.quarantine",
            "One row for each message or document that could not be used, with the reason and where it is kept.",
            _catalog_comments(c.quarantine, "seq"),
        ),
        View(
            "events",
            "SELECT * EXCLUDE (seq) FROM internal.events",
            "One row for each event of a service that arrived, used or not.",
            _catalog_comments(c.events, "seq"),
        ),
        View(
            "index_info",
            "SELECT * FROM internal.info",
            "One row: what this publication shows.",
            {
                "seq": "Newest commit in it.",
                "committed_at": "Time of that commit.",
                "published_at": "When it was published.",
                "schema_version": "Version of the columns' meaning.",
                "rows_by_table": "Rows in the live files of each table, replaced ones included.",
                "files_by_table": "Live files of each table.",
            },
            INFO_COLUMNS,
        ),
    ]


INFO_COLUMNS = {
    "seq": "BIGINT",
    "committed_at": "TIMESTAMPTZ",
    "published_at": "TIMESTAMPTZ",
    "schema_version": "VARCHAR",
    "rows_by_table": "MAP(VARCHAR, BIGINT)",
    "files_by_table": "MAP(VARCHAR, BIGINT)",
}


def template_statements(tables: Mapping[str, Table], internal: Mapping[str, list[tuple[str, str]]]) -> list[str]:
    """Everything of the published file that stays the same from one publication to the next.

    Args:
        tables: Parquet tables.
        internal: Columns of each relation of the schema `internal`; they are made empty.
    """
    statements = ["CREATE SCHEMA internal"]
    statements += [
        f"CREATE VIEW internal.{quoted(name)} AS {empty_select(columns)}" for name, columns in internal.items()
    ]
    for view in public_views(tables):
        statements.append(f"CREATE VIEW main.{quoted(view.name)} AS {view.sql}")
        statements.append(f"COMMENT ON VIEW main.{quoted(view.name)} IS {text(view.comment)}")
        statements += [
            f"COMMENT ON COLUMN main.{quoted(view.name)}.{quoted(name)} IS {text(comment)}"
            for name, comment in view.columns.items()
        ]
    return statements
