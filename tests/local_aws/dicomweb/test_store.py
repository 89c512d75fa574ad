"""Storing: what the response says, what is stored, what a wrong request gets."""

from __future__ import annotations

import json
import uuid
import warnings
from typing import Any

import pytest
from pydicom.uid import generate_uid

from tests.local_aws.conftest import make_object
from tests.local_aws.dicomweb.conftest import BOUNDARY, Plane, multipart, path_of, read

GOOD, BAD = "00081199", "00081198"
CANNOT_UNDERSTAND, OTHER_STUDY = 0xC000, 0xA900


def reasons(answer: Any) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json()[BAD]["Value"]]


def test_the_client_stores_and_reads_back(empty: Plane) -> None:
    data = read(make_object(PatientName="Müller^Jürgen"))
    response = empty.client.store_instances([data])
    reference = response.ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == data.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == data.SOPClassUID
    assert reference.RetrieveURL == f"{empty.base}/{path_of(data)}"
    assert response.RetrieveURL == f"{empty.base}/studies/{data.StudyInstanceUID}"
    back = empty.client.retrieve_instance(data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID)
    assert back.PatientName == data.PatientName


def test_the_client_stores_into_a_study(empty: Plane) -> None:
    data = read(make_object())
    response = empty.client.store_instances([data], study_instance_uid=data.StudyInstanceUID)
    assert "FailedSOPSequence" not in response
    assert len(response.ReferencedSOPSequence) == 1


