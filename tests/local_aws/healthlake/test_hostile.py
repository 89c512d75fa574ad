"""Requests that are spoilt, drawn from the service model, over raw HTTP: none is answered with a 500."""

from __future__ import annotations

import http.client
import json
import random
from contextlib import closing
from typing import Any
from urllib.parse import quote

from local_aws.protocol.restjson import load_model

MODEL = load_model("healthlake")
ZERO = "0" * 32
CREDENTIAL = "123456789012/20260101/us-east-1/healthlake/aws4_request"
AUTHORIZATION = f"AWS4-HMAC-SHA256 Credential={CREDENTIAL}, SignedHeaders=host, Signature=0"
ODD = [
    None,
    True,
    -1,
    2**70,
    1e308,
    "",
    "a" * 5000,
    "ä\x00\ud800",
    [],
    {},
    [[]],
    {"a": None},
    "s3://b",
    "%00",
    "' OR 1=1",
]


def drawn(shape: Any, draw: random.Random, depth: int = 0) -> Any:
    """A value of a shape, or one that is none."""
    if draw.random() < 0.15:
        return draw.choice(ODD)
    if shape.type_name == "structure":
        members = [m for m in shape.members if m in shape.required_members or draw.random() < 0.4]
        return {name: drawn(shape.members[name], draw, depth + 1) for name in members} if depth < 6 else {}
    if shape.type_name == "list":
        return [drawn(shape.member, draw, depth + 1) for _ in range(draw.randrange(3))]
    if getattr(shape, "enum", None):
        return draw.choice(shape.enum)
    kinds = {"boolean": True, "integer": 7, "long": 7, "double": 0.5, "float": 0.5, "timestamp": 1.7e9}
    texts = ["abc", "s3://bucket/x", "arn:aws:iam::123456789012:role/x", ZERO]
    return kinds.get(shape.type_name) or draw.choice(texts)


def sent(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, **headers: str) -> Any:
    """Status and body of one signed request."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Authorization": AUTHORIZATION, **more})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_no_request_breaks_the_service(lake):
    printed, draw = len(lake.stack.log()), random.Random(6)
    before = {s["DatastoreId"] for s in lake.api.list_fhir_datastores(MaxResults=500)["DatastorePropertiesList"]}
    with closing(http.client.HTTPConnection("127.0.0.1", lake.stack.port, timeout=30)) as connection:
        for name in sorted(MODEL.operation_names):
            for _ in range(12):
                request = drawn(MODEL.operation_model(name).input_shape, draw)
                if isinstance(request, dict) and "DatastoreId" in request and draw.random() < 0.7:
                    request["DatastoreId"] = lake.datastore if not name.startswith("Delete") else ZERO
                body = (
                    json.dumps(request).encode() if draw.random() < 0.9 else draw.choice([b"", b"{", b"\xff", b"[1]"])
                )
                status, text = sent(connection, "POST", "/", body, X_Amz_Target=f"HealthLake.{name}")
                assert status in {200, 400} or status == 501, (name, body, text)
                json.loads(text)
        for target in ("", "HealthLake.", "HealthLake.Nothing", "S3.ListBuckets", "\xe4"):
            assert sent(connection, "POST", "/", b"{}", X_Amz_Target=target)[0] == 400
        for status, text, path in rest_requests(lake, connection, draw):
            assert status < 500, (path, text)
    for store in lake.api.list_fhir_datastores(MaxResults=500)["DatastorePropertiesList"]:
        if store["DatastoreId"] not in before and store["DatastoreStatus"] == "ACTIVE":
            lake.api.delete_fhir_datastore(DatastoreId=store["DatastoreId"])
    assert "Traceback" not in lake.stack.log()[printed:]


def rest_requests(lake: Any, connection: http.client.HTTPConnection, draw: random.Random) -> Any:
    """Answers of FHIR REST to hostile paths, parameters and bodies."""
    words = [
        "Patient",
        "ImagingStudy",
        "_history",
        "_search",
        "a",
        "1",
        "..",
        "%2F",
        "\u00e4",
        "x" * 300,
        "metadata",
        "_id",
    ]
    names = [
        "_id",
        "patient",
        "identifier",
        "_count",
        "page",
        "_sort",
        "started",
        "_lastUpdated",
        "name:exact",
        "_include",
        "\x00",
    ]
    values = [
        "",
        "a,b",
        "|",
        "||",
        "ge2020",
        "9999-12-31",
        "0000",
        "-1",
        "9" * 400,
        "ImagingStudy:patient",
        "'",
        "%",
        "\u00e4",
    ]
    lines = [
        b"",
        b"{",
        b"[]",
        b'{"resourceType":"Patient","id":"a"}',
        b'{"resourceType":{},"id":[]}',
        b"\xff\x00",
        b"9" * 400,
    ]
    odd = {
        "resourceType": "Patient",
        "id": "a",
        "name": [{"family": {}}],
        "identifier": "x",
        "birthDate": "9999",
        "meta": 1,
    }
    for _ in range(250):
        parts = [quote(w, safe="%.") for w in draw.choices(words, k=draw.randrange(4))]
        pairs = zip(draw.choices(names, k=2), draw.choices(values, k=2), strict=True)
        query = "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)
        path = f"/datastore/{lake.datastore}/r4/{'/'.join(parts)}?{query}"
        method = draw.choice(["GET", "GET", "POST", "PUT", "DELETE", "PATCH"])
        body = draw.choice([*lines, json.dumps(odd).encode()]) if method in {"POST", "PUT"} else None
        yield *sent(connection, method, path, body, If_Match=draw.choice(["*", 'W/"1"', "x"])), path
