"""Whose turn it is: no batch waits for one that waits for it, no chain for another, and no job of ours overtakes."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from ahi import findings
from ahi.clock import now
from ahi.healthlake import control, starts
from ahi.healthlake.advance import is_work_waiting
from ahi.healthlake.plan import Planned
from ahi.healthlake.resubmission import resubmit
from ahi.index.catalog import JobState
from ahi.index.catalog_fhir import fhir_audit, fhir_imports
from tests.ahi.healthlake.conftest import Chain, lines, patient
from tests.ahi.healthlake.test_troubled_chain import BASIC, START, status, time_has_come

LIST = "ListFHIRImportJobs"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK tries a call again at once."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture(autouse=True)
def _nothing_of_others(shared: Chain) -> None:
    """What another test left waiting is not in the way of this one's."""
    with shared.pipeline.index.transaction() as connection:
        connection.execute(fhir_imports.update().values(stopped_at=now(), stopped_reason="another test"))


def plan(chain: Chain, number: int = 1, *more: bytes, **terms: object) -> Planned:
    files = [lines(patient(f"p{n}"), *(more if n == 0 else ())) for n in range(number)]
    return chain.plan(chain.put_each(*files), files_per_batch=1, **terms)


def start_theirs(chain: Chain) -> None:
    """Start a job of somebody else's, which runs until it is released."""
    chain.stack.fault("hold_jobs", service="healthlake")
    settings = chain.pipeline.settings
    output = {"S3Uri": f"s3://{chain.bucket}/out/", "KmsKeyId": settings.fhir_key_arn}
    chain.stack.client("healthlake").start_fhir_import_job(
        JobName="theirs",
        InputDataConfig={"S3Uri": f"s3://{chain.bucket}/{chain.put_each(lines(patient('theirs')))}"},
        JobOutputDataConfig={"S3Configuration": output},
        DatastoreId=chain.datastore_id,
        DataAccessRoleArn=settings.fhir_role_arn,
    )


