"""FHIR REST: read, search, create, update, delete, and what a trail tells of it."""

from __future__ import annotations

import pytest

from tests.conftest import wait_for
from tests.local_aws.healthlake.conftest import ndjson, patient, study
from tests.local_aws.healthlake.fhir import Fhir


@pytest.fixture
def fhir(lake):
    return Fhir(lake)


@pytest.fixture
def filled(lake, fhir):
    """Three patients; a study of each of the first two, another of the first."""
    people = [
        patient("p1", identifier=[{"system": "urn:mrn", "value": "77"}], name=[{"family": "Mäyer", "given": ["Ann"]}]),
        patient("p2", identifier=[{"value": "77"}], birthDate="1970-03-01", gender="male"),
        patient("p3"),
    ]
    series = [{"uid": "1.2.3", "modality": {"system": "urn:dcm", "code": "CT"}}]
    studies = [
        study("s1", "p1", started="2026-01-31T23:30:00-02:00", series=series),
        study("s2", "p2", started="2026-02"),
        study("s3", "p1", identifier=[{"system": "urn:dicom:uid", "value": "urn:oid:1.2"}]),
    ]
    lake.run({"Patient.ndjson": ndjson(*people), "ImagingStudy.ndjson": ndjson(*studies)})
    return fhir


SEARCHES = [
    ("ImagingStudy", {"patient": "p1"}, ["s1", "s3"]),
    ("ImagingStudy", {"patient": "Patient/p1"}, ["s1", "s3"]),
    ("ImagingStudy", {"patient": "p1,p2"}, ["s1", "s2", "s3"]),
    ("ImagingStudy", {"subject": "Patient/p2"}, ["s2"]),
    ("ImagingStudy", {"subject:Patient": "p2"}, ["s2"]),
    ("ImagingStudy", {"patient": "p1", "modality": "CT"}, ["s1"]),
    ("ImagingStudy", {"modality": "urn:dcm|CT"}, ["s1"]),
    ("ImagingStudy", {"modality": "other|CT"}, []),
    ("ImagingStudy", {"identifier": "urn:dicom:uid|urn:oid:1.2"}, ["s3"]),
    ("ImagingStudy", {"series": "1.2.3"}, ["s1"]),
    ("ImagingStudy", {"status": "available", "_id": "s2,s3,s9"}, ["s2", "s3"]),
    ("ImagingStudy", {"started": "2026-02-01"}, ["s1", "s2"]),
    ("ImagingStudy", {"started": "gt2026-02"}, []),
    ("ImagingStudy", {"started": "lt2026-02-01T01:00:00Z"}, ["s2"]),
    ("Patient", {"identifier": "77"}, ["p1", "p2"]),
    ("Patient", {"identifier": "urn:mrn|77"}, ["p1"]),
    ("Patient", {"identifier": "|77"}, ["p2"]),
    ("Patient", {"family": "mä"}, ["p1"]),
    ("Patient", {"name:contains": "YE"}, ["p1"]),
    ("Patient", {"given:exact": "Ann"}, ["p1"]),
    ("Patient", {"birthdate": "ge1970-03-01", "gender": "male"}, ["p2"]),
    ("Patient", {"_lastUpdated": "gt2020"}, ["p1", "p2", "p3"]),
    ("Patient", {"_lastUpdated": "lt2020"}, []),
    ("Patient", {"_sort": "-_lastUpdated", "_count": 100, "_id": "p3"}, ["p3"]),
    ("ImagingStudy", {"_id": "s1", "_include": "ImagingStudy:patient"}, ["s1", "p1"]),
    ("Patient", {"_id": "p1", "_revinclude": "ImagingStudy:patient"}, ["p1", "s1", "s3"]),
]


def test_searches_find_what_was_imported(filled):
    for kind, parameters, ids in SEARCHES:
        answer = filled.find(kind, **parameters)
        assert (parameters, answer.status, sorted(answer.ids)) == (parameters, 200, sorted(ids))
    assert filled.call("POST", "ImagingStudy/_search", b"patient=p2").ids == ["s2"]
    assert filled.find("Patient", _summary="count").body["total"] == 3
    assert "total" not in filled.find("Patient", _total="none").body


def test_searches_that_are_refused(fhir):
    many = {"_count": [101, "x"], "_sort": ["name"], "shoe-size": [9], "started": ["soon"], "patient": [""]}
    more = {"page": ["bm8="], "status:not": ["x"], "_include": ["ImagingStudy:nothing", "Patient:patient"]}
    for name, values in (many | more).items():
        for value in values:
            answer = fhir.find("ImagingStudy", **{name: value})
            assert (name, answer.status, answer.body["resourceType"]) == (name, 400, "OperationOutcome")


def test_pages_find_everything_once_and_belong_to_their_search(lake, fhir):
    lake.run({"a.ndjson": ndjson(*(patient(f"p{n}") for n in range(25)))})
    pages = fhir.pages("Patient", _count=10)
    assert [len(page) for page in pages] == [10, 10, 5]
    assert sorted(i for page in pages for i in page) == sorted(f"p{n}" for n in range(25))
    assert [len(page) for page in fhir.pages("Patient", _sort="-_lastUpdated")] == [10, 10, 5]
    first = fhir.find("Patient", _count=10)
    assert first.body["total"] == 25
    following = first.body["link"][1]["url"]
    assert fhir.call("GET", following.replace("_count=10", "_count=20")).status == 400


