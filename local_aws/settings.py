"""Settings of the embedded AWS: where its state lies, and how each undocumented behaviour is decided.

Belongs here: every switch, with its default and the reason. Does not belong here: faults, which are set while the
server runs (`faults.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNT = "123456789012"
PREFIX = "LOCAL_AWS_"


@dataclass(frozen=True)
class LocalSettings:
    """One server. Every field but `home` and `port` is read from `LOCAL_AWS_<NAME>` of the environment."""

    home: Path
    port: int = 4566
    region: str = "us-east-1"
    # 12 digits used as an access key are the account of the caller, in ministack and here.
    account: str = ACCOUNT
    # Seconds between SUBMITTED and the end of an import job; 0: as fast as it goes.
    import_seconds: float = 0.0
    # Documented call rates (developer guide, "Throttling limits"), answered with ThrottlingException.
    rate_limits: bool = True
    # Documented quota: import jobs SUBMITTED or IN_PROGRESS in one data store.
    max_concurrent_jobs: int = 100
    max_files_per_job: int = 5_000
    max_bytes_per_job: int = 10 * 10**9
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
    # Import jobs that work at the same time; the rest wait as SUBMITTED.
    workers: int = 4
    # Content-Type of GetImageFrame for JPEG 2000 (.4.90): the service model does not list it; DICOMweb's is image/jp2.
    jpeg_2000_content_type: str = "image/j2c"
    # Transcoded frames kept in memory.
    frame_cache_bytes: int = 64 * 2**20
    services: str = field(default="s3,sqs,sns,events,sts,iam,kms,cloudformation,logs")

    @property
    def aws_dir(self) -> Path:
        """Folder of all state."""
        return self.home / "aws"

    @property
    def env_file(self) -> Path:
        """File of `NAME=value` lines that appears when the server is ready."""
        return self.home / "stack.env"


def _cast(kind: str, text: str) -> object:
    if kind == "bool":
        return text.strip().lower() in {"1", "true", "on", "yes"}
    return {"int": int, "float": float}.get(kind, str)(text)


def load(home: Path, port: int) -> LocalSettings:
    """Settings for this process.

    Args:
        home: State folder of the deployment.
        port: Loopback port, 0 for a free one.

    Returns:
        The settings, each from its variable or its default.
    """
    given = {
        f.name: _cast(str(f.type), os.environ[PREFIX + f.name.upper()])
        for f in fields(LocalSettings)
        if f.name not in {"home", "port"} and os.environ.get(PREFIX + f.name.upper())
    }
    return LocalSettings(home=home.resolve(), port=port, **given)  # type: ignore[arg-type]


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
            "LOG_LEVEL": os.environ.get("LOCAL_AWS_LOG_LEVEL", "ERROR"),
            "DOCKER_HOST": "unix:///nonexistent/docker.sock",
        }
    )
