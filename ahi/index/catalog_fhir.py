"""Tables of the catalog for HealthLake: imports, files, batches, failed lines, resources of ours, times.

Belongs here: table definitions and states. Does not belong here: what moves a row (`ahi.healthlake`). The jobs
themselves stand in `catalog.jobs`, beside those of HealthImaging.
"""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from ahi.index.catalog import NOTED, Instant, metadata


class Policy(StrEnum):
    """What a chain does after a batch with errors."""

    STOP = "stop"
    CONTINUE = "continue"
    STOP_IF_RATIO = "stop_if_ratio"


class BatchState(StrEnum):
    """Where a FHIR batch is."""

    PLANNED = "planned"
    """Its parts are known, at exact versions and bytes."""
    FROZEN = "frozen"
    """Validated and written under a prefix of its own; its job waits, runs or has ended."""
    SETTLED = "settled"
    """Its job's results are known, or nothing of it could be sent."""
    FAILED = "failed"
    """Cannot go in as it is: the reason says why."""


class SentState(StrEnum):
    """What HealthLake has of a resource."""

    PENDING = "pending"
    CURRENT = "current"
    FAILED = "failed"
    RETRACTED = "retracted"


fhir_imports = sa.Table(
    "fhir_imports",
    metadata,
    sa.Column("import_id", sa.String, primary_key=True, comment="Chain of batches"),
    sa.Column("origin", sa.String, nullable=False, comment="history, index or resubmission"),
    sa.Column("source_uri", sa.String, comment="Prefix that was planned"),
    sa.Column("datastore_id", sa.String, nullable=False, comment="HealthLake data store"),
    sa.Column("validation_level", sa.String, nullable=False, comment="strict, structure-only or minimal"),
    sa.Column("policy", sa.String, nullable=False, comment="After errors: stop, continue or stop_if_ratio"),
    sa.Column("stop_ratio", sa.Float, nullable=False, default=0.0, comment="Share of failed resources that stops it"),
    sa.Column("is_ordered", sa.Boolean, nullable=False, comment="Whether a batch waits for the one before it"),
    sa.Column("created_at", Instant, nullable=False, comment="When it was asked for"),
    sa.Column("stopped_at", Instant, comment="Nothing of it starts while this is set"),
    sa.Column("stopped_reason", sa.Text, comment="Why, without PHI"),
    info={NOTED: True},
)

fhir_files = sa.Table(
    "fhir_files",
    metadata,
    sa.Column("file_id", sa.String, primary_key=True, comment="Digest of bucket, key and version"),
    sa.Column("import_id", sa.String, nullable=False, comment="Chain that it came with"),
    sa.Column("bucket", sa.String, nullable=False, comment="Bucket it lies in"),
    sa.Column("key", sa.String, nullable=False, comment="Senders may put names into keys"),
    sa.Column("version_id", sa.String, comment="S3 object version; null in an unversioned bucket"),
    sa.Column("etag", sa.String, nullable=False, comment="S3 entity tag"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, comment="Size in bytes"),
    sa.Column("received_at", Instant, nullable=False, comment="When S3 had it"),
    sa.Column("planned_at", Instant, nullable=False, comment="When it was planned"),
    sa.Index("ix_fhir_files_import", "import_id"),
)

