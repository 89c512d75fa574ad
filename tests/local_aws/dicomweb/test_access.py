"""Who may call, from where, how often, and what the log, the faults and hostile requests see."""

from __future__ import annotations

import http.client
import time
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
import requests
from dicomweb_client import DICOMwebClient

from tests.local_aws.conftest import make_object
from tests.local_aws.dicomweb.conftest import Plane, path_of, read

OHIF_FRAMES = (
    "multipart/related; type=image/jphc; transfer-syntax=1.2.840.10008.1.2.4.202, "
    "multipart/related; type=image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90, "
    "multipart/related; type=image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50, "
    "multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
)


class SigV4(requests.auth.AuthBase):
    """Signs with botocore, in the headers or in the URL."""

    def __init__(self, kind: Any) -> None:
        self._signer = kind(botocore.credentials.Credentials("123456789012", "local"), "medical-imaging", "us-east-1")

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        signed = botocore.awsrequest.AWSRequest(request.method, request.url, dict(request.headers), request.body)
        self._signer.add_auth(signed)
        prepared = signed.prepare()
        request.url, request.headers = prepared.url, requests.structures.CaseInsensitiveDict(prepared.headers)
        return request


@pytest.mark.parametrize("kind", [botocore.auth.SigV4Auth, botocore.auth.SigV4QueryAuth])
def test_signed_requests(plane: Plane, kind: Any) -> None:
    answer = requests.get(f"{plane.base}/studies?limit=2", auth=SigV4(kind), timeout=30)
    assert answer.status_code == 200
    assert len(answer.json()) == 2


def test_the_client_with_signatures_and_with_a_token(plane: Plane) -> None:
    signed = requests.Session()
    signed.auth = SigV4(botocore.auth.SigV4Auth)
    assert DICOMwebClient(plane.base, session=signed).search_for_studies(limit=1)
    token = DICOMwebClient(plane.base, headers={"Authorization": "Bearer anything"})
    assert token.search_for_studies(limit=1)
    signed.close()


def test_the_host_of_dicomweb(plane: Plane) -> None:
    host = {"Host": "dicom-medical-imaging.us-east-1.amazonaws.com"}
    found = plane.get("studies?limit=1", **host)
    assert found.json()[0]["00081190"]["Value"][0].startswith(f"http://{host['Host']}/datastore/")
    root = requests.get(plane.stack.env["AWS_ENDPOINT_URL"] + "/anything", headers=host, timeout=30)
    assert root.status_code == 404
    assert root.json()["message"]


def test_the_native_api_is_beside_it(plane: Plane) -> None:
    api = plane.stack.client("medical-imaging")
    assert api.search_image_sets(datastoreId=plane.datastore_id)["imageSetsMetadataSummaries"]


def test_a_preflight_of_a_browser(plane: Plane) -> None:
    answer = plane.session.options(
        f"{plane.base}/studies",
        headers={
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,accept",
        },
    )
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "GET" in answer.headers["Access-Control-Allow-Methods"]
    for path in ("studies?limit=1", "studies?nonsense=1", "nothing"):
        assert plane.get(path, Origin="http://localhost:3000").headers.get("Access-Control-Allow-Origin", "*") == "*"
    assert "Access-Control-Allow-Origin" not in plane.get("studies?limit=1").headers


def test_every_request_of_ohif(plane: Plane) -> None:
    """The URLs that OHIF 3 asks a DICOMweb source for, with its Accept headers, as a page of another origin."""
    page = {"Origin": "http://localhost:3000", "Authorization": "Bearer token"}
    sample = next(d for d in plane.originals if d.Modality == "MR")
    study, series = sample.StudyInstanceUID, sample.SeriesInstanceUID
    work_list = plane.get(
        "studies?limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060",
        "application/dicom+json",
        **page,
    )
    found = [s for s in work_list.json() if s["0020000D"]["Value"] == [study]]
    assert found
    assert found[0]["00081190"]
    answers = [
        plane.get(f"studies?StudyInstanceUID={study}&limit=101&offset=0", "application/dicom+json", **page),
        plane.get(f"studies/{study}/series", "application/dicom+json", **page),
        plane.get(f"studies/{study}/series?includefield=0008103E", "application/dicom+json", **page),
        plane.get(f"studies/{study}/series/{series}/metadata", "application/dicom+json", **page),
    ]
    assert [a.status_code for a in answers] == [200] * 4
    metadata = answers[-1].json()
    # What cornerstone needs to show an image.
    assert {"00280010", "00280011", "00280004", "00280100", "00280101", "00280103", "00020010"} <= metadata[0].keys()
    for one in metadata:
        uid = one["00080018"]["Value"][0]
        frame = plane.get(f"studies/{study}/series/{series}/instances/{uid}/frames/1", OHIF_FRAMES, **page)
        assert frame.status_code == 200
        assert 'type="image/jphc"' in frame.headers["Content-Type"]
        assert "Content-Type" in frame.headers["Access-Control-Expose-Headers"]


def test_head_is_get_without_a_body(plane: Plane) -> None:
    url = f"{plane.base}/studies?limit=2"
    head, get = plane.session.head(url), plane.session.get(url)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["Content-Length"] == str(len(get.content))
    assert head.headers["Content-Type"] == "application/dicom+json"
    assert plane.session.head(f"{plane.base}/studies/x/series").status_code == 400


def test_other_methods_are_not_allowed(plane: Plane) -> None:
    study = plane.originals[0].StudyInstanceUID
    for method, path in (
        ("DELETE", f"studies/{study}"),
        ("PUT", "studies"),
        ("POST", "series"),
        ("GET", f"studies/{study}"),
    ):
        answer = plane.session.request(method, f"{plane.base}/{path}", timeout=30)
        assert answer.status_code == 405
        assert answer.json()["message"]


