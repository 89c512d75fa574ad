"""The protocol layer: what botocore's model says is what the server does."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_aws.protocol import restjson
from local_aws.protocol.validate import problems
from tests.local_aws.conftest import make_object

MODEL = restjson.load_model("medical-imaging")
ZERO = "0" * 32


@pytest.mark.parametrize(
    ("operation", "request_", "text"),
    [
        ("get_datastore", {"datastoreId": "SHORT"}, "regular expression pattern: [0-9a-z]{32}"),
        ("list_datastores", {"maxResults": 51}, "less than or equal to 50"),
        ("list_datastores", {"datastoreStatus": "NEW"}, "enum value set"),
        ("list_datastores", {"nextToken": "?"}, "nextToken is not valid"),
        ("search_image_sets", {"searchCriteria": {"filters": [
            {"operator": "EQUAL", "values": [{"isPrimary": True}]}] * 3}}, "length less than or equal to 2"),
        ("start_dicom_import_job", {"dataAccessRoleArn": "arn:aws:iam::123456789012:role/r", "jobName": "a b",
            "inputS3Uri": "s3://bucket/", "outputS3Uri": "s3://bucket/"}, "'jobName' failed to satisfy constraint"),
        ("start_dicom_import_job", {"dataAccessRoleArn": "arn:aws:iam::123456789012:role/r",
            "inputS3Uri": "https://bucket/", "outputS3Uri": "s3://bucket/"}, "'inputS3Uri' failed to satisfy"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_as_the_service_would(imaging, operation, request_, text):
    if "list_datastores" not in operation:
        request_ = {"datastoreId": imaging.datastore} | request_
    with pytest.raises(imaging.api.exceptions.ValidationException) as error:
        getattr(imaging.api, operation)(**request_)
    assert text in error.value.response["Error"]["Message"]
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("get_datastore", {"datastoreId": ZERO}),
        ("search_image_sets", {"datastoreId": ZERO}),
        ("get_dicom_import_job", {"jobId": ZERO}),
        ("get_image_set", {"imageSetId": ZERO}),
        ("get_image_set_metadata", {"imageSetId": ZERO}),
        ("list_image_set_versions", {"imageSetId": ZERO}),
        ("delete_image_set", {"imageSetId": ZERO}),
    ],
)
def test_what_is_not_there_is_a_typed_404(imaging, operation, more):
    with pytest.raises(imaging.api.exceptions.ResourceNotFoundException) as error:
        getattr(imaging.api, operation)(**({"datastoreId": imaging.datastore} | more))
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


SCOPE = "AWS4-HMAC-SHA256 Credential=123456789012/20260101/us-east-1/medical-imaging/aws4_request, Signature=0"
Answer = tuple[int, http.client.HTTPMessage, bytes]


@pytest.fixture
def raw(aws_stack):
    """Requests as bytes on the wire, signed in form."""

    def send(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", aws_stack.port, timeout=10)
        try:
            connection.request(method, path, body, {"Authorization": SCOPE} | headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    return send


IMPORT = f"/startDICOMImportJob/datastore/{ZERO}"
SEARCH = f"/datastore/{ZERO}/searchImageSets"
UPDATE = f"/datastore/{ZERO}/imageSet/{ZERO}/updateImageSetMetadata"
UNION = b'{"DICOMUpdates": {"updatableAttributes": "eA=="}, "revertToVersionId": "1"}'


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/nowhere", b"", 404, "No operation"),
        ("GET", "/datastore/", b"", 404, "No operation"),
        ("PUT", "/datastore", b"", 405, "No operation"),
        ("POST", IMPORT, b"{not json", 400, "not JSON"),
        ("POST", IMPORT, b"\xff\xfe", 400, "not JSON"),
        ("POST", IMPORT, b"\x1f\x8b\x08", 400, "not JSON"),
        ("POST", IMPORT, b"[" * 100_000, 400, "not JSON"),
        ("POST", IMPORT, b'{"jobName": NaN}', 400, "not JSON"),
        ("POST", IMPORT, b'{"jobName": "\\ud800"}', 400, "not JSON"),
        ("POST", IMPORT, b"[]", 400, "not a structure"),
        ("POST", IMPORT, b"{}", 400, "'clientToken' failed to satisfy constraint: Member must not be null"),
        ("POST", IMPORT, b" " * (9 * 2**20), 413, "longer than"),
        ("POST", "/datastore", b'{"clientToken": 5}', 400, "Member must be a string"),
        ("POST", "/datastore", b'{"clientToken": "t", "tags": []}', 400, "not a map"),
        ("POST", "/datastore", b'{"clientToken": "t", "tags": {"a": null}}', 400, "Member must be a string"),
        ("POST", "/datastore", b'{"clientToken": "t", "losslessStorageFormat": "PNG"}', 400, "enum value set"),
        ("POST", "/datastore", '{"clientToken": "\u0663"}'.encode(), 400, "regular expression pattern"),
        ("POST", SEARCH + "?maxResults=1&maxResults=2", b"{}", 400, "more than once"),
        ("POST", SEARCH + "?maxResults=1_0", b"{}", 400, "not an integer"),
        ("POST", SEARCH + "?maxResults=", b"{}", 400, "not an integer"),
        ("POST", SEARCH, b'{"filters": {}}', 400, "not a list"),
        ("POST", SEARCH, b'{"filters": [{"operator": "EQUAL", "values": [{}]}]}', 400, "Exactly one member"),
        ("POST", SEARCH, b'{"filters": [{"operator": "EQUAL", "values": [{"updatedAt": true}]}]}', 400, "timestamp"),
        ("POST", SEARCH, b'{"filters": [{"operator": "EQUAL", "values": [{"updatedAt": 1e300}]}]}', 400, "timestamp"),
        ("POST", UPDATE + "?latestVersion=1&force=maybe", UNION, 400, "not a boolean"),
        ("POST", UPDATE + "?latestVersion=1", UNION, 400, "Exactly one member"),
        ("POST", UPDATE + "?latestVersion=one", b'{"revertToVersionId": "1"}', 400, "regular expression pattern"),
        ("POST", UPDATE + "?latestVersion=1", b'{"DICOMUpdates": {"updatableAttributes": "%"}}', 400, "not base64"),
        ("GET", f"/datastore/{ZERO}%2F..", b"", 400, "regular expression pattern"),
        ("GET", "/tags/arn%3Aaws%3As3%3A%3A%3Ab", b"", 400, "regular expression pattern"),
    ],
)  # fmt: skip
def test_raw_nonsense_is_answered(raw, method, path, body, status, text):
    got, headers, answer = raw(method, path, body)
    assert got == status
    assert headers["x-amzn-ErrorType"]
    assert text in json.loads(answer)["message"]


def test_a_wrong_method_is_told_the_right_ones(raw):
    _, headers, _ = raw("PATCH", f"/datastore/{ZERO}")
    assert headers["Allow"] == "DELETE, GET"


def test_times_go_out_as_epoch_seconds_and_versions_as_they_are_modelled(imaging, raw):
    image_set = imaging.run({"a": make_object()}).success[0]["importResponse"]["imageSetId"]
    here = f"/datastore/{imaging.datastore}"
    found = json.loads(raw("POST", f"{here}/searchImageSets", b"{}")[2])["imageSetsMetadataSummaries"]
    [summary] = [s for s in found if s["imageSetId"] == image_set]
    assert summary["version"] == 1
    head = json.loads(raw("POST", f"{here}/imageSet/{image_set}/getImageSet")[2])
    assert (head["versionId"], head["imageSetWorkflowStatus"]) == ("1", "CREATED")
    assert abs(head["createdAt"] - summary["createdAt"]) < 0.001
    assert isinstance(head["createdAt"], float)
    [version] = json.loads(raw("POST", f"{here}/imageSet/{image_set}/listImageSetVersions")[2])[
        "imageSetPropertiesList"
    ]
    assert version["ImageSetWorkflowStatus"] == "CREATED"
    status, headers, body = raw("POST", f"{here}/imageSet/{image_set}/getImageSetMetadata?version=1")
    assert (status, headers["Content-Type"], headers["Content-Encoding"]) == (200, "application/json", "gzip")
    assert json.loads(gzip.decompress(body))["ImageSetID"] == image_set


def test_an_arn_is_percent_encoded_in_the_path(imaging, raw):
    arn = imaging.api.get_datastore(datastoreId=imaging.datastore)["datastoreProperties"]["datastoreArn"]
    assert raw("GET", f"/tags/{quote(arn, safe='')}")[0] == 200
    assert raw("DELETE", f"/tags/{quote(arn, safe='')}?tagKeys=a&tagKeys=b")[0] == 200


def test_the_runtime_host_is_answered_when_a_client_dials_it(aws_stack, monkeypatch):
    """Without AWS_DISABLE_HOST_PREFIX_INJECTION, by whoever resolves `runtime-` names."""
    import boto3

    resolve = socket.getaddrinfo
    dialled = []

    def getaddrinfo(host, *more, **named):
        dialled.append(host)
        return resolve(host.removeprefix("runtime-"), *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = boto3.client(
        "medical-imaging", endpoint_url=aws_stack.env["AWS_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id="123456789012", aws_secret_access_key="local",
    )  # fmt: skip
    store = aws_stack.env["AHI_DATASTORE_ID"]
    assert client.search_image_sets(datastoreId=store)["sort"]
    assert client.get_datastore(datastoreId=store)
    client.close()
    assert dialled == ["runtime-127.0.0.1", "127.0.0.1"]


def test_an_unsigned_request_to_a_host_of_the_service_is_refused(aws_stack):
    connection = http.client.HTTPConnection("127.0.0.1", aws_stack.port, timeout=10)
    connection.request("GET", "/datastore", headers={"Host": "medical-imaging.us-east-1.amazonaws.com"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("x-amzn-ErrorType")) == (403, "MissingAuthenticationTokenException")
    answer.read()
    connection.close()


@pytest.mark.parametrize(
    ("scope", "status", "setting"),
    [
        ("123456789012/20260101/us-east-1", 200, ""),
        ("AKIDEXAMPLE/20260101/us-east-1", 200, ""),
        ("210987654321/20260101/us-east-1", 403, "LOCAL_AWS_ACCOUNT"),
        ("123456789012/20260101/eu-west-1", 403, "LOCAL_AWS_REGION"),
    ],
)
def test_there_is_one_account_and_one_region(aws_stack, raw, scope, status, setting):
    """A key of other than 12 digits is the account of the server, as it is for S3."""
    signature = f"AWS4-HMAC-SHA256 Credential={scope}/medical-imaging/aws4_request, Signature=0"
    store = aws_stack.env["AHI_DATASTORE_ID"]
    for path in ("/datastore", f"/datastore/{store}", f"/datastore/{store}/studies"):
        got, headers, answer = raw("GET", path, Authorization=signature)
        assert got == status
        if setting:
            assert headers["x-amzn-ErrorType"] == "AccessDeniedException"
            assert setting in json.loads(answer)["message"]


def test_an_assumed_role_belongs_to_its_account(aws_stack):
    """As in ministack, whose key of a session is not 12 digits."""
    import boto3

    for account, refused in (("123456789012", False), ("210987654321", True)):
        role = f"arn:aws:iam::{account}:role/any"
        keys = aws_stack.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
        client = boto3.client(
            "medical-imaging", endpoint_url=aws_stack.env["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )  # fmt: skip
        if refused:
            with pytest.raises(client.exceptions.AccessDeniedException, match=account):
                client.list_datastores()
        else:
            assert client.list_datastores()["datastoreSummaries"]
        client.close()


def test_no_pattern_takes_long_on_a_value_made_for_it():
    """One pattern of the model takes exponential time as it stands."""
    shape = MODEL.shape_for("MetadataFilePath")
    for text, right in (("a" * 1023 + "\n", False), ("a b" * 300, True), (" a", False), ("a ", False), ("a", True)):
        assert (list(problems(shape, text)) == []) == right


def test_every_operation_has_a_route():
    router = restjson.Router(MODEL)
    for name in MODEL.operation_names:
        operation = MODEL.operation_model(name)
        path = operation.http["requestUri"].split("?")[0]
        for member in operation.input_shape.members if operation.input_shape else ():
            path = path.replace("{" + member + "}", "arn%3Aaws%2Fx")
        found = router.match(operation.http["method"], path)
        assert found is not None
        assert found[0].name == name
        assert all(v == "arn:aws/x" for v in found[1].values())


# Hypothesis takes bounds without a time zone and adds the zone itself.
BOUNDS = tuple(datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (2000, 2037))


def values_of(shape) -> st.SearchStrategy:  # noqa: C901, PLR0911
    """Values that a shape allows, for the round trip through the serializer."""
    meta = shape.metadata
    if getattr(shape, "is_tagged_union", False):
        return st.one_of([values_of(m).map(lambda v, k=k: {k: v}) for k, m in shape.members.items()])
    if shape.type_name == "structure":
        required = {k: values_of(m) for k, m in shape.members.items() if k in shape.required_members}
        optional = {k: values_of(m) for k, m in shape.members.items() if k not in shape.required_members}
        return st.fixed_dictionaries(required, optional=optional)
    if shape.type_name == "list":
        return st.lists(values_of(shape.member), min_size=meta.get("min", 0), max_size=min(meta.get("max", 2), 2))
    if shape.type_name == "map":
        return st.dictionaries(values_of(shape.key), values_of(shape.value), max_size=2)
    if shape.type_name == "timestamp":
        return st.datetimes(*BOUNDS, timezones=st.just(UTC)).map(
            lambda d: d.replace(microsecond=d.microsecond // 1000 * 1000)
        )
    if shape.type_name == "boolean":
        return st.booleans()
    if shape.type_name in {"integer", "long"}:
        return st.integers(meta.get("min", 0), meta.get("max", 1000))
    if shape.type_name == "blob":
        return st.binary(min_size=1, max_size=20)
    if getattr(shape, "enum", None):
        return st.sampled_from(shape.enum)
    if meta.get("pattern"):
        return st.from_regex(
            re.compile(meta["pattern"].replace("\\p{ASCII}", "[ -~]"), re.ASCII), fullmatch=True
        ).filter(lambda t: meta.get("min", 0) <= len(t) <= meta.get("max", 10**6))
    return st.text("abc", min_size=meta.get("min", 0), max_size=min(meta.get("max", 8), 8))


@pytest.mark.parametrize("name", sorted(MODEL.operation_names))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_answers_come_back_through_botocore_as_they_went(name, data):
    from botocore.parsers import create_parser

    operation = MODEL.operation_model(name)
    shape = operation.output_shape
    sent = data.draw(values_of(shape))
    assert list(problems(shape, sent)) == []
    status, headers, body = restjson.serialize(operation, sent)
    payload = shape.serialization.get("payload")
    if payload and shape.members[payload].type_name == "blob":
        assert body == sent.get(payload, b"{}")
        return
    parsed = create_parser("rest-json").parse({"status_code": status, "headers": headers, "body": body}, shape)
    parsed.pop("ResponseMetadata")
    assert {k: v for k, v in parsed.items() if v is not None} == sent
