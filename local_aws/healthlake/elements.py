"""What is known here of the elements of R4: a table of what the tests of a pipeline need, for a few types.

Belongs here: the table (R4, the pages of these types). Does not belong here: looking at a resource (`validate.py`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_EVERY = "resourceType id meta implicitRules language text contained extension modifierExtension identifier"
_PATIENT_HAS = """active name telecom gender birthDate deceasedBoolean deceasedDateTime address maritalStatus
multipleBirthBoolean multipleBirthInteger photo contact communication generalPractitioner managingOrganization link"""
_STUDY_HAS = """status modality subject encounter started basedOn referrer interpreter endpoint numberOfSeries
numberOfInstances procedureReference procedureCode location reasonCode reasonReference note description series"""
# All elements at the top of a type.
ELEMENTS = {
    "Patient": frozenset(f"{_EVERY} {_PATIENT_HAS}".split()),
    "ImagingStudy": frozenset(f"{_EVERY} {_STUDY_HAS}".split()),
}
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


_DATE, _TIME, _UID = ("date", _text(_DATES)), ("dateTime", _text(_TIMES)), ("id", _text(ID))
_NUMBER = ("decimal", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
_INTEGER = ("integer", lambda value: isinstance(value, int) and not isinstance(value, bool))
_URI = ("uri", _text(re.compile(r"\S*")))
# A reference to a type that an element may not have; what does not name a type may be anything.
_PATIENT = ("reference", _text(re.compile(r"(Patient|Group|Device|Location)/.*|[^/]*|.*:.*", re.DOTALL)))
_FLAG = ("boolean", lambda value: isinstance(value, bool))
# Primitive elements: name of the type and its test (R4, "Data Types").
VALUES: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "Patient": {"birthDate": _DATE, "active": _FLAG, "identifier.system": _URI},
    "ImagingStudy": {
        "started": _TIME,
        "identifier.system": _URI,
        "subject.reference": _PATIENT,
        "modality": ("Coding", _coding),
        "series.uid": _UID,
        "series.modality": ("Coding", _coding),
        "series.instance.uid": _UID,
        **dict.fromkeys(("numberOfSeries", "numberOfInstances"), ("unsignedInt", _count)),
    },
    "Observation": {
        "effectiveDateTime": _TIME,
        "valueQuantity.value": _NUMBER,
        "valueInteger": _INTEGER,
        "identifier.system": _URI,
        "subject.reference": _PATIENT,
    },
}
_OBSERVED = ("Quantity", "CodeableConcept", "String", "Boolean", "Integer", "Range", "Ratio", "SampledData", "Time")
# Elements of which there is one at most, under one of several names.
CHOICES = {"Observation": ("value", {f"value{kind}" for kind in (*_OBSERVED, "DateTime", "Period")})}
# What a profile that HealthLake knows requires beyond R4.
PROFILES = {"us-core-patient": ("identifier", "name", "gender")}
