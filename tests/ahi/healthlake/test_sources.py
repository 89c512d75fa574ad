"""Sources that cannot be read: nothing is skipped in silence, and what comes back goes in."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from botocore.awsrequest import AWSResponse

from ahi.errors import PermanentError
from ahi.fhir.validate import Validator
from ahi.healthlake import control, failures
from ahi.healthlake.advance import is_work_waiting
from ahi.healthlake.freeze import TRIES
from ahi.healthlake.plan import plan_import
from ahi.healthlake.resubmission import failed_lines
from ahi.index import catalog
from ahi.index.catalog_fhir import Policy, fhir_files
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


def time_has_come(chain) -> None:
    """What could not be read is read again now."""
    with chain.pipeline.index.transaction() as connection:
        connection.execute(catalog.leases.delete())


def drive_until_stopped(chain, planned) -> int:
    """Tries that a source that cannot be read is given."""
    for times in range(1, 20):
        chain.drive()
        if status(chain, planned).stopped_reason:
            return times
        time_has_come(chain)
    return 0


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState"])
def test_a_source_that_cannot_be_read_stops_its_chain_until_it_can(shared, code):
    planned = shared.plan(shared.put_each(*FOUR), files_per_batch=1, policy=Policy.CONTINUE)
    allow = refuse(shared, "/2.ndjson", code, 403)
    assert drive_until_stopped(shared, planned) == TRIES
    allow()
    assert states(shared, planned) == ["settled", "planned", "frozen", "frozen"]
    assert len(shared.starts(planned)) == 1, "those behind it are made ready, and wait"
    reason = status(shared, planned).stopped_reason or ""
    assert reason.startswith(planned.batch_ids[1])
    assert f"cannot be read ({code})" in reason
    control.go_on(shared.pipeline, planned.import_id)
    shared.drive()
    assert states(shared, planned) == ["settled"] * 4


def test_a_source_that_cannot_be_read_for_a_moment_stops_nothing(shared):
    planned, other = (shared.plan(shared.put_each(FOUR[0]), policy=Policy.STOP) for _ in range(2))
    allow = refuse(shared, f"{shared.rows(source_of(planned))[0]['key']}", "ExpiredToken", 400)
    shared.drive()
    assert (states(shared, planned), states(shared, other)) == (["planned"], ["settled"]), "no other waits for it"
    assert not is_work_waiting(shared.pipeline), "nor is it read all the time"
    allow()
    time_has_come(shared)
    shared.drive()
    assert (states(shared, planned), status(shared, planned).stopped_reason) == (["settled"], None)


def source_of(planned) -> sa.Select:
    return sa.select(fhir_files.c.key).where(fhir_files.c.import_id == planned.import_id)


@pytest.mark.parametrize("depth", [130, 200])
def test_a_line_that_is_nested_too_deeply_is_refused_and_the_rest_goes(shared, depth):
    nested = b'{"url":"a","extension":[' * depth + b'{"url":"a","valueCode":"b"}' + b"]}" * depth
    deep = b'{"resourceType":"Patient","id":"deep","extension":[' + nested + b"]}"
    planned = shared.plan(shared.put_each(lines(deep, patient("p1"))), policy=Policy.CONTINUE)
    shared.drive()
    [batch] = shared.batches(planned)
    assert (batch["state"], batch["n_refused"], batch["n_imported"]) == ("settled", 1, 1)


def test_a_line_that_breaks_our_judge_is_refused_and_a_batch_that_breaks_us_stops_its_chain(shared, monkeypatch):
    check = Validator.check

    def breaks(self, line):
        if b"worst" in line:
            raise ZeroDivisionError
        return check(self, line)

    monkeypatch.setattr(Validator, "check", breaks)
    planned = shared.plan(shared.put_each(lines(patient("worst"), patient("p1"))), policy=Policy.CONTINUE)
    shared.drive()
    assert [(one["n_refused"], one["n_imported"]) for one in shared.batches(planned)] == [(1, 1)]
    monkeypatch.setattr(Validator, "__init__", lambda _: 1 // 0)
    planned = shared.plan(shared.put_each(FOUR[0]), policy=Policy.CONTINUE)
    assert drive_until_stopped(shared, planned) == TRIES
    assert "(ZeroDivisionError)" in (status(shared, planned).stopped_reason or "")


def test_many_refused_lines_are_counted_and_few_of_them_kept(make_chain):
    """A file that is printed over many lines is one refused line after the other."""
    chain = make_chain(fhir_failure_rows=3)
    planned = chain.plan(chain.put_each(b'  "id": 1,\n' * 500), policy=Policy.CONTINUE)
    kept = list[int]()

    def enter(connection, batch_id, some, **more):
        kept.append(len(list(some)))
        return enter_(connection, batch_id, some, **more)

    enter_ = failures.enter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failures, "enter", enter)
        chain.drive()
    assert kept == [3]
    [group] = failures.groups(chain.pipeline.index.engine, batch_id=planned.batch_ids[0])
    assert (group.n_lines, chain.batches(planned)[0]["n_refused"]) == (500, 500)
    assert len(failed_lines(chain.pipeline, planned.batch_ids[0])) == 3


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
