"""Settings of the embedded AWS: where its state lies, and how each undocumented behaviour is decided.

Belongs here: every switch, with its default and the reason. Does not belong here: faults, which are set while the
server runs (`faults.py`).
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

from local_aws.fault_base import FaultError
from local_aws.fault_forms import make_all
from local_aws.healthlake import settings as healthlake

ACCOUNT = "123456789012"
PREFIX = "LOCAL_AWS_"
# Fields of which only these values have a meaning.
CHOICES: dict[str, tuple[str | int, ...]] = {
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "dicomweb_empty_status": (200, 204),
    "copy_first_version": (1, 2),
    "event_id_key": ("imageSetId", "imagesetId"),
    "event_output_uri": ("job", "request"),
    "merge_detail_type": ("Image Set Updated", "Image Set Created"),
    "not_active_reads": ("conflict", "answer"),
    "long_values": ("fail", "warn"),
    "invalid_uids": ("warn", "fail"),
    "update_errors": ("now", "later"),
    "attribute_wins": ("first", "latest"),
    "frame_resolutions": ("full", "pyramid"),
    "frame_sizes": ("decoded", "encoded"),
    "pixel_data_key": ("absent", "null"),
    "checksum_type": ("present", "absent"),
    "stored_syntax": ("always", "other"),
    "number_padding": ("kept", "stripped"),
    "promote_into_primary": ("merge", "refuse"),
    "primary_variant": ("first", "last", "largest"),
    "import_workflow": ("created", "imported"),
    "idempotency_mismatch": ("conflict", "validation", "first"),
    "dicomweb_unknown_keys": ("refuse", "ignore"),
    "dicomweb_auth": ("open", "required"),
    "search_between": ("inclusive", "half-open"),
    **healthlake.CHOICES,
}
# Least and most of a number; of the others, 0 and `MOST`. The service model has pages of 50 at most.
BOUNDS = {"workers": (1, 64), "page_size": (1, 50), "max_concurrent_jobs": (1, 10**6), "max_datastores": (1, 10**6)}
BOUNDS |= healthlake.BOUNDS
MOST = {"int": 10**15, "float": 10**9}
# What a text looks like.
PATTERNS = {"account": (r"\d{12}", "12 digits"), "region": (r"[a-z]{2}(-[a-z]+)+-\d", "a region, such as us-east-1")}
# Variables that are no settings: the process in stack.env.
OTHERS = {"LOCAL_AWS_PID"}


@dataclass(frozen=True)
class LocalSettings(healthlake.HealthLakeSettings):
    """One server. Every field but `home` and `port` is read from `LOCAL_AWS_<NAME>` of the environment."""

    home: Path
    port: int = 4566
    region: str = "us-east-1"
    # 12 digits used as an access key are the account of the caller, in ministack and here.
    account: str = ACCOUNT
    # Seconds between SUBMITTED and the end of an import job; 0: as fast as it goes.
    import_seconds: float = 0.0
    # The same for each object and for each 10^9 bytes of it; real latencies are not published.
    seconds_per_instance: float = 0.0
    seconds_per_gb: float = 0.0
    # Documented call rates (developer guide, "Throttling limits"), answered with ThrottlingException.
    rate_limits: bool = True
    # What they are multiplied by, so that a test meets them sooner or later.
    rate_factor: float = 1.0
    # Documented quota: import jobs SUBMITTED or IN_PROGRESS in one data store.
    max_concurrent_jobs: int = 100
    max_files_per_job: int = 5_000
    max_bytes_per_job: int = 10 * 10**9
    max_folders_per_job: int = 10_000
    # Newest copies of the quotas say 10 GB, older ones 4 GB.
    max_bytes_per_file: int = 10 * 10**9
    # A value longer than "DICOM element constraints" allow: "fail" the file, or "warn" (45571, since December 2025).
    long_values: str = "fail"
    # A UID that is not one by DICOM: "warn" (45570), unless it has other characters than digits and dots; or "fail".
    invalid_uids: str = "warn"
    # Attributes of a DICOM JSON metadata import: they replace those of the objects, or only fill in what is not there.
    json_metadata_wins: bool = True
    # Whether a job that ends FAILED by itself writes a manifest; real ones were seen to.
    failed_job_manifest: bool = False
    # An attribute of patient, study or series that an import has otherwise than the image set: whose value counts, the
    # "first" or the "latest", and whether an object whose value does not count gets warning 45056.
    attribute_wins: str = "first"
    coercion_warnings: bool = True
    # Warning 45062 for an object that has a tag twice or whose end is cut off; 47513 for one that is not encoded as its
    # transfer syntax says. The developer guide names both codes, and no case.
    discard_warnings: bool = True
    other_warnings: bool = True
    # "imageSetId" is what AWS's own consumers read; the developer guide prints "imagesetId".
    event_id_key: str = "imageSetId"
    # isPrimary and imageSetVersion: in the developer guide, absent from CDK's event classes.
    event_version_fields: bool = True
    # Event of a merge into an existing primary image set: "Image Set Updated" or "Image Set Created".
    merge_detail_type: str = "Image Set Updated"
    # outputS3Uri of import job events: "job" (the job's own folder) or "request" (as it was asked for).
    event_output_uri: str = "job"
    # Whether SUCCESS, FAILURE and WARNING files exist when there is nothing to say in them.
    empty_result_files: bool = False
    # Whether GetImageSet still answers after a delete (state DELETED) or says ResourceNotFound.
    get_deleted: bool = True
    # The same for GetDatastore; ListDatastores lists deleted data stores when it is asked for them.
    get_deleted_datastore: bool = False
    # Reading jobs and image sets of a data store that is not ACTIVE: "conflict" (the model gives ConflictException to
    # GetDICOMImportJob, ListDICOMImportJobs, GetImageSet and ListImageSetVersions, and no page says when), or "answer".
    not_active_reads: str = "conflict"
    # Which of the variants of a series that one import brings becomes primary: the "first" or the "last" in key order,
    # or the "largest" (most files).
    primary_variant: str = "first"
    # Whether Import Job Completed comes before the events of its image sets.
    job_event_first: bool = False
    # Workflow status of image sets after an import: "created" (CREATED, and UPDATED after a merge, as in the events of
    # the developer guide) or "imported" (IMPORTED, which the service model has and no page shows).
    import_workflow: str = "created"
    # Whether lines of SUCCESS carry imageSetVersion, as those of WARNING do.
    success_versions: bool = False
    # Seconds after which a client token is forgotten (0: never), and what a token with other parameters gets:
    # "conflict", "validation", or "first" (the answer of the first request).
    token_seconds: float = 0.0
    idempotency_mismatch: str = "conflict"
    # Items of a page when maxResults is not given.
    page_size: int = 50
    # Calls a second, with a burst of twice that, of operations without a documented rate (QIDO, STOW, bulk data);
    # 0: as many as they like.
    undocumented_rate: float = 0.0
    # CloudFormation template to apply at start: a path, "none", or "auto" for infra/template.yaml of a checkout.
    template: str = "auto"
    # Faults that are set from the start, a JSON list as the control API takes them.
    faults: str = ""
    # Seconds for which an image set is LOCKED by an update, a copy or a delete, a data store CREATING or DELETING.
    update_seconds: float = 0.0
    copy_seconds: float = 0.0
    delete_seconds: float = 0.0
    datastore_seconds: float = 0.0
    # Documented quotas: updates, copies and deletes under way (each), frames of one copy, bytes of a document.
    max_concurrent_changes: int = 100
    max_copy_frames: int = 1_000
    max_metadata_bytes: int = 50 * 10**6
    max_datastores: int = 100
    # Whether a payload that breaks the rules of a document is refused ("now": ValidationException) or makes a version
    # that is UPDATE_FAILED ("later").
    update_errors: str = "now"
    # Version of a copy into a new image set: one sample of the developer guide shows 2, another 1.
    copy_first_version: int = 1
    # Whether promoting to primary merges into the primary that the series has ("merge") or is refused ("refuse").
    promote_into_primary: str = "merge"
    # Seconds by which SearchImageSets lags behind; whether BETWEEN holds its upper bound ("inclusive") or not
    # ("half-open"); whether EQUAL looks at case; whether two filters may be EQUAL on attributes.
    search_lag_seconds: float = 0.0
    search_between: str = "inclusive"
    search_case_sensitive: bool = True
    search_two_attributes: bool = False
    # Import jobs that work at the same time; the rest wait as SUBMITTED.
    workers: int = 4
    # Content-Type of GetImageFrame for JPEG 2000 (.4.90): the service model does not list it; DICOMweb's is image/jp2.
    jpeg_2000_content_type: str = "image/j2c"
    # Transcoded frames kept in memory.
    frame_cache_bytes: int = 64 * 2**20
    # Decoded bytes of an object up to which its compressed frames are decoded at import, which checksum, minimum
    # and maximum need. Above it those are null; 0: never decode at import.
    checked_frame_bytes: int = 64 * 2**20
    # The two real documents differ. Checksums of transcoded frames: of the "full" resolution (2025), or a "pyramid" of
    # halves from 256 pixels a side up to it (2022), for which every frame is encoded at import.
    frame_resolutions: str = "full"
    # FrameSizeInBytes of transcoded frames: "decoded" (2022, developer guide), or "encoded" (2025), likewise.
    frame_sizes: str = "decoded"
    # Whether the attributes of an instance have PixelData as null (2022), and the instance ChecksumType (2025).
    pixel_data_key: str = "absent"
    checksum_type: str = "present"
    # StoredTransferSyntaxUID: "always" (2025), or only where it is "other" than the data store's format (2022).
    stored_syntax: str = "always"
    # Padding of DS and IS: "kept" ("1 ", 2025) or "stripped" ("1", 2022).
    number_padding: str = "kept"
    # DICOMweb: status of a search that finds nothing, 200 with an empty list or 204.
    dicomweb_empty_status: int = 200
    # A search key that the developer guide does not list: "refuse" (400) or "ignore" (with a Warning header).
    dicomweb_unknown_keys: str = "refuse"
    # "open": nobody needs to sign; "required": SigV4, or a bearer token on a data store with a Lambda authorizer.
    dicomweb_auth: str = "open"
    # Bearer tokens that are valid, separated by commas; "*": any.
    dicomweb_tokens: str = "*"
    # Origin that browsers may call from; "none": no CORS headers.
    cors_origin: str = "*"
    # "Up to 1GB of DICOM data per request".
    max_stow_bytes: int = 2**30
    # What ministack serves beside HealthImaging; the pipeline and import jobs need s3, sqs, events and cloudformation.
    services: str = "s3,sqs,sns,events,sts,iam,kms,cloudformation,logs"
    # What ministack logs to standard error.
    log_level: str = "ERROR"

    @property
    def aws_dir(self) -> Path:
        """Folder of all state."""
        return self.home / "aws"

    @property
    def env_file(self) -> Path:
        """File of `NAME=value` lines that appears when the server is ready."""
        return self.home / "stack.env"


class SettingsError(Exception):
    """A variable has a value that cannot be; the text says which and what can."""


_BOOLEANS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}


def _number(name: str, kind: str, text: str) -> float:
    """A number within its bounds.

    Raises:
        ValueError: It is none, or out of them; the text says what it is to be.
    """
    least, most = BOUNDS.get(name, (0, MOST[kind]))
    wanted = f"a {'whole ' * (kind == 'int')}number from {least} to {most}"
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        raise ValueError(wanted) from None
    if not least <= number <= most:
        raise ValueError(wanted)
    return number


def _value(name: str, kind: str, text: str) -> object:
    """A variable as its field wants it.

    Raises:
        ValueError: It does not fit; the text says what it is to be.
    """
    text = text.strip()
    if kind == "bool":
        if text.lower() not in _BOOLEANS:
            raise ValueError("on or off")
        return _BOOLEANS[text.lower()]
    pattern, what = PATTERNS.get(name, ("", ""))
    if pattern and not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError(what)
    choices = CHOICES.get(name)
    if choices and text not in map(str, choices):
        raise ValueError(f"one of {', '.join(map(str, choices))}")
    return _number(name, kind, text) if kind in MOST else text


def _cast(name: str, kind: str, text: str) -> object:
    """The same.

    Raises:
        SettingsError: It does not fit.
    """
    try:
        return _value(name, kind, text)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}{name.upper()} is {error}, not {text!r}.") from error


def _check_names(known: set[str]) -> None:
    """Refuse variables that no setting has: a misspelt switch would silently not switch.

    Raises:
        SettingsError: One of them, with the nearest that there is.
    """
    variables = {PREFIX + name.upper() for name in known}
    for name in sorted(n for n in os.environ if n.startswith(PREFIX) and n not in variables | OTHERS):
        if name in {f"{PREFIX}HOME", f"{PREFIX}PORT"}:
            raise SettingsError(f"There is no {name}: say --{name.removeprefix(PREFIX).lower()} on the command line.")
        [nearest, *_] = difflib.get_close_matches(name, sorted(variables), n=1, cutoff=0.0)
        raise SettingsError(f"There is no {name}; the nearest is {nearest}. All of them: docs/emulator.md.")


def load(home: Path, port: int, template: str | None = None) -> LocalSettings:
    """Settings for this process.

    Args:
        home: State folder of the deployment.
        port: Loopback port, 0 for a free one.
        template: What the command line says of the template; it wins over the environment.

    Returns:
        The settings, each from its variable or its default.

    Raises:
        SettingsError: A variable has a value that cannot be.
    """
    kinds = {f.name: str(f.type) for f in fields(LocalSettings) if f.name not in {"home", "port"}}
    _check_names(set(kinds))
    values = {name: os.environ.get(PREFIX + name.upper(), "") for name in kinds}
    given = {name: _cast(name, kinds[name], value) for name, value in values.items() if value.strip()}
    if template is not None:
        given["template"] = template
    settings = LocalSettings(home=home.resolve(), port=port, **given)  # type: ignore[arg-type]
    if settings.template not in {"auto", "none"} and not Path(settings.template).is_file():
        raise SettingsError(f"--template {settings.template}: no such file. Give a CloudFormation template, or none.")
    if settings.faults:
        try:
            make_all(settings.faults)
        except FaultError as error:
            raise SettingsError(f"{PREFIX}FAULTS: {error}") from error
    return settings


def prepare_ministack(settings: LocalSettings) -> None:
    """Set ministack's own variables. It reads them at import, so this comes first.

    Its optional listeners stay off, it keeps its state under the home, and it must not look for a Docker daemon:
    it would remove containers there that carry its label.
    """
    os.environ.update(
        {
            "SERVICES": settings.services,
            "GATEWAY_PORT": str(settings.port),
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": settings.region,
            "MINISTACK_ACCOUNT_ID": settings.account,
            "PERSIST_STATE": "1",
            "STATE_DIR": str(settings.aws_dir / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(settings.aws_dir / "s3"),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "LOG_LEVEL": settings.log_level,
            "DOCKER_HOST": "unix:///nonexistent/docker.sock",
        }
    )
