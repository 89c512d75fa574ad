"""Views of the pipeline's own account: objects, jobs, image sets, what failed, how fresh.

Belongs here: their SQL. Does not belong here: views of DICOM attributes (`views`), and the tables behind (`catalog`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ahi.index import catalog as c
from ahi.index.account import account_views
from ahi.index.catalog import IN_FLIGHT, ObjectState
from ahi.index.mirror import STAMPS
from ahi.index.sql import quoted, text
from ahi.index.view import View

if TYPE_CHECKING:
    import sqlalchemy as sa

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
INFO_COLUMNS = {
    "seq": "BIGINT",
    "committed_at": "TIMESTAMPTZ",
    "published_at": "TIMESTAMPTZ",
    "schema_version": "VARCHAR",
    "rows_by_table": "MAP(VARCHAR, BIGINT)",
    "files_by_table": "MAP(VARCHAR, BIGINT)",
}


def hop_column(hop: str) -> str:
    """Column of the view `freshness` that holds the seconds of a hop."""
    return f"{hop.replace(' ', '_')}_s"


def _catalog_comments(table: sa.Table, *hidden: str) -> dict[str, str]:
    return {column.name: column.comment for column in table.columns if column.comment and column.name not in hidden}


def _jobs(name: str, service: str, title: str) -> View:
    return View(
        name,
        "SELECT * EXCLUDE (seq), date_diff('microsecond', submitted_at, ended_at) / 1e6 AS run_s, "
        "date_diff('microsecond', planned_at, submitted_at) / 1e6 AS queued_s FROM internal.jobs "
        f"WHERE service = {text(service)}",
        f"One row for each {title} import job, planned ones included.",
        _catalog_comments(c.jobs, "seq")
        | {"run_s": "Seconds from start to end at the service.", "queued_s": "Seconds from plan to start."},
    )


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


def operational_views() -> list[View]:
    """The views that stand on the catalog's tables and on nothing else."""
    published = ", ".join(
        f"coalesce({stamp}, CASE WHEN {seq} IS NOT NULL THEN (SELECT published_at FROM internal.info) END) AS {stamp}"
        for stamp, seq in STAMPS
    )
    timed = {hop_column(name): pair for name, pair in HOPS.items()}
    hops = ", ".join(
        f"date_diff('microsecond', {start}, {end}) / 1e6 AS {name}" for name, (start, end) in timed.items()
    )
    flying = ", ".join(text(state) for state in IN_FLIGHT)
    kept = _catalog_comments(c.documents, "seq")
    buried = {"datastore_id", "image_set_id", "StudyInstanceUID", "SeriesInstanceUID"}
    buried |= {"deleted_at", "delete_reason", "deleted_version", "erased_at"}
    settled = (ObjectState.IMPORTED, ObjectState.FAILED, ObjectState.SET_ASIDE)
    counts = ", ".join(f"count(*) FILTER (state = {text(state)}) AS {state}" for state in [*settled, *IN_FLIGHT])
    objects = View(
        "objects",
        f"SELECT * REPLACE ({published}) FROM internal.objects",
        "The ledger: one row for each object that arrived, none left out, with the state it is in.",
        _catalog_comments(c.objects),
    )
    return [
        objects,
        *account_views(objects),
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
        _jobs("import_jobs", "medical-imaging", "HealthImaging"),
        _jobs("fhir_jobs", "healthlake", "HealthLake"),
        _image_sets(),
        View(
            "image_set_versions",
            f"SELECT {', '.join(quoted(name) for name in kept)} FROM internal.documents",
            "One row for each version of an image set whose document was read and is kept.",
            kept,
        ),
        View(
            "tombstones",
            "SELECT datastore_id, image_set_id, StudyInstanceUID, SeriesInstanceUID, "
            "nullif(version, 0) AS last_version, "
            "deleted_at, delete_reason, deleted_version, erased_at FROM internal.heads WHERE deleted_at IS NOT NULL",
            "One row for each image set that was deleted: none of its rows is in the other views.",
            {name: comment for name, comment in _catalog_comments(c.heads).items() if name in buried}
            | {"last_version": "Newest version that was read before; null: none was."},
        ),
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
            "index_versions",
            "SELECT * EXCLUDE (tables), string_split(nullif(tables, ''), ',') AS tables FROM internal.commits",
            "One row for each commit: what it wrote, and when. AS OF and diff take its time.",
            _catalog_comments(c.commits) | {"tables": "Tables it wrote rows of; null: none, or not noted."},
            {"tables": "VARCHAR[]"},
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
