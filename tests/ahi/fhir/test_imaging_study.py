"""Studies as FHIR: the mapping, each pitfall of real archives, and what every resource must be."""

from __future__ import annotations

import dataclasses
import datetime as dt
from zoneinfo import ZoneInfo

import orjson
import pytest

from ahi.fhir.instances import series_instances
from ahi.fhir.resources import study_id
from ahi.fhir.source import study_fingerprints

DAY, NOON = dt.date(2024, 2, 29), dt.time(12, 0)


def test_a_study_of_the_official_mapping(index, validator):
    code = {"code": "CTABD", "scheme": "99SITE", "meaning": "CT Abdomen"}
    request = {
        "accession": None,
        "requested_procedure_id": "RP1",
        "scheduled_step_id": None,
        "requested_procedure": None,
    }
    index.rules = dataclasses.replace(
        index.rules, accession_systems={"RIS": "urn:oid:1.2.9"}, image_set_extension="https://site/image-set"
    )
    index.add(
        {"SOPInstanceUID": "1.2.3.4.6", "InstanceNumber": 2},
        {},
        AccessionNumber="A1",
        IssuerOfAccessionNumberSequence=[{"local": "RIS", "universal": None, "type": None}],
        StudyID="S1",
        StudyDate=DAY,
        StudyTime=NOON,
        TimezoneOffsetFromUTC="-0430",
        StudyDescription="Abdomen ",
        ProcedureCodeSequence=[code],
        ReasonForStudy="pain",
        ReferringPhysicianName="Roe^Jane^^Dr.=X^Y",
        NameOfPhysiciansReadingStudy=["Low^Al", "Low^Al"],
        InstitutionName="Hospital",
        SeriesNumber=7,
        SeriesDescription='5 mm "soft"',
        BodyPartExamined="ABDOMEN",
        Laterality="L",
        SeriesDate=DAY,
        SeriesTime=dt.time(12, 0, 0, 500000),
        Manufacturer="ACME",
        ManufacturerModelName="One",
        DeviceSerialNumber="4711",
        OperatorsName=["Op^Er"],
        RequestAttributesSequence=[request],
    )
    study = index.study()
    sct, types = "http://snomed.info/sct", "http://terminology.hl7.org/CodeSystem/v2-0203"
    ct = {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}
    accession = {"type": {"coding": [{"system": types, "code": "ACSN"}]}, "system": "urn:oid:1.2.9", "value": "A1"}
    sop = {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.840.10008.5.1.4.1.1.2"}
    serial = {"type": {"coding": [{"system": types, "code": "SNO"}]}, "value": "4711"}
    endpoint = study.pop("endpoint")
    assert study == {
        "resourceType": "ImagingStudy",
        "id": study_id("1.2.3"),
        "identifier": [
            {"use": "official", "system": "urn:dicom:uid", "value": "urn:oid:1.2.3"},
            accession,
            {"use": "secondary", "type": {"text": "Study ID"}, "value": "S1"},
        ],
        "status": "available",
        "modality": [ct],
        "subject": {"reference": f"Patient/{'a' * 64}"},
        "started": "2024-02-29T12:00:00-04:30",
        "basedOn": [
            {"type": "ServiceRequest", "identifier": accession},
            {"type": "ServiceRequest", "identifier": {"type": {"text": "Requested Procedure ID"}, "value": "RP1"}},
        ],
        "referrer": {"type": "Practitioner", "display": "Dr. Jane Roe"},
        "interpreter": [{"type": "Practitioner", "display": "Al Low"}],
        "numberOfSeries": 1,
        "numberOfInstances": 2,
        "procedureCode": [{"coding": [{"code": "CTABD", "display": "CT Abdomen"}], "text": "CT Abdomen"}],
        "location": {"type": "Location", "display": "Hospital"},
        "reasonCode": [{"text": "pain"}],
        "description": "Abdomen",
        "series": [
            {
                "extension": [{"url": "https://site/image-set", "valueString": "e" * 32}],
                "uid": "1.2.3.4",
                "number": 7,
                "modality": ct,
                "description": '5 mm "soft"',
                "numberOfInstances": 2,
                "bodySite": {"display": "ABDOMEN"},
                "laterality": {"system": sct, "code": "419161000", "display": "Unilateral left"},
                "started": "2024-02-29T12:00:00.500000-04:30",
                "performer": [
                    {"actor": {"type": "Device", "identifier": serial, "display": "ACME One"}},
                    {"actor": {"type": "Practitioner", "display": "Er Op"}},
                ],
                "instance": [
                    {"uid": "1.2.3.4.5", "sopClass": sop, "number": 1},
                    {"uid": "1.2.3.4.6", "sopClass": sop, "number": 2},
                ],
            }
        ],
    }
    (own,) = index.of("Endpoint")
    assert own["address"] == f"https://dicom.example/{'d' * 32}"
    assert endpoint == [{"reference": f"Endpoint/{own['id']}"}]
    assert [one.kind for one in index.resources()] == ["Endpoint", "Patient", "ImagingStudy"]
    assert_valid(index, validator)
    assert not index.omitted


def assert_valid(index, validator):
    for one in index.resources():
        verdict = validator.check(one.body)
        assert verdict.ok, verdict.problems
        assert (verdict.kind, verdict.id, verdict.warnings) == (one.kind, one.id, ())


@pytest.mark.parametrize(
    ("values", "zone", "started"),
    [
        ({"StudyDate": DAY, "StudyTime": NOON}, None, "2024-02-29"),
        ({"StudyDate": DAY}, "Europe/Berlin", "2024-02-29"),
        ({"StudyDate": DAY, "StudyTime": NOON}, "Europe/Berlin", "2024-02-29T12:00:00+01:00"),
        (
            {"StudyDate": DAY, "StudyTime": NOON, "TimezoneOffsetFromUTC": "+0000"},
            "Europe/Berlin",
            "2024-02-29T12:00:00Z",
        ),
        ({"StudyDate": DAY, "StudyTime": NOON, "TimezoneOffsetFromUTC": "+2300"}, None, "2024-02-29"),
        ({"StudyDate": dt.date(1880, 1, 1), "StudyTime": NOON}, "Europe/Berlin", "1880-01-01"),
        ({"StudyDate": dt.date(1, 1, 1), "StudyTime": dt.time(0)}, "Europe/Berlin", "0001-01-01"),
        ({"StudyTime": NOON}, "Europe/Berlin", None),
    ],
)
def test_a_time_is_told_only_with_an_offset(index, validator, values, zone, started):
    index.rules = dataclasses.replace(index.rules, time_zone=ZoneInfo(zone) if zone else None)
    assert index.add(**values).study().get("started") == started
    assert_valid(index, validator)


def test_optional_values_that_fhir_cannot_hold_are_left_out(index, validator):
    index.add(
        {"InstanceNumber": -1},
        {"SOPInstanceUID": "1.2.3.4.7", "InstanceNumber": None},
        SeriesNumber=-5,
        SeriesDescription="\x00 ",
        StudyDescription="  ",
        StudyID="",
        Laterality="X",
        AccessionNumber="A\x00B",
        ProcedureCodeSequence=[{"code": "two  blanks", "scheme": "DCM", "meaning": None}],
    )
    study = index.study()
    assert "description" not in study
    assert "procedureCode" not in study
    assert study["identifier"][1]["value"] == "AB"
    assert set(study["series"][0]) == {"uid", "modality", "numberOfInstances", "instance"}
    assert all("number" not in one for one in study["series"][0]["instance"])
    assert_valid(index, validator)
    assert not index.omitted


def test_required_values_that_are_missing_cost_the_series_or_instance_and_are_told(index, validator):
    index.add({"SOPInstanceUID": "1.2.3.4.1"}, SeriesInstanceUID="1.2.3.1", Modality=None)
    index.add({"SOPInstanceUID": "1.2.3.4.2"}, SeriesInstanceUID="1 2", image_set_id="f" * 32)
    index.add(
        {},
        {"SOPInstanceUID": "1.2.3.4.6", "SOPClassUID": None},
        {"SOPInstanceUID": "1" * 65},
        {"SOPInstanceUID": '1"2'},
        SeriesInstanceUID="1.2.3.9",
    )
    index.add(StudyInstanceUID="9 9", SeriesInstanceUID="1.2.8")
    study = index.study()
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (3, 6)
    assert [(one["uid"], len(one["instance"])) for one in study["series"]] == [("1.2.3.9", 1)]
    assert sorted((one.series_uid, one.n_instances, one.reason) for one in index.omitted) == [
        ("", 1, "StudyInstanceUID is no UID"),
        ("1 2", 1, "SeriesInstanceUID is no UID"),
        ("1.2.3.1", 1, "Modality is missing"),
        ("1.2.3.9", 3, "SOPInstanceUID or SOPClassUID is missing or no UID"),
    ]
    index.series.pop()
    assert_valid(index, validator)


def test_objects_of_every_kind_are_in_the_study_and_frames_are_not_counted(index, validator):
    index.add(SeriesInstanceUID="1.2.3.1", Modality="SR")
    index.add({"SOPInstanceUID": "1.2.3.4.6", "NumberOfFrames": 100}, SeriesInstanceUID="1.2.3.2", Modality="US")
    study = index.study()
    assert [one["code"] for one in study["modality"]] == ["SR", "US"]
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (2, 2)


def test_a_repeated_instance_counts_once(index, validator):
    index.add({}, {"InstanceNumber": 2}, {"SOPInstanceUID": "1.2.3.4.9"}, image_set_id="1")
    index.add({}, image_set_id="2", datastore_id="c" * 32)
    index.add({}, StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.9.1")
    studies = {one["id"]: one for one in index.of("ImagingStudy")}
    study = studies[study_id("1.2.3")]
    assert study["numberOfInstances"] == 2
    assert len(study["series"]) == 1
    assert len(study["endpoint"]) == 2
    assert studies[study_id("1.2.9")]["numberOfInstances"] == 1, "the same UID in another study is another's"
    assert_valid(index, validator)


def test_a_study_too_large_lists_series_alone(index, validator):
    index.rules = dataclasses.replace(index.rules, most_instances=1)
    index.add({}, {"SOPInstanceUID": "1.2.3.4.6"})
    index.add(StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1")
    large, small = sorted(index.of("ImagingStudy"), key=lambda one: -one["numberOfInstances"])
    assert "instance" not in large["series"][0]
    assert "instance" in small["series"][0]
    assert large["series"][0]["numberOfInstances"] == 2
    assert [one.study_uid for one in index.omitted] == ["1.2.3"]
    assert_valid(index, validator)


def test_rows_of_headers_are_not_told(index):
    index.add(row_source="header")
    assert index.resources() == []


def test_identical_rows_give_identical_bytes(index):
    for number in range(20):
        index.add(StudyInstanceUID=f"1.{number}", SeriesInstanceUID=f"1.{number}.1", patient_key=f"{number:064x}")
    first = index.resources()
    assert len({one.reference for one in first}) == len(first) == 41
    index.series.reverse()
    assert index.resources() == first


def test_some_studies_alone_with_their_patients_whole(index):
    index.add(StudyInstanceUID="1.1", PatientName="Doe^Jane")
    index.add(StudyInstanceUID="1.2", PatientName="Roe^Jane")
    index.add(StudyInstanceUID="1.3", patient_key="b" * 64)
    everything = {one.reference: one for one in index.resources()}
    some = index.resources(studies=["1.2", "1.2", "9.9"])
    assert [one.kind for one in some] == ["Endpoint", "Patient", "ImagingStudy"]
    assert all(everything[one.reference] == one for one in some)
    assert index.resources(studies=[]) == []


def test_a_fingerprint_changes_with_any_image_set_of_the_study(index):
    def fingerprints():
        return dict(study_fingerprints(index.connection()))

    index.add(image_set_version=1).add(StudyInstanceUID="1.9", image_set_id="f" * 32, image_set_version=1)
    before = fingerprints()
    assert list(before) == ["1.2.3", "1.9"]
    index.series[1]["image_set_version"] = 2
    assert {uid for uid, one in fingerprints().items() if one != before[uid]} == {"1.9"}
    index.add(SeriesInstanceUID="1.2.3.5", image_set_id="g" * 32)
    assert fingerprints()["1.2.3"] != before["1.2.3"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_batches_may_end_anywhere(index, size):
    for study in range(3):
        for series in range(study + 1):
            uids = [{"SOPInstanceUID": f"1.{study}.{series}.{n}", "InstanceNumber": n} for n in range(1, series + 4)]
            index.add(*uids, StudyInstanceUID=f"1.{study}", SeriesInstanceUID=f"1.{study}.{series}")
    order = "StudyInstanceUID, SeriesInstanceUID, InstanceNumber"
    columns = "StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, SOPClassUID, InstanceNumber"
    table = index.connection().sql(f"SELECT {columns} FROM instances ORDER BY {order}").to_arrow_table()
    found = list(series_instances(table.combine_chunks().to_batches(max_chunksize=size)))
    assert [(one.study_uid, one.series_uid, one.n_instances) for one in found] == [
        (f"1.{study}", f"1.{study}.{series}", series + 3) for study in range(3) for series in range(study + 1)
    ]
    for one in found:
        listed = orjson.loads(b"[%b]" % one.body)
        assert [instance["number"] for instance in listed] == list(range(1, one.n_instances + 1))
        assert {instance["uid"].rpartition(".")[0] for instance in listed} == {one.series_uid}
