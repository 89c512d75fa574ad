"""The SQL catalog: what changes row by row, in tables that SQLite and PostgreSQL both run.

Belongs here: table definitions and the states a row can be in. Does not belong here: connections (`engine`), what
moves a row (the module named after the thing does that) and anything analysts scan, which is Parquet.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


class Instant(sa.TypeDecorator[dt.datetime]):
    """UTC time kept as integer microseconds since 1970, since SQLite forgets time zones."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Refuse a time without zone: it would be read back as another moment."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("A time in the catalog needs a time zone; use ahi.clock.now()")
        return round(value.timestamp() * 1_000_000)

    def process_result_value(self, value: int | None, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        """Give the moment back in UTC."""
        return None if value is None else EPOCH + dt.timedelta(microseconds=value)


EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class ObjectState(StrEnum):
    """Where an object is. Exactly one holds at any time."""

    HELD = "held"
    """Lies in an association that is not closed yet."""
    READY = "ready"
    """Read and waiting for an import job."""
    IMPORTING = "importing"
    """Part of an import job that has not been settled."""
    IMPORTED = "imported"
    """In an image set."""
    FAILED = "failed"
    """Not in an image set, for the reason given."""
    SET_ASIDE = "set_aside"
    """Overwritten or deleted by its sender before it was imported."""


IN_FLIGHT = (ObjectState.HELD, ObjectState.READY, ObjectState.IMPORTING)


class JobState(StrEnum):
    """Where a job of the chain is."""

    PLANNED = "planned"
    CLAIMED = "claimed"
    """One run has taken it; its client token is stored, the service may or may not know it."""
    SUBMITTED = "submitted"
    ENDED = "ended"
    """Terminal at the service; its results are not in the ledger yet."""
    SETTLED = "settled"


JOBS_UNDER_WAY = (JobState.CLAIMED, JobState.SUBMITTED, JobState.ENDED)
"""Of these jobs the service may have something whose results are still to come."""


metadata = sa.MetaData()
# Key of `sa.Table.info`: changes of the table are noted, since it is published whole (`whole`).
NOTED = "noted"


def _seq() -> sa.Column[int]:
    """Commit that changed a row last. Null after every insert and update; the next commit puts its number there."""
    return sa.Column("seq", sa.Integer, onupdate=sa.null(), comment="Commit that changed the row; null: the next one")


batches = sa.Table(
    "batches",
    metadata,
    sa.Column("batch_id", sa.String, primary_key=True, comment="Digest of the message ids"),
    sa.Column("queue", sa.String, nullable=False, comment="uploads, import_events or image_set_events"),
    sa.Column("day", sa.String, nullable=False, comment="Arrival day, YYYY-MM-DD in UTC: the partition"),
    sa.Column("object_key", sa.String, nullable=False, comment="Inbox object in the lake bucket"),
    sa.Column("n_messages", sa.Integer, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("consumed_at", Instant, comment="Set by the commit that made the batch true"),
    sa.Column("consumed_seq", sa.Integer),
    sa.Column("requests", sa.Integer, nullable=False, default=0, comment="Runs asked for so far"),
    sa.Column("next_request_at", Instant, comment="Not asked for again before this time"),
    sa.Index("ix_batches_pending", "queue", "consumed_at", "next_request_at"),
    sa.Index("ix_batches_day", "day", "queue"),
)

objects = sa.Table(
    "objects",
    metadata,
    sa.Column("object_id", sa.String, primary_key=True, comment="Digest of bucket, key and version"),
    sa.Column("bucket", sa.String, nullable=False, comment="Bucket it landed in"),
    sa.Column("key", sa.String, nullable=False, comment="Key it landed under; senders may put names into keys"),
    sa.Column("version_id", sa.String, comment="S3 object version; null in an unversioned bucket"),
    sa.Column("etag", sa.String, comment="S3 entity tag"),
    sa.Column("size_bytes", sa.BigInteger, comment="Size in bytes"),
    sa.Column("sequencer", sa.String, comment="S3 order of events on one key"),
    sa.Column(
        "state",
        sa.String,
        nullable=False,
        comment="held, ready, importing (in flight); imported, failed, set_aside (final)",
    ),
    sa.Column("state_since", Instant, nullable=False, comment="When it entered the state"),
    sa.Column("reason_code", sa.String, comment="Why failed or set aside, one of ahi.reasons.Reason"),
    sa.Column("reason_text", sa.Text, comment="The reason in words, without PHI"),
    sa.Column("warnings", sa.String, comment="HealthImaging warning codes, comma separated"),
    sa.Column("StudyInstanceUID", sa.String, comment="From its header"),
    sa.Column("SeriesInstanceUID", sa.String, comment="From its header"),
    sa.Column("SOPInstanceUID", sa.String, comment="From its header"),
    sa.Column("SOPClassUID", sa.String, comment="From its header"),
    sa.Column("Modality", sa.String, comment="From its header"),
    sa.Column("Manufacturer", sa.String, comment="From its header"),
    sa.Column("TransferSyntaxUID", sa.String, comment="From its header"),
    sa.Column("association_prefix", sa.String, comment="Closed prefix the object belongs to, if any"),
    sa.Column("stated_objects", sa.Integer, comment="Objects in its association, as the sender's manifest states"),
    sa.Column("shard_key", sa.String, comment="Shard of an archive it came with; null: it was uploaded"),
    sa.Column("corrects_object_id", sa.String, comment="Object that failed and that this one is the corrected form of"),
    sa.Column("job_key", sa.String, comment="Job that imports or imported it"),
    sa.Column("input_key", sa.String, comment="Key HealthImaging reads it from"),
    sa.Column("attempts", sa.Integer, nullable=False, default=0, comment="Import jobs that have tried it"),
    sa.Column("not_before", Instant, comment="Ready, but not to be planned before this time"),
    sa.Column("image_set_id", sa.String, comment="Image set it is in"),
    sa.Column("image_set_version", sa.Integer, comment="Version that the import made"),
    sa.Column("is_primary", sa.Boolean, comment="Whether that image set is primary"),
    sa.Column("manifest_line", sa.Integer, comment="Line of its result in the job's success.ndjson or failure.ndjson"),
    sa.Column("batch_id", sa.String, comment="Inbox batch that announced it"),
    sa.Column(
        "event_id", sa.String, comment="Message of the batch that announced it, by its id in SQS; null: a listing did"
    ),
    sa.Column("day", sa.String, nullable=False, comment="Arrival day, YYYY-MM-DD in UTC"),
    # The clock of each hop, in order. `changed_seq` tells publishing which days to write again.
    sa.Column("landed_at", Instant, comment="S3's time of the upload"),
    sa.Column("received_at", Instant, comment="A sensor took the message"),
    sa.Column("header_at", Instant, comment="Header row committed"),
    sa.Column("header_published_at", Instant, comment="Header row in the published index"),
    sa.Column("submitted_at", Instant, comment="Import job started"),
    sa.Column("job_ended_at", Instant, comment="Import job ended at the service"),
    sa.Column("settled_at", Instant, comment="Result read from the job's output"),
    sa.Column("indexed_at", Instant, comment="Rows of its image set committed"),
    sa.Column("published_at", Instant, comment="Rows of its image set in the published index"),
    sa.Column("landing_deleted_at", Instant, comment="Sender deleted the landing object"),
    sa.Column("erased_at", Instant, comment="Its image set was deleted, and what identifies it cleared here"),
    sa.Column("header_seq", sa.Integer, comment="Commit of its header row"),
    sa.Column("indexed_seq", sa.Integer, comment="Commit of its image set's rows"),
    sa.Column("changed_seq", sa.Integer, nullable=False, default=0, comment="Commit that changed this row last"),
    # The clock's questions: what is in flight and since when, what failed, and whether each failure says why.
    sa.Index("ix_objects_state_since", "state", "state_since", "reason_code"),
    # Imported and not indexed: the condition is one that every query states literally, so planners see that it holds.
    # The first column is null in all of it, and makes planners prefer it to the index above.
    sa.Index(
        "ix_objects_unindexed",
        "indexed_seq",
        "state",
        "state_since",
        sqlite_where=sa.text("indexed_seq IS NULL"),
        postgresql_where=sa.text("indexed_seq IS NULL"),
    ),
    sa.Index("ix_objects_landed", "landed_at"),
    sa.Index("ix_objects_key", "bucket", "key"),
    sa.Index("ix_objects_sop", "SOPInstanceUID"),
    sa.Index("ix_objects_job", "job_key"),
    sa.Index("ix_objects_image_set", "image_set_id"),
    sa.Index("ix_objects_changed", "changed_seq", "day"),
    sa.Index("ix_objects_day", "day"),
    # Of an archive's shards only: uploads, which are most writes, leave it alone.
    sa.Index(
        "ix_objects_shard",
        "shard_key",
        "state",
        sqlite_where=sa.text("shard_key IS NOT NULL"),
        postgresql_where=sa.text("shard_key IS NOT NULL"),
    ),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_key", sa.String, primary_key=True, comment="Digest of what the job imports; also its job name"),
    sa.Column("service", sa.String, nullable=False, comment="medical-imaging or healthlake"),
    sa.Column("state", sa.String, nullable=False, comment="planned, claimed, submitted, ended, settled"),
    sa.Column("day", sa.String, nullable=False, comment="Day it was planned, in UTC"),
    sa.Column("datastore_id", sa.String, nullable=False, comment="Data store it imports into"),
    sa.Column("input_uri", sa.String, nullable=False, comment="Prefix that HealthImaging reads"),
    sa.Column("output_uri", sa.String, nullable=False, comment="Prefix that HealthImaging writes results to"),
    sa.Column("in_place", sa.Boolean, nullable=False, comment="A closed prefix, used without a copy"),
    sa.Column("client_token", sa.String, comment="Stored before the start call, so a repeated start is the same job"),
    sa.Column("n_objects", sa.Integer, nullable=False, comment="Objects in it"),
    sa.Column("n_bytes", sa.BigInteger, nullable=False, comment="Their size"),
    sa.Column("planned_at", Instant, nullable=False, comment="When it was planned"),
    sa.Column("alone_since", Instant, comment="When the one object in it was first tried by itself"),
    sa.Column("not_before", Instant, comment="Back-pressure: no start before this time"),
    sa.Column("claimed_at", Instant, comment="When a run took it"),
    sa.Column("claimed_by", sa.String, comment="Run that took it"),
    sa.Column("starts", sa.Integer, nullable=False, default=0, comment="Times it was claimed to be started"),
    sa.Column("submitted_at", Instant, comment="When the service took it"),
    sa.Column("job_id", sa.String, comment="Id the service gave"),
    sa.Column("ended_at", Instant, comment="When it ended at the service"),
    sa.Column("status", sa.String, comment="Last status the service gave"),
    sa.Column("message", sa.Text, comment="What the service said of a failure"),
    sa.Column("settled_at", Instant, comment="When its results were in the ledger"),
    sa.Column("n_imported", sa.Integer, comment="Objects it imported"),
    sa.Column("n_failed", sa.Integer, comment="Objects that failed for good"),
    sa.Column("n_retried", sa.Integer, comment="Objects that go into another job"),
    sa.Column("n_image_sets", sa.Integer, comment="Image sets it made or changed"),
    sa.Column("output_folder", sa.String, comment="Folder with the manifest and the ndjson files"),
    sa.Column("shard_key", sa.String, comment="Shard of an archive that it imports from; null: of uploads"),
    _seq(),
    sa.Index("ix_jobs_seq", "seq"),
    sa.Index("ix_jobs_state", "service", "state", "planned_at"),
    sa.Index("ix_jobs_job_id", "job_id"),
    sa.Index("ix_jobs_day", "day"),
    sa.Index("ix_jobs_shard", "shard_key"),
)

pacing = sa.Table(
    "pacing",
    metadata,
    sa.Column("bucket", sa.String, primary_key=True, comment="Token bucket shared by every run"),
    sa.Column("tokens", sa.Float, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String, primary_key=True, comment="What only one process does at a time"),
    sa.Column(
        "until", Instant, nullable=False, comment="Free for others from this time, whatever became of the holder"
    ),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("datastore_id", sa.String, primary_key=True, comment="Data store"),
    sa.Column("image_set_id", sa.String, primary_key=True, comment="Image set"),
    sa.Column("version", sa.Integer, primary_key=True, comment="Version that the document describes"),
    sa.Column("object_key", sa.String, nullable=False, comment="Kept document in the lake bucket, gzip"),
    sa.Column("sha256", sa.String, nullable=False, comment="Digest of the document"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, comment="Size of the kept document"),
    sa.Column("is_primary", sa.Boolean, nullable=False, comment="Whether the image set was primary then"),
    sa.Column("created_at", Instant, comment="When HealthImaging made the image set"),
    sa.Column("updated_at", Instant, comment="When HealthImaging made this version"),
    sa.Column("fetched_at", Instant, nullable=False, comment="When HealthImaging was asked for it"),
    sa.Column("day", sa.String, nullable=False, comment="Day of that, YYYY-MM-DD in UTC"),
    sa.Column("erased_at", Instant, comment="When the kept document was erased or found gone; null: it is there"),
    _seq(),
    sa.Index("ix_documents_day", "day"),
    sa.Index("ix_documents_seq", "seq"),
)

sightings = sa.Table(
    "sightings",
    metadata,
    sa.Column("datastore_id", sa.String, primary_key=True),
    sa.Column("image_set_id", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False, comment="Highest version that HealthImaging showed us"),
    sa.Column("gone", sa.Boolean, nullable=False, comment="HealthImaging says it is deleted"),
    sa.Column("seen_at", Instant, nullable=False),
    sa.Column("pending", sa.Boolean, nullable=False, comment="The index does not show this yet"),
    sa.Column("unreadable_version", sa.Integer, comment="Version whose document lies in quarantine"),
    sa.Index("ix_sightings_pending", "pending"),
)

heads = sa.Table(
    "heads",
    metadata,
    sa.Column("datastore_id", sa.String, primary_key=True, comment="Data store"),
    sa.Column("image_set_id", sa.String, primary_key=True, comment="Image set"),
    sa.Column("version", sa.Integer, nullable=False, comment="Newest version read; 0: none was"),
    sa.Column("batch_id", sa.String, nullable=False, comment="Commit whose rows the index shows"),
    sa.Column(
        "is_primary", sa.Boolean, nullable=False, comment="False when HealthImaging found a conflict of metadata"
    ),
    sa.Column("StudyInstanceUID", sa.String, comment="Study in it"),
    sa.Column("SeriesInstanceUID", sa.String, comment="Series in it"),
    sa.Column("n_instances", sa.Integer, nullable=False, comment="Instances in it"),
    sa.Column("patient_key", sa.String, comment="Keyed hash of its patient"),
    sa.Column("created_at", Instant, comment="When HealthImaging made it"),
    sa.Column("updated_at", Instant, comment="When HealthImaging changed it last"),
    sa.Column("indexed_at", Instant, nullable=False, comment="When the index took this version in"),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("deleted_at", Instant, comment="When it was deleted; null: it is in the index"),
    sa.Column("delete_reason", sa.String, comment="Why it was deleted"),
    sa.Column("deleted_version", sa.Integer, comment="Last version that the deletion covers; null: every version"),
    sa.Column("erased_at", Instant, comment="When every trace but this row was erased"),
    sa.Index("ix_heads_image_set", "image_set_id"),
    sa.Index("ix_heads_deleted", "deleted_at"),
    sa.Index("ix_heads_series", "SeriesInstanceUID"),
    sa.Index("ix_heads_seq", "seq"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("item_id", sa.String, primary_key=True, comment="Digest of where it came from"),
    sa.Column("source", sa.String, nullable=False, comment="uploads, import_events, image_set_events or documents"),
    sa.Column("reason_code", sa.String, nullable=False, comment="Why, one of ahi.reasons.Reason"),
    sa.Column("reason_text", sa.Text, nullable=False, comment="The reason in words, without PHI"),
    sa.Column("evidence", sa.String, nullable=False, comment="Lake key and line where the item lies untouched"),
    sa.Column("batch_id", sa.String, comment="Inbox batch it came with"),
    sa.Column("first_seen", Instant, nullable=False, comment="When it was seen first"),
    _seq(),
    sa.Index("ix_quarantine_seq", "seq"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("event_id", sa.String, primary_key=True, comment="Id that the service or the queue gave"),
    sa.Column("detail_type", sa.String, nullable=False, comment="Kind of event"),
    sa.Column("subject", sa.String, comment="Job id or image set id"),
    sa.Column("occurred_at", Instant, comment="When it happened, as the service says"),
    sa.Column("batch_id", sa.String, nullable=False, comment="Inbox batch it came with"),
    sa.Column("outcome", sa.String, nullable=False, comment="used, duplicate, stale, recorded"),
    _seq(),
    sa.Index("ix_events_seq", "seq"),
)

commits = sa.Table(
    "commits",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True, comment="Number of the commit"),
    sa.Column("batch_id", sa.String, nullable=False, unique=True, comment="Batch that it made true"),
    sa.Column("kind", sa.String, nullable=False, comment="What sort of batch that is"),
    sa.Column("run_id", sa.String, comment="Dagster run"),
    sa.Column("committed_at", Instant, nullable=False, comment="Its time; no two commits have the same"),
    sa.Column("tables", sa.String, comment="Tables it wrote rows of, comma separated; null: not noted"),
    sa.Column("n_rows", sa.BigInteger, comment="Rows it wrote"),
    sa.Column("n_files", sa.Integer, comment="Parquet files it wrote"),
    sa.Column("schema_version", sa.String, comment="Version of the columns' meaning"),
    sqlite_autoincrement=True,
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("path", sa.String, primary_key=True, comment="Relative to the index folder"),
    sa.Column("table_name", sa.String, nullable=False, comment="Table it is a part of"),
    sa.Column("n_rows", sa.BigInteger, nullable=False, comment="Rows in it, replaced ones included"),
    sa.Column("n_bytes", sa.BigInteger, nullable=False, comment="Size in bytes"),
    sa.Column("sha256", sa.String, nullable=False, comment="Digest of the file"),
    sa.Column("schema_hash", sa.String, nullable=False, comment="Digest of its columns and types"),
    sa.Column("first_seq", sa.Integer, nullable=False, comment="Oldest commit whose rows the file may hold"),
    sa.Column("last_seq", sa.Integer, nullable=False, comment="Newest commit whose rows the file may hold"),
    sa.Column("live_seq", sa.Integer, nullable=False, comment="Commit that made the file part of the table"),
    sa.Column("retired_seq", sa.Integer, comment="Commit that took it out of the table; null: it is live"),
    sa.Column("retired_at", Instant, comment="When that was"),
    sa.Column("clean_seq", sa.Integer, comment="It holds no row that a commit up to this one buried; null: not known"),
    sa.Column("empty_columns", sa.Text, comment="Columns that are null in all its rows, by commas; null: not known"),
    sa.Index("ix_files_live", "table_name", "retired_seq"),
)

dead = sa.Table(
    "dead",
    metadata,
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("row_key", sa.String, primary_key=True, comment="image_set_id, or object_id for headers"),
    sa.Column("batch_id", sa.String, primary_key=True, comment="Commit whose rows under the key no longer count"),
    sa.Column("seq", sa.Integer, nullable=False, comment="Commit that buried the rows"),
    sa.Column("rows_seq", sa.Integer, nullable=False, comment="Commit that wrote the rows"),
    sa.Column("purged_seq", sa.Integer, comment="Compaction after which no live file holds the rows"),
    sa.Column("purged_at", Instant),
    sa.Index("ix_dead_live", "table_name", "purged_seq"),
    sa.Index("ix_dead_key", "row_key"),
)

publications = sa.Table(
    "publications",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, comment="Newest commit that the publication shows"),
    sa.Column("published_at", Instant, nullable=False),
)

state = sa.Table(
    "state",
    metadata,
    sa.Column("name", sa.String, primary_key=True, comment="Cursors and schema version"),
    sa.Column("value", sa.Text, nullable=False),
)
