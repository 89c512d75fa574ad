"""What comes in the way of a chain: jobs of others, a full queue, lost answers, late results, large files."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import suppress
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi.clock import now
from ahi.healthlake import control, plan, results
from ahi.healthlake.advance import is_work_waiting
from ahi.healthlake.plan import Planned
from ahi.healthlake.resubmission import resubmit
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import Policy, fhir_audit
from tests.ahi.healthlake.conftest import Chain, lines, patient
from tests.postgresql_fixtures import new_schema

START = "StartFHIRImportJob"
BASIC = json.dumps({"resourceType": "Basic", "id": "b1", "code": {"text": "x"}}).encode()
"""Valid R4, of a type that HealthLake does not take."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK tries a call again at once."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))


def time_has_come(chain: Chain) -> None:
    """Jobs that had to wait may be started."""
    with chain.pipeline.index.transaction() as connection:
        connection.execute(catalog.jobs.update().values(not_before=None))


def one_file(chain: Chain, *resources: bytes) -> Planned:
    return chain.plan(chain.put_each(lines(*(resources or (patient("p0"),)))))


def status(chain: Chain, planned: Planned) -> control.ImportStatus:
    return next(one for one in control.imports(chain.pipeline.index.engine) if one.import_id == planned.import_id)


def is_settled(chain: Chain, planned: Planned) -> bool:
    chain.step(patience=0.5)
    return [job["state"] for job in chain.jobs(planned)] == [JobState.SETTLED]


@pytest.mark.parametrize(
    ("policy", "ratio", "stops"),
    [
        (Policy.STOP, 0.9, True),
        (Policy.CONTINUE, 0.0, False),
        (Policy.STOP_IF_RATIO, 0.24, True),
        (Policy.STOP_IF_RATIO, 0.25, False),
    ],
)
def test_a_chain_stops_at_the_share_of_failures_that_its_policy_names(shared, policy, ratio, stops):
    prefix = shared.put_each(lines(patient("p0"), patient("p1"), patient("p2"), BASIC), lines(patient("p3")))
    planned = shared.plan(prefix, files_per_batch=1, policy=policy, stop_ratio=ratio)
    shared.drive()
    reason = status(shared, planned).stopped_reason
    assert (reason, len(shared.starts(planned))) == (("1 of 4 resources of a batch failed", 1) if stops else (None, 2))


def test_a_job_of_others_is_waited_for(shared):
    shared.stack.fault("hold_jobs", service="healthlake")
    settings, lake = shared.pipeline.settings, shared.stack.client("healthlake")
    prefix = shared.put_each(lines(patient("theirs")))
    output = {"S3Uri": f"s3://{shared.bucket}/out/", "KmsKeyId": settings.fhir_key_arn}
    lake.start_fhir_import_job(
        JobName="theirs",
        InputDataConfig={"S3Uri": f"s3://{shared.bucket}/{prefix}"},
        JobOutputDataConfig={"S3Configuration": output},
        DatastoreId=shared.datastore_id,
        DataAccessRoleArn=settings.fhir_role_arn,
        ClientToken="theirs",
    )
    planned = one_file(shared)
    assert shared.step().counts["foreign_jobs"] == 1
    assert len(shared.stack.calls(START)) == 1, "while another's job runs, none of ours is started"
    shared.stack.control("POST", "release")
    shared.drive()
    assert [batch["n_imported"] for batch in shared.batches(planned)] == [1]


def test_a_job_of_others_that_came_first_only_delays_ours(shared):
    shared.stack.fault("foreign_jobs", seconds=60)
    planned = shared.plan(shared.put_each(lines(patient("p0")), lines(patient("p1"))), files_per_batch=1)
    assert len(shared.step().started) == 1
    assert shared.step().started == [], "ours waits behind theirs and has the chain's one place"
    shared.stack.control("POST", "clock", {"advance": 61})
    shared.drive()
    assert [(batch["attempt"], batch["n_imported"]) for batch in shared.batches(planned)] == [(1, 1)] * 2


