"""Where rows come from. Belongs here: views of instances, series and studies with the columns of the pipeline's work.

Does not belong here: views of the ledger alone (`operational`, `account`).

What an object went through is the ledger's to say, and changes after the rows of its image set are written: when its
job ended, when it was published. A copy beside each row would be out of date, so it is joined when somebody asks. It is
not in `instances` and `series` themselves: each look at all columns of a study would take twice as long.

The objects of an index are those of one data store.
"""

from __future__ import annotations

from ahi.index.catalog import ObjectState
from ahi.index.pending import ROW_SOURCE, ROW_SOURCE_COMMENT
from ahi.index.sql import distinct_list, text
from ahi.index.view import View, names

_IMAGE_SET = {
    "datastore_id": "HealthImaging data store.",
    "image_set_id": "HealthImaging image set; null: not known yet.",
    "image_set_version": "Version of the image set that the row was read from.",
    "is_primary": "False when HealthImaging found a conflict of metadata.",
}
_ROW = {
    ROW_SOURCE: ROW_SOURCE_COMMENT,
    "batch_id": "Commit that wrote the row.",
    "indexed_at": "Time of that commit.",
    "schema_version": "Version of the columns' meaning.",
    "parser_version": "Version of the code that read the values.",
    "dagster_run_id": "Run that wrote the row.",
}
_UIDS = {
    "StudyInstanceUID": "Unique identifier of the study.",
    "SeriesInstanceUID": "Unique identifier of the series.",
    "SOPInstanceUID": "Unique identifier of the instance.",
}
# Column: its SQL from a row of `_OBJECTS`, what it is.
_SOURCE = {
    "object_id": (
        "object_id",
        "Object of the ledger; null: HealthImaging made the instance from others, or the job's result is not read.",
    ),
    "state": ("state", "State of the object."),
    "source_uri": ("source_uri", "Bucket and key that it landed in."),
    "source_version_id": ("version_id", "S3 version of the object."),
    "source_etag": ("etag", "S3 entity tag of the object."),
    "size_bytes": ("size_bytes", "Size of the object."),
    "upload_id": ("upload_id", "Row of uploads; null: of an archive."),
    "event_id": ("event_id", "Message of the inbox batch that announced it, by its id in SQS; null: a listing did."),
    "shard_key": ("shard_key", "Row of archive_shards; null: it was uploaded."),
    "import_job_id": ("job_id", "HealthImaging's import job; null: not started."),
    "manifest_line": ("manifest_line", "Line of the object's result in the job's success.ndjson; null: not read."),
    "partition_key": ("day", "Partition of Dagster's assets: its arrival day in UTC."),
    "landed_at": ("landed_at", "S3's time of the upload."),
    "received_at": ("received_at", "When a sensor took the message."),
    "import_started_at": ("submitted_at", "When the import job started."),
    "imported_at": ("job_ended_at", "When the import job ended."),
    "published_at": ("published_at", "When the row of its document could first be queried."),
}
_SUMMED = {
    "n_objects": ("count(*)", "Objects; two uploads of an instance are two."),
    "size_bytes": ("sum(size_bytes)::BIGINT", "Their size; null: there are none."),
    "upload_ids": (distinct_list("upload_id"), "Rows of uploads, sorted; null: none."),
    "import_job_ids": (distinct_list("job_id"), "HealthImaging's import jobs, sorted; null: none was started."),
    "partition_keys": (distinct_list("day"), "Arrival days in UTC, sorted: partitions of Dagster's assets."),
    "first_received_at": ("min(received_at)", "When a sensor took the first message."),
    "last_received_at": ("max(received_at)", "When a sensor took the last message."),
    "import_started_at": ("min(submitted_at)", "When the first import job started."),
    "imported_at": ("max(job_ended_at)", "When the last of the import jobs that have ended did."),
    "published_at": ("max(published_at)", "When the last of their documents' rows could first be queried."),
}
# An object is where its document is shown once that is indexed, and is shown by its header before; when its image set
# is deleted it is nowhere.
_OBJECTS = (
    "SELECT o.*, 's3://' || o.bucket || '/' || o.key AS source_uri, "
    "CASE WHEN o.shard_key IS NULL THEN coalesce(o.association_prefix, o.batch_id) END AS upload_id, j.job_id, "
    "CASE WHEN o.indexed_seq IS NOT NULL THEN o.image_set_id END AS placed_in "
    "FROM (SELECT * FROM main.objects WHERE SOPInstanceUID IS NOT NULL "
    f"AND state NOT IN ({text(ObjectState.FAILED)}, {text(ObjectState.SET_ASIDE)})) o "
    "ANTI JOIN (SELECT image_set_id FROM internal.heads WHERE deleted_at IS NOT NULL) d "
    "ON d.image_set_id = o.image_set_id LEFT JOIN internal.jobs j ON j.job_key = o.job_key"
)


