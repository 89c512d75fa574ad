"""Malformed and hostile requests, generated from the service model, over raw HTTP.

None is answered with a 5xx, and what was there before reads the same afterwards, also after a restart.
"""

from __future__ import annotations

import copy
import http.client
import json
import random
import sqlite3
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlencode

from botocore.exceptions import ClientError
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from tests.conftest import wait_for
from tests.local_aws.conftest import Imaging, make_object
from tests.local_aws.hostile import (
    MODEL,
    SPOILS,
    ZERO,
    Target,
    accept,
    hostile,
    key,
    media,
    stored,
    tricks,
    wanted,
    wild,
)

CHANGE = {"updatableAttributes": b'{"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientSex": "O"}}}'}


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside a request."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([at] if at else []), *(p for k, v in inside for p in places(v, (*at, k)))]


def replaced(request: Any, at: tuple[Any, ...], value: Any) -> Any:
    out = copy.deepcopy(request)
    holder = out
    for step in at[:-1]:
        holder = holder[step]
    holder[at[-1]] = value
    return out


def check(target: Target, name: str, data: st.DataObject) -> None:
    """Draw a request, spoil it, send it; the answer is no server error and has the form of one."""
    request = data.draw(target.value(name, "", MODEL.operation_model(name).input_shape))
    if name == "UpdateImageSetMetadata":
        head = target.imaging.get(request["imageSetId"])
        request |= {"latestVersionId": head["versionId"], "force": data.draw(st.booleans())}
    for _ in range(data.draw(st.integers(0, 2))):
        request = replaced(request, data.draw(st.sampled_from(places(request) or [("x",)])), data.draw(hostile))
    with_tricks = data.draw(tricks)
    status, headers, body = target.send(name, request, with_tricks)
    assert status < 500, body
    if status >= 400 and "x-amzn-errortype" in headers and with_tricks.get("method") != "HEAD":
        assert isinstance(json.loads(body)["message"], str)
        modelled = {shape.name for shape in MODEL.operation_model(name).error_shapes}
        # With these it may be another operation, or none.
        assert headers["x-amzn-errortype"] in modelled or {"method", "safe", "tail"} & set(with_tricks)
    if status < 300 and name not in {"GetImageSetMetadata", "GetImageFrame"}:
        json.loads(body or b"{}")


def check_dicomweb(target: Target, data: st.DataObject) -> None:
    """One request of the DICOMweb plane, by an unsigned client."""
    path = f"/datastore/{target.imaging.datastore}/" + data.draw(st.one_of(target.paths(), wild))
    keys = data.draw(st.lists(st.tuples(key, wanted), max_size=3))
    query = urlencode([(k, v.encode("utf-8", "replace")) for k, v in keys])
    store = data.draw(st.booleans())
    connection = http.client.HTTPConnection("127.0.0.1", target.stack.port, timeout=20)
    try:
        connection.request(
            "POST" if store else data.draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "OPTIONS", "DELETE"])),
            f"{path.encode('utf-8').decode('latin-1') if path.isascii() else quote(path, safe='/%,*')}?{query}",
            data.draw(stored) if store else None,
            {"Accept": data.draw(accept)} | ({"Content-Type": data.draw(media)} if store else {}),
        )
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status < 500, body
        if (answer.getheader("Content-Type") or "").startswith(("application/json", "application/dicom+json")) and body:
            json.loads(body)
    finally:
        connection.close()


def import_spoilt_files(target: Target) -> None:
    """Files that are cut, and files in which bytes are others: the job ends, and says something of each."""
    whole = make_object()
    files = {f"cut-{n}": whole[:n] for n in (0, 1, 131, 132, 136, 150, 200, 300, 400, 450, len(whole) - 5)}
    for number, (one, other) in enumerate(SPOILS):
        files[f"spoilt-{number}"] = whole.replace(one, other)
    for number in range(60):
        draw = random.Random(number)
        body = bytearray(make_object())
        for _ in range(3):
            body[draw.randrange(132, len(body))] = draw.randrange(256)
        files[f"other-{number}"] = bytes(body)
    for number, odd in enumerate(({"PatientID": "A\\B"}, {"StudyDescription": "CT\\HEAD"})):
        files[f"odd-{number}"] = make_object(**odd)
    outcome = target.imaging.run(files)
    assert outcome.job["jobStatus"] == "COMPLETED"
    assert len(outcome.success) + len(outcome.failure) == len(files)
    internal = [f for f in outcome.failure if f["exception"]["exceptionType"] == "InternalServerException"]
    assert internal == []
    api, here = target.imaging.api, {"datastoreId": target.imaging.datastore}
    listed = [
        item["imageSetId"]
        for page in api.get_paginator("search_image_sets").paginate(**here)
        for item in page["imageSetsMetadataSummaries"]
    ]
    made = {line["importResponse"]["imageSetId"] for line in outcome.success}
    assert made <= set(listed)
    for image_set in made:
        assert target.imaging.get(image_set)["imageSetState"] == "ACTIVE"
        assert target.imaging.document(image_set)["ImageSetID"] == image_set
        assert api.list_image_set_versions(imageSetId=image_set, **here)["imageSetPropertiesList"]
    root = f"{target.stack.env['AWS_ENDPOINT_URL']}/datastore/{target.imaging.datastore}"
    for path in ("studies", "series", "instances", "studies?includefield=all&limit=1000"):
        with urllib.request.urlopen(f"{root}/{path}") as answer:
            assert answer.status == 200


