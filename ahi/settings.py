"""Everything the pipeline is told from outside, in one class.

Belongs here: each setting with its unit, default and reason. Does not belong here: reading a setting anywhere else,
and anything AWS's own SDK reads (`AWS_ENDPOINT_URL`, region, credentials): those stay with boto3.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from dotenv import load_dotenv
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ahi.index.columns import Tier

CATALOG_SCHEMA = "ahi"
"""Schema of the catalog in a database that it shares with Dagster."""


class Settings(BaseSettings):
    """Settings of one deployment, from environment variables with the prefix `AHI_`."""

    model_config = SettingsConfigDict(env_prefix="AHI_", frozen=True, extra="ignore")

    home: Path = Field(Path(".ahi"), description="State of this deployment on local disk.")

    # Names of what infra/template.yaml made; `python -m local_aws` prints them, and so do the outputs of the stack.
    landing_bucket: str = Field("", description="Bucket that receives DICOM.")
    lake_bucket: str = Field("", description="Bucket for inbox batches, job outputs and kept documents.")
    staging_bucket: str = Field("", description="Bucket with one prefix for each import job.")
    upload_queue_url: str = Field("", description="Queue of S3 events and association manifests.")
    import_queue_url: str = Field("", description="Queue of HealthImaging import job events.")
    image_set_queue_url: str = Field("", description="Queue of HealthImaging image set events.")
    datastore_id: str = Field("", description="HealthImaging data store, 32 characters.")
    import_role_arn: str = Field("", description="Role that HealthImaging assumes to read and write S3.")

    # HealthLake. Its data store is made apart, since it costs by the hour; without one nothing of it runs.
    healthlake_queue_url: str = Field("", description="Queue of HealthLake's events.")
    fhir_datastore_id: str = Field("", description="HealthLake data store, 32 characters; empty: no HealthLake.")
    fhir_role_arn: str = Field("", description="Role that HealthLake assumes to read batches and write outputs.")
    fhir_key_arn: str = Field("", description="KMS key of job outputs, which HealthLake requires.")

    database_url: str = Field(
        "", repr=False, description="PostgreSQL for the catalog and, with `make up`, Dagster; empty: SQLite."
    )
    catalog_url: str = Field("", repr=False, description="SQLAlchemy URL of the catalog alone; wins.")

    # HealthImaging quotas ("Endpoints and quotas" and "Throttling limits" of its developer guide).
    max_files_per_job: int = Field(5_000, ge=1, le=5_000, description="Objects in one import job.")
    max_bytes_per_job: int = Field(10 * 10**9, ge=1, description="Bytes in one import job.")
    max_jobs_in_flight: int = Field(100, ge=1, description="Import jobs that run at a time in one data store.")
    job_starts_per_second: float = Field(1.0, gt=0, description="Sustained rate of StartDICOMImportJob.")
    image_set_looks_per_second: float = Field(25.0, gt=0, description="Sustained rate of GetImageSet.")
    metadata_reads_per_second: float = Field(50.0, gt=0, description="Sustained rate of GetImageSetMetadata.")
    kept_before_seconds: float = Field(
        900.0, ge=0, description="A version older than this is looked for in the lake before HealthImaging is asked."
    )

    # HealthLake quotas have moved each year ("Quotas" of its developer guide): 1 job runs, 25 wait in a data store.
    fhir_jobs_in_service: int = Field(
        1,
        ge=1,
        le=26,
        description="Import jobs at HealthLake at a time; with more, one that fails in an ordered chain stays failed.",
    )
    fhir_slot_scope: Literal["datastore", "account"] = Field(
        "account", description="Whose jobs take HealthLake's one slot; account is the safe reading of its quota."
    )
    fhir_starts_per_second: float = Field(
        1.0, gt=0, description="Sustained rate of StartFHIRImportJob; 25 today, 1 a minute before."
    )
    fhir_bytes_per_job: int = Field(
        500 * 10**6, ge=1, description="Bytes in one batch; HealthLake takes 5,000 GB, a run validates 25 MB/s."
    )
    fhir_bytes_per_file: int = Field(
        250 * 10**6, ge=1, description="A larger file is split on line borders; HealthLake takes 50 GB."
    )
    fhir_files_per_job: int = Field(1_000, ge=1, le=1_000_000, description="Files in one batch.")
    fhir_validation_level: Literal["strict", "structure-only", "minimal"] = Field(
        "strict", description="How HealthLake judges resources on import."
    )
    fhir_frozen_ahead: int = Field(3, ge=1, description="Batches of each chain made ready before it can start them.")
    fhir_max_attempts: int = Field(2, ge=1, description="Import jobs for one batch before its chain stops.")
    fhir_look_seconds: float = Field(
        60.0, gt=0, description="A running HealthLake job unheard of for so long is asked after."
    )
    fhir_stale_seconds: float = Field(
        21_600.0, gt=0, description="A HealthLake job that stands still for so long is told of; results may take a day."
    )
    fhir_failure_rows: int = Field(
        10_000, ge=0, description="Failed lines of a batch with a row of their own; the rest is counted."
    )
    fhir_studies_per_batch: int = Field(20_000, ge=1, description="Changed studies sent in one batch.")
    fhir_retry_seconds: float = Field(
        300.0,
        ge=0,
        description="Wait before a resource that HealthLake failed on is sent again; doubled, at most a day.",
    )
    fhir_time_zone: str = Field(
        "", description="Zone of DICOM times without offset, such as Europe/Berlin; empty: only the date is told."
    )
    fhir_rules: Path | None = Field(
        None, description="TOML file of what DICOM cannot tell FHIR: systems of identifiers, patients known elsewhere."
    )
    business_calendar: str = Field(
        "us-federal", description="Holidays of business days: us-federal, or a file of days, one a line."
    )
    business_time_zone: str = Field("America/New_York", description="Zone in which business days begin and end.")
    breach_business_days: int = Field(
        1, ge=0, description="Business days from receipt to ingestion (42 CFR 422.119(b)(1))."
    )

    # A tick of at most 10 s survives every proxy and reload that Dagster's code server meets.
    listen_seconds: float = Field(8.0, ge=0, le=10, description="How long a sensor tick waits for a first message.")
    drain_seconds: float = Field(5.0, gt=0, le=10, description="How long a tick goes on receiving after the first.")
    drain_messages: int = Field(1_000, ge=1, description="Messages in one inbox batch, at most.")
    linger_seconds: float = Field(0.25, ge=0, description="Quiet time after which a tick stops receiving.")

    header_threads: int = Field(16, ge=1, description="Header reads under way at a time in one run.")
    copy_threads: int = Field(16, ge=1, description="Server-side copies under way at a time in one run.")
    document_threads: int = Field(8, ge=1, description="Metadata reads under way at a time in one run.")

    archive_list_threads: int = Field(16, ge=1, description="Listings of an archive under way at a time.")
    archive_part_keys: int = Field(50_000, ge=1, description="Keys of an archive kept at a time; a kill loses fewer.")
    archive_resume_hours: float = Field(
        24.0, ge=0, description="A look at an archive that broke off goes on where it was for so long, then anew."
    )
    copies_per_second: float = Field(
        200.0, gt=0, description="Server-side copies that one run makes; it weighs a copy against a job start."
    )
    archive_max_shards: int = Field(
        40_000, ge=1, description="Shards of an archive, about; each is a partition, of which Dagster takes 100,000."
    )
    archive_share: float = Field(0.8, gt=0, le=1, description="Share of jobs in flight that archives may take.")
    archive_backlog: int = Field(
        2_000,
        ge=0,
        description="Imported objects of archives not indexed yet; above it none of their jobs start: uploads queue "
        "behind them.",
    )
    archive_gather_seconds: float = Field(
        5.0, ge=0, le=10, description="How long events of archives wait for more to share their inbox object."
    )
    archive_lease_seconds: float = Field(
        30.0, gt=0, le=240, description="A run silent for so long has let go of its shards and events."
    )
    archive_poll_seconds: float = Field(1.0, gt=0, description="How often a run looks what became of its shards.")

    max_attempts: int = Field(3, ge=1, description="Import attempts for one object before it is set down as failed.")
    retry_seconds: float = Field(30.0, ge=0, description="Wait before an object's second import attempt; then times 4.")
    claim_seconds: float = Field(120.0, gt=0, description="A claimed job silent for so long is taken over.")
    hold_seconds: float = Field(900.0, gt=0, description="How long an object of an association awaits its manifest.")
    failed_job_seconds: float = Field(120.0, ge=0, description="How long results of a failed job are waited for.")
    manifest_seconds: float = Field(86_400.0, gt=0, description="How long an ended job may owe its manifest.")
    association_prefix: str = Field("associations/", description="Landing keys under it await a manifest.")

    sweep_overlap_seconds: float = Field(300.0, ge=0, description="How far a sweep looks back behind its cursor.")
    sweep_grace_seconds: float = Field(60.0, ge=0, description="An object younger than this is left to its event.")
    sweep_objects: int = Field(100_000, ge=1, description="Object versions that one sweep lists, at most.")
    sweep_image_sets: int = Field(10_000, ge=1, description="Image sets that a look of one sweep sees, at most.")
    inbox_interval_seconds: float = Field(600.0, ge=0, description="Time between two looks for lost inbox batches.")
    listing_interval_seconds: float = Field(900.0, ge=0, description="Time between two listings of the landing bucket.")
    enumeration_interval_seconds: float = Field(
        86_400.0, ge=0, description="Time between two full lists of image sets."
    )

    overdue_seconds: float = Field(
        3_600.0, gt=0, description="An object on its way for longer fails the closure check."
    )
    freshness_seconds: float = Field(300.0, gt=0, description="Arrival to queryable that 95 of 100 objects must meet.")

    compact_files: int = Field(24, ge=2, description="Small files of a table that are merged; of batches 16 at most.")
    small_file_bytes: int = Field(16 * 2**20, ge=1, description="A file below this size is small.")
    grace_seconds: float = Field(3_600.0, ge=0, description="How long a retired file is kept for readers of old lists.")
    erase_after_days: float = Field(
        30.0,
        ge=0,
        description="Time from a deletion in HealthImaging to the erasure of its history and documents; not below "
        "StagingDays of the template.",
    )
    keep_runs_days: float = Field(14.0, gt=0, description="Dagster runs that ended longer ago are deleted.")
    keep_clock_runs_days: float = Field(1.0, gt=0, description="The same for runs that a schedule asked for.")
    patient_key_secret: str = Field("", repr=False, description="Key of the hash behind patient_key; empty: made once.")

    deidentified_dates: Literal["year", "shift"] = Field(
        "year",
        description="Dates of the de-identified tier: their year, or moved by whole days (ahi.index.tiers.rules).",
    )
    tier_terms: Path | None = Field(
        None, description="JSON file of reviewed values that the de-identified tier may show: {column: [value, ...]}."
    )
    copies_to: str = Field(
        "",
        description="Folder or s3://bucket/prefix for daily copies of the index, for analysts who must not reach "
        "AHI_HOME; empty: none.",
    )
    copies_tiers: list[Tier] = Field(
        [Tier.LIMITED, Tier.DEIDENTIFIED], description='Tiers that are copied there, such as ["deidentified"].'
    )

    @property
    def index_dir(self) -> Path:
        """Folder of the index: `data/`, `index.duckdb` and, by default, the catalog."""
        return self.home.resolve() / "index"

    @property
    def catalog(self) -> str:
        """SQLAlchemy URL of the catalog."""
        if self.catalog_url:
            return self.catalog_url
        if self.database_url:
            return in_schema(self.database_url, CATALOG_SCHEMA)
        return f"sqlite:///{self.index_dir / 'catalog.sqlite'}"


def in_schema(url: str, schema: str) -> str:
    """URL of a PostgreSQL database whose tables are made and found in one schema."""
    from sqlalchemy import make_url

    return make_url(url).update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)


@cache
def load_settings() -> Settings:
    """Settings of this process. Variables already set win over the stack's own file; `ahi.cli` lets the file win.

    Only a stack started on this machine writes `stack.env`; on AWS there is none and this reads the environment alone.
    """
    load_dotenv(Settings().home / "stack.env", override=False)
    return Settings()