def provenance_views() -> list[View]:
    """The views; they stand on `series_all`, `instances_all` and the ledger."""
    return [_instances(), _series(), _studies()]


def _instances() -> View:
    own = {**_UIDS, **_IMAGE_SET, **_ROW}
    packed = ", ".join(f"{name}: {sql}" for name, (sql, _) in _SOURCE.items())
    newest = (
        f"SELECT {names(_UIDS)}, placed_in, max({{moment: landed_at, {packed}}}) AS newest FROM ({_OBJECTS}) "
        f"GROUP BY {names(_UIDS)}, placed_in"
    )
    return View(
        "instances_provenance",
        f"SELECT {_of('r', own)}, {', '.join(f'o.newest.{name} AS {name}' for name in _SOURCE)} "
        f"FROM main.instances_all r LEFT JOIN ({newest}) o ON {_same(_UIDS)}",
        "One row for each instance of instances_all, with the object that it came from, the newest of several, and "
        "what that went through. Ask by study, series or instance.",
        own | {name: comment for name, (_, comment) in _SOURCE.items()},
    )


def _series() -> View:
    keys = {name: comment for name, comment in _UIDS.items() if name != "SOPInstanceUID"}
    return _summed_view(
        "series_provenance",
        "One row for each series of series_all, with the objects summed up that went into its image set; of a series "
        "shown by headers those that are pending. What is pending beside a document is counted in studies_provenance.",
        {**keys, **_IMAGE_SET, **_ROW},
        f"main.series_all r LEFT JOIN ({_summed([*keys, 'placed_in'])}) o ON {_same(keys)}",
    )


def _studies() -> View:
    own = {
        "StudyInstanceUID": _UIDS["StudyInstanceUID"],
        "datastore_id": _IMAGE_SET["datastore_id"],
        "image_set_ids": "Image sets of the series shown, sorted; null: none is known yet.",
        "indexed_at": "Time of the newest commit that changed the study.",
    }
    rows = (
        f"SELECT datastore_id, StudyInstanceUID, {distinct_list('image_set_id')} AS image_set_ids, "
        "max(indexed_at) AS indexed_at FROM main.series GROUP BY datastore_id, StudyInstanceUID"
    )
    return _summed_view(
        "studies_provenance",
        "One row for each study of studies, with the objects that it came from summed up, pending and non-primary "
        "ones too.",
        own,
        f"({rows}) r LEFT JOIN ({_summed(['StudyInstanceUID'])}) o ON o.StudyInstanceUID = r.StudyInstanceUID",
    )


def _summed_view(name: str, comment: str, own: dict[str, str], joined: str) -> View:
    """View of rows `r`, of which it shows the columns `own`, joined to sums `o` of their objects."""
    sums = ", ".join(f"o.{one}" for one in _SUMMED if one != "n_objects")
    return View(
        name,
        f"SELECT {_of('r', own)}, coalesce(o.n_objects, 0) AS n_objects, {sums} FROM {joined}",
        comment,
        own | {one: what for one, (_, what) in _SUMMED.items()},
    )


def _summed(keys: list[str]) -> str:
    sums = ", ".join(f"{sql} AS {name}" for name, (sql, _) in _SUMMED.items())
    return f"SELECT {names(keys)}, {sums} FROM ({_OBJECTS}) GROUP BY {names(keys)}"


def _of(row: str, columns: dict[str, str]) -> str:
    return ", ".join(f"{row}.{name}" for name in columns)


def _same(keys: dict[str, str]) -> str:
    """Condition that objects are those of a row. A row of headers has no image set, nor has an object not indexed."""
    same = " AND ".join(f"o.{name} = r.{name}" for name in keys)
    return f"{same} AND o.placed_in IS NOT DISTINCT FROM r.image_set_id"
