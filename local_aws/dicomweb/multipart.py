"""multipart/related bodies (RFC 2387), in and out.

Belongs here: boundaries and part headers. Does not belong here: what a part means.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from local_aws.dicomweb.errors import bad_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Content type and content of a part.
Part = tuple[str, bytes]


def encode(parts: Sequence[Part], kind: str) -> tuple[str, bytes]:
    """Content type and body of a message.

    Args:
        parts: Its parts.
        kind: The `type` of the message, such as `application/dicom`.
    """
    boundary = uuid.uuid4().hex
    chunks: list[bytes] = []
    for content_type, content in parts:
        chunks += (f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode(), content, b"\r\n")
    chunks.append(f"--{boundary}--\r\n".encode())
    return f'multipart/related; type="{kind}"; boundary={boundary}', b"".join(chunks)


def decode(boundary: str, body: bytes) -> Iterator[Part]:
    """The parts of a message; text before the first and after the last boundary means nothing.

    Raises:
        DicomWebError: It has no such boundary, or a part has no end.
    """
    mark = b"--" + boundary.encode("latin-1", errors="replace")
    position = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if position == 1:
        raise bad_request("The body has no part: the boundary of the Content-Type does not occur in it.")
    position += len(mark)
    while body[position : position + 2] != b"--":
        start = body.find(b"\r\n\r\n", position)
        end = body.find(b"\r\n" + mark, start + 2)
        if start < 0 or end < 0:
            raise bad_request("The multipart body is cut off: its closing boundary is missing.")
        found = re.search(rb"(?im)^content-type:[ \t]*([^\r\n]+)", body[position:start])
        yield (found[1].decode("latin-1").strip() if found else "", body[start + 4 : end])
        position = end + 2 + len(mark)
