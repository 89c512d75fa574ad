"""The emulator as a whole, over boto3 and HTTP alone: every operation, every modelled error, every pagination.

The rules in detail are proven in the other files of this directory; docs/emulator-rules.md says which.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.config import Config

from local_aws.protocol.restjson import load_model
from tests.conftest import AwsStack, wait_for
from tests.local_aws.conftest import Imaging, make_object

MODEL = load_model("medical-imaging")
ZERO = "0" * 32
HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
# HealthImaging's rules and HealthLake's.
PAGES = (DOCS / "emulator-rules.md", DOCS / "emulator-healthlake.md")


def rules() -> str:
    """The tables of rules of all services."""
    return "\n".join(page.read_text().partition("## Rules and their tests")[2] or page.read_text() for page in PAGES)


@cache
def names_in(path: Path) -> set[str]:
    """Names of the tests in a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_the_table_of_rules_names_tests_that_exist():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", rules())
    assert named
    gone = [f"{file}::{test}" for file, test in named if test not in names_in(HERE / file)]
    assert gone == []


def test_every_test_stands_in_the_table():
    named = set(re.findall(r"`([\w/]+\.py::\w+)`", rules()))
    files = sorted(HERE.rglob("test_*.py"))
    there = {f"{path.relative_to(HERE)}::{test}" for path in files for test in names_in(path)}
    assert len(files) > 30
    assert there - named == set()


def test_every_rule_has_a_test():
    rows = [line for line in rules().splitlines() if line.startswith("| ")]
    told = [row for row in rows if not row.startswith(("| rule |", "|---"))]
    assert [row for row in told if "::" not in row] == []


# -- every modelled error of every operation --------------------------------------------------------------------------

# Errors that come of themselves, by what the caller does or by the settings. All others come of the fault `fail_call`:
# the service model has them, and no page says when the service answers so.
NATURAL = {
    "ValidationException": set(MODEL.operation_names),
    "ResourceNotFoundException": set(MODEL.operation_names) - {"CreateDatastore", "ListDatastores"},
    "ConflictException": {
        *("CreateDatastore", "DeleteDatastore", "StartDICOMImportJob", "SearchImageSets", "GetImageSetMetadata"),
        *("GetImageFrame", "UpdateImageSetMetadata", "CopyImageSet", "DeleteImageSet"),
        *("GetDICOMImportJob", "ListDICOMImportJobs", "GetImageSet", "ListImageSetVersions"),
    },
    "ServiceQuotaExceededException": {
        *("CreateDatastore", "StartDICOMImportJob", "UpdateImageSetMetadata", "CopyImageSet"),
    },
    "ThrottlingException": set(MODEL.operation_names),
    "AccessDeniedException": set(MODEL.operation_names),
    "NotAcceptableException": {"GetImageFrame"},
    "BadRequestException": {"GetImageFrame"},
}
STATUS = {
    "ValidationException": 400,
    "BadRequestException": 400,
    "ServiceQuotaExceededException": 402,
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "NotAcceptableException": 406,
    "ConflictException": 409,
    "ThrottlingException": 429,
    "InternalServerException": 500,
}
ERRORS = [(name, e.name) for name in sorted(MODEL.operation_names) for e in MODEL.operation_model(name).error_shapes]
# Requests that are wrong in form, by what is spoilt in a right one.
SPOILT = {
    "CreateDatastore": {"datastoreName": "a b"},
    "ListDatastores": {"maxResults": 51},
    "TagResource": {"resourceArn": "arn:aws:medical-imaging:us-east-1:1:datastore/x"},
    "UntagResource": {"tagKeys": ["aws:x"]},
    "ListTagsForResource": {"resourceArn": "arn:aws:s3:::bucket"},
    "CopyImageSet": {"sourceImageSetId": "short"},
}
UPDATE = {"DICOMUpdates": {"updatableAttributes": b'{"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientSex": "O"}}}'}}


