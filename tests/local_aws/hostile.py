"""Hostile values, documents and requests for `test_fuzz.py`, made of the service model."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st
from pydicom.uid import generate_uid

from local_aws.protocol import restjson
from tests.local_aws.conftest import Imaging, make_object

MODEL = restjson.load_model("medical-imaging")
SCOPE = "AWS4-HMAC-SHA256 Credential=123456789012/20260101/us-east-1/medical-imaging/aws4_request, Signature=0"
# Stands in a body for a list in a list in a list ..., which json.dumps refuses to write.
DEEP = "@deep@"
ZERO = "0" * 32
# Bytes of a DICOM object, and what to put in their place.
SPOILS = (
    (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
    (b"PN\x0a\x00", b"SQ\xff\xff"),
    (b"DA", b"UN"),
    (b"Test^Name", b"\xff\xfe^\x00\x1b$B"),
    (b"20260101", b"\xff" * 8),
    (b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00SQ"),
    (b"ISO_IR 192", b"NONSENSE 1"),
)
READS = ("GetImageSet", "GetImageSetMetadata", "GetImageFrame", "ListImageSetVersions")

hostile = st.one_of(
    st.sampled_from(
        [
            *(None, True, 0, -1, 51, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), 0.5),
            *(
                "",
                " ",
                "a",
                "\x00",
                "\ud800",
                "\u0663",
                "\U0001f9ec" * 9,
                "a\nb",
                "\r\nX: y",
                "../../etc/passwd",
                "%2e%2e%2f",
            ),
            *(
                "9" * 5000,
                "a" * 300_000,
                "a" * 1023 + "\n",
                "' OR 1=1 --",
                "{0}",
                "$ref",
                ZERO,
                "A" * 32,
                "01",
                "aws:x",
            ),
            *([], {}, [[]], [None], {"": ""}, {"a": {"b": [1]}}, ["x"] * 300, {f"k{i}": "v" for i in range(300)}, DEEP),
            *(
                "s3://",
                "s3://a/..",
                "s3://no-such-bucket-1/",
                "arn:aws:iam::123456789012:role/x",
                "2026-01-01",
                "====",
                "/w==",
            ),
        ]
    ),
    st.text(max_size=40),
    st.integers(),
    st.floats(),
    st.recursive(st.none() | st.text(max_size=5), lambda c: st.lists(c, max_size=3), max_leaves=6),
)
# What an update or a copy carries inside: a document of its own, as text.
inner = st.one_of(
    st.builds(
        lambda level, attributes: json.dumps(
            {
                "SchemaVersion": 1.1,
                **({"Patient": {"DICOM": attributes}} if level else {"Study": {"DICOM": attributes}}),
            }
        ),
        st.booleans(),
        st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "PatientName",
                        "PatientID",
                        "StudyDate",
                        "StudyInstanceUID",
                        "AccessionNumber",
                        "StudyDescription",
                    ),
                    *("OtherPatientIDsSequence", "Nonsense", "PixelData", "00091001", ""),
                ]
            ),
            st.one_of(st.text("AB^ 1", max_size=9), hostile.filter(lambda v: v != DEEP)),
            min_size=1,
            max_size=2,
        ),
    ),
    st.sampled_from(
        [
            *(
                "",
                "{",
                "[]",
                "null",
                "5",
                '"x"',
                "[" * 9000,
                '{"SchemaVersion": 1.1}',
                '{"SchemaVersion": "1.1", "Study": 5}',
            ),
            *('{"SchemaVersion": 1.1, "Study": {"Series": {"1.2": {"Instances": {"1.3": {}}}}}}', "\x00", "NaN"),
            *(
                '{"SchemaVersion": 1.1, "Study": {"Series": []}}',
                '{"SchemaVersion": 1.1, "Patient": {"DICOM": "\\ud800"}}',
            ),
            '{"SchemaVersion": 1.1, "Patient": {"DICOM": ' + '{"a":' * 1500 + "1" + "}" * 1500 + "}}",
        ]
    ),
)


segment = st.one_of(
    st.sampled_from(["studies", "series", "instances", "metadata", "frames", "bulkdata", "rendered", "..", "%2e", ""]),
    st.sampled_from(["1.2.3", "1", "0", "-1", "1,1,1", "1,,2", "9" * 400, "1.2.3*", "%ff", "a%2Fb", "%00", "\u0663"]),
)


class Target:
    """A data store with an image set that is only read, and others that anything may be done to."""

    def __init__(self, stack: Any) -> None:
        self.imaging = Imaging(stack)
        self.stack = stack
        self.known = self._image_set()
        self.victims = [self._image_set() for _ in range(3)]
        document = self.imaging.document(self.known)
        [series] = document["Study"]["Series"].values()
        [instance] = series["Instances"].values()
        self.frame = instance["ImageFrames"][0]["ID"]
        levels = [document["Study"]["DICOM"], series["DICOM"], instance["DICOM"]]
        keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        self.uids = [level[keyword] for level, keyword in zip(levels, keywords, strict=True)]

    def _image_set(self) -> str:
        study, series = generate_uid(), generate_uid()
        objects = {f"{i}.dcm": make_object(StudyInstanceUID=study, SeriesInstanceUID=series) for i in range(2)}
        uri = self.imaging.put({"one.dcm": next(iter(objects.values()))})
        outcome = self.imaging.outcome(self.imaging.start(uri)["jobId"])
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        # Otherwise a hostile import of the whole bucket would rightly bring it again.
        self.stack.client("s3").delete_object(Bucket=bucket, Key=f"{prefix}one.dcm")
        return str(outcome.success[0]["importResponse"]["imageSetId"])

    def state(self) -> list[Any]:
        """All that can be read of the image set that nobody may change."""
        api, ids = self.imaging.api, {"datastoreId": self.imaging.datastore, "imageSetId": self.known}
        head = api.get_image_set(**ids)
        return [
            {k: v for k, v in head.items() if k not in {"ResponseMetadata", "lastAccessedAt"}},
            self.imaging.document(self.known),
            api.list_image_set_versions(**ids)["imageSetPropertiesList"],
        ]

    def readable(self) -> None:
        """Everything that the service lists can be read."""
        api = self.imaging.api
        for store in api.list_datastores()["datastoreSummaries"]:
            if store["datastoreStatus"] == "ACTIVE":
                pages = api.get_paginator("search_image_sets").paginate(datastoreId=store["datastoreId"])
                found = [s["imageSetId"] for page in pages for s in page["imageSetsMetadataSummaries"]]
                if store["datastoreId"] == self.imaging.datastore:
                    assert self.known in found
                    assert all(self.imaging.document(i)["ImageSetID"] == i for i in found)
                api.list_dicom_import_jobs(datastoreId=store["datastoreId"])

    def paths(self) -> st.SearchStrategy[str]:
        """Paths of DICOMweb, with what is there and with what is not."""
        study, series, instance = (st.one_of(st.just(uid), segment) for uid in self.uids)
        one = st.builds("studies/{}/series/{}/instances/{}".format, study, series, instance)
        frames = st.one_of(st.just("1"), segment)
        return st.one_of(
            st.sampled_from(["studies", "series", "instances"]),
            st.builds("studies/{}/series".format, study),
            st.builds("studies/{}/series/{}/metadata".format, study, series),
            one,
            one.map("{}/metadata".format),
            st.builds("{}/frames/{}".format, one, frames),
            st.builds("{}/bulkdata/{}".format, one, segment),
        )

    # -- requests -------------------------------------------------------------------------------------------------

    def value(self, name: str, member: str, shape: Any) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911 -- one branch a type
        """Values that are mostly right."""
        fixed: dict[str, list[Any]] = {
            "datastoreId": [self.imaging.datastore],
            # What is deleted cannot be updated any more.
            "imageSetId": [self.known]
            if name in READS
            else self.victims[:1]
            if name == "DeleteImageSet"
            else self.victims[1:],
            "sourceImageSetId": self.victims[1:],
            "imageFrameId": [self.frame, ZERO],
            "jobId": [ZERO],
            "resourceArn": [f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{self.imaging.datastore}"],
            "dataAccessRoleArn": ["arn:aws:iam::123456789012:role/import"],
            "inputS3Uri": ["s3://no-such-bucket-1/x/"],
            "outputS3Uri": ["s3://no-such-bucket-1/y/"],
            "latestVersionId": ["1", "2", "3"],
            "versionId": ["1", "2", "9" * 30],
            "revertToVersionId": ["1", "7" * 40],
            "nextToken": ["x", "", "ZnJvbTo5OTk5OTk5OTk5OTk5OTk5OTk5OQ==", "/w==", "a" * 8193],
            "kmsKeyArn": ["arn:aws:kms:us-east-1:123456789012:alias/x"],
            "metadataFilePath": ["a" * 1023 + "\n", "a.json"],
        }
        if name == "DeleteImageSet":
            fixed["imageSetId"] = self.victims[:1]
        if member in fixed:
            return st.sampled_from(fixed[member])
        if member in {"updatableAttributes", "removableAttributes"}:
            return inner.map(lambda t: base64.b64encode(t.encode("utf-8", "surrogatepass")).decode())
        if member == "copiableAttributes":
            return inner
        if member == "DICOMUpdates":
            both = {k: self.value(name, k, m) for k, m in shape.members.items()}
            return st.one_of(*(st.fixed_dictionaries({k: v}) for k, v in both.items()), st.fixed_dictionaries(both))
        if shape.type_name == "structure":
            parts = {k: self.value(name, k, m) for k, m in shape.members.items()}
            if getattr(shape, "is_tagged_union", False):
                return st.one_of([s.map(lambda v, k=k: {k: v}) for k, s in parts.items()])
            required = {k: s for k, s in parts.items() if k in shape.required_members}
            return st.fixed_dictionaries(required, optional={k: s for k, s in parts.items() if k not in required})
        if shape.type_name == "list":
            return st.lists(self.value(name, member, shape.member), min_size=1, max_size=2)
        if shape.type_name == "map":
            return st.dictionaries(st.sampled_from(["a", "b.c"]), st.text("xyz", max_size=5), max_size=2)
        if shape.type_name == "timestamp":
            return st.sampled_from([0, 1.5, -1e15, 1e300, "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"])
        if shape.type_name in {"integer", "long"}:
            return st.integers(1, 50)
        if shape.type_name == "boolean":
            return st.booleans()
        return st.sampled_from(getattr(shape, "enum", None) or ["a", "1.2.3", "20260101"])

    def send(self, name: str, request: dict[str, Any], tricks: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """One request as bytes on a connection of its own making."""
        operation = MODEL.operation_model(name)
        path, query, body = operation.http["requestUri"].split("?")[0], [], {}
        shape = operation.input_shape
        payload = shape.serialization.get("payload")
        for member, value in request.items():
            known = shape.members.get(member)
            where = known.serialization.get("location") if known is not None else None
            wire = known.serialization.get("name", member) if known is not None else member
            if where == "uri":
                text = str(value)[:6000].encode("utf-8", "replace")
                path = path.replace("{" + wire + "}", quote(text, safe=tricks.get("safe", "")) or "%20")
            elif where == "querystring":
                several = value if isinstance(value, list) else [value]
                query += [(wire, str(one)[:6000].encode("utf-8", "replace")) for one in several]
            elif member == payload:
                body = value
            else:
                body[wire] = value
        text = json.dumps(body).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)
        line = "?".join([path, urlencode(query * tricks.get("repeat", 1))]) + tricks.get("tail", "")
        raw = tricks.get("body") if tricks.get("body") is not None else text.encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.port, timeout=20)
        try:
            connection.request(
                tricks.get("method", operation.http["method"]),
                "".join(c if "!" <= c <= "~" else quote(c) for c in line),
                raw if body or tricks.get("body") is not None else None,
                {"Authorization": SCOPE, **tricks.get("headers", {})},
            )
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()


tricks = st.one_of(
    st.just({}),
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "safe": st.sampled_from(["/", "/.", "%"]),
            "repeat": st.just(2),
            "tail": st.sampled_from(["&", "&x=%zz", "#a", "/", "/../..", "%00", "?maxResults=1"]),
            "method": st.sampled_from(["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "POST", "BREW"]),
            "headers": st.sampled_from(
                [
                    *({"Content-Encoding": "gzip"}, {"Content-Type": "text/xml"}, {"Host": "runtime-localhost"}),
                    *(
                        {"X-Amz-Date": "never"},
                        {"Accept": "image/nothing"},
                        {"Range": "bytes=9-1"},
                        {"Expect": "a miracle"},
                    ),
                ]
            ),
            "body": st.one_of(
                st.binary(max_size=60),
                st.sampled_from(
                    [
                        b"\x1f\x8b\x08broken",
                        b"[" * 90_000,
                        b"\xff\xfe",
                        b'{"a":',
                        b"null",
                        b"[]",
                        b'""',
                        b"1e999",
                        b"{}",
                    ]
                ),
            ),
        },
    ),
)

# -- DICOMweb -----------------------------------------------------------------------------------------------------

wild = st.lists(segment, max_size=6).map("/".join)
key = st.sampled_from(
    [
        *("StudyDate", "StudyTime", "PatientName", "00100010", "PatientID", "ModalitiesInStudy", "StudyInstanceUID"),
        *("limit", "offset", "fuzzymatching", "includefield", "imageSetId", "WarningReason", "Nonsense", "0010", ""),
    ]
)
wanted = st.one_of(
    st.sampled_from(
        [
            *("*", "?", "**" * 30 + "x", "[", "\\", "20260101-", "-", "20260199-20250101", "99999999999", "-1", "1e9"),
            *("true", "a\\b", "%", "\x00", "\ud800", "\U0001f9ec", "' OR 1=1", "9" * 5000, "all", ZERO),
        ]
    ),
    st.text(max_size=20),
)
accept = st.sampled_from(
    [
        *(
            "",
            "*/*",
            "application/dicom+json",
            "application/dicom; transfer-syntax=*",
            "application/json;q=x",
            ";;;",
            "a",
        ),
        *("multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.50", "image/jphc"),
        "multipart/related; type=" + "(" * 2000,
    ]
)
PART = b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n--b--"
stored = st.sampled_from(
    [
        *(b"", b"--b", b"--b--", b"--b\r\n\r\n--b--", PART % b"", PART % b"DICM", PART % (b"\0" * 128 + b"DICM")),
        *(PART % make_object()[:cut] for cut in (100, 132, 140, 300, 500, -1, -40)),
        *(PART % make_object().replace(one, other) for one, other in SPOILS),
        PART.replace(b"\r\n", b"\n") % make_object(),
        make_object(),
    ]
)
media = st.sampled_from(
    [
        *(
            "multipart/related; type=application/dicom; boundary=b",
            'multipart/related; boundary="',
            "application/dicom",
        ),
        *(
            "multipart/related; boundary=" + "b" * 300,
            "multipart/related",
            "text/plain",
            "",
            "multipart/related; boundary=b",
        ),
    ]
)
