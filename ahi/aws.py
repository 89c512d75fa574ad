"""Clients of the services we call. Belongs here: how we connect. Does not belong here: what we ask.

Endpoints, region and credentials come from the SDK's own environment variables, so the same code meets AWS and the
embedded stack.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import boto3
    from botocore.config import Config
    from mypy_boto3_medical_imaging import HealthImagingClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


class Aws:
    """Clients made at first use. They may be shared by threads, not by processes."""

    @cached_property
    def _session(self) -> boto3.Session:
        import boto3

        return boto3.Session()

    @cached_property
    def _config(self) -> Config:
        from botocore.config import Config

        # Standard mode backs off with jitter on throttling and 5xx. The pool is as wide as our widest thread pool.
        return Config(
            retries={"mode": "standard", "total_max_attempts": 5},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=64,
        )

    @cached_property
    def s3(self) -> S3Client:
        """Amazon S3."""
        return self._session.client("s3", config=self._config)

    @cached_property
    def sqs(self) -> SQSClient:
        """Amazon SQS."""
        return self._session.client("sqs", config=self._config)

    @cached_property
    def imaging(self) -> HealthImagingClient:
        """AWS HealthImaging."""
        return self._session.client("medical-imaging", config=self._config)


def error_code(error: Exception) -> str:
    """Code of a botocore `ClientError`, such as `NoSuchKey`; empty for any other exception."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


GONE = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound"})
"""Codes with which S3 says that an object is not there."""

FORBIDDEN = frozenset({"403", "AccessDenied", "Forbidden"})
"""Codes with which S3 says that we may not read an object."""

THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException", "SlowDown", "RequestLimitExceeded"})
"""Codes that ask for fewer calls."""
