"""Clients of the services we call. Belongs here: how we connect. Does not belong here: what we ask.

Endpoints, region and credentials come from the SDK's own environment variables, so the same code meets AWS and the
embedded stack.
"""

from __future__ import annotations

import threading
import traceback
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ahi.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable

    import boto3
    from botocore.config import Config
    from botocore.loaders import Loader
    from mypy_boto3_healthlake import HealthLakeClient
    from mypy_boto3_medical_imaging import HealthImagingClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


class Aws:
    """Clients made at first use. They may be shared by threads, not by processes."""

    def __init__(self) -> None:
        # Clients may be used by several threads at once, but not made by them.
        self._making = threading.Lock()
        self._listing: S3Client | None = None

    @cached_property
    def _session(self) -> boto3.Session:
        import boto3
        import botocore.session

        session = botocore.session.Session()
        session.register_component("data_loader", service_models())
        return boto3.Session(botocore_session=session)

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
        with self._making:
            return self._session.client("s3", config=self._config)

    def listing(self, take_entries: Callable[..., None]) -> S3Client:
        """Amazon S3 again, for long listings: `take_entries` reads each page before botocore does."""
        with self._making:
            if self._listing is None:
                self._listing = self._session.client("s3", config=self._config)
                self._listing.meta.events.register("before-parse.s3.ListObjectsV2", take_entries)
            return self._listing

    @cached_property
    def sqs(self) -> SQSClient:
        """Amazon SQS."""
        with self._making:
            return self._session.client("sqs", config=self._config)

    @cached_property
    def imaging(self) -> HealthImagingClient:
        """AWS HealthImaging."""
        with self._making:
            return self._session.client("medical-imaging", config=self._config)

    @cached_property
    def healthlake(self) -> HealthLakeClient:
        """AWS HealthLake."""
        with self._making:
            return self._session.client("healthlake", config=self._config)


@cache
def service_models() -> Loader:
    """The SDK's descriptions of services, read and parsed once in a process and in all its forks."""
    from botocore.loaders import Loader

    return Loader(include_default_search_paths=True)


def load_service_models() -> None:
    """Parse the descriptions of the services we call, for a process that forks others."""
    loader = service_models()
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    for service in ("s3", "sqs", "medical-imaging", "healthlake"):
        for kind in ("service-2", "paginators-1", "endpoint-rule-set-1"):
            loader.load_service_model(service, kind)


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


def is_transient(error: Exception) -> bool:
    """Whether the same call may well succeed later: throttling, a fault of the service, or of the way to it."""
    from botocore import exceptions as e

    if isinstance(error, e.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in THROTTLED | {"RequestTimeout"} or status >= FIRST_SERVER_ERROR
    return isinstance(error, (e.HTTPClientError, e.ConnectionError, e.IncompleteReadError))


def is_of_object(error: Exception, *, at_last: bool) -> bool:
    """Whether an error of S3 is set down to the object asked for: it will not pass, or, `at_last`, did not."""
    from botocore.exceptions import ClientError

    return at_last if is_transient(error) else isinstance(error, ClientError)


class AwsCallError(Exception):
    """A call to AWS failed. Says which and how, and nothing of what it was about: that may name a patient."""


def without_contents(error: Exception) -> AwsCallError:
    """The error with code and operation only; the SDK's own texts quote URLs, keys and parameters."""
    operation = getattr(error, "operation_name", "") or "a call"
    return AwsCallError(f"{operation} failed: {error_code(error) or type(error).__name__}")


def in_words(error: Exception) -> str:
    """What may be said of an error: our own permanent ones say what to do, others might quote a sender's key."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, PermanentError):
        return str(error)
    if isinstance(error, (BotoCoreError, ClientError)):
        return str(without_contents(error))
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


FIRST_SERVER_ERROR = 500
THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException", "SlowDown", "RequestLimitExceeded"})
"""Codes that ask for fewer calls."""
