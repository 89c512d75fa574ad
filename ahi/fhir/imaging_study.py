"""ImagingStudies from rows of the index, by HL7's mapping of DICOM (R4 ImagingStudy, "Mappings").

Belongs here: a study of its series. Does not belong here: reading the rows (`source`), JSON of instances (`instances`).
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ahi.fhir.patient import subject_id
from ahi.fhir.resources import Resource, endpoint_id, resource, study_id
from ahi.fhir.values import (
    DCM,
    IDENTIFIER_TYPES,
    SIDES,
    code,
    concept,
    concepts,
    distinct,
    first,
    identifier,
    moment,
    person,
    system_of,
    text,
    uid,
    unsigned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ahi.fhir.instances import SeriesInstances
    from ahi.fhir.rules import Rules

    Row = dict[str, Any]


class Omission(NamedTuple):
    """Part of a study that its ImagingStudy does not list, with the reason."""

    study_uid: str
    series_uid: str
    n_instances: int
    reason: str


def imaging_studies(
    series: Iterable[Row], instances: Iterable[SeriesInstances], rules: Rules, omit: Callable[[Omission], None]
) -> Iterator[Resource]:
    """ImagingStudies, one for each study.

    Args:
        series: Rows of image sets, sorted by StudyInstanceUID, SeriesInstanceUID and image_set_id.
        instances: Instances by series, in the same order.
        rules: Choices of the deployment.
        omit: Gets everything that is not told.
    """
    found = _Matched(instances)
    for study_uid, rows in groupby(series, lambda row: str(row["StudyInstanceUID"])):
        by_series = [
            (list(own), found.of(study_uid, str(key)))
            for key, own in groupby(rows, lambda row: row["SeriesInstanceUID"])
        ]
        if uid(study_uid) is None:
            count = sum(listed.n_instances for _, listed in by_series if listed)
            omit(Omission(study_uid, "", count, "StudyInstanceUID is no UID"))
            continue
        yield _study(study_uid, by_series, rules, omit)


class _Matched:
    """Instances of a series at a time, from a stream in the order of the series."""

    def __init__(self, instances: Iterable[SeriesInstances]) -> None:
        self._stream = iter(instances)
        self._next = next(self._stream, None)

    def of(self, study_uid: str, series_uid: str) -> SeriesInstances | None:
        """The instances of a series; None if it has none."""
        here = (study_uid, series_uid)
        while self._next is not None and (self._next.study_uid, self._next.series_uid) < here:
            self._next = next(self._stream, None)
        found = self._next
        if found is None or (found.study_uid, found.series_uid) != here:
            return None
        self._next = next(self._stream, None)
        return found


def _study(
    study_uid: str,
    by_series: Sequence[tuple[list[Row], SeriesInstances | None]],
    rules: Rules,
    omit: Callable[[Omission], None],
) -> Resource:
    rows = [row for own, _ in by_series for row in own]
    count = sum(listed.n_instances for _, listed in by_series if listed)
    with_instances = count <= rules.most_instances
    if not with_instances:
        omit(Omission(study_uid, "", count, "more instances than a resource should list"))
    members = [_series(own, listed, rules, omit, with_instances=with_instances) for own, listed in by_series]
    subject = min(subject_id(row, rules) for row in rows)
    # Where HealthImaging answers for the study: once for each data store that has some of it.
    addresses = sorted({rules.dicomweb_root.format(datastore_id=row["datastore_id"]) for row in rows})
    return resource(
        {
            "resourceType": "ImagingStudy",
            "id": study_id(study_uid),
            "identifier": _identifiers(study_uid, rows, rules),
            "status": "available",
            "modality": [
                {"system": DCM, "code": one} for one in sorted(distinct(code(row["Modality"]) for row in rows))
            ],
            "subject": {"reference": f"Patient/{subject}"},
            "started": first(_moment(row, "Study", rules) for row in rows),
            "basedOn": _requests(rows, rules),
            "referrer": _named("Practitioner", first(person(row["ReferringPhysicianName"]) for row in rows)),
            "interpreter": [
                _named("Practitioner", name)
                for name in distinct(
                    person(one) for one in first(row["NameOfPhysiciansReadingStudy"] for row in rows) or ()
                )
            ],
            "endpoint": [{"reference": f"Endpoint/{endpoint_id(address)}"} for address in addresses],
            "numberOfSeries": len(by_series),
            "numberOfInstances": count,
            "procedureCode": concepts(first(row["ProcedureCodeSequence"] for row in rows)),
            "location": _named("Location", first(_place(row) for row in rows)),
            "reasonCode": _reasons(rows),
            "description": first(text(row["StudyDescription"]) for row in rows),
            "series": [one for one in members if one],
        },
        subject,
    )


def _series(
    rows: Sequence[Row],
    listed: SeriesInstances | None,
    rules: Rules,
    omit: Callable[[Omission], None],
    *,
    with_instances: bool,
) -> Row | None:
    study_uid, series_uid = rows[0]["StudyInstanceUID"], rows[0]["SeriesInstanceUID"]
    count = listed.n_instances if listed else 0
    modality = first(code(row["Modality"]) for row in rows)
    if uid(series_uid) is None or modality is None:
        reason = "SeriesInstanceUID is no UID" if uid(series_uid) is None else "Modality is missing"
        omit(Omission(study_uid, str(series_uid), count, reason))
        return None
    if listed and listed.n_left_out:
        omit(Omission(study_uid, series_uid, listed.n_left_out, "SOPInstanceUID or SOPClassUID is missing or no UID"))
    members = {
        "extension": _image_sets(rows, rules),
        "uid": series_uid,
        "number": first(unsigned(row["SeriesNumber"]) for row in rows),
        "modality": {"system": DCM, "code": modality},
        "description": first(text(row["SeriesDescription"]) for row in rows),
        "numberOfInstances": count,
        "bodySite": first(_body_site(row) for row in rows),
        "laterality": first(SIDES.get(row["Laterality"] or "") for row in rows),
        "started": first(_moment(row, "Series", rules) for row in rows),
        "performer": _performers(rows),
        "instance": orjson.Fragment(b"[%b]" % listed.body) if with_instances and listed and listed.body else None,
    }
    return {name: value for name, value in members.items() if value is not None and value != []}


def _moment(row: Row, level: str, rules: Rules) -> str | None:
    return moment(row[f"{level}Date"], row[f"{level}Time"], row["TimezoneOffsetFromUTC"], rules.time_zone)


def _identifiers(study_uid: str, rows: Sequence[Row], rules: Rules) -> list[Row]:
    numbers = [_accession(row["AccessionNumber"], row, rules) for row in rows]
    study_numbers = [
        {"use": "secondary", "type": {"text": "Study ID"}, "value": value}
        for value in distinct(text(row["StudyID"]) for row in rows)
    ]
    own = {"use": "official", "system": "urn:dicom:uid", "value": f"urn:oid:{study_uid}"}
    return [own, *distinct(numbers), *study_numbers]


def _accession(value: object, row: Row, rules: Rules) -> Row | None:
    issuers = row["IssuerOfAccessionNumberSequence"] or [{}]
    names = [text(issuers[0].get("universal")), text(issuers[0].get("local"))]
    issuer = first(name for name in names if name in rules.accession_systems) or first(names)
    system = system_of(issuer, rules.accession_systems, rules.default_accession_system)
    return identifier(value, kind="ACSN", issuer=issuer, system=system)


def _requests(rows: Sequence[Row], rules: Rules) -> list[Row]:
    """The orders that the study answers: known by their accession number, or else by the requested procedure's id."""
    found: list[Row | None] = []
    for row in rows:
        found.append(_accession(row["AccessionNumber"], row, rules))
        for request in row["RequestAttributesSequence"] or ():
            own = _accession(request["accession"], row, rules)
            procedure = text(request["requested_procedure_id"])
            if own is None and procedure:
                own = {"type": {"text": "Requested Procedure ID"}, "value": procedure}
            found.append(own)
    return [{"type": "ServiceRequest", "identifier": one} for one in distinct(found)]


