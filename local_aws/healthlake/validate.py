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

from local_aws.healthlake.terms import values
from local_aws.healthlake.types import TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]*")
# What an empty value is written with; blanks inside brackets may hide one.
_EMPTY = (b'""', b"null", b"{}", b"[]", b"[[", b"{ ", b"[ ", b"],[", b"], [", b"{	", b"[	")
BOM = b"\xef\xbb\xbf"

INVALID_JSON = "Invalid JSON found in input file"
_FAILS = "failed to satisfy constraint: Member must satisfy regular expression pattern:"
NO_TYPE = f"Value at 'resourceType' {_FAILS} [A-Za-z]{{1,256}}"
TOO_FEW = "minimum required = 1, but only found 0"
NO_ID = "Missing required id field in resource json"
BAD_ID = f"Value at 'resourceId' {_FAILS} [A-Za-z0-9-.]{{1,64}}"

_STUDY = frozenset({"registered", "available", "cancelled", "entered-in-error", "unknown"})
_GENDER = frozenset({"male", "female", "other", "unknown"})
_OBSERVATION = frozenset(
    {"registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown"}
)
# Required elements, by path below the type.
REQUIRED: dict[str, tuple[str, ...]] = {
    "ImagingStudy": (
        *("status", "subject", "series.uid", "series.modality"),
        *("series.instance.uid", "series.instance.sopClass"),
    ),
    "Observation": ("status", "code"),
    "DiagnosticReport": ("status", "code"),
    "Encounter": ("status", "class"),
    "Endpoint": ("status", "connectionType", "payloadType", "address"),
    "ServiceRequest": ("status", "intent", "subject"),
    "Condition": ("subject",),
    "Procedure": ("status", "subject"),
}
# Required bindings.
CODES: dict[str, dict[str, frozenset[str]]] = {
    "ImagingStudy": {"status": _STUDY},
    "Patient": {"gender": _GENDER},
    "Practitioner": {"gender": _GENDER},
    "Observation": {"status": _OBSERVATION},
}
# Elements that are lists, in all types and in some.
LISTS = ("extension", "contained", "modifierExtension")
LISTS_OF: dict[str, tuple[str, ...]] = {
    "Patient": ("identifier", "name", "telecom", "address", "contact", "communication", "photo", "link"),
    "ImagingStudy": ("identifier", "modality", "basedOn", "endpoint", "series", "note", "reasonCode", "procedureCode"),
    "Observation": ("identifier", "category", "component", "performer", "interpretation", "note"),
    "Endpoint": ("identifier", "payloadType", "contact", "header"),
}
_DAY = r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?"
_TIMES = re.compile(_DAY + r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_DATES = re.compile(_DAY)
_MOST = 2**31 - 1


def _text(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _coding(value: Any) -> bool:
    return isinstance(value, dict) and "coding" not in value


_DATE, _TIME, _UID = ("date", _text(_DATES)), ("dateTime", _text(_TIMES)), ("id", _text(_ID))
_NUMBER = ("decimal", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
_INTEGER = ("integer", lambda value: isinstance(value, int) and not isinstance(value, bool))
_FLAG = ("boolean", lambda value: isinstance(value, bool))
# Primitive elements: name of the type and its test (R4, "Data Types").
VALUES: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "Patient": {"birthDate": _DATE, "active": _FLAG},
    "ImagingStudy": {
        "started": _TIME,
        "modality": ("Coding", _coding),
        "series.uid": _UID,
        "series.modality": ("Coding", _coding),
        "series.instance.uid": _UID,
        **dict.fromkeys(("numberOfSeries", "numberOfInstances"), ("unsignedInt", _count)),
    },
    "Observation": {"effectiveDateTime": _TIME, "valueQuantity.value": _NUMBER, "valueInteger": _INTEGER},
}
# What a profile that HealthLake knows requires beyond R4.
PROFILES = {"us-core-patient": ("identifier", "name", "gender")}


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
    good = _ID.fullmatch(resource_id) if isinstance(resource_id, str) else resource_id is None and not needs_id
    if not good:
        return Refused((NO_ID if resource_id is None else BAD_ID,), kind)
    wrong = tuple(_structure(kind, body, line, profiles=level == "strict"))
    if wrong and level != "minimal":
        return Refused(wrong, kind, resource_id or "")
    return Resource(kind, resource_id or "", body, wrong)


def _structure(kind: str, body: dict[str, Any], line: bytes, *, profiles: bool) -> list[str]:
    wrong = [f"{kind}: Unrecognised property '{name}'" for name in body if not _NAME.fullmatch(name)]
    # A line without these bytes holds nothing empty, and most lines are so.
    if any(sign in line for sign in _EMPTY):
        _empty(body, kind, wrong)
    for path in REQUIRED.get(kind, ()):
        wrong += [f"{kind}.{where}: {TOO_FEW}" for where in _missing(body, path.split("."))]
    for path, (name, test) in VALUES.get(kind, {}).items():
        if not all(test(value) for value in values(body, path.split("."))):
            wrong.append(f"{kind}.{path}: Not a valid {name}")
    for name, codes in CODES.get(kind, {}).items():
        value = body.get(name)
        if value is not None and (not isinstance(value, str) or value not in codes):
            wrong.append(f"{kind}.{name}: The value provided is not in the value set")
    for name in (*LISTS, *LISTS_OF.get(kind, ())):
        if name in body and not isinstance(body[name], list):
            wrong.append(f"{kind}.{name}: This property must be an Array")
    if profiles and isinstance(meta := body.get("meta"), dict):
        wrong += _profiles(kind, body, meta.get("profile"))
    return wrong


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
