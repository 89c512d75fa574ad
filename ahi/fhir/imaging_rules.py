"""Traps of ImagingStudy. Belongs here: what R4 allows and readers of images stumble over.

Does not belong here: the structure of an ImagingStudy, which `structure` checks like any other.
"""

from __future__ import annotations

import re
from typing import Any

from ahi.fhir.findings import Code, Finding

# PS3.5 section 9.1: components without leading zeros, 64 characters at most.
UID = re.compile(r"(?=.{1,64}$)(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+", re.ASCII)
_OID = "urn:oid:"


def imaging_warnings(study: dict[str, Any]) -> list[Finding]:
    """Warnings on an ImagingStudy, whatever its structure is like."""
    found = _identifiers(study)
    series = _objects(study.get("series"))
    seen: set[object] = set()
    instances = 0
    bad_uids = repeated = False
    for one in series:
        listed = _objects(one.get("instance"))
        instances += len(listed)
        uids = [one.get("uid"), *(instance.get("uid") for instance in listed)]
        texts = {uid for uid in uids if type(uid) is str}
        repeated = repeated or len(texts) != len(uids) or not seen.isdisjoint(texts)
        seen |= texts
        bad_uids = bad_uids or not all(map(UID.fullmatch, texts))
    if bad_uids:
        found.append(_warning(".series", "has a uid that is no DICOM UID"))
    if repeated:
        found.append(_warning(".series", "has a uid twice"))
    for name, listed_number in (("numberOfSeries", len(series)), ("numberOfInstances", instances)):
        number = study.get(name)
        if type(number) is int and 0 <= number < listed_number:
            found.append(_warning(f".{name}", "is less than what is listed"))
    return found


def _identifiers(study: dict[str, Any]) -> list[Finding]:
    values = [one.get("value") for one in _objects(study.get("identifier"))]
    uids = [value for value in values if type(value) is str and UID.fullmatch(value.removeprefix(_OID))]
    if not uids:
        return [_warning(".identifier", "has no Study Instance UID: readers cannot find the images")]
    if not any(uid.startswith(_OID) for uid in uids):
        return [_warning(".identifier", "has the Study Instance UID without urn:oid:, so joins by identifier miss it")]
    return []


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if type(one) is dict] if type(value) is list else []


def _warning(path: str, text: str) -> Finding:
    return Finding(Code.IMAGING, f"ImagingStudy{path}", text)