def test_one_object_without_parts(empty: Plane) -> None:
    body = make_object()
    answer = empty.session.post(f"{empty.base}/studies", data=body, headers={"Content-Type": "application/dicom"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/dicom+json"
    assert BAD not in answer.json()


def test_some_fail_and_some_do_not(empty: Plane) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        too_long = make_object(PatientID="x" * 300)
    answer = empty.store(make_object(), b"no DICOM at all", too_long)
    assert answer.status_code == 202
    found = answer.json()
    assert len(found[GOOD]["Value"]) == 1
    assert reasons(answer)[0] == CANNOT_UNDERSTAND
    assert "00081155" not in found[BAD]["Value"][0], "nobody knows its UID"
    assert found[BAD]["Value"][1]["00081155"]["Value"], "this one could be read"
    assert len(empty.json("instances")) == 1


def test_all_fail(empty: Plane) -> None:
    answer = empty.store(b"no DICOM at all")
    assert answer.status_code == 409
    assert GOOD not in answer.json()
    assert empty.json("studies") == []


def test_an_object_of_another_study_is_refused(empty: Plane) -> None:
    study = generate_uid()
    mine, other = make_object(StudyInstanceUID=study), make_object()
    answer = empty.store(mine, other, path=f"studies/{study}")
    assert answer.status_code == 202
    assert reasons(answer) == [OTHER_STUDY]
    assert answer.json()[BAD]["Value"][0]["00081155"]["Value"] == [read(other).SOPInstanceUID]
    assert [r["0020000D"]["Value"][0] for r in empty.json("studies")] == [study]
    assert empty.store(other, path=f"studies/{study}").status_code == 409


def test_a_warning_is_told(empty: Plane) -> None:
    assert empty.store(make_object()).status_code == 200
    data = bytearray(make_object())
    unknown = b"1.2.840.10008.1.2.4.55"
    position = data.index(b"1.2.840.10008.1.2.1\0")
    # The declared transfer syntax is one that HealthImaging keeps as it is, with a warning.
    changed = data[: position - 2] + len(unknown).to_bytes(2, "little") + unknown + data[position + 20 :]
    length = int.from_bytes(changed[140:144], "little") + len(unknown) - 20
    changed[140:144] = length.to_bytes(4, "little")
    answer = empty.store(bytes(changed))
    assert answer.status_code == 202, answer.text
    [item] = answer.json()[GOOD]["Value"]
    assert item["00081196"]["Value"][0] == 45344
    series = item["00081190"]["Value"][0].removeprefix(f"{empty.base}/").rpartition("/")[0]
    for query, count in (("45344", 1), ("453*", 1), ("*", 1), ("45330", 0), ("45330,45344", 1)):
        found = empty.json(f"{series}?WarningReason={query}")
        assert len(found) == count, query
        assert all(one["00081196"]["Value"] == [45344] for one in found)


def test_the_same_rules_as_an_import(empty: Plane) -> None:
    same = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    one = make_object(**same)
    assert empty.store(one).status_code == 200
    assert empty.store(one).status_code == 200, "again: a new version"
    assert empty.store(make_object(**same)).status_code == 200, "another instance: merged"
    conflict = empty.store(make_object(**same, StudyDate="20250101"))
    assert conflict.status_code == 200
    api = empty.stack.client("medical-imaging")
    sets = api.search_image_sets(datastoreId=empty.datastore_id)["imageSetsMetadataSummaries"]
    assert sorted((s["isPrimary"], s["version"]) for s in sets) == [(False, 1), (True, 3)]
    assert f"?imageSetId={next(s['imageSetId'] for s in sets if not s['isPrimary'])}" in conflict.text
    assert len(empty.json("instances")) == 2


def test_events_of_image_sets_and_no_job(empty: Plane) -> None:
    empty.stack.reset()
    assert empty.store(make_object()).status_code == 200
    seen: list[dict[str, Any]] = []

    def arrived() -> bool:
        seen.extend(empty.stack.drain("IMAGE_SET"))
        return any(e["detail"].get("datastoreId") == empty.datastore_id for e in seen)

    empty.stack.wait_for(arrived, what="the event")
    mine = [e for e in seen if e["detail"].get("datastoreId") == empty.datastore_id]
    assert [e["detail-type"] for e in mine] == ["Image Set Created"]
    api = empty.stack.client("medical-imaging")
    assert api.list_dicom_import_jobs(datastoreId=empty.datastore_id)["jobSummaries"] == []


def test_a_body_in_signed_chunks(empty: Plane) -> None:
    body = make_object()
    chunks = b"".join(
        b"%x;chunk-signature=%s\r\n%s\r\n" % (len(part), b"0" * 64, part) for part in (body[:100], body[100:], b"")
    )
    headers = {"Content-Type": "application/dicom", "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}
    for sent in (chunks, body):
        assert empty.session.post(f"{empty.base}/studies", data=sent, headers=headers).status_code == 200
    assert len(empty.json("instances")) == 1


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("", b"x", 415),
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=b", b"--b--", 415),
        ('multipart/related; type="application/dicom+json"; boundary=b', b"--b--", 415),
        (
            'multipart/related; type="application/dicom"; boundary=b',
            b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--",
            415,
        ),
        ('multipart/related; type="application/dicom"', b"--b--", 400),
        ('multipart/related; type="application/dicom"; boundary=', b"--b--", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b--", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b\r\nno end", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b\r\n\r\n\r\n--c--", 400),
        ("application/dicom", b"", 400),
        ("application/dicom", b"\0" * 128 + b"DICM", 409),
        (f'multipart/related; boundary="{BOUNDARY}', b"--" + BOUNDARY.encode(), 400),
    ],
)
def test_a_wrong_request_stores_nothing(plane: Plane, content_type: str, body: bytes, status: int) -> None:
    before = len(plane.json("instances"))
    answer = plane.session.post(f"{plane.base}/studies", data=body, headers={"Content-Type": content_type}, timeout=30)
    assert answer.status_code == status, answer.text
    assert answer.json()
    assert len(plane.json("instances")) == before


def test_switches_and_a_request_that_is_too_large(make_aws_stack: Any) -> None:
    """One server with every switch set: a start takes seconds."""
    stack = make_aws_stack(
        LOCAL_AWS_MAX_STOW_BYTES="2000",
        LOCAL_AWS_DICOMWEB_EMPTY_STATUS="204",
        LOCAL_AWS_DICOMWEB_UNKNOWN_KEYS="ignore",
        LOCAL_AWS_DICOMWEB_AUTH="required",
        LOCAL_AWS_DICOMWEB_TOKENS="good",
        LOCAL_AWS_CORS_ORIGIN="http://viewer",
        LOCAL_AWS_UPDATE_SECONDS="3600",
    )
    datastore = stack.client("medical-imaging").create_datastore(
        datastoreName="oidc", lambdaAuthorizerArn="arn:aws:lambda:us-east-1:123456789012:function:authorize"
    )["datastoreId"]
    plane = Plane(stack, datastore)
    plane.session.headers["Authorization"] = "Bearer good"
    stack.wait_for(lambda: plane.get("studies").status_code == 204, what="the data store")
    assert plane.store(make_object(PixelData=bytes(32))).status_code == 200
    answer = plane.store(make_object(), make_object(), make_object())
    assert answer.status_code == 413
    assert "2000" in answer.json()["message"]
    assert len(plane.json("instances")) == 1

    assert plane.get("studies?PatientID=nobody").status_code == 204
    a_locked_image_set_answers_with_what_it_was(plane)
    ignored = plane.get("studies?Nonsense=1")
    assert ignored.status_code == 200
    assert "Nonsense" in ignored.headers["Warning"]

    assert plane.get("studies", Authorization="Bearer bad").status_code == 403
    assert plane.get("studies", Authorization="").status_code == 403
    assert (
        plane.get(
            "studies", Authorization="AWS4-HMAC-SHA256 Credential=1/20260101/us-east-1/medical-imaging/aws4_request"
        ).status_code
        == 200
    )
    plain = Plane(stack, stack.env["AHI_DATASTORE_ID"])
    assert plain.get("studies", Authorization="Bearer good").status_code == 403, "it has no authorizer"
    allowed = plane.get("studies", Origin="http://viewer").headers
    assert allowed["Access-Control-Allow-Origin"] == "http://viewer"


def a_locked_image_set_answers_with_what_it_was(plane: Plane) -> None:
    api = plane.stack.client("medical-imaging")
    image_set = api.search_image_sets(datastoreId=plane.datastore_id)["imageSetsMetadataSummaries"][0]
    key = {"datastoreId": plane.datastore_id, "imageSetId": image_set["imageSetId"]}
    change = {"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientSex": "F"}}}
    api.update_image_set_metadata(
        **key,
        latestVersionId=str(image_set["version"]),
        updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": json.dumps(change).encode()}},
    )
    assert api.get_image_set(**key)["imageSetState"] == "LOCKED"
    [found] = plane.json("instances")
    path = found["00081190"]["Value"][0].removeprefix(f"{plane.base}/")
    assert "Value" not in found["00100040"]
    assert "Value" not in plane.json(f"{path}/metadata")[0].get("00100040", {})
    plane.stack.control("POST", "clock", {"advance": 3601})
    plane.stack.wait_for(lambda: plane.json("instances")[0]["00100040"].get("Value") == ["F"], what="the update")
    assert plane.json(f"{path}/metadata")[0]["00100040"]["Value"] == ["F"]
    assert read(plane.get(path).content).PatientSex == "F"


def test_many_parts_at_once(empty: Plane) -> None:
    series = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    objects = [make_object(**series, InstanceNumber=n) for n in range(1, 101)]
    headers, body = multipart(objects)
    answer = empty.session.post(f"{empty.base}/studies", data=b"\r\n" + body, headers=headers, timeout=60)
    assert answer.status_code == 200
    numbers = [r["00200013"]["Value"][0] for r in empty.json("instances")]
    assert numbers == list(range(1, 101))
    assert uuid.UUID(empty.datastore_id)
