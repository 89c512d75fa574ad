"""The one ASGI application: HealthImaging, the SQS actions that ministack lacks and the control API beside ministack.

Belongs here: choosing who answers a request, and the log of calls. Does not belong here: any answer itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from local_aws.s3_gaps import ranged

if TYPE_CHECKING:
    from local_aws.control import Control
    from local_aws.faults import Faults
    from local_aws.healthimaging.service import HealthImaging
    from local_aws.sqs_gaps import SqsGaps

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_CREDENTIAL = re.compile(rb"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
_PRESIGNED = re.compile(rb"X-Amz-Credential=([^%&]+)%2F\d{8}%2F([^%&]+)%2F([^%&]+)%2Faws4_request")
LOG_LENGTH = 50_000


class CallLog:
    """The last calls of every service: operation, time, status, bytes. No keys and no values of anybody's."""

    def __init__(self) -> None:
        self._calls: deque[dict[str, Any]] = deque(maxlen=LOG_LENGTH)

    def add(self, service: str, operation: str, started: float, status: int, sent: int, source: str) -> None:
        """Record one answered call."""
        self._calls.append(
            {
                "service": service,
                "operation": operation,
                "time": started,
                "seconds": round(time.time() - started, 6),
                "status": status,
                "bytes": sent,
                "source": source,
            }
        )

    def read(self) -> list[dict[str, Any]]:
        """All recorded calls, oldest first."""
        return list(self._calls)

    def clear(self) -> None:
        """Forget everything."""
        self._calls.clear()


def _scope_of(scope: Scope) -> tuple[str, str, str]:
    """Account, region and service that signed a request; empty strings when it is not signed."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            found = _CREDENTIAL.search(value)
            if found:
                return found[1].decode(), found[2].decode(), found[3].decode()
    found = _PRESIGNED.search(scope.get("query_string", b""))
    return (found[1].decode(), found[2].decode(), found[3].decode()) if found else ("", "", "")


def _operation(scope: Scope, service: str) -> str:
    """A name for a call that is not ours: the target header, or the method."""
    for name, value in scope["headers"]:
        if name == b"x-amz-target":
            return str(value.decode().rpartition(".")[2])
    if service == "s3":
        query = scope.get("query_string", b"")
        kind = "Bucket" if scope["path"].strip("/").count("/") == 0 else "Object"
        if scope["method"] == "GET" and kind == "Bucket" and (b"list-type" in query or b"prefix" in query):
            return "ListObjectsV2"
        copied = any(name == b"x-amz-copy-source" for name, _ in scope["headers"])
        return "CopyObject" if copied else f"{str(scope['method']).title()}{kind}"
    return str(scope["method"])


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request."""
    chunks = []
    more = True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False) and message["type"] == "http.request"
    return b"".join(chunks)


async def respond(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """One whole answer."""
    pairs = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


class LocalAws:
    """The application. Its parts are attached once the event loop runs (`local_aws.server`)."""

    def __init__(self, ministack: Any, log: CallLog) -> None:
        self.ministack = ministack
        self.log = log
        self.health_imaging: HealthImaging | None = None
        self.control: Control | None = None
        self.sqs_gaps: SqsGaps | None = None
        self.faults: Faults | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self.ministack(scope, receive, send)
            return
        if scope["path"].startswith("/_local_aws/") and self.control:
            body = await read_body(receive)
            await respond(
                send, *await self.control.handle(scope["method"], scope["path"], scope.get("query_string", b""), body)
            )
            return
        account, region, service = _scope_of(scope)
        started = time.time()
        source = "inside" if scope["client"] and scope["client"][1] == 0 else "outside"
        if service == "medical-imaging" and self.health_imaging:
            body = await read_body(receive)
            raw_path = (scope.get("raw_path") or scope["path"].encode()).split(b"?")[0].decode()
            operation, status, headers, answer = await asyncio.to_thread(
                self.health_imaging.handle,
                scope["method"],
                raw_path,
                scope.get("query_string", b"").decode(),
                body,
                account,
                region,
            )
            await respond(send, status, headers, answer)
            self.log.add(service, operation, started, status, len(answer), source)
            return
        operation = _operation(scope, service)
        if source == "outside" and self.faults and (refusal := self.faults.refuse(service, operation, scope)):
            await read_body(receive)
            await respond(send, *refusal)
            self.log.add(service, operation, started, refusal[0], len(refusal[2]), source)
            return
        if service == "sqs" and self.sqs_gaps and self.sqs_gaps.handles(operation):
            body = await read_body(receive)
            status, headers, answer = await self.sqs_gaps.handle(operation, body, account, region)
            await respond(send, status, headers, answer)
            self.log.add(service, operation, started, status, len(answer), source)
            return
        await self._pass_on(scope, receive, send, (service, operation, started, source))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, call: tuple[str, str, float, str]) -> None:
        status = 500
        size = 0

        async def counted(message: Mapping[str, Any]) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.ministack(scope, receive, ranged(scope, counted))
        finally:
            service, operation, started, source = call
            self.log.add(service, operation, started, status, size, source)
