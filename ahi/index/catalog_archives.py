"""Tables of the catalog for archives: buckets that hold years of DICOM, imported shard by shard.

Belongs here: their columns and states. Does not belong here: one row for each key of an archive. Those are Parquet in
the lake bucket (`archives/<archive_id>/...`); the catalog holds archives, looks at them and shards.
"""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from ahi.index.catalog import NOTED, Instant, metadata


class Source(StrEnum):
    """Where the keys of an archive are read from."""

    LISTING = "listing"
    """ListObjectsV2, side by side over prefixes."""
    S3_INVENTORY = "s3_inventory"
    """Files of an S3 Inventory report, with its manifest."""


class ShardState(StrEnum):
    """Where a shard is. What it imports never changes, in whatever state it is."""

    PLANNED = "planned"
    """Nothing of it was imported yet."""
    STARTED = "started"
    """A run has entered its objects into the ledger; their import is under way."""
    DONE = "done"
    """Every object of it is in a final state of the ledger."""
    CANCELLED = "cancelled"
    """Taken back before all of it was imported; started again, it goes on."""


archives = sa.Table(
    "archives",
    metadata,
    sa.Column("archive_id", sa.String, primary_key=True, comment="Name, and start of the keys of its shards"),
    sa.Column("uri", sa.String, nullable=False, comment="Where it lies: s3://bucket/prefix"),
    sa.Column("bucket", sa.String, nullable=False, comment="Bucket that holds it"),
    sa.Column("prefix", sa.String, nullable=False, comment="Start of its keys; empty: the whole bucket"),
    sa.Column("source", sa.String, nullable=False, comment="listing or s3_inventory"),
    sa.Column("report_uri", sa.String, comment="S3 Inventory: manifest.json, or the folder whose newest report counts"),
    sa.Column("created_at", Instant, nullable=False, comment="When it was added"),
    sa.Column("is_continuous", sa.Boolean, nullable=False, default=False, comment="A schedule picks up what is added"),
    sa.Column("rate", sa.Float, comment="Import jobs started a second; null: the service's quota"),
    sa.Column("paused_at", Instant, comment="Since when nothing more of it is started; null: it is not paused"),
    sa.Column("generation", sa.Integer, nullable=False, default=0, comment="Newest complete look at its keys; 0: none"),
    sa.Column("planned_generation", sa.Integer, nullable=False, default=0, comment="Look that its shards cover"),
    sa.Column("last_planned_at", Instant, comment="When shards were made last"),
    sa.Column("resumed_at", Instant, comment="When its last pause ended; null: it was never paused"),
    info={NOTED: True},
)

archive_looks = sa.Table(
    "archive_looks",
    metadata,
    sa.Column("archive_id", sa.String, primary_key=True, comment="Archive"),
    sa.Column("generation", sa.Integer, primary_key=True, comment="Number of the look, from 1"),
    sa.Column("source", sa.String, nullable=False, comment="listing or s3_inventory"),
    sa.Column("report_key", sa.String, comment="S3 Inventory: the manifest that was read"),
    sa.Column("units_key", sa.String, nullable=False, comment="Lake object with the pieces that the look is made in"),
    sa.Column("parts_key", sa.String, comment="Lake object that names the Parquet parts; null: none are kept"),
    sa.Column("differences_key", sa.String, comment="Parquet in the lake: keys added, changed, vanished since before"),
    sa.Column("as_of", Instant, comment="What the look shows: its own start, or the report's"),
    sa.Column("started_at", Instant, nullable=False, comment="When it began"),
    sa.Column("ended_at", Instant, comment="When all keys were read; null: not yet, and it goes on where it was"),
    sa.Column("n_objects", sa.BigInteger, comment="Keys it found"),
    sa.Column("n_bytes", sa.BigInteger, comment="Their size"),
    sa.Column("n_added", sa.BigInteger, comment="Keys that the look before did not have"),
    sa.Column("n_changed", sa.BigInteger, comment="Keys with another entity tag or size than before"),
    sa.Column("n_vanished", sa.BigInteger, comment="Keys of the look before that are gone"),
    info={NOTED: True},
)

archive_set_aside = sa.Table(
    "archive_set_aside",
    metadata,
    sa.Column("archive_id", sa.String, primary_key=True, comment="Archive"),
    sa.Column("generation", sa.Integer, primary_key=True, comment="Look that the plan was made of"),
    sa.Column("reason_code", sa.String, primary_key=True, comment="Why no shard imports them"),
    sa.Column("n_objects", sa.BigInteger, nullable=False, comment="Objects"),
    sa.Column("n_bytes", sa.BigInteger, nullable=False, comment="Their size"),
    sa.Column("object_key", sa.String, nullable=False, comment="Parquet in the lake bucket that names each, with why"),
    info={NOTED: True},
)