def _reasons(rows: Sequence[Row]) -> list[Row]:
    coded = concepts(first(row["ReasonForRequestedProcedureCodeSequence"] for row in rows))
    words = first(text(row["ReasonForStudy"]) for row in rows)
    return coded or ([{"text": words}] if words else [])


def _place(row: Row) -> str | None:
    return text(row["InstitutionalDepartmentName"]) or text(row["InstitutionName"])


def _named(kind: str, name: str | None) -> Row | None:
    """A reference to somebody or something of which only the name is known."""
    return {"type": kind, "display": name} if name else None


def _body_site(row: Row) -> Row | None:
    """The coded region, or else the body part as a text: its terms are not codes of a system that FHIR names."""
    region = first(concept(item) for item in row["AnatomicRegionSequence"] or ())
    if region and "coding" in region:
        coding: Row = region["coding"][0]
        return coding
    part = text(row["BodyPartExamined"])
    return {"display": part} if part else None


def _performers(rows: Sequence[Row]) -> list[Row]:
    """The machine and its operators."""
    found: list[Row | None] = []
    for row in rows:
        model = " ".join(one for one in (text(row["Manufacturer"]), text(row["ManufacturerModelName"])) if one)
        device: Row = {"type": "Device"}
        serial = text(row["DeviceSerialNumber"])
        if serial:
            kind = {"coding": [{"system": IDENTIFIER_TYPES, "code": "SNO"}]}
            device["identifier"] = {"type": kind, "value": serial}
        if model:
            device["display"] = model
        found.append(device if len(device) > 1 else None)
        found += [_named("Practitioner", person(name)) for name in row["OperatorsName"] or ()]
    return [{"actor": one} for one in distinct(found)]


def _image_sets(rows: Sequence[Row], rules: Rules) -> list[Row]:
    if not rules.image_set_extension:
        return []
    return [
        {"url": rules.image_set_extension, "valueString": one} for one in distinct(row["image_set_id"] for row in rows)
    ]
