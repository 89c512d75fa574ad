"""FHIR of the index when HealthLake fails on it: nothing counts as in that may not be, and all of it comes again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ahi.errors import PermanentError
from ahi.healthlake import control, failures, resubmission, sent
from ahi.healthlake.closure import study_closure
from ahi.healthlake.from_index import plan_changes
from ahi.healthlake.resubmission import resubmit
from ahi.index.catalog_fhir import fhir_sent
from tests.ahi.healthlake.index_site import MR, bury, in_healthlake, send_fhir, site, states
from tests.site_fixtures import make_site

__all__ = ["make_site", "site"]


def _a_newer_state_is_planned_while_old_lines_are_put(site, monkeypatch, name: str) -> None:
    put, own = resubmission.put_source, fhir_sent.c.batch_id

    def carry(before: str, after: str, state: str) -> None:
        with site.pipeline.index.transaction() as connection:
            connection.execute(fhir_sent.update().where(own == before).values(state=state, batch_id=after))

    def put_late(*some):
        carry(name, "later", "pending")
        return put(*some)

    with monkeypatch.context() as patch:
        patch.setattr(resubmission, "put_source", put_late)
        with pytest.raises(PermanentError, match="just now"):
            resubmit(site.pipeline, name, None)
    carry("later", name, "failed")


def test_what_healthlake_fails_on_is_sent_again_until_it_is_in(site, monkeypatch):
    site.send(MR)
    site.drive()
    with ThreadPoolExecutor(2) as both:
        planned = list(both.map(plan_changes, [site.pipeline] * 2))
    assert sorted(one["resources"] for one in planned) == [0, 3], "a schedule and a person do not plan the same twice"
    site.stack.fault("fail_job", service="healthlake", times=2)
    send_fhir(site)
    assert set(states(site).values()) == {"failed"}, "a job that fails whole leaves nothing pending or current"
    found = study_closure(site.pipeline)
    assert (found.closes, len(found.failed), len(found.lacking)) == (False, 1, 2)
    assert len(sent.failed_batches(site.pipeline.index.engine)) == 1
    assert plan_changes(site.pipeline)["resources"] == 3, "all of it is planned again"
    assert sent.failed_batches(site.pipeline.index.engine) == []
    site.stack.fault("fail_lines", every=1)
    site.stack.fault("cut_failures", kept=0)
    send_fhir(site)
    assert set(states(site).values()) == {"failed"}, "counts without lines: nobody knows what is in"
    assert plan_changes(site.pipeline)["resources"] == 3
    send_fhir(site)
    assert set(states(site).values()) == {"current"}
    assert failures.groups(site.pipeline.index.engine, is_open=True) == []
    assert study_closure(site.pipeline).closes
    [[study]] = site.rows("SELECT DISTINCT StudyInstanceUID FROM series")
    bury(site, study)
    plan_changes(site.pipeline)
    site.stack.fault("fail_lines", every=1)
    send_fhir(site)
    found = study_closure(site.pipeline)
    assert (found.closes, len(found.orphans)) == (False, 1), "its study is gone, and it is there"
    [one] = [row for row in control.imports(site.pipeline.index.engine) if row.open_failures]
    name = f"{one.import_id}-{one.batches:05d}"
    _a_newer_state_is_planned_while_old_lines_are_put(site, monkeypatch, name)
    new = resubmit(site.pipeline, name, None)
    assert set(states(site).values()) == {"current", "pending"}, "the batch of the same lines has them now"
    assert not plan_changes(site.pipeline), f"what {new} carries is not planned beside it"
    send_fhir(site)
    assert study_closure(site.pipeline).closes
    assert sorted(states(site).values()) == ["current", "retracted", "retracted"]
    assert [(one["status"], "series" in one) for one in in_healthlake(site, "ImagingStudy")] == [
        ("entered-in-error", False)
    ]
    [patient] = in_healthlake(site, "Patient")
    assert set(patient) <= {"resourceType", "id", "active", "meta"}, "nothing of the person stays"
