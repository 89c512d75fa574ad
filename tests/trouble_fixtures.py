"""Answers that the embedded S3 does not give by itself. Belongs here: what goes over the wire for them.

Does not belong here: faults that the emulator can be told (`AwsStack.fault`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from botocore.awsrequest import AWSResponse

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

STATUS = {"AccessDenied": 403, "InvalidObjectState": 403, "InternalError": 500, "KMS.DisabledException": 400}


class _Body:
    """What the SDK reads an answer from."""

    def __init__(self, content: bytes, error: Exception | None = None) -> None:
        self._content, self._error = content, error

    def stream(self, *_: object, **__: object) -> list[bytes]:
        return [self._content]

    def read(self, *_: object, **__: object) -> bytes:
        if self._error:
            raise self._error
        content, self._content = self._content, b""
        return content


def ask_once(client: Any) -> None:
    """Take its own retries from a client of S3."""
    client.meta.events.unregister("needs-retry.s3", unique_id="retry-config-s3")


def refuse(client: Any, operation: str, code: str, *, of: Sequence[str], times: int | None = None) -> list[str]:
    """Make S3 refuse an operation on some keys, as it does: status, code in XML. Returns the keys refused so far.

    `times`: so many answers, then it works; None: for as long as the client lives.
    """
    seen: list[str] = []

    def answer(request: Any, **_: object) -> AWSResponse | None:
        path = _asked(request)
        if not any(path.endswith(key) for key in of) or (times is not None and len(seen) >= times):
            return None
        seen.append(path)
        text = f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
        headers = {"content-type": "application/xml", "content-length": str(len(text))}
        return AWSResponse(request.url, STATUS[code], headers, _Body(text))

    client.meta.events.register(f"before-send.s3.{operation}", answer)
    return seen


def cut_off(client: Any, operation: str, error: Exception | None, *, of: Sequence[str]) -> None:
    """Make S3's answers on some keys end early: with an error of the connection, or, without one, just so."""

    def answer(request: Any, **_: object) -> AWSResponse | None:
        if not any(_asked(request).endswith(key) for key in of):
            return None
        return AWSResponse(request.url, 206, {"content-length": "10"}, _Body(b"", error))

    client.meta.events.register(f"before-send.s3.{operation}", answer)


def hold(client: Any, operation: str, until: threading.Event) -> list[str]:
    """Let each request of an operation take until something has happened. Returns what was asked for so far."""
    seen: list[str] = []

    def wait(request: Any, **_: object) -> None:
        seen.append(_asked(request))
        until.wait(60)

    client.meta.events.register(f"before-send.s3.{operation}", wait)
    return seen


def _asked(request: Any) -> str:
    """The object that a request is about, as a path; of a copy its source."""
    source = request.headers.get("x-amz-copy-source", request.url)
    return unquote(source.decode() if isinstance(source, bytes) else urlsplit(source).path)
