"""From NDJSON files to resources in HealthLake: plan, freeze, start, follow, settle."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from ahi.healthlake import audit, failures
from ahi.index.catalog_fhir import fhir_audit, fhir_failures
from tests.ahi.healthlake.conftest import lines, patient


def test_files_go_in_as_batches_one_after_the_other(chain):
    for number in range(5):
        chain.put(f"history/{number}.ndjson", lines(patient(f"p{number}"), patient(f"q{number}")))
    chain.put("history/readme.txt", b"not this")
    planned = chain.plan(files_per_batch=2)
    assert (len(planned.batch_ids), planned.n_files, planned.n_skipped) == (3, 5, 1)
    assert chain.plan().batch_ids == (), "the same versions are not planned twice"
    chain.drive()
    assert [(b["state"], b["n_sent"], b["n_imported"]) for b in chain.batches()] == [
        ("settled", 4, 4), ("settled", 4, 4), ("settled", 2, 2)]  # fmt: skip
    assert [name.rsplit("-", 2)[0] for name in chain.starts()] == list(planned.batch_ids)
    whats = [
        row["what"] for row in chain.rows(sa.select(fhir_audit).where(fhir_audit.c.batch_id == planned.batch_ids[0]))
    ]
    assert {"received", "planned", "frozen", "submitted", "ended", "settled"} <= set(whats)
    for change in (sa.delete(fhir_audit), sa.update(fhir_audit).values(what="never")):
        with pytest.raises(sa.exc.DBAPIError, match="takes entries"), chain.pipeline.index.transaction() as connection:
            connection.execute(change)
    assert {hop.name for hop in audit.hops(chain.pipeline.index.engine)} == {name for name, *_ in audit.HOPS}


def test_what_is_invalid_stays_behind_and_what_healthlake_refuses_is_listed(chain):
    bad = b'{"resourceType": "Patient", "id": "p1", "gender": "M"}\r'
    twice = [patient("p2", active=True), patient("p2", active=False), patient("p2", active=True)]
    body = lines(
        patient("p0"),
        bad,
        *twice,
        b"",
        b"{",
        json.dumps({"resourceType": "Basic", "id": "b1", "code": {"text": "x"}}).encode(),
    )
    chain.put("history/one.ndjson", body)
    [batch_id] = chain.plan(policy="continue").batch_ids
    chain.drive()
    [batch] = chain.batches()
    assert (batch["n_lines"], batch["n_sent"], batch["n_refused"], batch["n_repeated"]) == (7, 3, 3, 1)
    assert (batch["n_imported"], batch["n_customer_errors"]) == (2, 1), "HealthLake takes no Basic"
    assert batch["n_warned"] == 1
    [warned] = failures.warned(chain.pipeline.index.engine, batch_id=batch_id)
    assert (warned.resource_type, warned.n_lines, warned.first_batch) == ("Basic", 1, batch_id)
    assert warned.diagnostic == "not-accepted: is of a type that HealthLake does not list"
    kept = chain.stack.client("s3").get_object(
        Bucket=chain.pipeline.settings.lake_bucket, Key=f"fhir/quarantine/{batch_id}/00000.ndjson"
    )["Body"].read()  # fmt: skip
    assert kept.split(b"\n")[0] == bad
    groups = failures.groups(chain.pipeline.index.engine)
    assert sorted((group.stage, group.resource_type, group.n_lines) for group in groups) == [
        ("import", "Basic", 1),
        ("validation", "", 1),
        ("validation", "Patient", 1),
        ("validation", "Patient", 1),
    ]
    rows = chain.rows(sa.select(fhir_failures).order_by(fhir_failures.c.stage, fhir_failures.c.line))
    assert [(row["stage"], row["line"]) for row in rows] == [
        ("import", 3),
        ("validation", 2),
        ("validation", 4),
        ("validation", 7),
    ]
