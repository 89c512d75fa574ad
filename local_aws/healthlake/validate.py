"""Whether one line, or one body of a REST request, is a resource that HealthLake takes.

Belongs here: the documented refusals of the envelope, R4's rules on empty values, and what a handful of types require.
Does not belong here: all of R4. The service checks every element and the profiles of `meta.profile`; here that is a
table of what the tests of a pipeline need, and docs/emulator-healthlake.md says so.

Texts of the refusals: developer guide, "Troubleshooting", "Import job error log"; they hold no value of a resource.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from local_aws.healthlake.elements import (
    CHOICES,
    CODES,
    ELEMENTS,
    ID,
    LISTS,
    LISTS_OF,
    PROFILES,
    REQUIRED,
    VALUES,
)
from local_aws.healthlake.terms import values
from local_aws.healthlake.types import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]*")
# What an empty value is written with; blanks inside brackets may hide one.
_EMPTY = (b'""', b"null", b"{}", b"[]", b"[[", b"{ ", b"[ ", b"],[", b"], [", b"{\t", b"[\t")
BOM = b"\xef\xbb\xbf"

INVALID_JSON = "Invalid JSON found in input file"
_FAILS = "failed to satisfy constraint: Member must satisfy regular expression pattern:"
NO_TYPE = f"Value at 'resourceType' {_FAILS} [A-Za-z]{{1,256}}"
TOO_FEW = "minimum required = 1, but only found 0"
NO_ID = "Missing required id field in resource json"
BAD_ID = f"Value at 'resourceId' {_FAILS} [A-Za-z0-9-.]{{1,64}}"


@dataclass(frozen=True)
class Resource:
    """A line that is stored.

    Attributes:
        type: Its resourceType.
        id: Its id.
        body: The parsed resource.
        remarks: What a `minimal` import forgave.
    """

    type: str
    id: str
    body: dict[str, Any]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A line that is not.

    Attributes:
        diagnostics: Why.
        type: Its resourceType, when it could be made out.
        id: Its id, likewise.
    """

    diagnostics: tuple[str, ...]
    type: str = ""
    id: str = ""


def read(line: bytes, level: str = "strict", *, needs_id: bool = True) -> Resource | Refused:
    """The resource of a line.

    Args:
        line: JSON of one resource.
        level: ValidationLevel of the job, or of the header `x-amzn-healthlake-fhir-validation-level`.
        needs_id: Whether it must have an id; what is created over REST gets one.
    """
    try:
        body = orjson.loads(line.removeprefix(BOM))
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        return Refused((INVALID_JSON,))
    kind, resource_id = body.get("resourceType"), body.get("id")
    if not isinstance(kind, str) or kind not in TYPES:
        return Refused((NO_TYPE,), id=resource_id if isinstance(resource_id, str) else "")
    good = ID.fullmatch(resource_id) if isinstance(resource_id, str) else resource_id is None and not needs_id
    if not good:
        return Refused((NO_ID if resource_id is None else BAD_ID,), kind)
    wrong = tuple(_structure(kind, body, line, profiles=level == "strict"))
    if wrong and level != "minimal":
        return Refused(wrong, kind, resource_id or "")
    return Resource(kind, resource_id or "", body, wrong)


def _structure(kind: str, body: dict[str, Any], line: bytes, *, profiles: bool) -> list[str]:
    wrong: list[str] = []
    if b'"@' in line:
        _names(body, kind, wrong)
    if kind in ELEMENTS:
        unknown = sorted(name for name in body.keys() - ELEMENTS[kind] if name[:1] != "_")
        wrong += [f"{kind}: Unrecognised property '{name[:64]}'" for name in unknown]
    # A line without these bytes holds nothing empty, and most lines are so.
    if any(sign in line for sign in _EMPTY):
        _empty(body, kind, wrong)
    for path in REQUIRED.get(kind, ()):
        wrong += [f"{kind}.{where}: {TOO_FEW}" for where in _missing(body, path.split("."))]
    wrong += _values(kind, body)
    if profiles and isinstance(meta := body.get("meta"), dict):
        wrong += _profiles(kind, body, meta.get("profile"))
    return wrong


def _values(kind: str, body: dict[str, Any]) -> Iterator[str]:
    """Types of primitive elements, codes, lists, choices."""
    for path, (name, test) in VALUES.get(kind, {}).items():
        if not all(test(value) for value in values(body, path.split("."))):
            yield f"{kind}.{path}: Not a valid {name}"
    for name, codes in CODES.get(kind, {}).items():
        value = body.get(name)
        if value is not None and (not isinstance(value, str) or value not in codes):
            yield f"{kind}.{name}: The value provided is not in the value set"
    for name in (*LISTS, *LISTS_OF.get(kind, ())):
        if name in body and not isinstance(body[name], list):
            yield f"{kind}.{name}: This property must be an Array"
    if kind in CHOICES:
        stem, known = CHOICES[kind]
        there = [name for name in body if name.startswith(stem)]
        if len(there) > 1 or not known.issuperset(there):
            yield f"{kind}.{stem}[x]: one value of a known type is allowed"


def _names(value: Any, where: str, wrong: list[str]) -> None:
    """Names that no element has. Unknown ones of letters pass: only the definitions of R4 tell them."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(name, str) and not _NAME.fullmatch(name):
            wrong.append(f"{where}: Unrecognised property '{name[:64]}'")
        if isinstance(inner, dict | list):
            _names(inner, where, wrong)


def _empty(value: Any, where: str, wrong: list[str]) -> None:
    """R4, "JSON representation": no property is null or empty; null stands in lists that have another beside them."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in items:
        path = f"{where}[{name}]" if isinstance(name, int) else f"{where}.{name}"
        if inner is None:
            if isinstance(value, dict):
                wrong.append(f"{path}: null is not allowed")
        elif inner in ("", [], {}):
            wrong.append(f"{path}: must not be empty")
        elif isinstance(inner, dict | list):
            if isinstance(value, list) and isinstance(inner, list):
                wrong.append(f"{path}: must not be an Array")
            _empty(inner, path, wrong)


def _missing(body: Any, path: list[str]) -> list[str]:
    """Where an element that is required is not there; a list stands for each of its items."""
    if isinstance(body, list):
        return [where for item in body for where in _missing(item, path)]
    if not isinstance(body, dict):
        return []
    if len(path) == 1:
        return [] if body.get(path[0]) not in (None, "", [], {}) else [path[0]]
    inner = body.get(path[0])
    return [] if inner is None else [f"{path[0]}.{where}" for where in _missing(inner, path[1:])]


def _profiles(kind: str, body: dict[str, Any], claimed: Any) -> list[str]:
    urls = [url for url in claimed if isinstance(url, str)] if isinstance(claimed, list) else []
    names = [url.rpartition("/")[2].partition("|")[0] for url in urls]
    required = {element for name in names for element in PROFILES.get(name, ())}
    return [f"{kind}.{e}: {TOO_FEW}" for e in sorted(required) if not body.get(e)]