FULL = {"error": "ValidationException", "message": "Maximum number of import jobs"}
BUSY = {
    "throttled": {"kind": "throttle", "service": "healthlake", "operation": START, "first": 5},
    "quota": {"kind": "fail_call", "operation": START, "error": "ServiceQuotaExceededException"},
    "queue full": {"kind": "fail_call", "operation": START, **FULL},
}


@pytest.mark.parametrize("busy", BUSY)
def test_back_pressure_is_no_failure(shared, busy):
    shared.stack.control("POST", "faults", BUSY[busy])
    planned = one_file(shared)
    assert shared.step().counts["back_pressure"] == 1
    [job] = shared.jobs(planned)
    assert (job["state"], job["starts"], job["not_before"] is not None) == (JobState.PLANNED, 1, True)
    assert shared.step().started == [], "not before its time"
    time_has_come(shared)
    shared.drive()
    assert [(batch["state"], batch["attempt"]) for batch in shared.batches(planned)] == [("settled", 1)]
    assert len(shared.starts(planned)) == 1


def test_a_right_that_lacks_stops_the_chain_until_it_is_given(shared):
    shared.stack.fault("fail_call", operation=START, error="AccessDeniedException", times=5)
    planned = one_file(shared)
    for _ in range(5):
        with suppress(ClientError):
            shared.step()
        time_has_come(shared)
    assert "AccessDeniedException; correct it, then continue" in (status(shared, planned).stopped_reason or "")
    assert not shared.step().started
    control.go_on(shared.pipeline, planned.import_id)
    shared.drive()
    assert [(b["state"], b["n_imported"]) for b in shared.batches(planned)] == [("settled", 1)]


def test_a_batch_that_healthlake_refuses_has_failed_and_stops_its_chain(shared):
    shared.stack.fault("fail_call", operation=START, error="ValidationException", message="No such thing")
    planned = one_file(shared)
    shared.drive()
    assert [(b["state"], b["attempt"]) for b in shared.batches(planned)] == [("failed", 1)]
    assert (status(shared, planned).stopped_reason or "").startswith("REJECTED")
    assert shared.starts(planned) == []


@pytest.mark.parametrize("times", [1, 5], ids=["once", "for-good"])
def test_a_start_whose_answer_is_lost_makes_one_job(shared, times):
    """Five are all that the SDK tries; then the job is found by its name."""
    shared.stack.fault("fail_call", operation=START, when="after", times=times)
    planned = one_file(shared)
    with suppress(ClientError):
        shared.step()
    assert [job["state"] for job in shared.jobs(planned)] == [JobState.SUBMITTED]
    assert len(shared.stack.calls(START)) == min(times + 1, 5)
    shared.drive()
    assert len(shared.starts(planned)) == 1
    assert [(batch["state"], batch["attempt"]) for batch in shared.batches(planned)] == [("settled", 1)]


def test_a_job_that_no_list_showed_is_the_same_when_it_is_started_again(shared):
    shared.stack.fault("hold_jobs", service="healthlake")
    shared.stack.fault("drop_events", service="healthlake")
    planned = one_file(shared)
    shared.step()
    [before] = shared.jobs(planned)
    with shared.pipeline.index.transaction() as connection:
        values = {"state": JobState.PLANNED, "job_id": None, "submitted_at": None}
        connection.execute(catalog.jobs.update().where(catalog.jobs.c.job_key == before["job_key"]).values(values))
    shared.stack.control("POST", "release")
    shared.stack.wait_for(lambda: shared.step().started, what="the same start again")
    results.follow_running(shared.pipeline, older_than=now())
    shared.drive()
    assert [(job["job_id"], job["state"]) for job in shared.jobs(planned)] == [(before["job_id"], JobState.SETTLED)]
    assert len(shared.starts(planned)) == 1


