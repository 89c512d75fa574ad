"""Jobs beside each other: a full service, one that cannot be staged, one that the service will not speak of."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from ahi import imports, inbox, results, uploads
from ahi.clock import now
from ahi.inbox import Queue


def test_a_full_service_gets_one_large_job_afterwards_not_many_small_ones(make_site):
    site = make_site(max_jobs_in_flight=1)
    hold = site.stack.fault("hold_jobs")
    for name in ("17106", "17136", "17166", "17196"):
        site.send([f"pydicom/CT2/{name}"])
        site.collect()
        site.work()
    assert len(site.stack.calls("StartDICOMImportJob")) == 1
    site.stack.control("DELETE", f"faults/{hold}")
    assert site.drive().imported == 4
    assert len(site.stack.calls("StartDICOMImportJob")) == 2


def test_a_job_that_cannot_be_staged_holds_up_no_other(make_site):
    site = make_site()
    site.send(["pydicom/CT2/17106"])
    site.collect()
    pipeline = site.pipeline
    for batch in inbox.pending(pipeline, Queue.UPLOADS):
        uploads.process(pipeline, batch)
    imports.plan(pipeline)
    with pipeline.index.transaction() as connection:
        connection.exec_driver_sql("UPDATE objects SET version_id = 'no such version'")
    imports.advance(pipeline)  # gone: failed for that reason, and the job goes on without it
    site.send(["pydicom/rtplan.dcm"])
    closure = site.drive()
    assert (closure.imported, closure.failed) == (1, 1)


def test_a_job_that_the_service_will_not_speak_of_holds_up_no_other(site):
    """One job's id is refused by HealthImaging, for good: the other job's end is noted all the same."""
    for name in ("pydicom/CT2/17106", "pydicom/rtplan.dcm"):
        site.send([name])
        inbox.collect(site.pipeline, Queue.UPLOADS, listen_seconds=0)
        site.work()
    with site.pipeline.index.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET job_id = '?', state = 'submitted' WHERE rowid = 1")

    def followed():
        with pytest.raises(ClientError, match="ValidationException"):
            results.follow_running(site.pipeline, older_than=now())
        results.settle_ended(site.pipeline)
        return [row["state"] for row in site.ledger()].count("imported") == 1

    site.stack.wait_for(followed, what="the other job")
