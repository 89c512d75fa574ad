"""Calls on ministack's public AWS interfaces from inside its own process, without a socket.

Belongs here: one ASGI request as a function, S3 and Query protocol calls made of it. Does not belong here: what is
called for (see `bootstrap.py`, `healthimaging/jobs.py`).

A request built here is the same HTTP request that a client would send; only the loopback connection is left out,
which makes an import job three times cheaper.
"""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET  # our own process's answers
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping, Sequence

T = TypeVar("T")
Headers = dict[str, str]


class CallError(Exception):
    """An AWS service answered with an error.

    Attributes:
        status: HTTP status.
        code: Error code, such as `NoSuchKey`.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code} ({status}): {message}")
        self.status = status
        self.code = code
        self.message = message


class StoppedError(BaseException):
    """The server stops: nothing can be called any more. It is no error of the call: `except Exception` lets it by."""


def on_loop(call: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Run something on the server's event loop and wait for it, from any other thread.

    Raises:
        StoppedError: The server stops.
    """
    try:
        return asyncio.run_coroutine_threadsafe(call, loop).result()
    except (CancelledError, asyncio.CancelledError) as error:
        raise StoppedError from error
    except RuntimeError as error:
        if not loop.is_closed():
            raise
        call.close()
        raise StoppedError from error


@dataclass(frozen=True)
class S3Object:
    """One entry of a listing: key, size in bytes, ETag without quotes."""

    key: str
    size: int
    etag: str


def authorization(account: str, region: str, service: str) -> str:
    """SigV4 header of a caller in `account`; the emulators read its scope and do not check the signature."""
    scope = f"{account}/20260101/{region}/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"


async def asgi_request(
    app: Any, method: str, path: str, query: str, headers: Headers, body: bytes
) -> tuple[int, Headers, bytes]:
    """One request through an ASGI application.

    Args:
        app: The application.
        method: HTTP method.
        path: Path, percent-encoded.
        query: Query string, encoded, without `?`.
        headers: Request headers, lower case.
        body: Whole body.

    Returns:
        Status, headers and whole body of the answer.
    """
    from urllib.parse import unquote

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    sent = False
    status = 500
    answer: Headers = {}
    chunks: list[bytes] = []

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            answer.update({k.decode().lower(): v.decode() for k, v in message.get("headers", [])})
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    return status, answer, b"".join(chunks)


class Caller:
    """A client of ministack inside its process, usable from any thread but the loop's own."""

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop, account: str, region: str) -> None:
        self._app = app
        self._loop = loop
        self._account = account
        self._region = region

    def of(self, account: str | None) -> Caller:
        """The same client for another account; itself for None."""
        return Caller(self._app, self._loop, account, self._region) if account else self

    def request(
        self,
        service: str,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Headers | None = None,
        body: bytes = b"",
    ) -> tuple[int, Headers, bytes]:
        """One request to `service`; blocks until it is answered."""
        call = asgi_request(self._app, method, path, query, self._headers(service, body) | (headers or {}), body)
        return on_loop(call, self._loop)

    def _headers(self, service: str, body: bytes) -> Headers:
        return {
            # Without a dot: any other host might be somebody's domain, for which ministack loads its API Gateway.
            "host": "localhost",
            "authorization": authorization(self._account, self._region, service),
            "content-length": str(len(body)),
        }

    # -- Query protocol (CloudFormation) --------------------------------------------------------------------------

    def query(self, service: str, version: str, action: str, **parameters: str) -> ET.Element:
        """One call in AWS's Query protocol.

        Raises:
            CallError: The service refused.
        """
        body = urlencode({"Action": action, "Version": version, **parameters}).encode()
        status, _, answer = self.request(
            service,
            "POST",
            "/",
            headers={"content-type": "application/x-www-form-urlencoded; charset=utf-8"},
            body=body,
        )
        root = _xml(answer)
        if status >= 300:  # noqa: PLR2004
            raise CallError(status, root.findtext(".//Code") or "", root.findtext(".//Message") or "")
        return root

    # -- S3 -------------------------------------------------------------------------------------------------------

    def _s3(
        self,
        method: str,
        bucket: str,
        key: str = "",
        query: str = "",
        headers: Headers | None = None,
        body: bytes = b"",
    ) -> bytes:
        path = f"/{bucket}" + (f"/{quote(key, safe='/-_.~')}" if key else "")
        status, _, answer = self.request("s3", method, path, query=query, headers=headers, body=body)
        if status >= 300:  # noqa: PLR2004
            raise _error(status, answer)
        return answer

    def list_objects(self, bucket: str, prefix: str) -> Iterator[S3Object]:
        """Every current object under a prefix, in key order."""
        token = ""
        while True:
            fields = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
            root = _xml(self._s3("GET", bucket, query=urlencode(fields, quote_via=quote)))
            for item in root.findall("Contents"):
                yield S3Object(
                    item.findtext("Key") or "",
                    int(item.findtext("Size") or 0),
                    (item.findtext("ETag") or "").strip('"'),
                )
            token = root.findtext("NextContinuationToken") or ""
            if not token:
                return

    def get_object(self, bucket: str, key: str, *, start: int = 0, limit: int | None = None) -> bytes:
        """Body of an object, or at most `limit` bytes of it from `start` on."""
        headers = {"range": f"bytes={start}-{start + limit - 1}"} if limit else None
        return self._s3("GET", bucket, key, headers=headers)

    def get_objects(self, bucket: str, wanted: Sequence[tuple[str, int | None]]) -> list[bytes | CallError]:
        """Several objects with one switch to the server's thread.

        Args:
            bucket: Their bucket.
            wanted: Keys, each with how many first bytes to read, or None for all.

        Returns:
            A body or the error of each, in the same order.
        """

        async def all_of_them() -> list[bytes | CallError]:
            out: list[bytes | CallError] = []
            for key, limit in wanted:
                headers = self._headers("s3", b"") | ({"range": f"bytes=0-{limit - 1}"} if limit else {})
                path = f"/{bucket}/{quote(key, safe='/-_.~')}"
                status, _, body = await asgi_request(self._app, "GET", path, "", headers, b"")
                out.append(body if status < 300 else _error(status, body))  # noqa: PLR2004
                await asyncio.sleep(0)
            return out

        return on_loop(all_of_them(), self._loop)

    def put_object(self, bucket: str, key: str, body: bytes, content_type: str) -> None:
        """Write an object."""
        self._s3("PUT", bucket, key, headers={"content-type": content_type}, body=body)


def _error(status: int, body: bytes) -> CallError:
    root = _xml(body) if body.startswith(b"<") else ET.Element("Error")
    return CallError(status, root.findtext("Code") or str(status), root.findtext("Message") or "")


def _xml(body: bytes) -> ET.Element:
    """Parse an answer and drop the namespaces."""
    root = ET.fromstring(body)  # noqa: S314 -- written by this very process
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
