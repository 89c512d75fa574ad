"""Check values against a botocore shape: type, required, length, range, pattern, enum, union.

boto3 checks neither patterns nor maxima, so the service must; and our own answers are checked the same way.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


FAILS = "failed to satisfy constraint:"
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "blob": (bytes,),
    "timestamp": (datetime, int, float),
}


# Patterns that take exponential time on a value made for it, and the same language without that.
_SAME = {"[a-zA-Z0-9!-~]+([a-zA-Z0-9!-~ ]*[a-zA-Z0-9!-~]+)*": "[!-~]([ -~]*[!-~])?"}


# Separators, "Z" of Unicode.
_SEPARATORS = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def _unicode(text: str) -> str:
    """Java's classes in Python's words: letters, numbers and the underscore are one class here."""
    for java, python in (("\\P{M}\\p{M}", "\\s\\S"), ("\\p{L}", "\\w"), ("\\p{N}", ""), ("\\p{Z}", _SEPARATORS)):
        text = text.replace(java, python)
    return text


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    if "\\p{L}" in text or "\\P{M}" in text:
        return re.compile(_unicode(text))
    # The one Java class that the model uses and Python's re does not know; Java's digits and letters are ASCII's.
    return re.compile(_SAME.get(text, text).replace("\\p{ASCII}", "[\\x00-\\x7f]"), re.ASCII)


def problems(shape: Any, value: Any, name: str = "") -> Iterator[str]:
    """What is wrong with a value, in the wording of AWS's validation errors; nothing when it is right."""
    kind = shape.type_name
    if kind == "structure":
        yield from _structure(shape, value, name)
    elif kind == "list":
        if not isinstance(value, list):
            yield f"Value at '{name}' {FAILS} Member must be a list"
            return
        yield from _length(shape, len(value), name)
        for index, item in enumerate(value[: shape.metadata.get("max")]):
            yield from problems(shape.member, item, f"{name}.{index + 1}.member")
    elif kind == "map":
        if not isinstance(value, dict):
            yield f"Value at '{name}' {FAILS} Member must be a map"
            return
        yield from _length(shape, len(value), name)
        for key, item in value.items():
            yield from problems(shape.key, key, f"{name}.key")
            yield from problems(shape.value, item, f"{name}.value")
    else:
        yield from _simple(shape, value, name)


def _structure(shape: Any, value: Any, name: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"Value at '{name}' {FAILS} Member must be a structure"
        return
    where = f"{name}." if name else ""
    present = [key for key in value if value[key] is not None]
    for unknown in set(present) - set(shape.members):
        yield f"Value at '{where}{unknown}' {FAILS} Member is unknown"
    for key in shape.required_members:
        if value.get(key) is None:
            yield f"Value at '{where}{key}' {FAILS} Member must not be null"
    if getattr(shape, "is_tagged_union", False) and len(present) != 1:
        yield f"Value at '{name}' {FAILS} Exactly one member must be set"
    for key in present:
        if key in shape.members:
            yield from problems(shape.members[key], value[key], where + key)


def _simple(shape: Any, value: Any, name: str) -> Iterator[str]:
    expected = _TYPES.get(shape.type_name)
    wrong_bool = isinstance(value, bool) and shape.type_name != "boolean"
    if expected and (not isinstance(value, expected) or wrong_bool):
        yield f"Value at '{name}' {FAILS} Member must be a {shape.type_name}"
        return
    if shape.type_name in {"string", "blob"}:
        wrong = list(_length(shape, len(value), name))
        yield from wrong
        if wrong:
            return
    elif shape.type_name in {"integer", "long", "float", "double"}:
        low, high = shape.metadata.get("min"), shape.metadata.get("max")
        if low is not None and value < low:
            yield f"Value at '{name}' {FAILS} Member must have value greater than or equal to {low}"
        if high is not None and value > high:
            yield f"Value at '{name}' {FAILS} Member must have value less than or equal to {high}"
    if shape.type_name == "string":
        pattern = shape.metadata.get("pattern")
        if pattern and not _pattern(pattern).fullmatch(value):
            yield f"Value at '{name}' {FAILS} Member must satisfy regular expression pattern: {pattern}"
        enum = getattr(shape, "enum", None)
        if enum and value not in enum:
            yield f"Value at '{name}' {FAILS} Member must satisfy enum value set: [{', '.join(enum)}]"


def _length(shape: Any, length: int, name: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and length < low:
        yield f"Value at '{name}' {FAILS} Member must have length greater than or equal to {low}"
    if high is not None and length > high:
        yield f"Value at '{name}' {FAILS} Member must have length less than or equal to {high}"
