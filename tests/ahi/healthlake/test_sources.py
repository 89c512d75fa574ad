"""Sources that cannot be read: nothing is skipped in silence, and what comes back goes in."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from botocore.awsrequest import AWSResponse

from ahi.errors import PermanentError
from ahi.healthlake import control
from ahi.healthlake.plan import plan_import
from ahi.index.catalog_fhir import Policy
from tests.ahi.healthlake.conftest import lines, patient
from tests.ahi.healthlake.test_troubled_chain import status

FOUR = [lines(patient(f"p{number}")) for number in range(1, 5)]


def refuse(chain, name: str, code: str, status: int) -> Callable[[], None]:
    """S3 refuses to read an object from now on; gives what ends that."""

    def answer(request, **_):
        if not request.url.split("?")[0].endswith(name):
            return None
        body = io.BytesIO(f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
        return AWSResponse(request.url, status, {}, SimpleNamespace(stream=lambda *_, **__: iter([body.read()])))

    events, place = chain.pipeline.aws.s3.meta.events, "before-send.s3.GetObject"
    events.register(place, answer)
    return lambda: events.unregister(place, answer)


def states(chain, planned) -> list[str]:
    return [batch["state"] for batch in chain.batches(planned)]


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState"])
def test_a_source_that_cannot_be_read_stops_its_chain_until_it_can(shared, code):
    planned = shared.plan(shared.put_each(*FOUR), files_per_batch=1, policy=Policy.CONTINUE)
    allow = refuse(shared, "/2.ndjson", code, 403)
    shared.drive()
    allow()
    assert states(shared, planned) == ["settled", "planned", "planned", "planned"]
    reason = status(shared, planned).stopped_reason or ""
    assert reason.startswith(planned.batch_ids[1])
    assert f"cannot be read ({code})" in reason
    control.go_on(shared.pipeline, planned.import_id)
    shared.drive()
    assert states(shared, planned) == ["settled"] * 4


@pytest.mark.parametrize(("policy", "goes_on"), [(Policy.STOP, False), (Policy.CONTINUE, True)])
def test_a_source_that_is_gone_stops_its_chain_and_comes_back_as_a_file_of_its_own(shared, policy, goes_on):
    prefix, s3 = shared.put_each(*FOUR), shared.stack.client("s3")
    planned = shared.plan(prefix, files_per_batch=1, policy=policy)
    entry = s3.list_object_versions(Bucket=shared.bucket, Prefix=f"{prefix}2")["Versions"][0]
    s3.delete_object(Bucket=shared.bucket, Key=entry["Key"], VersionId=entry["VersionId"])
    shared.drive()
    rest = "settled" if goes_on else "planned"
    assert states(shared, planned) == ["settled", "failed", rest, rest]
    assert ("gone or has changed" in (status(shared, planned).stopped_reason or "")) is not goes_on
    shared.put(entry["Key"], FOUR[1])
    more = shared.plan(prefix)
    assert (more.n_files, more.n_known) == (1, 3)


def test_files_of_a_failed_batch_are_planned_again_once(shared):
    prefix = shared.put_each(*FOUR[:2])
    planned = shared.plan(prefix, files_per_batch=1)
    bring_back = refuse(shared, "/1.ndjson", "NoSuchVersion", 404)
    shared.drive()
    bring_back()
    assert states(shared, planned) == ["failed", "planned"]
    again = shared.plan(prefix)
    assert (again.n_files, again.n_known) == (1, 1)
    assert shared.plan(prefix).batch_ids == (), "it is on its way"
    shared.drive()
    assert states(shared, again) == ["settled"]
    assert control.again(shared.pipeline, planned.batch_ids[0]), "its partition, too, is read again"
    control.go_on(shared.pipeline, planned.import_id)
    shared.drive()
    assert states(shared, planned) == ["settled", "settled"]


def test_a_bucket_that_is_not_there_is_named_and_upper_case_is_a_name(shared):
    with pytest.raises(PermanentError, match="There is no bucket of-nobody-7f3a"):
        plan_import(shared.pipeline, "s3://of-nobody-7f3a/", None)
    shared.put("names/1.NDJSON", FOUR[0])
    shared.put("names/2.ndjson.gz", FOUR[0])
    planned = shared.plan("names/")
    assert (planned.n_files, planned.n_skipped) == (1, 1)