def test_the_log_names_the_operations(empty: Plane) -> None:
    data = read(make_object())
    path = path_of(data)
    empty.stack.control("POST", "reset")
    empty.client.store_instances([data])
    study = data.StudyInstanceUID
    for resource in (
        *("studies", "series", "instances", f"studies/{study}/series", f"studies/{study}/instances"),
        *(path.rpartition("/")[0], path, f"{path}/metadata", path.partition("/instances")[0] + "/metadata"),
        *(f"{path}/frames/1", f"{path}/bulkdata/none"),
    ):
        empty.get(resource)
    assert [c["operation"] for c in empty.stack.calls(service="medical-imaging")] == [
        "StoreDICOM",
        *("SearchDICOMStudies", "SearchDICOMAllSeries", "SearchDICOMAllInstances"),
        *("SearchDICOMSeries", "SearchDICOMStudyInstances", "SearchDICOMInstances"),
        *("GetDICOMInstance", "GetDICOMInstanceMetadata", "GetDICOMSeriesMetadata"),
        *("GetDICOMInstanceFrames", "GetDICOMBulkdata"),
    ]


def test_throttling_on_demand(empty: Plane) -> None:
    empty.stack.reset()
    empty.stack.fault("throttle", operation="SearchDICOM*", first=1)
    try:
        first, second = empty.get("studies"), empty.get("studies")
        assert first.status_code == 429
        assert first.headers["x-amzn-ErrorType"] == "ThrottlingException"
        assert second.status_code == 200
        empty.stack.fault("throttle", operation="SearchDICOM*", first=1)
        assert empty.client.search_for_studies() == [], "the client tries again"
    finally:
        empty.stack.reset()


def test_calls_that_fail_on_demand(empty: Plane) -> None:
    empty.stack.fault("fail_call", operation="StoreDICOM", when="after", error="InternalServerException")
    empty.stack.fault("fail_call", operation="SearchDICOMStudies", error="AccessDeniedException")
    try:
        assert empty.store(make_object()).status_code == 500
        refused = empty.get("studies")
        assert (refused.status_code, refused.headers["x-amzn-ErrorType"]) == (403, "AccessDeniedException")
        assert len(empty.json("studies")) == 1, "the store had done its work"
    finally:
        empty.stack.reset()


def test_documented_rates(empty: Plane) -> None:
    data = read(make_object())
    assert empty.store(make_object(SOPInstanceUID=data.SOPInstanceUID)).status_code == 200
    url = empty.json("instances")[0]["00081190"]["Value"][0] + "/metadata"
    empty.stack.control("POST", "rate-limits", {"enabled": True})
    started = time.monotonic()
    try:
        statuses = [empty.session.get(url).status_code for _ in range(300)]
    finally:
        empty.stack.control("POST", "rate-limits", {"enabled": False})
    assert set(statuses) <= {200, 429}
    assert statuses[:100] == [200] * 100
    assert statuses.count(200) <= 100 + 50 * (time.monotonic() - started) + 1


@pytest.mark.parametrize(
    "path",
    [
        *("studies/", "studies//series", "studies/%2e%2e/series", "studies/..%2f..%2fx/series", "studies/%00/series"),
        *(
            "studies?%ff=%ff",
            "studies?limit=%ff",
            "series?Modality=%00",
            "studies?PatientName=%ed%a0%80",
            "studies?=&&&",
        ),
        *("studies/1.2/series/1.2/instances/1.2/frames/%00", "studies/1.2/series/1.2/instances/1.2/bulkdata/%ff"),
        *("studies?includefield=....", "studies?includefield=%ff.00080100", "instances?includefield=zzzzzzzz"),
        *(
            "studies?00100010.00080100=1",
            "studies?StudyTime=99",
            "studies?StudyDate=99999999-00000000",
            "series?imageSetId=%00",
        ),
    ],
)
def test_hostile_paths_get_an_answer(plane: Plane, path: str) -> None:
    host, _, port = plane.stack.env["AWS_ENDPOINT_URL"].removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", f"/datastore/{plane.datastore_id}/{path}")
    answer = connection.getresponse()
    assert answer.status < 500, answer.read()
    answer.read()
    connection.close()


@pytest.mark.parametrize(
    "accept",
    ["", ",", ";", '"', 'multipart/related; type="', "*/*;q=x", "a" * 5000, '",";=', "application/dicom+json;q=2,,"],
)
def test_hostile_accept_headers_get_an_answer(plane: Plane, accept: str) -> None:
    path = path_of(next(d for d in plane.originals if "PixelData" in d))
    for resource in ("studies?limit=1", path, f"{path}/metadata", f"{path}/frames/1"):
        assert plane.get(resource, accept).status_code in {200, 406}


def test_data_stores_that_are_not_there(plane: Plane) -> None:
    url = plane.stack.env["AWS_ENDPOINT_URL"]
    answer = requests.get(f"{url}/datastore/{'0' * 32}/studies", timeout=30)
    assert answer.status_code == 404
    assert answer.headers["x-amzn-ErrorType"] == "ResourceNotFoundException"


@pytest.mark.parametrize("path", ["studies?imageSetId=x", "instances?imageSetId=", f"series?imageSetId={'A' * 32}"])
def test_a_wrong_image_set_id_is_refused(plane: Plane, path: str) -> None:
    answer = plane.get(path)
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (400, "ValidationException")
    assert "imageSetId" in answer.json()["message"]
    instance = path_of(plane.originals[0])
    assert plane.get(f"{instance}?{path.partition('?')[2]}").status_code == (200 if path.endswith("=") else 400)
