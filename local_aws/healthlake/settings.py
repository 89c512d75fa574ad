"""Switches of the emulated HealthLake: each undocumented or contradictory behaviour, and the quotas.

Belongs here: every switch, with its default and the reason. Does not belong here: reading them from the environment
(`local_aws/settings.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

# Fields of which only these values have a meaning.
CHOICES: dict[str, tuple[str | int, ...]] = {
    "fhir_queue": ("queue", "reject"),
    "fhir_queue_scope": ("account", "datastore"),
    "fhir_queue_full_error": ("ThrottlingException", "ValidationException"),
    "fhir_not_active_error": ("ValidationException", "ResourceNotFoundException"),
    "fhir_idempotency_mismatch": ("validation", "first"),
    "fhir_manifest_name": ("Manifest.json", "manifest.json", "both"),
    "fhir_line_base": (0, 1),
    "fhir_duplicate_wins": ("last", "first", "random"),
    "fhir_json_blob": ("object", "string"),
    "fhir_list_order": ("newest", "oldest", "shuffled"),
    "fhir_api_events": ("resources", "all", "none"),
}
BOUNDS = {
    "fhir_concurrent_jobs": (1, 64),
    "fhir_max_datastores": (1, 10**6),
    "fhir_page_size": (1, 100),
}


@dataclass(frozen=True, kw_only=True)
class HealthLakeSettings:
    """The part of the settings that is HealthLake's."""

    # "queue": jobs wait by themselves, first in first out (today's developer guide); "reject": a second job is refused
    # while one runs (2020 to 2024).
    fhir_queue: str = "queue"
    # Whose jobs share the slots: all of the "account" (blog post, quotas page), or those of one "datastore" (guide of
    # 2021).
    fhir_queue_scope: str = "account"
    # Jobs of a kind (import, export) that run at once in that scope.
    fhir_concurrent_jobs: int = 1
    # Jobs that wait in one data store, and what one more gets: the model has no quota error for jobs.
    fhir_max_queued_jobs: int = 25
    fhir_queue_full_error: str = "ThrottlingException"
    # Whether a job that need not wait passes through QUEUED, with its event.
    fhir_always_queued: bool = False
    # Seconds from the free slot to IN_PROGRESS, and from there to the end: fixed, and for each 10^9 bytes. A real job
    # of one resource took 83 s, a sample of the guide 32 s before it was IN_PROGRESS.
    fhir_start_seconds: float = 0.0
    fhir_import_seconds: float = 0.0
    fhir_seconds_per_gb: float = 0.0
    fhir_export_seconds: float = 0.0
    # Seconds for which a data store is CREATING, UPDATING or DELETING; a real one took 15 minutes.
    fhir_datastore_seconds: float = 0.0
    # Documented quotas.
    fhir_max_files_per_job: int = 1_000_000
    fhir_max_bytes_per_job: int = 5_000 * 10**9
    fhir_max_bytes_per_file: int = 50 * 10**9
    fhir_max_datastores: int = 20
    fhir_max_rest_bytes: int = 5 * 10**6
    # A job on a data store that is not ACTIVE.
    fhir_not_active_error: str = "ValidationException"
    # A client token that comes again with other parameters: refused, or the answer of the "first" request.
    fhir_idempotency_mismatch: str = "validation"
    # Documents write manifest.json; two live uses found Manifest.json.
    fhir_manifest_name: str = "Manifest.json"
    # Number of the first line of a file in lineId.
    fhir_line_base: int = 1
    # Which of two lines of one job with the same type and id stays.
    fhir_duplicate_wins: str = "last"
    # Form of the OperationOutcome in a line of FAILURE.
    fhir_json_blob: str = "object"
    # Order of lists of jobs; none is promised.
    fhir_list_order: str = "newest"
    # Items of a page of lists, and matches of a page of a search, when nothing is asked for.
    fhir_list_size: int = 100
    fhir_page_size: int = 10
    # Seconds after which a new resource is found by searches; about 20 were seen.
    fhir_search_lag_seconds: float = 0.0
    # "AWS API Call via CloudTrail": of "resources" (create, update, delete over REST), of "all" calls that change
    # something, or "none" (no trail).
    fhir_api_events: str = "resources"
