"""What searches find a resource by: the values of its search parameters, made when it is stored.

Belongs here: elements into terms. Does not belong here: what a search asks (`search.py`).

R4, "Search Parameter Registry": the parameters that HealthLake lists for the types of imaging, and those that all
types of a patient's have in common.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Parameter: elements that hold it, with dots for levels.
TOKENS = {
    "identifier": ("identifier",),
    "status": ("status",),
    "gender": ("gender",),
    "active": ("active",),
    "code": ("code",),
    "category": ("category",),
    "type": ("type",),
    "modality": ("modality", "series.modality"),
    "dicom-class": ("series.instance.sopClass",),
    "series": ("series.uid",),
    "instance": ("series.instance.uid",),
    "bodysite": ("series.bodySite",),
    "connection-type": ("connectionType",),
    "intent": ("intent",),
}
REFERENCES = {
    "patient": ("subject", "patient", "beneficiary", "individual", "for"),
    "subject": ("subject",),
    "encounter": ("encounter",),
    "basedon": ("basedOn",),
    "based-on": ("basedOn",),
    "endpoint": ("endpoint", "series.endpoint"),
    "performer": ("performer", "series.performer.actor"),
    "organization": ("managingOrganization", "organization"),
    "imaging-study": ("imagingStudy",),
    "target": ("target",),
}
DATES = {
    "started": ("started",),
    "birthdate": ("birthDate",),
    "date": ("effectiveDateTime", "effectivePeriod.start", "performedDateTime", "period.start", "recorded", "created"),
    "issued": ("issued",),
    "authored": ("authoredOn",),
}
STRINGS = {
    "family": ("name.family",),
    "given": ("name.given",),
    "name": ("name.family", "name.given", "name.text", "name"),
}
NAMES = frozenset({*TOKENS, *REFERENCES, *DATES, *STRINGS})
_MOMENT = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(Z|[+-]\d\d:\d\d)?)?)?)?")


def terms(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of all that a resource can be found by."""
    for element in body.keys() & _BY_ROOT.keys():
        for name, path, make in _BY_ROOT[element]:
            for value in values(body[element], path):
                for term in make(value):
                    yield name, term


def values(node: Any, path: list[str]) -> Iterator[Any]:
    """Values at a path, where a list stands for each of its items."""
    for step, name in enumerate(path):
        if isinstance(node, list):
            for item in node:
                yield from values(item, path[step:])
            return
        if not isinstance(node, dict):
            return
        node = node.get(name)
    if isinstance(node, list):
        yield from node
    elif node is not None:
        yield node


def _token(value: Any) -> Iterator[str]:
    """`system|code` and the code alone, of a code, Coding, CodeableConcept or Identifier."""
    if isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        codings = value.get("coding")
        for one in codings if isinstance(codings, list) else [value]:
            code = one.get("code", one.get("value")) if isinstance(one, dict) else None
            if isinstance(code, str):
                yield code
                yield f"{one.get('system') or ''}|{code}"


def _reference(value: Any) -> Iterator[str]:
    """`Type/id` and the id alone; of an absolute URL its end."""
    text = value.get("reference") if isinstance(value, dict) else None
    if isinstance(text, str):
        parts = text.partition("/_history/")[0].split("/")
        yield "/".join(parts[-2:])
        if len(parts) > 1:
            yield parts[-1]


def _patient(value: Any) -> Iterator[str]:
    """The same, of a Patient or of what does not say what it is."""
    found = list(_reference(value))
    if found and (found[0].startswith("Patient/") or "/" not in found[0]):
        yield from found


def _date(value: Any) -> Iterator[str]:
    if isinstance(value, str) and (begin := moment(value)):
        yield begin[0]


def _string(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.casefold()


@lru_cache(maxsize=4096)
def moment(text: str) -> tuple[str, str] | None:
    """Begin and end of a FHIR date or time in UTC, as texts that sort; None when it is none."""
    from datetime import UTC, datetime, timedelta

    found = _MOMENT.fullmatch(text)
    if not found:
        return None
    year, month, day, clock, zone = found.groups()
    try:
        begin = datetime.fromisoformat(
            f"{year}-{month or '01'}-{day or '01'}T{clock or '00:00'}{(zone or '+00:00').replace('Z', '+00:00')}"
        )
        if clock:
            step = timedelta(milliseconds=1) if "." in clock else timedelta(seconds=1 if clock.count(":") > 1 else 60)
            end = begin + step
        elif day:
            end = begin + timedelta(days=1)
        else:
            later = int(month or 12) + 1
            end = begin.replace(year=begin.year + (later > 12), month=(later - 1) % 12 + 1)  # noqa: PLR2004
        return _utc(begin.astimezone(UTC)), _utc(end.astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def _utc(value: Any) -> str:
    return str(value.isoformat(timespec="milliseconds"))


def _by_root() -> dict[str, list[tuple[str, list[str], Callable[[Any], Iterator[str]]]]]:
    """For each element at the top what it holds: name of the parameter, path below the element, how values are read."""
    out: dict[str, list[tuple[str, list[str], Callable[[Any], Iterator[str]]]]] = {}
    for table, make in ((TOKENS, _token), (REFERENCES, _reference), (DATES, _date), (STRINGS, _string)):
        for name, paths in table.items():
            for path in paths:
                element, *below = path.split(".")
                out.setdefault(element, []).append((name, below, _patient if name == "patient" else make))
    return out


_BY_ROOT = _by_root()
