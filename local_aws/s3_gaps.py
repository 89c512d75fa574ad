"""What ministack's S3 leaves out. Belongs here: ranges of a named object version (`GetObject` with `versionId`).

Does not belong here: anything ministack answers itself. It takes a range of a current object, but answers a version
whole, which hides what a client reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_RANGE = re.compile(rb"bytes=(\d*)-(\d*)$")


def ranged(scope: Mapping[str, Any], send: Send) -> Send:
    """A `send` that cuts the asked range out of a whole answer; `send` itself where there is nothing to cut."""
    asked = dict(scope["headers"]).get(b"range")
    found = _RANGE.match(asked) if asked else None
    if not found or scope["method"] != "GET" or b"versionId=" not in scope.get("query_string", b""):
        return send
    start: dict[str, Any] = {}
    chunks: list[bytes] = []

    async def cut(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            status, headers, body = _slice(start["status"], list(start["headers"]), b"".join(chunks), found)
            await send({**start, "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return cut


def _slice(
    status: int, headers: list[tuple[bytes, bytes]], body: bytes, asked: re.Match[bytes]
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the part (RFC 9110, 14.4); an answer that is no whole object stays as it is."""
    first, last = asked.groups()
    if status != 200 or not (first or last):  # noqa: PLR2004
        return status, headers, body
    begin = int(first) if first else max(0, len(body) - int(last))
    end = min(int(last), len(body) - 1) if first and last else len(body) - 1
    # A checksum of the whole object does not fit a part of it, and the SDK compares.
    dropped = (b"content-length", b"content-range", b"x-amz-checksum-")
    kept = [pair for pair in headers if not pair[0].lower().startswith(dropped)]
    if begin >= len(body):
        error = b"<Error><Code>InvalidRange</Code><Message>The requested range is not satisfiable</Message></Error>"
        return 416, [*kept, (b"content-length", b"%d" % len(error))], error
    part = body[begin : end + 1]
    span = b"bytes %d-%d/%d" % (begin, end, len(body))
    return 206, [*kept, (b"content-length", b"%d" % len(part)), (b"content-range", span)], part
