"""Pages of a list: an opaque token that says after which item to go on, and of which question.

A page starts after a key, not at a position, so that what is inserted or removed meanwhile neither repeats nor hides
an item.
"""

from __future__ import annotations

import base64
import hmac
import json
from typing import TYPE_CHECKING, Any, TypeVar

from local_aws.protocol.errors import validation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = 50
_TURNING = frozenset({"nextToken", "maxResults"})
Key = list[Any]
# What orders the items of each list.
_KINDS: dict[str, tuple[tuple[type, ...], ...]] = {
    "versions": ((int,),),
    "search": ((str, int, float), (str,)),
    "datastores": ((int, float), (str,)),
    "jobs": ((int, float), (str,)),
}
T = TypeVar("T")


def _seal(secret: bytes, request: dict[str, Any], scope: str, key: Key) -> str:
    """What binds a token to its question, and keeps its key as it was: only who has the secret can make it."""
    asked = {k: v for k, v in request.items() if k not in _TURNING}
    text = json.dumps([scope, asked, key], sort_keys=True, default=str)
    return hmac.digest(secret, text.encode(errors="surrogatepass"), "sha256").hex()


def _fits(scope: str, key: Any) -> bool:
    """Whether a key is one of a list: a query takes nothing else."""
    kinds = _KINDS[scope]
    return (
        isinstance(key, list)
        and len(key) == len(kinds)
        and all(isinstance(v, kind) and not isinstance(v, bool) for v, kind in zip(key, kinds, strict=True))
    )


def start(secret: bytes, request: dict[str, Any], scope: str) -> Key | None:
    """The key after which a page starts; None for the first page.

    Args:
        secret: What seals tokens.
        request: The request.
        scope: What is listed.

    Raises:
        ServiceError: The token is none of ours, or belongs to another question.
    """
    token = request.get("nextToken")
    if not token:
        return None
    try:
        seal, found = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError) as error:
        raise validation("The nextToken is not valid.") from error
    if not isinstance(seal, str) or not _fits(scope, found):
        raise validation("The nextToken is not valid for this request.")
    key: Key = found
    if not hmac.compare_digest(seal.encode(errors="replace"), _seal(secret, request, scope, key).encode()):
        raise validation("The nextToken is not valid for this request.")
    return key


def turn(
    secret: bytes, request: dict[str, Any], scope: str, items: Sequence[T], key: Callable[[T], Key]
) -> tuple[Sequence[T], str | None]:
    """One page of what was read after `start` (at least one item more than a page holds, if there is one).

    Args:
        secret: What seals tokens.
        request: The request.
        scope: What is listed.
        items: Items in their order.
        key: Key of an item: what orders it.

    Returns:
        The page, and the token of the next one.
    """
    count = size(request)
    if len(items) <= count:
        return items, None
    last = key(items[count - 1])
    sealed = json.dumps([_seal(secret, request, scope, last), last])
    return items[:count], base64.urlsafe_b64encode(sealed.encode()).decode()


def size(request: dict[str, Any]) -> int:
    """Items of a page."""
    return int(request.get("maxResults", PAGE))
