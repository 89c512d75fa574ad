"""The protocol layer: what botocore's model says is what the server does."""

from __future__ import annotations

import http.client
import json
import re
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_aws.protocol import restjson
from local_aws.protocol.validate import problems

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


def test_operations_that_are_not_emulated_say_so(imaging):
    with pytest.raises(ClientError, match="not emulated yet"):
        imaging.api.get_image_frame(
            datastoreId=imaging.datastore, imageSetId=ZERO, imageFrameInformation={"imageFrameId": ZERO}
        )


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", b"", 404),
        ("POST", "/startDICOMImportJob/datastore/x", b"{not json", 400),
        ("POST", f"/startDICOMImportJob/datastore/{ZERO}", b"[]", 400),
        ("POST", "/datastore", b'{"clientToken": 5}', 400),
    ],
)
def test_raw_nonsense_is_answered(aws_stack, method, path, body, status):
    connection = http.client.HTTPConnection("127.0.0.1", aws_stack.port, timeout=10)
    scope = "Credential=123456789012/20260101/us-east-1/medical-imaging/aws4_request"
    connection.request(method, path, body, {"Authorization": f"AWS4-HMAC-SHA256 {scope}, Signature=0"})
    answer = connection.getresponse()
    assert answer.status == status
    assert answer.getheader("x-amzn-ErrorType")
    assert json.loads(answer.read())["message"]
    connection.close()


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
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
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
