"""Patients from rows of the index. Belongs here: who is one person, and the Patient resource.

Does not belong here: reading the rows (`source`).
"""

from __future__ import annotations

import datetime as dt
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ahi.fhir.resources import Resource, resource, unknown_patient_id
from ahi.fhir.values import GENDERS, distinct, identifier, system_of, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ahi.fhir.rules import Rules

    Row = dict[str, Any]

# HL7's extension for names in ideographic and phonetic script (ISO 21090).
REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"


def names_nobody(patient_id: object, rules: Rules) -> bool:
    """Whether a PatientID is blank or a placeholder."""
    return (text(patient_id) or "").upper() in rules.placeholder_ids


def subject_id(row: Row, rules: Rules) -> str:
    """Id of the Patient of a row of a series.

    It is patient_key, the keyed hash of issuer and PatientID: the same PatientID of two issuers is two people. A study
    whose PatientID names nobody has a Patient of its own, as nothing tells whose it is.
    """
    if row["patient_key"] is None or names_nobody(row["PatientID"], rules):
        return unknown_patient_id(row["StudyInstanceUID"], rules.secret)
    return rules.linked_patients.get(row["patient_key"], row["patient_key"])


def patients(rows: Iterable[Row], rules: Rules) -> Iterator[Resource]:
    """Patients of rows that are sorted by patient_key and StudyInstanceUID; none that exist already elsewhere."""
    for subject, own in groupby(rows, lambda row: subject_id(row, rules)):
        found = list(own)
        if names_nobody(found[0]["PatientID"], rules) or found[0]["patient_key"] not in rules.linked_patients:
            yield patient(subject, found, rules)


def patient(subject: str, rows: Sequence[Row], rules: Rules) -> Resource:
    """One Patient. What may repeat is told as often as it differs; a birth date or sex that differs is not told."""
    births = distinct(row["PatientBirthDate"] for row in rows)
    sexes = distinct(text(row["PatientSex"]) for row in rows)
    birth = births[0] if len(births) == 1 else None
    sex = GENDERS.get(sexes[0].upper(), "unknown") if len(sexes) == 1 else None
    return resource(
        {
            "resourceType": "Patient",
            "id": subject,
            "identifier": _identifiers(rows, rules),
            "name": _names(rows),
            "gender": sex,
            "birthDate": birth.isoformat() if isinstance(birth, dt.date) else None,
        },
        subject,
    )


def _identifiers(rows: Sequence[Row], rules: Rules) -> list[Row]:
    found: list[Row | None] = []
    for row in rows:
        if not names_nobody(row["PatientID"], rules):
            issuer = text(row["IssuerOfPatientID"])
            system = system_of(issuer, rules.patient_id_systems, rules.default_patient_id_system)
            found.append(identifier(row["PatientID"], kind="MR", use="usual", issuer=issuer, system=system))
    for row in rows:
        for other in row["OtherPatientIDsSequence"] or ():
            if not names_nobody(other["id"], rules):
                issuer = text(other["issuer"])
                system = system_of(issuer, rules.patient_id_systems, "")
                found.append(identifier(other["id"], use="secondary", issuer=issuer, system=system))
    return distinct(found)


def _names(rows: Sequence[Row]) -> list[Row]:
    found: list[Row | None] = []
    for parts in distinct(row["PatientName_parts"] for row in rows):
        clean = {key: text(value) for key, value in parts.items()}
        given = [one for one in (clean["given"], clean["middle"]) if one]
        members = {"family": clean["family"], "given": given, "prefix": [clean["prefix"]], "suffix": [clean["suffix"]]}
        found.append({key: value for key, value in members.items() if value and value != [None]} or None)
        for group, representation in (("ideographic", "IDE"), ("phonetic", "SYL")):
            if clean[group]:
                extension = [{"url": REPRESENTATION, "valueCode": representation}]
                found.append({"extension": extension, "text": (clean[group] or "").replace("^", " ").strip()})
    return [one for one in distinct(found) if one.get("text") != ""]
