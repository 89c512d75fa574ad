"""Errors: what stops a chain, what is sent again, and what the hand on it does."""

from __future__ import annotations

import json

import pytest

from ahi.errors import PermanentError
from ahi.healthlake import control, failures
from ahi.healthlake.resubmission import FailedLine, _matched, failed_lines, resubmit
from tests.ahi.healthlake.conftest import lines, patient

BASIC = json.dumps({"resourceType": "Basic", "id": "b1", "code": {"text": "x"}}).encode()
"""Valid R4, of a type that HealthLake does not take."""


def test_a_chain_stops_at_errors_and_goes_on_with_the_corrected_lines_first(chain):
    bad = b'{"resourceType": "Patient", "id": "p1", "gender": "M"}'
    chain.put("history/1.ndjson", lines(patient("p0"), bad, BASIC))
    chain.put("history/2.ndjson", lines(patient("p2")))
    first, second = chain.plan(files_per_batch=1).batch_ids
    chain.drive()
    [status] = control.imports(chain.pipeline.index.engine)
    assert status.stopped_reason == "2 of 3 resources of a batch failed", "a line that we refuse is not in, either"
    assert (status.settled, status.open_failures) == (1, 2)
    assert [line.body for line in failed_lines(chain.pipeline, first)] == [bad, BASIC]
    with pytest.raises(PermanentError, match="none of the 2 failed lines"):
        resubmit(chain.pipeline, first, patient("other"))
    new = resubmit(chain.pipeline, first, lines(patient("p1", gender="male"), patient("b1")))
    control.go_on(chain.pipeline, status.import_id)
    chain.drive()
    assert [name.rsplit("-", 2)[0] for name in chain.starts()] == [first, new, second]
    assert failures.groups(chain.pipeline.index.engine, is_open=True) == []
    assert {group.n_resolved for group in failures.groups(chain.pipeline.index.engine)} == {1}
    assert next(b for b in chain.batches() if b["batch_id"] == new)["parent_batch_id"] == first


def test_what_waits_can_be_held_moved_and_hurried(chain):
    for number in range(4):
        chain.put(f"history/{number}.ndjson", lines(patient(f"p{number}")))
    one, two, three, four = chain.plan(files_per_batch=1, is_ordered=False).batch_ids
    control.hold(chain.pipeline, one)
    control.move(chain.pipeline, four, before=three)
    chain.drive()
    assert [name.rsplit("-", 2)[0] for name in chain.starts()] == [two, four, three]
    control.hold(chain.pipeline, one, release=True)
    chain.put("other/5.ndjson", lines(patient("p5")))
    [five] = chain.plan("other/", priority=1).batch_ids
    chain.drive()
    assert [name.rsplit("-", 2)[0] for name in chain.starts()][3:] == [five, one]
    with pytest.raises(PermanentError, match="cannot be held"):
        control.hold(chain.pipeline, two)
    assert control.again(chain.pipeline, two)
    chain.drive()
    assert chain.starts()[-1].startswith(f"{two}-2-")


def test_lines_that_the_bucket_no_longer_has_are_said_to_be_gone(shared):
    [batch_id] = shared.plan(shared.put_each(lines(patient("p0"), BASIC)), policy="continue").batch_ids
    shared.drive()
    key = f"fhir/batches/{batch_id}/00000.ndjson"
    shared.stack.client("s3").delete_object(Bucket=shared.pipeline.settings.lake_bucket, Key=key)
    with pytest.raises(PermanentError, match=r"is gone: lines are kept as long as .* `ahi fhir import`"):
        failed_lines(shared.pipeline, batch_id)


P1, P2 = patient("p1"), patient("p2")


@pytest.mark.parametrize(
    ("references", "corrected", "answers"),
    [
        (["Patient/p1", "Patient/p2"], [P2, P1], [1, 0]),
        (["Patient/p1", "Patient/p2"], [P2], [1]),
        (["Patient/p1", "Patient/p1"], [P1, P1], [0, 1]),
        (["Patient/p1", "", ""], [patient("a"), P1, patient("b")], [1, 0, 2]),
        (["Basic/p1"], [P1], [0]),
        (["Patient/p1"], [P2], None),
        (["Patient/p1"], [b"{"], None),
        (["Patient/p1"], [P1, P1], None),
        (["Observation/p1"], [P1], None),
        (["Patient/p1", "", ""], [P1, patient("a")], None),
        (["Basic/b1"], [patient("nobody-that-failed")], None),
    ],
)
def test_a_corrected_line_stands_for_the_one_whose_type_and_id_it_has(references, corrected, answers):
    """`answers`: the failed line that each corrected one stands for; None: it is refused."""
    failed = [FailedLine(str(n), "import", 0, n, reference, "", b"") for n, reference in enumerate(references)]
    if answers is None:
        with pytest.raises(PermanentError, match="failed lines: keep type and id"):
            _matched(failed, corrected)
        return
    found = {int(line.failure_id): body for line, body in _matched(failed, corrected)}
    assert found == dict(zip(answers, corrected, strict=True))