archive_shards = sa.Table(
    "archive_shards",
    metadata,
    sa.Column("shard_key", sa.String, primary_key=True, comment="<archive_id>-<number>: the partition key"),
    sa.Column("archive_id", sa.String, nullable=False, comment="Archive"),
    sa.Column("number", sa.Integer, nullable=False, comment="Number in its archive, from 1"),
    sa.Column("generation", sa.Integer, nullable=False, comment="Look whose keys it holds"),
    sa.Column("state", sa.String, nullable=False, comment="planned, started, done, split, cancelled"),
    sa.Column("n_objects", sa.Integer, nullable=False, comment="Objects it imports"),
    sa.Column("n_bytes", sa.BigInteger, nullable=False, comment="Their size"),
    sa.Column("in_place_prefix", sa.String, comment="Folder that is imported as it lies; null: packed by copies"),
    sa.Column("manifest_key", sa.String, nullable=False, comment="Parquet in the lake bucket that names its objects"),
    sa.Column("row_group", sa.Integer, nullable=False, comment="Row group of that file which is this shard"),
    sa.Column("planned_at", Instant, nullable=False, comment="When it was planned"),
    sa.Column("started_at", Instant, comment="When its objects entered the ledger"),
    sa.Column("ended_at", Instant, comment="When the last of them had reached a final state"),
    sa.Column("job_key", sa.String, comment="Newest import job of it"),
    sa.Column("attempts", sa.Integer, nullable=False, default=0, comment="Import jobs that have tried it"),
    sa.Column("run_id", sa.String, comment="Dagster run that worked on it last"),
    sa.Column("lease_until", Instant, comment="Other runs leave it to that one until this time"),
    sa.Column("parked_at", Instant, comment="When its run left it because its archive was paused; null: it did not"),
    sa.Column("n_imported", sa.Integer, comment="Objects in image sets"),
    sa.Column("n_failed", sa.Integer, comment="Objects that failed for good"),
    sa.Column("n_set_aside", sa.Integer, comment="Objects set aside: no DICOM, overwritten or deleted since"),
    sa.Column("n_known", sa.Integer, comment="Objects that the ledger already had, imported by another way"),
    sa.Column("n_image_sets", sa.Integer, comment="Image sets it made or changed"),
    sa.Column("message", sa.Text, comment="What went wrong last, without PHI"),
    sa.Column("set_down_at", Instant, comment="When a person said that what is refused of it fails; null: it waits"),
    sa.Index("ix_archive_shards_archive", "archive_id", "state"),
    info={NOTED: True},
)

archive_numbers = sa.Table(
    "archive_numbers",
    metadata,
    sa.Column("archive_id", sa.String, primary_key=True, comment="Name of an archive that was removed"),
    sa.Column("last_number", sa.Integer, nullable=False, comment="Number of its last shard; none is given twice"),
)

archive_progress = sa.Table(
    "archive_progress",
    metadata,
    sa.Column("archive_id", sa.String, primary_key=True, comment="Archive"),
    sa.Column("at", Instant, primary_key=True, comment="When it was counted, by a run that was at work on it"),
    sa.Column("n_total", sa.BigInteger, nullable=False, comment="Objects of all its shards"),
    sa.Column("n_entered", sa.BigInteger, nullable=False, comment="Objects in the ledger, or known"),
    sa.Column("n_final", sa.BigInteger, nullable=False, comment="Objects in a final state"),
    sa.Column("n_failed", sa.BigInteger, nullable=False, comment="Those of them that failed"),
    sa.Column("is_paused", sa.Boolean, nullable=False, comment="Whether the archive was paused"),
    sa.Column("active_seconds", sa.Float, comment="Time in which runs were at work on it, up to then"),
    sa.Column("ends_at", Instant, comment="When it was expected to end, as reckoned then"),
)

archive_corrections = sa.Table(
    "archive_corrections",
    metadata,
    sa.Column("shard_key", sa.String, primary_key=True, comment="Shard that imports a corrected file"),
    sa.Column("bucket", sa.String, primary_key=True, comment="Where the corrected file lies"),
    sa.Column("key", sa.String, primary_key=True, comment="Its key"),
    sa.Column("object_id", sa.String, nullable=False, comment="Object that failed and that it corrects"),
)
