"""Form of HealthImaging's metadata document. Belongs here: taking one apart, and refusing what has another form.

Does not belong here: what its values mean (`ahi.documents`). Source: "GetImageSetMetadata" and "Understanding metadata
normalization" of the developer guide, and the documents in tests/data/healthimaging.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GZIP = b"\x1f\x8b"
_MAX_DOUBLE = sys.float_info.max


class DocumentError(ValueError):
    """A document has another form than this module knows. The text holds no value of the document."""


def parsed(document: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """The document as an object.

    Raises:
        DocumentError: It is not a JSON object, or holds text that is not Unicode.
    """
    if isinstance(document, bytes):
        try:
            document = _loaded(_unpacked(document) if document.startswith(_GZIP) else document)
        except (OSError, EOFError, zlib.error):
            raise DocumentError("The document is a damaged gzip stream.") from None
        except (ValueError, RecursionError):
            raise DocumentError("The document is not JSON.") from None
    if not isinstance(document, dict):
        raise DocumentError("The document is not a JSON object.")
    return document


def _unpacked(document: bytes) -> bytes:
    """The bytes of a gzip stream. Most have one member, which zlib reads and checks in one go."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    text = inflater.decompress(document)
    return text if inflater.eof and not inflater.unused_data else gzip.decompress(document)


def _loaded(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # NaN, whole numbers of more than 64 bits, and half a surrogate pair, which no file could hold.
        loaded = json.loads(text)
        json.dumps(loaded, ensure_ascii=False).encode()
        return loaded


def as_json(value: Any) -> bytes:
    """The value as JSON again."""
    try:
        return orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError):
        # Nested deeper than orjson goes, or a number that only Python has.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def all_as_json(values: Sequence[Any]) -> list[bytes]:
    """Each value as JSON again."""
    try:
        return list(map(orjson.dumps, values))
    except (orjson.JSONEncodeError, RecursionError):
        return list(map(as_json, values))


def transposed(objects: Sequence[Any]) -> tuple[frozenset[str], dict[str, Sequence[Any]]]:
    """Keys that at least one object has; their values, if all have the same in the same order, as most do."""
    first = list(objects[0]) if objects else []
    if len(objects) == 1:
        return frozenset(first), {key: (value,) for key, value in objects[0].items()}
    if list(map(list, objects)).count(first) == len(objects):
        return frozenset(first), dict(zip(first, zip(*map(dict.values, objects), strict=True), strict=False))
    return frozenset(first).union(*objects), {}


def mapping(parent: Mapping[str, Any], key: str, name: str = "") -> dict[str, Any]:
    """The object under a key."""
    value = parent.get(key)
    if not isinstance(value, dict):
        message = f"{name or key} is missing or not an object."
        raise DocumentError(message)
    return value


def items(parent: Mapping[str, Any], key: str) -> list[Any]:
    """The list under a key; an empty one when there is none."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        message = f"{key} is not a list."
        raise DocumentError(message)
    return value


def string(parent: Mapping[str, Any], key: str) -> str:
    """The text under a key."""
    value = parent.get(key)
    if not isinstance(value, str) or not value:
        message = f"{key} is missing or not text."
        raise DocumentError(message)
    return value


def text(value: object) -> str | None:
    """The value if it is text."""
    return value if isinstance(value, str) else None


def texts(values: Sequence[Any]) -> list[str | None]:
    """The values that are text; None in the place of others."""
    return list(values) if set(map(type, values)) == {str} else list(map(text, values))


def floats(values: Sequence[Any], key: str) -> list[float | None]:
    """Numbers as doubles; one that no double holds is None."""
    kinds = set(map(type, values))
    if kinds <= {float, type(None)}:
        return list(values)
    if not kinds <= {float, int, type(None)}:
        for value in values:
            _number(value, key)
    return [None if value is None or abs(value) > _MAX_DOUBLE else float(value) for value in values]


def wholes(values: Sequence[Any], key: str, limit: int) -> list[int | None]:
    """Whole numbers from 0 to below a limit."""
    if set(map(type, values)) == {int} and min(values) >= 0 and max(values) < limit:
        return list(values)
    for value in values:
        number = _number(value, key)
        if number is not None and not (isinstance(number, int) and 0 <= number < limit):
            message = f"{key} is not a whole number in range."
            raise DocumentError(message)
    return list(values)


def _number(value: Any, key: str) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{key} is not a number."
        raise DocumentError(message)
    return value


def width(level: Mapping[str, Any]) -> int | float:
    """Width of a resolution level, for finding the full one."""
    return _number(level.get("Width"), "Width") or 0