class World:
    """A server in which every state is there at once: LOCKED image sets, full quotas, a data store that is CREATING."""

    def __init__(self, stack: Any) -> None:
        self.imaging = imaging = Imaging(stack)
        self.api, self.store = imaging.api, imaging.datastore
        self.ids = [imaging.run({"a.dcm": make_object()}).success[0]["importResponse"]["imageSetId"] for _ in range(4)]
        self.locked, self.copied, self.dying, self.free = self.ids
        self.frame, self.free_frame = (self.frame_of(i) for i in (self.dying, self.free))
        self.api.update_image_set_metadata(**self.update(self.locked))
        self.api.copy_image_set(**self.copy(self.copied))
        self.api.delete_image_set(datastoreId=self.store, imageSetId=self.dying)
        made = self.api.create_datastore(datastoreName="creating", clientToken="taken")
        self.creating = made["datastoreId"]
        stack.fault("hold_jobs")
        imaging.start(imaging.put({"a.dcm": make_object()}), clientToken="taken")

    def client(self, account: str) -> Any:
        """A client that does not try again."""
        return boto3.client(
            "medical-imaging",
            endpoint_url=self.imaging.stack.env["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=account,
            aws_secret_access_key="local",
            config=Config(inject_host_prefix=False, retries={"max_attempts": 0}),
        )

    def frame_of(self, image_set: str) -> str:
        """The one frame of an image set."""
        [series] = self.imaging.document(image_set)["Study"]["Series"].values()
        [frame] = [f["ID"] for i in series["Instances"].values() for f in i["ImageFrames"]]
        return str(frame)

    def update(self, image_set: str) -> dict[str, Any]:
        """An update of an image set at version 1."""
        return {
            "datastoreId": self.store,
            "imageSetId": image_set,
            "latestVersionId": "1",
            "updateImageSetMetadataUpdates": UPDATE,
        }

    def copy(self, image_set: str) -> dict[str, Any]:
        """A copy of an image set at version 1."""
        return {
            "datastoreId": self.store,
            "sourceImageSetId": image_set,
            "copyImageSetInformation": {"sourceImageSet": {"latestVersionId": "1"}},
        }

    def right(self, operation: str) -> dict[str, Any]:
        """A request that nothing is wrong with, on the image set that is free."""
        arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{self.store}"
        special: dict[str, dict[str, Any]] = {
            "CreateDatastore": {"datastoreName": "another"},
            "ListDatastores": {},
            "TagResource": {"resourceArn": arn, "tags": {"a": "b"}},
            "UntagResource": {"resourceArn": arn, "tagKeys": ["a"]},
            "ListTagsForResource": {"resourceArn": arn},
            "StartDICOMImportJob": {
                "datastoreId": self.store,
                "dataAccessRoleArn": "arn:aws:iam::123456789012:role/import",
                "inputS3Uri": "s3://bucket/in/",
                "outputS3Uri": "s3://bucket/out/",
            },
            "GetDICOMImportJob": {"datastoreId": self.store, "jobId": ZERO},
            "UpdateImageSetMetadata": self.update(self.free),
            "CopyImageSet": self.copy(self.free),
            "GetImageFrame": {
                "datastoreId": self.store,
                "imageSetId": self.free,
                "imageFrameInformation": {"imageFrameId": ZERO},
            },
        }
        members = MODEL.operation_model(operation).input_shape.members
        common = {"datastoreId": self.store, "imageSetId": self.free}
        return special.get(operation) or {k: v for k, v in common.items() if k in members}

    def provoking(self, operation: str, error: str) -> dict[str, Any]:
        """A request that is answered with an error, of itself."""
        right = self.right(operation)
        if error == "ValidationException":
            return right | SPOILT.get(operation, {"datastoreId": "SHORT"})
        if error == "ResourceNotFoundException":
            if "resourceArn" in right:
                return right | {"resourceArn": right["resourceArn"].replace(self.store, ZERO)}
            return right | {"datastoreId": ZERO}
        if error == "NotAcceptableException":
            return right | {"imageFrameInformation": {"imageFrameId": self.free_frame}}
        if error != "ConflictException":
            return right
        return right | {
            "CreateDatastore": {"clientToken": "taken"},
            "StartDICOMImportJob": {"clientToken": "taken"},
            "GetImageSetMetadata": {"imageSetId": self.locked, "versionId": "2"},
            "GetImageFrame": {"imageSetId": self.dying, "imageFrameInformation": {"imageFrameId": self.frame}},
            "UpdateImageSetMetadata": self.update(self.locked) | {"latestVersionId": "2"},
            "CopyImageSet": self.copy(self.locked)
            | {"copyImageSetInformation": {"sourceImageSet": {"latestVersionId": "2"}}},
            "DeleteImageSet": {"imageSetId": self.locked},
        }.get(operation, {"datastoreId": self.creating})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    seconds = dict.fromkeys((f"LOCAL_AWS_{n}_SECONDS" for n in ("UPDATE", "COPY", "DELETE", "DATASTORE")), "3600")
    most = {
        "LOCAL_AWS_MAX_DATASTORES": "2",
        "LOCAL_AWS_MAX_CONCURRENT_JOBS": "1",
        "LOCAL_AWS_MAX_CONCURRENT_CHANGES": "1",
        # Of every operation one call, then none for hours.
        "LOCAL_AWS_RATE_FACTOR": "0.0000001",
    }
    stack = AwsStack(tmp_path_factory.mktemp("conformance") / "home", seconds | most).start()
    yield World(stack)
    stack.stop()


@contextmanager
def trouble(world: World, client: Any, operation: str, error: str) -> Iterator[None]:
    """What makes a call fail besides its request: spent rates, headers and bodies that boto3 would not send."""
    stack, event = world.imaging.stack, f"before-sign.medical-imaging.{operation}"

    def spoil(request: Any, **_: Any) -> None:
        if error == "NotAcceptableException":
            request.headers["Accept"] = "image/png"
        else:
            request.data = b"{"

    if error in {"NotAcceptableException", "BadRequestException"}:
        client.meta.events.register(event, spoil)
    elif error == "ThrottlingException":
        stack.control("POST", "rate-limits", {"enabled": True})
        with pytest.raises(client.exceptions.ValidationException):
            getattr(client, xform_name(operation))(**world.provoking(operation, "ValidationException"))
    elif operation not in NATURAL.get(error, ()):
        stack.fault("fail_call", operation=operation, error=error)
    try:
        yield
    finally:
        stack.control("POST", "rate-limits", {"enabled": False})


@pytest.mark.parametrize(("operation", "error"), ERRORS)
def test_every_modelled_error_comes_when_it_is_provoked(world, operation, error):
    """Typed, with the modelled status, in the header and in the body."""
    client = world.client("210987654321" if error == "AccessDeniedException" else "123456789012")
    request = world.provoking(operation, error) if operation in NATURAL.get(error, ()) else world.right(operation)
    with (
        closing(client),
        trouble(world, client, operation, error),
        pytest.raises(getattr(client.exceptions, error)) as caught,
    ):
        getattr(client, xform_name(operation))(**request)
    answer = caught.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == STATUS[error]
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"] == error
    assert answer["ResponseMetadata"]["RequestId"]
    assert answer["Error"]["Message"]


def test_which_errors_need_a_fault():
    """docs/emulator.md says it in its table of errors."""
    assert {(operation, error) for operation, error in ERRORS if operation not in NATURAL.get(error, ())} == {
        *((operation, "InternalServerException") for operation in MODEL.operation_names),
        ("CreateDatastore", "ResourceNotFoundException"),
    }


# -- every operation --------------------------------------------------------------------------------------------------


def test_every_operation_answers(imaging):
    """One story through all of them; the log of calls proves that none is left out."""
    api, stack = imaging.api, imaging.stack
    store = api.create_datastore(datastoreName="story", tags={"a": "1"})["datastoreId"]
    here = {"datastoreId": store}
    arn = api.get_datastore(**here)["datastoreProperties"]["datastoreArn"]
    assert store in {s["datastoreId"] for s in api.list_datastores()["datastoreSummaries"]}
    api.tag_resource(resourceArn=arn, tags={"b": "2"})
    api.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert api.list_tags_for_resource(resourceArn=arn)["tags"] == {"b": "2"}

    job = imaging.start(imaging.put({"a.dcm": make_object()}), datastoreId=store)["jobId"]
    wait_for(
        lambda: api.get_dicom_import_job(jobId=job, **here)["jobProperties"]["jobStatus"] == "COMPLETED", what="the job"
    )
    assert [j["jobId"] for j in api.list_dicom_import_jobs(**here)["jobSummaries"]] == [job]
    [found] = api.search_image_sets(**here)["imageSetsMetadataSummaries"]
    one = here | {"imageSetId": found["imageSetId"]}
    assert api.get_image_set(**one)["versionId"] == str(found["version"]) == "1"
    answer = api.get_image_set_metadata(**one)
    assert (answer["contentType"], answer["contentEncoding"]) == ("application/json", "gzip")
    document = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))
    [series] = document["Study"]["Series"].values()
    [frame] = [f["ID"] for i in series["Instances"].values() for f in i["ImageFrames"]]
    assert api.get_image_frame(imageFrameInformation={"imageFrameId": frame}, **one)["imageFrameBlob"].read()

    def active(**ids):
        wait_for(lambda: api.get_image_set(**ids)["imageSetState"] == "ACTIVE", what="the end of the change")

    api.update_image_set_metadata(latestVersionId="1", updateImageSetMetadataUpdates=UPDATE, **one)
    active(**one)
    assert [v["versionId"] for v in api.list_image_set_versions(**one)["imageSetPropertiesList"]] == ["2", "1"]
    copied = api.copy_image_set(
        sourceImageSetId=found["imageSetId"],
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": "2"}},
        **here,
    )
    two = here | {"imageSetId": copied["destinationImageSetProperties"]["imageSetId"]}
    active(**one)
    active(**two)
    for ids in (one, two):
        api.delete_image_set(**ids)
        wait_for(lambda ids=ids: api.get_image_set(**ids)["imageSetState"] == "DELETED", what="the deletion")
    assert api.delete_datastore(**here)["datastoreStatus"] == "DELETING"
    answered = {c["operation"] for c in stack.calls(service="medical-imaging") if c["status"] == 200}
    assert answered == set(MODEL.operation_names)