def test_no_request_breaks_the_service(make_aws_stack):
    stack = make_aws_stack()
    target = Target(stack)
    before = target.state()
    for number, name in enumerate(sorted(MODEL.operation_names)):

        @seed(number)
        @settings(
            max_examples=90 if name in {"UpdateImageSetMetadata", "CopyImageSet", "SearchImageSets"} else 25,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(data=st.data(), name=st.just(name))
        def fuzz(data: st.DataObject, name: str) -> None:
            check(target, name, data)

        fuzz()
        assert stack.process.poll() is None

    @seed(1)
    @settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def fuzz_dicomweb(data: st.DataObject) -> None:
        check_dicomweb(target, data)

    fuzz_dicomweb()
    import_spoilt_files(target)
    assert target.state() == before
    target.readable()
    stack.stop()
    with sqlite3.connect(stack.home / "aws" / "healthimaging" / "state.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    stack.start()
    target = Target.__new__(Target)
    target.imaging, target.stack, target.known = Imaging(stack), stack, before[0]["imageSetId"]
    assert target.state() == before
    target.readable()
    assert "Traceback" not in stack.log()


def change_something(imaging: Imaging, draw: random.Random, files: list[bytes]) -> str:
    """One call of a client that knows nothing of the others. Returns its error code, "" for none."""
    api, here = imaging.api, {"datastoreId": imaging.datastore}
    found = [i["imageSetId"] for i in api.search_image_sets(**here)["imageSetsMetadataSummaries"]]
    one = here | {"imageSetId": draw.choice([*found, ZERO])}
    try:
        version = api.get_image_set(**one)["versionId"]
        source = {"sourceImageSet": {"latestVersionId": version}}
        calls = {
            "import": lambda: imaging.start(imaging.put({"a": draw.choice(files), "b": draw.choice(files)})),
            "read": lambda: imaging.document(one["imageSetId"]),
            "list": lambda: api.list_image_set_versions(**one),
            "update": lambda: api.update_image_set_metadata(
                latestVersionId=version, updateImageSetMetadataUpdates={"DICOMUpdates": CHANGE}, **one
            ),
            "copy": lambda: api.copy_image_set(
                sourceImageSetId=one["imageSetId"], copyImageSetInformation=source, **here
            ),
            "delete": lambda: len(found) > 3 and api.delete_image_set(**one),
        }
        calls[draw.choice(sorted(calls))]()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def test_many_clients_at_once(imaging):
    """Nobody sees an error but that somebody else was faster, and all comes to rest."""
    printed = len(imaging.stack.log())
    imaging.datastore = imaging.api.create_datastore(datastoreName="crowd")["datastoreId"]
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    files = [make_object(**uids, PatientID=patient) for patient in ("P1", "P1", "P2")]
    imaging.outcome(imaging.start(imaging.put({"a": files[0]}))["jobId"])
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda n: change_something(imaging, random.Random(n), files), range(120)))
    assert set(codes) <= {"", "ConflictException", "ResourceNotFoundException"}
    assert codes.count("") > 40
    api, here = imaging.api, {"datastoreId": imaging.datastore}
    for job in api.list_dicom_import_jobs(**here)["jobSummaries"]:
        assert imaging.ended(job["jobId"])["jobStatus"] == "COMPLETED"
    for item in api.search_image_sets(**here)["imageSetsMetadataSummaries"]:
        wait_for(lambda i=item["imageSetId"]: imaging.get(i)["imageSetState"] != "LOCKED", what="the end of a change")
    assert "Traceback" not in imaging.stack.log()[printed:]
