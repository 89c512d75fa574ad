"""Pages of a list, with an opaque token."""

from __future__ import annotations

import base64
from typing import Any, TypeVar

from local_aws.protocol.errors import validation

T = TypeVar("T")


def offset(request: dict[str, Any]) -> int:
    """Where a page starts.

    Raises:
        ServiceError: The token is none of ours.
    """
    token = request.get("nextToken")
    if not token:
        return 0
    try:
        return int(base64.urlsafe_b64decode(token.encode()).decode().removeprefix("from:"))
    except ValueError as error:
        raise validation("The nextToken is not valid.") from error


def token(position: int) -> str:
    """Token of the page that starts there."""
    return base64.urlsafe_b64encode(f"from:{position}".encode()).decode()


def page(items: list[T], request: dict[str, Any], default: int) -> tuple[list[T], str | None]:
    """One page of a whole list, and the token of the next one."""
    start = offset(request)
    stop = start + request.get("maxResults", default)
    return items[start:stop], token(stop) if stop < len(items) else None