fhir_batches = sa.Table(
    "fhir_batches",
    metadata,
    sa.Column("batch_id", sa.String, primary_key=True, comment="Import and number; also the Dagster partition"),
    sa.Column("import_id", sa.String, nullable=False, comment="Chain it belongs to"),
    sa.Column("state", sa.String, nullable=False, comment="planned, frozen, settled or failed"),
    sa.Column("reason", sa.Text, comment="Why it failed, without PHI"),
    sa.Column("position", sa.Float, nullable=False, comment="Its place in the chain"),
    sa.Column("priority", sa.Integer, nullable=False, default=0, comment="Higher goes first"),
    sa.Column("held_at", Instant, comment="Kept from starting since then"),
    sa.Column("parent_batch_id", sa.String, comment="Batch whose failed lines it corrects"),
    sa.Column("received_at", Instant, nullable=False, comment="When the first of its files had arrived"),
    sa.Column("planned_at", Instant, nullable=False, comment="When it was planned"),
    sa.Column("frozen_at", Instant, comment="When it was validated and written"),
    sa.Column("settled_at", Instant, comment="When its results were known"),
    sa.Column("sha256", sa.String, comment="Digest of what was frozen"),
    sa.Column("attempt", sa.Integer, nullable=False, default=0, comment="Import jobs made of it"),
    sa.Column("job_key", sa.String, comment="Its newest job"),
    sa.Column("erased_at", Instant, comment="When its lines were deleted; of batches from the index alone"),
    sa.Column("n_files", sa.Integer, nullable=False, comment="Files, or parts of files"),
    sa.Column("n_bytes", sa.BigInteger, nullable=False, comment="Their size before validation"),
    sa.Column("n_lines", sa.Integer, comment="Lines that are not blank"),
    sa.Column("n_sent", sa.Integer, comment="Lines that were valid: what HealthLake was given"),
    sa.Column("n_refused", sa.Integer, comment="Lines in quarantine"),
    sa.Column("n_repeated", sa.Integer, comment="Lines left out as exact repetitions"),
    sa.Column("n_dangling", sa.Integer, comment="References to resources that are not in the batch"),
    sa.Column("n_warned", sa.Integer, comment="Lines that were sent although they are a trap"),
    sa.Column("n_scanned", sa.Integer, comment="Resources HealthLake read"),
    sa.Column("n_imported", sa.Integer, comment="Resources HealthLake took"),
    sa.Column("n_customer_errors", sa.Integer, comment="Resources HealthLake refused"),
    sa.Column("n_server_errors", sa.Integer, comment="Resources HealthLake failed on"),
    sa.Index("ix_fhir_batches_import", "import_id", "position"),
    sa.Index("ix_fhir_batches_state", "state"),
    sa.Index("ix_fhir_batches_job", "job_key"),
    info={NOTED: True},
)

fhir_parts = sa.Table(
    "fhir_parts",
    metadata,
    sa.Column("batch_id", sa.String, primary_key=True, comment="Batch it is a part of"),
    sa.Column("number", sa.Integer, primary_key=True, comment="Place in the batch; name of its frozen file"),
    sa.Column("file_id", sa.String, nullable=False, comment="File it is of"),
    sa.Column("first_byte", sa.BigInteger, nullable=False, comment="Its first byte in the file"),
    sa.Column("end_byte", sa.BigInteger, nullable=False, comment="First byte after it"),
    sa.Column("sha256", sa.String, comment="Digest of the bytes that were read"),
    sa.Index("ix_fhir_parts_file", "file_id"),
)

fhir_failures = sa.Table(
    "fhir_failures",
    metadata,
    sa.Column("failure_id", sa.String, primary_key=True, comment="Digest of batch, stage, file and line"),
    sa.Column("batch_id", sa.String, nullable=False, comment="Batch that it came in"),
    sa.Column("stage", sa.String, nullable=False, comment="validation, import or server"),
    sa.Column("resource_type", sa.String, nullable=False, comment="Type; empty when the line tells none"),
    sa.Column("resource_id", sa.String, comment="Id; it may identify a person"),
    sa.Column("diagnostic", sa.Text, nullable=False, comment="Why, without values of the resource"),
    sa.Column("part", sa.Integer, comment="Part of the batch"),
    sa.Column("line", sa.Integer, comment="Line of the part as it was sent to us, from 1"),
    sa.Column("n_lines", sa.Integer, nullable=False, default=1, comment="Lines it stands for: many past the limit"),
    sa.Column("first_seen", Instant, nullable=False, comment="When it failed"),
    sa.Column("resubmitted_in", sa.String, comment="Batch with the corrected line"),
    sa.Column("resolved_at", Instant, comment="When HealthLake took it, or a person let it be"),
    sa.Index("ix_fhir_failures_batch", "batch_id"),
    sa.Index("ix_fhir_failures_again", "resubmitted_in"),
    info={NOTED: True},
)