def test_results_without_a_manifest_are_waited_for_and_then_told_of(shared):
    shared.stack.fault("late_manifest", service="healthlake", seconds=3_600, times=2)
    late = one_file(shared, patient("p0"), BASIC)
    shared.stack.wait_for(lambda: shared.step().counts["results_awaited"], what="the end of the job")
    assert [job["state"] for job in shared.jobs(late)] == [JobState.ENDED]
    assert not is_work_waiting(shared.pipeline), "it is not looked for all the time"
    shared.stack.control("POST", "clock", {"advance": 3_601})
    shared.stack.wait_for(lambda: is_settled(shared, late), what="the manifest")
    [batch] = shared.batches(late)
    assert (batch["n_scanned"], batch["n_imported"], batch["n_customer_errors"]) == (2, 1, 1)
    lost = one_file(shared, patient("p1"))
    shared.stack.wait_for(lambda: shared.step().counts["results_awaited"], what="the end of the other")
    with shared.pipeline.index.transaction() as connection:
        long_ago = catalog.jobs.update().where(catalog.jobs.c.state == JobState.ENDED)
        connection.execute(long_ago.values(ended_at=now() - dt.timedelta(days=2)))
    shared.drive()
    [batch_id] = lost.batch_ids
    told = shared.rows(sa.select(fhir_audit.c.batch_id).where(fhir_audit.c.what == "no manifest"))
    assert [row["batch_id"] for row in told] == [batch_id]
    assert [name for name, _ in control.unequal(shared.pipeline.index.engine)] == [batch_id]


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("block", [3, 2**20])
def test_a_large_file_is_split_on_line_borders(shared, monkeypatch, block, end):
    monkeypatch.setattr(plan, "BLOCK", block)
    body = b"\n".join([b"a", b"bb", b"", b"dddddddd", b"e"]) + end
    [file], _ = plan.list_files(shared.pipeline, f"s3://{shared.bucket}/{shared.put_each(body)}")
    whole = [line for line in body.split(b"\n") if line]
    for limit in (1, 2, 3, 5, 9, len(body) - 1, len(body)):
        parts = list(plan.split(shared.pipeline, file, limit))
        pieces = [body[part.first_byte : part.end_byte] for part in parts]
        assert b"".join(pieces) == body
        assert all(piece.endswith(b"\n") for piece in pieces[:-1])
        assert [line for piece in pieces for line in piece.split(b"\n") if line] == whole
        assert all(len(piece) <= limit or b"\n" not in piece[:-1] for piece in pieces)


def test_what_is_split_goes_in_whole_and_once(make_chain):
    chain = make_chain(fhir_bytes_per_file=120, fhir_bytes_per_job=250)
    sent = [patient(f"p{number}", language="x" * (7 * number % 40 + 2)) for number in range(9)]
    chain.put("history/1.ndjson", lines(*sent).rstrip(b"\n"))
    chain.put("history/2.ndjson", lines(patient("q")))
    planned = chain.plan(policy=Policy.CONTINUE)
    assert len(planned.batch_ids) > 2
    chain.drive()
    assert sum(batch["n_imported"] for batch in chain.batches()) == 10
    assert chain.get("Patient?_summary=count")["total"] == 10
    assert all(chain.get(f"Patient/p{number}")["meta"]["versionId"] == "1" for number in range(9))


def test_a_chain_has_its_catalog_on_postgresql(make_chain, postgresql):
    chain = make_chain(catalog_url=new_schema(postgresql))
    assert chain.pipeline.index.engine.dialect.name == "postgresql"
    for number in range(3):
        chain.put(f"history/{number}.ndjson", lines(patient(f"p{number}"), *([BASIC] if number == 0 else [])))
    first, second, third = chain.plan(files_per_batch=1).batch_ids
    chain.drive()
    [found] = control.imports(chain.pipeline.index.engine)
    assert (found.settled, found.open_failures) == (1, 1)
    new = resubmit(chain.pipeline, first, lines(patient("b1")))
    control.move(chain.pipeline, third, before=second)
    control.go_on(chain.pipeline, found.import_id)
    chain.drive()
    assert [name.rsplit("-", 2)[0] for name in chain.starts()] == [first, new, third, second]
    [found] = control.imports(chain.pipeline.index.engine)
    assert (found.settled, found.imported, found.open_failures) == (4, 4, 0)
    with pytest.raises(sa.exc.DBAPIError, match="takes entries"), chain.pipeline.index.transaction() as connection:
        connection.execute(sa.delete(fhir_audit))
