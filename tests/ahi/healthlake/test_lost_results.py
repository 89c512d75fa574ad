"""Results that do not add up: what nobody knows of is never counted as in, and stops a chain like other errors."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.healthlake import audit, control, failures, output, results, sent
from ahi.healthlake.output import Manifest
from ahi.healthlake.resubmission import resubmit
from ahi.index.catalog_fhir import Policy, fhir_sent
from tests.ahi.healthlake.conftest import lines, patient

STUDY = {
    "resourceType": "ImagingStudy",
    "status": "available",
    "subject": {"reference": "Patient/p1"},
    "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
}


def study(name: str) -> bytes:
    return json.dumps({**STUDY, "id": name}).encode()


def stopped(chain, planned) -> str | None:
    [one] = [row for row in control.imports(chain.pipeline.index.engine) if row.import_id == planned.import_id]
    return one.stopped_reason


def open_failures(chain, planned) -> list[tuple[str, int]]:
    groups = failures.groups(chain.pipeline.index.engine, batch_id=planned.batch_ids[0], is_open=True)
    return [(one.stage, one.n_lines) for one in groups]


def states(chain, planned) -> set[str]:
    mine = sa.select(fhir_sent.c.state).where(fhir_sent.c.batch_id.in_(planned.batch_ids))
    return {row["state"] for row in chain.rows(mine)}


@pytest.mark.parametrize("policy", [Policy.STOP, Policy.CONTINUE])
def test_failures_without_lines_have_rows_and_leave_nothing_current(shared, policy):
    shared.stack.fault("fail_lines", every=2)
    shared.stack.fault("cut_failures", kept=0)
    planned = shared.plan(shared.put_each(lines(study("a"), study("b"), study("c"))), policy=policy)
    shared.drive()
    assert open_failures(shared, planned) == [("server", 1)]
    assert states(shared, planned) == {"failed"}
    assert (stopped(shared, planned) is not None) == (policy is Policy.STOP)
    control.go_on(shared.pipeline, planned.import_id)
    assert control.again(shared.pipeline, planned.batch_ids[0])
    shared.drive()
    assert open_failures(shared, planned) == [], "the whole batch went in again"
    assert states(shared, planned) == {"current"}


def test_a_service_whose_clock_is_ahead_of_ours_is_waited_for_no_longer(shared):
    shared.stack.control("POST", "clock", {"advance": 3_601})
    shared.stack.fault("fail_lines", every=2)
    shared.stack.fault("cut_failures", kept=0)
    planned = shared.plan(shared.put_each(lines(study("i"), study("j"))), policy=Policy.CONTINUE)
    shared.drive()
    assert open_failures(shared, planned) == [("server", 1)]


def test_lines_with_numbers_alone_leave_nothing_current_that_may_have_failed(shared, monkeypatch):
    """The form of the guide's sample. Line 2 of 3 may be the second, or from 0 the third."""
    shared.stack.fault("fail_lines", every=2)
    parsed = output.parse_failure
    monkeypatch.setattr(
        output, "parse_failure", lambda *some: replace(parsed(*some), resource_type="", resource_id=None)
    )
    planned = shared.plan(shared.put_each(lines(study("f"), study("g"), study("h"))), policy=Policy.CONTINUE)
    shared.drive()
    assert states(shared, planned) == {"failed"}
    assert open_failures(shared, planned) == [("server", 1)]


@pytest.mark.parametrize(("status", "uid"), [("available", "1.2.3"), ("entered-in-error", None)])
def test_a_study_of_others_that_was_entered_in_error_is_no_second_one(status, uid):
    assert sent.study_of(json.dumps({**STUDY, "id": "a", "status": status}).encode()).study_uid == uid


def test_groups_of_two_types_with_one_reason_are_two(shared):
    planned = shared.plan(shared.put_each(lines(patient("p1"))))
    more = {("import", "Patient", "why"): 500, ("import", "Observation", "why"): 7}
    with shared.pipeline.index.transaction() as connection:
        failures.enter(connection, planned.batch_ids[0], [], limit=0, more=more)
        assert failures.open_lines(connection, planned.batch_ids[0], failures.Stage.IMPORT) == 507


@pytest.mark.parametrize(
    ("manifest", "reason", "failed"),
    [
        (Manifest(1, 1, 0, 0), "1 of 2 resources", [("server", 1)]),
        (Manifest(None, None, None, None), "2 of 2 resources", [("server", 2)]),
        (Manifest(3, 2, 0, 0), "1 of 2 resources", []),
    ],
    ids=["read too few", "tells nothing", "read too many"],
)
def test_a_job_that_did_not_read_what_was_sent_stops_its_chain(shared, monkeypatch, manifest, reason, failed):
    monkeypatch.setattr(results, "read_manifest", lambda *_: manifest)
    planned = shared.plan(shared.put_each(lines(study("d"), patient("p1")), lines(patient("p2"))), files_per_batch=1)
    shared.drive()
    assert (stopped(shared, planned) or "").startswith(reason)
    assert len(shared.starts(planned)) == 1
    assert open_failures(shared, planned) == failed


def test_a_failed_job_is_tried_again_whatever_its_manifest_says(shared):
    shared.stack.fault("fail_job", service="healthlake", manifest=True, times=2)
    planned = shared.plan(shared.put_each(lines(study("e")), lines(patient("p1"))), files_per_batch=1)
    shared.drive()
    first, _ = shared.batches(planned)
    assert (first["state"], first["attempt"]) == ("failed", 2)
    assert (stopped(shared, planned) or "").startswith("FAILED")
    assert states(shared, planned) == {"failed"}


@pytest.mark.parametrize(
    ("policy", "ratio", "n_started"), [(Policy.STOP, 0, 1), (Policy.STOP_IF_RATIO, 0.4, 1), (Policy.CONTINUE, 0, 2)]
)
def test_lines_that_we_refuse_count_as_errors(shared, policy, ratio, n_started):
    prefix = shared.put_each(lines(patient("p0"), b"nonsense"), lines(patient("p1")))
    planned = shared.plan(prefix, files_per_batch=1, policy=policy, stop_ratio=ratio)
    shared.drive()
    assert len(shared.starts(planned)) == n_started
    assert (stopped(shared, planned) == "1 of 2 resources of a batch failed") == (n_started == 1)


def test_a_batch_of_which_nothing_could_be_sent_stops_its_chain(shared):
    planned = shared.plan(shared.put_each(b"nonsense\n", lines(patient("p1"))), files_per_batch=1)
    shared.drive()
    assert stopped(shared, planned) == "1 of 1 resources of a batch failed"
    assert shared.starts(planned) == []
    later = now() + dt.timedelta(days=9)
    late = {one.batch_id: one.ingested_at for one in audit.breaches(shared.pipeline, moment=later)}
    assert late.get(planned.batch_ids[0], "in time") is None, "what was refused is not ingested"
    resubmit(shared.pipeline, planned.batch_ids[0], lines(patient("p0")))
    late = {one.batch_id: one.ingested_at for one in audit.breaches(shared.pipeline, moment=later)}
    assert planned.batch_ids[0] not in late, "from here on it is the corrected line that is late"
