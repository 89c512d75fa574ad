"""Values of DICOM as FHIR has them. Belongs here: texts, codes, dates, names and identifiers.

Does not belong here: whole resources.

Each function gives None for a value that FHIR cannot hold: an optional element that is wrong is left out, and the study
goes on without it.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ahi.index.values import parse_offset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Json = dict[str, Any]

DCM = "http://dicom.nema.org/resources/ontology/DCM"
IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
# Coding scheme designators of PS3.16 section 8 with the systems that FHIR names for them ("Code Systems" of R4).
SYSTEMS = {
    "DCM": DCM,
    "SCT": "http://snomed.info/sct",
    "SRT": "http://snomed.info/srt",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://www.radlex.org",
    "C4": "http://www.ama-assn.org/go/cpt",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
}
GENDERS = {"M": "male", "F": "female", "O": "other"}
# R4's value set bodysite-laterality.
SIDES = {
    "L": {"system": SYSTEMS["SCT"], "code": "419161000", "display": "Unilateral left"},
    "R": {"system": SYSTEMS["SCT"], "code": "419465000", "display": "Unilateral right"},
    "B": {"system": SYSTEMS["SCT"], "code": "51440002", "display": "Bilateral"},
}
_LARGEST = 2**31 - 1
# Most texts of a series are those of the last one: the same machine, people and procedures.
REMEMBERED = 4096
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_CODE = re.compile(r"\S+(?: \S+)*")
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+", re.ASCII)
_URI = re.compile(r"(?:https?|urn|ftp):\S+")
_FHIR_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_WIDEST_OFFSET = dt.timedelta(hours=14)


@lru_cache(REMEMBERED)
def text(value: object) -> str | None:
    """A text without control characters and outer blanks."""
    if not isinstance(value, str):
        return None
    return (value if value.isprintable() else _CONTROL.sub("", value)).strip() or None


@lru_cache(REMEMBERED)
def code(value: object) -> str | None:
    """A code: no white space but single blanks inside."""
    found = text(value)
    return found if found and _CODE.fullmatch(found) else None


def uid(value: object) -> str | None:
    """A UID that FHIR can hold as an id."""
    return value if isinstance(value, str) and _FHIR_ID.fullmatch(value) else None


def unsigned(value: object) -> int | None:
    """A number that is not negative and has 31 bits."""
    return value if isinstance(value, int) and 0 <= value <= _LARGEST else None


def moment(date: object, time: object, offset: object, zone: dt.tzinfo | None) -> str | None:
    """A dateTime of a local date and time; the date alone when nobody knows the offset from UTC.

    Args:
        date: Date as the index has it.
        time: Time of day.
        offset: TimezoneOffsetFromUTC, which is preferred.
        zone: Zone of the deployment.
    """
    if not isinstance(date, dt.date):
        return None
    tzinfo = parse_offset(offset) or zone
    if isinstance(time, dt.time) and tzinfo is not None:
        local = dt.datetime.combine(date, time, tzinfo=tzinfo)
        shift = local.utcoffset()
        # Before standard time, zones have offsets with seconds, which FHIR cannot write.
        if shift is not None and abs(shift) <= _WIDEST_OFFSET and not shift.seconds % 60:
            return local.isoformat().removesuffix("+00:00") + ("" if shift else "Z")
    return date.isoformat()


def concept(item: Mapping[str, Any]) -> Json | None:
    """A CodeableConcept of an item of a code sequence (PS3.3 table 8.8-1)."""
    meaning, value, scheme = text(item.get("meaning")), code(item.get("code")), text(item.get("scheme"))
    system = SYSTEMS.get(scheme or "")
    found: Json = {}
    if value:
        coding = {"system": system, "code": value, "display": meaning}
        found["coding"] = [{name: one for name, one in coding.items() if one}]
    if meaning:
        found["text"] = meaning
    return found or None


def concepts(items: object) -> list[Json]:
    """CodeableConcepts of a code sequence."""
    return (
        [one for item in items if isinstance(item, dict) and (one := concept(item))] if isinstance(items, list) else []
    )


@lru_cache(REMEMBERED)
def person(name: object) -> str | None:
    """A person's name as people write it, from its alphabetic group (PS3.5 section 6.2.1)."""
    if not isinstance(name, str):
        return None
    parts = [text(part) or "" for part in name.partition("=")[0].split("^")]
    family, given, middle, prefix, suffix = (*parts[:5], *[""] * (5 - len(parts[:5])))
    return " ".join(part for part in (prefix, given, middle, family, suffix) if part) or None


def identifier(
    value: object, *, kind: str = "", use: str = "", issuer: str | None = None, system: str | None = None
) -> Json | None:
    """An Identifier.

    Args:
        value: The identifier itself.
        kind: Code of HL7 table 0203.
        use: `usual`, `official` or `secondary`.
        issuer: Who gave it, told when there is no system.
        system: URI of the issuer's identifiers.
    """
    found = text(value)
    if not found:
        return None
    members: Json = {}
    if use:
        members["use"] = use
    if kind:
        members["type"] = {"coding": [{"system": IDENTIFIER_TYPES, "code": kind}]}
    if system:
        members["system"] = system
    members["value"] = found
    if issuer and not system:
        members["assigner"] = {"display": issuer}
    return members


def is_uri(value: str) -> bool:
    """Whether a text may name a system of identifiers."""
    return _URI.fullmatch(value) is not None


def system_of(issuer: str | None, known: Mapping[str, str], default: str) -> str | None:
    """URI of an issuer's identifiers: as configured, or the issuer itself if it is an OID or a URI."""
    if not issuer:
        return default or None
    if issuer in known:
        return known[issuer]
    if _OID.fullmatch(issuer):
        return f"urn:oid:{issuer}"
    return issuer if _URI.fullmatch(issuer) else None


def first(values: Iterable[object]) -> Any:
    """First value that is there."""
    return next((value for value in values if value not in (None, "", [])), None)


def distinct(values: Iterable[Any]) -> list[Any]:
    """The values, each once, in order; None left out."""
    found: list[Any] = []
    for value in values:
        if value is not None and value not in found:
            found.append(value)
    return found
