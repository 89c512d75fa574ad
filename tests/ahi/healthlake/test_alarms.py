"""What is told to a person is true, and ends once somebody or something has seen to it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
import sqlalchemy as sa

from ahi.clock import now
from ahi.errors import PermanentError
from ahi.healthlake import audit, control, failures, sent
from ahi.index import catalog
from ahi.index.catalog_fhir import Policy, fhir_parts
from tests.ahi.healthlake.conftest import lines, patient
from tests.ahi.healthlake.test_sources import refuse, states
from tests.ahi.healthlake.test_troubled_chain import BASIC

LATER = now() + dt.timedelta(days=9)


def alarms(chain, planned) -> set[str]:
    """Alarms that name a batch of an import, in nine days."""
    engine = chain.pipeline.index.engine
    told = {
        "late": {one.batch_id for one in audit.breaches(chain.pipeline, moment=LATER) if one.ingested_at is None},
        "failed": set(sent.failed_batches(engine)),
        "unequal": {name for name, _ in control.unequal(engine)},
        "open": {one.first_batch for name in planned.batch_ids for one in failures.groups(engine, batch_id=name,
                                                                                           is_open=True)},
    }  # fmt: skip
    return {name for name, found in told.items() if found & set(planned.batch_ids)}


def test_a_failed_batch_whose_files_are_imported_again_is_no_alarm(shared):
    prefix = shared.put_each(lines(patient("p1")), lines(patient("p2")))
    allow = refuse(shared, "/1.ndjson", "NoSuchVersion", 404)
    planned = shared.plan(prefix, files_per_batch=2)
    shared.drive()
    allow()
    assert alarms(shared, planned) == {"late", "failed"}
    shared.put(f"{prefix}1.ndjson", lines(patient("p1", active=True)))
    more = shared.plan(prefix, files_per_batch=1)
    assert more.n_files == 2
    assert alarms(shared, planned) == set(), "with another version or the same one"
    assert alarms(shared, more) == {"late"}, "it is theirs"


def test_what_never_goes_in_is_dismissed_with_a_note(shared):
    planned = shared.plan(shared.put_each(lines(patient("p1"), BASIC, b"nonsense")), policy=Policy.CONTINUE)
    with pytest.raises(PermanentError, match="is not over yet"):
        control.dismiss(shared.pipeline, planned.batch_ids[0], "too early")
    shared.drive()
    assert alarms(shared, planned) == {"late", "open"}
    assert control.dismiss(shared.pipeline, planned.batch_ids[0], "not of this century") == 2
    assert alarms(shared, planned) == set()
    told = shared.rows(sa.select(audit.fhir_audit).where(audit.fhir_audit.c.what == "dismissed"))
    assert [row["note"] for row in told] == ["not of this century"]
    assert control.again(shared.pipeline, planned.batch_ids[0])
    shared.drive()
    assert alarms(shared, planned) == {"late", "open"}, "what fails once more is told again"


def test_a_job_that_stands_still_is_told_of(shared):
    shared.stack.fault("hold_jobs", service="healthlake")
    planned = shared.plan(shared.put_each(lines(patient("p1")), lines(patient("p2"))), files_per_batch=1)
    shared.step()
    assert control.stale(shared.pipeline) == []
    with shared.pipeline.index.transaction() as connection:
        ago = now() - dt.timedelta(hours=9)
        connection.execute(catalog.jobs.update().values(submitted_at=ago, planned_at=ago, settled_at=ago))
    assert [name for name, why in control.stale(shared.pipeline)] == [planned.batch_ids[0]], "the other waits for it"
    patient_ = shared.pipeline.settings.model_copy(update={"fhir_stale_seconds": 10 * 3_600})
    assert control.stale(replace(shared.pipeline, settings=patient_)) == []
    shared.stack.control("POST", "release")
    shared.drive()
    assert control.stale(shared.pipeline) == []


def test_of_a_split_file_only_the_parts_that_failed_are_imported_again(make_chain):
    chain = make_chain(fhir_bytes_per_file=120, fhir_bytes_per_job=120, fhir_frozen_ahead=1)
    chain.put("history/1.ndjson", lines(*(patient(f"p{number}", language="x" * 40) for number in range(4))))
    planned = chain.plan(policy=Policy.CONTINUE)
    assert len(planned.batch_ids) == 4
    chain.stack.fault("hold_jobs", service="healthlake")
    chain.step()
    allow = refuse(chain, "/1.ndjson", "NoSuchVersion", 404)
    chain.stack.control("POST", "release")
    chain.drive()
    allow()
    n_failed = states(chain, planned).count("failed")
    assert 0 < n_failed < 4
    more = chain.plan()
    query = sa.select(fhir_parts.c.first_byte).where(fhir_parts.c.batch_id.in_(more.batch_ids))
    assert len(chain.rows(query)) == n_failed
    chain.drive()
    assert chain.get("Patient?_summary=count")["total"] == 4
    assert {chain.get(f"Patient/p{number}")["meta"]["versionId"] for number in range(4)} == {"1"}