def set_to(chain: Chain, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """Change settings of a deployment for one test."""
    changed = chain.pipeline.settings.model_copy(update=settings)
    monkeypatch.setattr(chain, "pipeline", replace(chain.pipeline, settings=changed))


def order(chain: Chain, planned: Planned) -> list[str]:
    return [name.rsplit("-", 2)[0] for name in chain.starts(planned)]


def test_corrected_lines_go_before_batches_that_were_ready(shared):
    planned = plan(shared, 7, BASIC)
    first, *rest = planned.batch_ids
    shared.drive()
    assert order(shared, planned) == [first]
    new = resubmit(shared.pipeline, first, lines(patient("b1")))
    control.go_on(shared.pipeline, planned.import_id)
    shared.drive()
    assert order(shared, planned) == [first, new, *rest]


def test_a_batch_that_is_moved_before_ready_ones_goes_before_them(shared):
    shared.stack.fault("hold_jobs", service="healthlake")
    planned = plan(shared, 7)
    shared.step()
    first, second, *rest, last = planned.batch_ids
    control.move(shared.pipeline, last, before=second)
    shared.stack.control("POST", "release")
    shared.drive()
    assert order(shared, planned) == [first, last, second, *rest]


def test_what_is_held_holds_its_own_chain_alone(shared):
    shared.stack.fault("hold_jobs", service="healthlake")
    planned = plan(shared, 7)
    shared.step()
    control.hold(shared.pipeline, planned.batch_ids[1])
    other = plan(shared)
    shared.stack.control("POST", "release")
    shared.drive()
    assert (order(shared, planned), order(shared, other)) == ([planned.batch_ids[0]], list(other.batch_ids))
    assert not is_work_waiting(shared.pipeline), "nothing behind a held batch is made ready"
    control.hold(shared.pipeline, planned.import_id, release=True)
    shared.drive()
    assert order(shared, planned) == list(planned.batch_ids)


@pytest.mark.parametrize(
    "trouble",
    [
        {"kind": "throttle", "service": "healthlake", "operation": LIST, "first": 50},
        {"kind": "fail_call", "operation": LIST, "error": "InternalServerException", "times": 5},
    ],
    ids=["throttled", "fails"],
)
def test_nothing_is_started_while_healthlake_does_not_say_what_runs(shared, trouble):
    start_theirs(shared)
    planned = plan(shared)
    shared.stack.control("POST", "faults", trouble)
    assert shared.step().counts["back_pressure"] == 1
    assert len(shared.stack.calls(START)) == 1, "theirs"
    assert not is_work_waiting(shared.pipeline), "it is not asked again at once"
    shared.stack.control("DELETE", "faults")
    shared.stack.control("POST", "release")
    time_has_come(shared)
    shared.drive()
    assert [(batch["attempt"], batch["n_imported"]) for batch in shared.batches(planned)] == [(1, 1)]


def test_a_list_that_is_denied_is_told_and_stops_the_chain(shared):
    planned = plan(shared)
    shared.stack.fault("fail_call", operation=LIST, error="AccessDeniedException", times=starts.REFUSALS)
    told = list[str]()
    for _ in range(starts.REFUSALS):
        told += shared.step().counts.keys() & {"refused", "stopped"}
        time_has_come(shared)
    assert told == ["refused"] * (starts.REFUSALS - 1) + ["stopped"]
    assert status(shared, planned).stopped_reason == f"{LIST}: AccessDeniedException; correct it, then continue"
    entries = shared.rows(sa.select(fhir_audit).where(fhir_audit.c.batch_id == planned.batch_ids[0]))
    assert [row["note"] for row in entries if row["what"] == "refused"] == [f"{LIST}: AccessDeniedException"] * 5
    control.go_on(shared.pipeline, planned.import_id)
    shared.drive()
    assert [batch["n_imported"] for batch in shared.batches(planned)] == [1]


def test_throttled_starts_are_no_refusals(shared):
    planned = plan(shared)
    for _ in range(starts.REFUSALS):
        shared.stack.fault("fail_call", operation=START, error="ServiceQuotaExceededException")
        assert shared.step().counts["back_pressure"] == 1
        time_has_come(shared)
    shared.stack.fault("fail_call", operation=START, error="AccessDeniedException")
    assert shared.step().counts["refused"] == 1
    assert status(shared, planned).stopped_reason is None


def test_behind_a_job_of_others_no_run_is_asked_for_until_an_event_or_an_interval(shared):
    start_theirs(shared)
    planned = plan(shared)
    assert shared.step().counts["foreign_jobs"] == 1
    assert not is_work_waiting(shared.pipeline)
    later = now() + dt.timedelta(seconds=shared.pipeline.settings.fhir_look_seconds)
    assert starts.is_slot_worth_a_look(shared.pipeline, later)
    shared.stack.control("POST", "release")
    shared.stack.wait_for(lambda: shared.step().started, what="ours, by the event of theirs")
    assert findings.due(shared.pipeline, starts.FOREIGN, 1e9, now()), "theirs is forgotten"
    shared.drive()
    assert [batch["n_imported"] for batch in shared.batches(planned)] == [1]


def test_an_import_goes_where_it_was_planned_to_go(shared, monkeypatch):
    planned = plan(shared, 2)
    set_to(shared, monkeypatch, fhir_datastore_id="f" * 32, fhir_validation_level="minimal")
    shared.drive()
    jobs = [job for job in shared.all_jobs() if job["JobName"].startswith(planned.import_id)]
    assert [(job["DatastoreId"], job["ValidationLevel"]) for job in jobs] == [(shared.datastore_id, "strict")] * 2


@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_setting_puts_several_jobs_at_a_time_behind_each_other(shared, monkeypatch, is_ordered):
    set_to(shared, monkeypatch, fhir_jobs_in_service=3)
    shared.stack.fault("hold_jobs", service="healthlake")
    planned = plan(shared, 5, is_ordered=is_ordered)
    for _ in range(3):
        shared.step()
    states = [job["state"] for job in shared.jobs(planned)]
    assert states.count(JobState.SUBMITTED) == 3
    assert not is_work_waiting(shared.pipeline)
    shared.stack.control("POST", "release")
    shared.drive()
    assert [batch["n_imported"] for batch in shared.batches(planned)] == [1] * 5
    assert order(shared, planned) == list(planned.batch_ids)


def test_behind_a_held_batch_nothing_of_an_ordered_chain_goes_however_much_room_there_is(shared, monkeypatch):
    set_to(shared, monkeypatch, fhir_jobs_in_service=3)
    shared.stack.fault("hold_jobs", service="healthlake")
    planned = plan(shared, 3)
    control.hold(shared.pipeline, planned.batch_ids[1])
    for _ in range(3):
        shared.step()
    assert order(shared, planned) == [planned.batch_ids[0]]
    control.hold(shared.pipeline, planned.batch_ids[1], release=True)
    shared.stack.control("POST", "release")
    shared.drive()
    assert order(shared, planned) == list(planned.batch_ids)


@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_job_that_fails_whole_never_goes_over_what_was_queued_behind_it(shared, monkeypatch, is_ordered):
    set_to(shared, monkeypatch, fhir_jobs_in_service=3)
    shared.stack.fault("hold_jobs", service="healthlake")
    planned = plan(shared, 3, is_ordered=is_ordered)
    shared.step()
    shared.stack.fault("fail_job", service="healthlake", message="")
    shared.stack.control("POST", "release")
    shared.drive()
    told = [(batch["state"], batch["attempt"], batch["n_imported"]) for batch in shared.batches(planned)]
    assert told == [("failed", 1, None) if is_ordered else ("settled", 2, 1), *[("settled", 1, 1)] * 2]
    if is_ordered:
        assert "later batches were behind it" in (status(shared, planned).stopped_reason or "")
        for batch_id in planned.batch_ids:
            assert control.again(shared.pipeline, batch_id)
        control.go_on(shared.pipeline, planned.import_id)
        shared.drive()
        assert [batch["n_imported"] for batch in shared.batches(planned)] == [1] * 3
        assert order(shared, planned) == list(planned.batch_ids) * 2


def test_open_failures_are_those_of_the_chain(shared):
    good, bad = plan(shared), plan(shared, 1, BASIC, policy="continue")
    shared.drive()
    assert (status(shared, good).open_failures, status(shared, bad).open_failures) == (0, 1)
