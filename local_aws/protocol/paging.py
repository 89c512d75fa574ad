"""Pages of a list: an opaque token that says after which item to go on, and of which question.

A page starts after a key, not at a position, so that what is inserted or removed meanwhile neither repeats nor hides
an item.
"""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from local_aws.protocol.errors import validation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = 50
Key = list[Any]
T = TypeVar("T")
TIME_AND_ID: tuple[tuple[type, ...], ...] = ((int, float), (str,))


@dataclass(frozen=True)
class Listing:
    """One kind of list.

    Attributes:
        scope: What is listed.
        kinds: Types of the parts of the key that orders its items.
        token: Member of requests and answers that holds the token.
        most: Member of requests that holds the size of a page.
    """

    scope: str
    kinds: tuple[tuple[type, ...], ...]
    token: str = "nextToken"  # noqa: S105 -- the name of a member
    most: str = "maxResults"

    def _seal(self, secret: bytes, request: dict[str, Any], key: Key) -> str:
        """What binds a token to its question, and keeps its key as it was: only who has the secret can make it."""
        asked = {k: v for k, v in request.items() if k not in {self.token, self.most}}
        text = json.dumps([self.scope, asked, key], sort_keys=True, default=str)
        return hmac.digest(secret, text.encode(errors="surrogatepass"), "sha256").hex()

    def _fits(self, key: Any) -> bool:
        """Whether a key is one of this list: a query takes nothing else."""
        return (
            isinstance(key, list)
            and len(key) == len(self.kinds)
            and all(isinstance(v, kind) and not isinstance(v, bool) for v, kind in zip(key, self.kinds, strict=True))
        )

    def start(self, secret: bytes, request: dict[str, Any]) -> Key | None:
        """The key after which a page starts; None for the first page.

        Args:
            secret: What seals tokens.
            request: The request.

        Raises:
            ServiceError: The token is none of ours, or belongs to another question.
        """
        token = request.get(self.token)
        if not token:
            return None
        try:
            seal, found = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
        except (ValueError, TypeError, RecursionError) as error:
            raise validation(f"The {self.token} is not valid.") from error
        if not isinstance(seal, str) or not self._fits(found):
            raise validation(f"The {self.token} is not valid for this request.")
        key: Key = found
        if not hmac.compare_digest(seal.encode(errors="replace"), self._seal(secret, request, key).encode()):
            raise validation(f"The {self.token} is not valid for this request.")
        return key

    def turn(
        self, secret: bytes, request: dict[str, Any], items: Sequence[T], key: Callable[[T], Key]
    ) -> tuple[Sequence[T], str | None]:
        """One page of what was read after `start` (at least one item more than a page holds, if there is one).

        Args:
            secret: What seals tokens.
            request: The request.
            items: Items in their order.
            key: Key of an item: what orders it.

        Returns:
            The page, and the token of the next one.
        """
        count = self.size(request)
        if len(items) <= count:
            return items, None
        last = key(items[count - 1])
        sealed = json.dumps([self._seal(secret, request, last), last])
        return items[:count], base64.urlsafe_b64encode(sealed.encode()).decode()

    def size(self, request: dict[str, Any]) -> int:
        """Items of a page."""
        return int(request.get(self.most, PAGE))
