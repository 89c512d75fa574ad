"""Who is one patient, and what is told of them."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

MR = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}
BORN = dt.date(1970, 1, 2)


def test_a_patient(index, validator):
    index.rules = dataclasses.replace(index.rules, patient_id_systems={"SITE": "https://site/mrn"})
    other = {"id": "X9", "issuer": "1.2.840.1", "type": None}
    index.add(
        PatientName="Yamada^Tarou^^Dr^Jr=山田^太郎=やまだ^たろう",
        IssuerOfPatientID="SITE",
        OtherPatientIDsSequence=[other],
        PatientSex="M",
        PatientBirthDate=BORN,
    )
    representation = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
    assert index.patient() == {
        "resourceType": "Patient",
        "id": "a" * 64,
        "identifier": [
            {"use": "usual", "type": MR, "system": "https://site/mrn", "value": "P1"},
            {"use": "secondary", "system": "urn:oid:1.2.840.1", "value": "X9"},
        ],
        "name": [
            {"family": "Yamada", "given": ["Tarou"], "prefix": ["Dr"], "suffix": ["Jr"]},
            {"extension": [{"url": representation, "valueCode": "IDE"}], "text": "山田 太郎"},
            {"extension": [{"url": representation, "valueCode": "SYL"}], "text": "やまだ たろう"},
        ],
        "gender": "male",
        "birthDate": "1970-01-02",
    }
    assert all(validator.check(one.body).ok for one in index.resources())


@pytest.mark.parametrize(
    ("sex", "gender"), [("F", "female"), ("O", "other"), ("o ", "other"), (None, None), (" ", None), ("W", "unknown")]
)
def test_sex(index, sex, gender):
    assert index.add(PatientSex=sex).patient().get("gender") == gender


@pytest.mark.parametrize(
    ("issuer", "default", "told"),
    [
        (None, "", {}),
        (None, "https://site/mrn", {"system": "https://site/mrn"}),
        ("ELSEWHERE", "https://site/mrn", {"assigner": {"display": "ELSEWHERE"}}),
        ("urn:oid:1.2", "", {"system": "urn:oid:1.2"}),
    ],
)
def test_the_system_of_an_identifier_is_its_issuers(index, issuer, default, told):
    index.rules = dataclasses.replace(index.rules, default_patient_id_system=default)
    (identifier,) = index.add(IssuerOfPatientID=issuer).patient()["identifier"]
    assert identifier == {"use": "usual", "type": MR, "value": "P1", **told}


def test_what_studies_disagree_on_is_not_told_but_names_are(index, validator):
    index.add(StudyInstanceUID="1.1", PatientName="Doe^Jane", PatientSex="F", PatientBirthDate=BORN)
    index.add(StudyInstanceUID="1.2", PatientName="Roe^Jane", PatientSex="M", PatientBirthDate=dt.date(1971, 1, 2))
    index.add(StudyInstanceUID="1.3", PatientName="Doe^Jane")
    patient = index.patient()
    assert [one["family"] for one in patient["name"]] == ["Doe", "Roe"]
    assert not {"gender", "birthDate"} & set(patient)


@pytest.mark.parametrize("patient_id", [None, "", "  ", "ANON", "anonymous", "\x00"])
@pytest.mark.parametrize("key", [None, "a" * 64])
def test_studies_of_nobody_do_not_share_a_patient(index, validator, patient_id, key):
    for uid in ("1.1", "1.2"):
        index.add(StudyInstanceUID=uid, PatientID=patient_id, PatientName="X", patient_key=key)
    found = index.resources()
    patients = {one.id for one in found if one.kind == "Patient"}
    assert len(patients) == 2
    assert {one.subject for one in found if one.kind == "ImagingStudy"} == patients
    assert "a" * 64 not in patients
    assert all("identifier" not in one for one in index.of("Patient"))
    assert all(validator.check(one.body).ok for one in found)
    assert {one.kind for one in index.resources(studies=["1.1"])} == {"Endpoint", "Patient", "ImagingStudy"}


def test_one_id_of_two_issuers_is_two_patients(index):
    index.add(StudyInstanceUID="1.1", IssuerOfPatientID="A", patient_key="1" * 64)
    index.add(StudyInstanceUID="1.2", IssuerOfPatientID="B", patient_key="2" * 64)
    assert [one["id"] for one in index.of("Patient")] == ["1" * 64, "2" * 64]


def test_a_patient_that_exists_already_is_referred_to(index):
    index.rules = dataclasses.replace(index.rules, linked_patients={"a" * 64: "emr-7"})
    index.add()
    assert index.of("Patient") == []
    assert index.study()["subject"] == {"reference": "Patient/emr-7"}


def test_no_patient_id_stands_in_an_id(index):
    index.add(PatientID="SECRET-7")
    assert all("SECRET" not in one.reference for one in index.resources())