def test_a_resource_is_read_with_version_and_time(filled):
    answer = filled.call("GET", "Patient/p1")
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.headers["etag"] == 'W/"1"'
    assert answer.body["meta"]["versionId"] == "1"
    assert answer.body["name"] == [{"family": "Mäyer", "given": ["Ann"]}]
    assert filled.call("GET", "Patient/p1", If_None_Match='W/"1"').status == 304
    assert filled.call("GET", "Patient/nobody").status == 404
    assert filled.call("GET", "Basic/p1").status == 404
    assert filled.call("GET", "metadata").body["fhirVersion"] == "4.0.1"


def test_created_updated_deleted_with_versions(lake, fhir):
    created = fhir.call("POST", "Patient", patient("ignored", active=True))
    assert (created.status, created.body["active"]) == (201, True)
    name = created.body["id"]
    assert name != "ignored"
    assert created.headers["location"].endswith(f"/Patient/{name}/_history/1")
    updated = fhir.call("PUT", f"Patient/{name}", patient(name, active=False), If_Match='W/"1"')
    assert (updated.status, updated.headers["etag"]) == (200, 'W/"2"')
    assert fhir.call("PUT", f"Patient/{name}", patient(name), If_Match='W/"1"').status == 412
    assert fhir.call("PUT", f"Patient/{name}", patient(name), If_None_Match="*").status == 412
    assert fhir.call("PUT", "Patient/chosen", patient("chosen")).status == 201
    assert fhir.call("GET", f"Patient/{name}/_history/1").body["active"] is True
    assert fhir.call("GET", f"Patient/{name}/_history").body["total"] == 2
    assert fhir.call("DELETE", f"Patient/{name}").status == 204
    assert [fhir.call(method, f"Patient/{name}").status for method in ("GET", "DELETE")] == [410, 410]
    assert fhir.find("Patient").ids == ["chosen"]
    lake.run({"a.ndjson": ndjson(patient(name))})
    assert fhir.call("GET", f"Patient/{name}").headers["etag"] == 'W/"4"'


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "Patient", b"{", 400),
        ("POST", "Patient", {"resourceType": "Endpoint"}, 400),
        ("PUT", "Patient/a", patient("b"), 400),
        ("PUT", "Patient/a", {"resourceType": "Patient"}, 400),
        ("PUT", "AuditEvent/a", {"resourceType": "AuditEvent", "id": "a"}, 400),
        ("POST", "Parameters", {"resourceType": "Parameters"}, 400),
        ("PUT", "Patient/a_b", patient("a"), 400),
        ("POST", "Patient", patient("x", text={"div": "x" * 5_000_000}), 413),
        ("DELETE", "Patient/nobody", None, 404),
        ("PATCH", "Patient/a", b"[]", 400),
        ("POST", "", b"{}", 400),
    ],
)
def test_requests_that_are_refused(fhir, method, path, body, status):
    answer = fhir.call(method, path, body)
    assert (answer.status, answer.body["resourceType"]) == (status, "OperationOutcome")


def test_who_does_not_sign_or_is_of_another_account_is_refused(lake, fhir):
    assert fhir.call("GET", "Patient", sign=False).status == 401
    assert Fhir(lake, account="210987654321").call("GET", "Patient").status == 403


def test_a_trail_tells_of_what_was_written_and_of_no_import(lake, fhir, told):
    lake.run({"a.ndjson": ndjson(patient())})
    fhir.call("PUT", "Patient/a", patient("a"))
    fhir.call("PUT", "Patient/a", patient("a"))
    fhir.call("GET", "Patient/a")
    fhir.call("DELETE", "Patient/a")
    fhir.call("POST", "Patient", patient())

    def found():
        return [e["detail"] for e in told.read() if e["detail-type"] == "AWS API Call via CloudTrail"]

    wait_for(lambda: len(found()) >= 4, what="the events of the trail")
    names = [detail["eventName"] for detail in found()]
    assert names == ["UpdateResource", "UpdateResource", "DeleteResource", "CreateResource"]
    first = found()[0]
    assert first["eventSource"] == "healthlake.amazonaws.com"
    assert first["requestParameters"] == {"datastoreId": lake.datastore, "resourceType": "Patient"}
    assert (first["responseElements"], first["additionalEventData"]) == ({"statusCode": 201}, {"resourceId": "a"})


def test_calls_of_rest_fail_and_are_throttled_on_demand(lake, fhir):
    lake.stack.fault("fail_call", operation="ReadResource", error="InternalServerException")
    assert [fhir.call("GET", "Patient/a").status for _ in range(2)] == [500, 404]
    lake.stack.fault("throttle", service="healthlake", operation="SearchWithGet", first=1)
    assert [fhir.find("Patient").status for _ in range(2)] == [429, 200]