fhir_warnings = sa.Table(
    "fhir_warnings",
    metadata,
    sa.Column("batch_id", sa.String, primary_key=True, comment="Batch that carries the lines"),
    sa.Column("resource_type", sa.String, primary_key=True, comment="Their type"),
    sa.Column("diagnostic", sa.String, primary_key=True, comment="Why they are a trap, without values"),
    sa.Column("n_lines", sa.Integer, nullable=False, comment="How many were sent"),
)

fhir_sent = sa.Table(
    "fhir_sent",
    metadata,
    sa.Column("datastore_id", sa.String, primary_key=True, comment="HealthLake data store"),
    sa.Column("reference", sa.String, primary_key=True, comment="Type and id"),
    sa.Column("origin", sa.String, nullable=False, comment="index; history: an ImagingStudy of somebody else's"),
    sa.Column("study_uid", sa.String, comment="Study of an ImagingStudy; null again once retracted"),
    sa.Column("subject", sa.String, comment="Id of its Patient"),
    sa.Column("fingerprint", sa.String, comment="State of the study that it was made from"),
    sa.Column("digest", sa.String, nullable=False, comment="SHA-256 of the resource"),
    sa.Column("state", sa.String, nullable=False, comment="pending, current, failed or retracted"),
    sa.Column("batch_id", sa.String, nullable=False, comment="Batch that carried it last; empty: none did"),
    sa.Column("tries", sa.Integer, nullable=False, default=0, comment="Times that it failed for no fault of its own"),
    sa.Column("retry_at", Instant, comment="When it is sent again; null: when its study changes"),
    sa.Index("ix_fhir_sent_batch", "batch_id"),
    sa.Index("ix_fhir_sent_study", "study_uid"),
)

fhir_audit = sa.Table(
    "fhir_audit",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True, comment="Order of entry"),
    sa.Column("at", Instant, nullable=False, comment="When it happened"),
    sa.Column("observed_at", Instant, nullable=False, comment="When we knew"),
    sa.Column("what", sa.String, nullable=False, comment="received, planned, frozen, submitted, an event, ended ..."),
    sa.Column("batch_id", sa.String, comment="Batch it is about"),
    sa.Column("file_id", sa.String, comment="File it is about"),
    sa.Column("job_id", sa.String, comment="HealthLake's job that it is about"),
    sa.Column("note", sa.String, comment="Status or reason, without PHI"),
    sa.Index("ix_fhir_audit_batch", "batch_id", "what"),
    sa.Index("ix_fhir_audit_file", "file_id"),
    sqlite_autoincrement=True,
)


_APPEND_ONLY = "fhir_audit takes entries and neither changes nor gives back one"
_GUARDS = {
    "sqlite": [
        f"CREATE TRIGGER fhir_audit_no_{verb.lower()} BEFORE {verb} ON fhir_audit "
        f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        (
            "CREATE OR REPLACE FUNCTION fhir_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql "
            f"AS $$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$"
        ),
        (
            "CREATE TRIGGER fhir_audit_append_only BEFORE UPDATE OR DELETE ON fhir_audit "
            "FOR EACH ROW EXECUTE FUNCTION fhir_audit_is_append_only()"
        ),
    ],
}
for _dialect, _statements in _GUARDS.items():
    for _statement in _statements:
        _guard = sa.DDL(_statement)  # type: ignore[no-untyped-call]
        sa.event.listen(fhir_audit, "after_create", _guard.execute_if(dialect=_dialect))
