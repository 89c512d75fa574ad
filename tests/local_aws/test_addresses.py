"""Who answers: HealthImaging or S3, when a request says it by its path alone."""

from __future__ import annotations

import pytest
import requests

from tests.local_aws.conftest import make_object

ZERO = "0" * 32
SCOPE = "AWS4-HMAC-SHA256 Credential=123456789012/20260101/us-east-1/{}/aws4_request, Signature=0"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/datastore", 403, "MissingAuthenticationTokenException"),
        ("POST", "/datastore", 403, "MissingAuthenticationTokenException"),
        ("GET", f"/datastore/{ZERO}", 403, "MissingAuthenticationTokenException"),
        ("POST", f"/datastore/{ZERO}/searchImageSets", 403, "MissingAuthenticationTokenException"),
        ("POST", f"/startDICOMImportJob/datastore/{ZERO}", 403, "MissingAuthenticationTokenException"),
        ("GET", f"/getDICOMImportJob/datastore/{ZERO}/job/{ZERO}", 403, "MissingAuthenticationTokenException"),
        ("GET", f"/listDICOMImportJobs/datastore/{ZERO}", 403, "MissingAuthenticationTokenException"),
        ("GET", "/datastore/XX/studies", 400, "ValidationException"),
        ("GET", f"/datastore/{'A' * 32}/studies/1.2/series", 400, "ValidationException"),
        ("GET", f"/datastore/{ZERO}/studies", 404, "ResourceNotFoundException"),
    ],
)
def test_unsigned_calls_are_answered_by_healthimaging(aws_stack, method, path, status, kind):
    answer = requests.request(method, aws_stack.env["AWS_ENDPOINT_URL"] + path, timeout=30)
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (status, kind)
    assert answer.json()["message"]


def test_a_bucket_may_be_called_like_our_path(aws_stack):
    s3 = aws_stack.client("s3")
    s3.create_bucket(Bucket="datastore")
    key = f"{ZERO}/studies"
    s3.put_object(Bucket="datastore", Key=key, Body=b"x")
    assert [o["Key"] for o in s3.list_objects_v2(Bucket="datastore")["Contents"]] == [key]
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "datastore", "Key": key})
    assert requests.get(url, timeout=30).content == b"x"
    form = s3.generate_presigned_post("datastore", "posted")
    assert requests.post(form["url"], data=form["fields"], files={"file": b"y"}, timeout=30).status_code < 300
    s3.delete_object(Bucket="datastore", Key=key)


def test_every_answer_has_a_request_id_of_its_own(aws_stack, imaging):
    imaging.run({"a": make_object()})
    url = aws_stack.env["AWS_ENDPOINT_URL"]
    signed = {"Authorization": SCOPE.format("medical-imaging")}
    answers = [
        *(requests.get(url + path, headers=signed, timeout=30) for path in ("/datastore", "/datastore", "/nowhere")),
        requests.get(f"{url}/tags/{ZERO}", headers=signed, timeout=30),
        requests.post(f"{url}/datastore", b" " * (9 * 2**20), headers=signed, timeout=30),
        requests.get(f"{url}/datastore", timeout=30),
        requests.get(url, headers={"Host": "medical-imaging.us-east-1.amazonaws.com"}, timeout=30),
        requests.get(
            f"{url}/datastore", headers={"Authorization": SCOPE.format("medical-imaging").replace("us-", "eu-")}
        ),
        *(requests.get(f"{url}/datastore/{imaging.datastore}/{path}", timeout=30) for path in ("studies", "studies/x")),
        requests.head(f"{url}/datastore/{imaging.datastore}/studies", timeout=30),
        requests.options(f"{url}/datastore/{imaging.datastore}/studies", timeout=30),
    ]
    assert [a.status_code for a in answers] == [200, 200, 404, 400, 413, 403, 403, 403, 200, 405, 200, 204]
    ids = [answer.headers["x-amzn-RequestId"] for answer in answers]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    assert [a.headers["x-amzn-RequestId"].count(",") for a in answers] == [0] * len(answers)
