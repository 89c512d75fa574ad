"""What everybody needs who answers requests: types of ASGI, bodies in and out, the log of calls.

Belongs here: what is the same for all services. Does not belong here: who answers what (`app.py`).
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from operator import itemgetter
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

LOG_LENGTH = 10_000
"""Calls remembered of each operation: a few starts of jobs outlast any number of uploads."""


class CallLog:
    """The last calls of every operation: time, status, bytes. No keys and no values of anybody's."""

    def __init__(self) -> None:
        self._calls = defaultdict[tuple[str, str], deque[dict[str, Any]]](lambda: deque(maxlen=LOG_LENGTH))

    def add(self, service: str, operation: str, started: float, status: int, sent: int, source: str) -> None:
        """Record one answered call."""
        self._calls[service, operation].append(
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
        return sorted((call for calls in self._calls.values() for call in calls), key=itemgetter("time"))

    def clear(self) -> None:
        """Forget everything."""
        self._calls.clear()


async def read_body(receive: Receive, most: int | None = None) -> bytes | None:
    """The whole body of a request; None when it is longer than `most` bytes or the client went away."""
    chunks = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if most is not None and size > most:
            return None
        more = message.get("more_body", False)
    return b"".join(chunks)


async def respond(
    send: Send,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    kept: float | None = None,
    head: bool = False,
) -> None:
    """One answer with a request id of its own: whole, the share `kept` of its body, or no body for a HEAD."""
    pairs = [(k.lower().encode(), v.encode("latin-1", "replace")) for k, v in headers.items()]
    pairs.append((b"x-amzn-requestid", str(uuid.uuid4()).encode()))
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    if head:
        await send({"type": "http.response.body", "body": b""})
    elif kept is None:
        await send({"type": "http.response.body", "body": body})
    else:
        # The server closes the connection of an answer that its application leaves unfinished.
        await send({"type": "http.response.body", "body": body[: int(len(body) * kept)], "more_body": True})