# -- every pagination -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(aws_stack):
    """A data store with three jobs and three image sets, one of them in three versions."""
    imaging = Imaging(aws_stack)
    for name in ("one", "two"):
        imaging.api.create_datastore(datastoreName=name)
    imaging.datastore = imaging.api.create_datastore(datastoreName="listed")["datastoreId"]
    body = make_object()
    imaging.run({"a.dcm": body, "b.dcm": make_object(), "c.dcm": make_object()})
    for _ in range(2):
        last = imaging.run({"a.dcm": body})
    return imaging, last.success[0]["importResponse"]["imageSetId"]


PAGED = {
    "ListDatastores": ("datastoreSummaries", "datastoreId"),
    "ListDICOMImportJobs": ("jobSummaries", "jobId"),
    "ListImageSetVersions": ("imageSetPropertiesList", "versionId"),
    "SearchImageSets": ("imageSetsMetadataSummaries", "imageSetId"),
}


@pytest.mark.parametrize("operation", sorted(PAGED))
def test_every_pagination_shows_everything_once(listed, operation):
    imaging, image_set = listed
    key, identity = PAGED[operation]
    members = MODEL.operation_model(operation).input_shape.members
    request = {k: v for k, v in {"datastoreId": imaging.datastore, "imageSetId": image_set}.items() if k in members}
    call, name = getattr(imaging.api, xform_name(operation)), xform_name(operation)
    paginator = imaging.api.get_paginator(name)
    large = paginator.paginate(**request, PaginationConfig={"PageSize": 50})
    whole = [item[identity] for page in large for item in page[key]]
    pages = list(paginator.paginate(**request, PaginationConfig={"PageSize": 1}))
    assert all(len(page[key]) == 1 for page in pages[:-1])
    turned = [item[identity] for page in pages for item in page[key]]
    assert len(whole) >= 3
    assert turned == whole
    token = pages[0]["nextToken"]
    with pytest.raises(imaging.api.exceptions.ValidationException):
        call(**request, nextToken=f"{token[:-4]}AAAA")
    # A token belongs to its question.
    other = {
        "ListDatastores": {"datastoreStatus": "ACTIVE"},
        "ListDICOMImportJobs": {"jobStatus": "COMPLETED"},
        "ListImageSetVersions": {"imageSetId": next(i for i in listed_ids(imaging) if i != image_set)},
        "SearchImageSets": {"searchCriteria": {"sort": {"sortField": "createdAt", "sortOrder": "ASC"}}},
    }[operation]
    with pytest.raises(imaging.api.exceptions.ValidationException):
        call(**(request | other), nextToken=token)


def listed_ids(imaging: Imaging) -> list[str]:
    """Image sets of the data store."""
    found = imaging.api.search_image_sets(datastoreId=imaging.datastore)["imageSetsMetadataSummaries"]
    return [item["imageSetId"] for item in found]


def test_every_paginator_of_boto3_is_tried(listed):
    imaging, _ = listed
    assert {n for n in MODEL.operation_names if imaging.api.can_paginate(xform_name(n))} == set(PAGED)
