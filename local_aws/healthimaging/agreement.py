"""Whether values of an attribute agree, and what is filled in: one rule for imports, merges and copies.

Belongs here: null, padding and numbers. Does not belong here: which attributes are compared (`grouping.py`,
`copies.py`).
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.values import vr_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.healthimaging.instances import Attributes


def is_empty(value: Any) -> bool:
    """Whether an attribute says nothing: null, as documents have it, is as good as absent."""
    return value is None or value in ("", [])


def fill(target: Attributes, source: Mapping[str, Any], *, latest: bool = False) -> None:
    """Put attributes into others.

    Args:
        target: What is there. An attribute without a value takes the one that comes.
        source: What comes. An attribute without a value replaces nothing.
        latest: Whether it replaces values that are there.
    """
    for key, value in source.items():
        if key not in target or (not is_empty(value) and (latest or is_empty(target[key]))):
            target[key] = value


def disagree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether an attribute that both have, with a value, differs."""
    return any(
        value != other[key] and not (is_empty(value) or is_empty(other[key]) or _same(key, value, other[key]))
        for key, value in one.items()
        if key in other
    )


def _same(key: str, one: Any, other: Any) -> bool:
    """Whether two values are the same, padding and the way in which a number is written aside."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(key, a, b) for a, b in zip(one, other, strict=True))
    if not (isinstance(one, str) and isinstance(other, str)):
        return bool(one == other)
    one, other = one.strip(), other.strip()
    if one == other or vr_of(key) not in {"DS", "IS"}:
        return bool(one == other)
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False
