"""Answers that the embedded S3 does not give by itself. Belongs here: what goes over the wire for them.

Does not belong here: faults that the emulator can be told (`AwsStack.fault`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from botocore.awsrequest import AWSResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

STATUS = {"AccessDenied": 403, "InvalidObjectState": 403, "InternalError": 500, "KMS.DisabledException": 400}


class _Body:
    """What the SDK reads an answer from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, *_: object, **__: object) -> list[bytes]:
        return [self._content]

    def read(self, *_: object, **__: object) -> bytes:
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
        source = request.headers.get("x-amz-copy-source", request.url)
        path = unquote(source.decode() if isinstance(source, bytes) else urlsplit(source).path)
        if not any(path.endswith(key) for key in of) or (times is not None and len(seen) >= times):
            return None
        seen.append(path)
        text = f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
        headers = {"content-type": "application/xml", "content-length": str(len(text))}
        return AWSResponse(request.url, STATUS[code], headers, _Body(text))

    client.meta.events.register(f"before-send.s3.{operation}", answer)
    return seen
