"""Results of a job in every form they were seen in."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahi.healthlake.diagnostics import _WORDS, _schema, template
from ahi.healthlake.failures import diagnostic
from ahi.healthlake.output import FailureLine, Manifest, _base, parse_failure, read_failures
from tests.ahi.healthlake.conftest import patient

OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [
        {"severity": "information", "diagnostics": "fine"},
        {"severity": "error", "diagnostics": "id 'abc' does not match [A-Za-z0-9-.]{1,64}"},
    ],
}


def line(**more: object) -> bytes:
    return json.dumps(more).encode()


@pytest.mark.parametrize("blob", [OUTCOME, json.dumps(OUTCOME)], ids=["object", "text"])
def test_a_line_with_all_it_may_have(blob):
    response = {"jsonBlob": blob, "statusCode": 400}
    found = parse_failure(line(lineId=3, resourceId="p1", resourceType="Patient", UpdateResourceResponse=response), "a")
    assert found is not None
    assert (found.line_id, found.resource_type, found.resource_id, found.status) == (3, "Patient", "p1", 400)
    assert "abc" not in found.diagnostic
    assert found.diagnostic.startswith("id … does not match")


def test_the_sample_of_the_guide_which_is_no_json():
    found = parse_failure(b'{"lineId":3, UpdateResourceResponse:{"jsonBlob":{"issue":[]},"statusCode":400}}', "a")
    assert found == FailureLine("a", 3, "", None, 400, "HealthLake does not say why")


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b'{"lineId": 1, "UpdateRes', b'{"UpdateResourceResponse": 3}'])
def test_a_line_that_is_cut_off_or_no_failure(body):
    assert parse_failure(body, "a") is None


@pytest.mark.parametrize("base", [0, 1])
def test_lines_count_from_what_fits(base):
    sent = [f"Patient/p{n}" for n in range(5)]
    named = [FailureLine("a", n + base, "Patient", f"p{n}", 400, "") for n in (1, 3)]
    assert _base(dict(enumerate(sent)), named, 5) == base


@pytest.mark.parametrize(("numbers", "base"), [((0, 3), 0), ((3, 5), 1), ((3,), None), ((0, 5), None)])
def test_numbers_alone_tell_what_they_count_from_at_the_first_line_or_the_last(numbers, base):
    assert _base({}, [FailureLine("a", n, "", None, 400, "") for n in numbers], 5) == base


@pytest.mark.parametrize(
    ("told", "tracked", "n_told", "n_lines"),
    [
        ([{"lineId": 3}, {"lineId": 7}], [], 0, 2),
        ([{"lineId": 3}, {"lineId": 9}], ["p2", "p8"], 2, 2),
        ([{}, {"lineId": "x"}], [], 0, 2),
        ([{"resourceType": "Patient", "resourceId": "p1"}] * 2, ["p1"], 1, 1),
    ],
    ids=["from where?", "from 1", "no number", "twice"],
)
def test_what_a_line_does_not_say_is_not_guessed(shared, told, tracked, n_told, n_lines):
    prefix = shared.put_each(b"".join(patient(f"p{number}") + b"\n" for number in range(9)))
    body = b"".join(line(**one, UpdateResourceResponse={"statusCode": 500}) + b"\n" for one in told)
    shared.put(f"{prefix}job/FAILURE/1.ndjson", body)
    where = f"s3://{shared.bucket}/{prefix}"
    found = read_failures(shared.pipeline, f"{where}job/", where, limit=9)
    assert sorted(found.tracked) == [f"Patient/{name}" for name in tracked]
    assert (len(found.told), found.n_lines) == (n_told, n_lines)
    assert len(found.rows) + found.rest.total() == n_lines


def test_many_failures_are_read_by_line_and_kept_as_few(shared):
    """Half of them name their resource, half have a number alone; both are found in one pass over what was sent."""
    n, prefix = 4_000, "fhir/batches/many/"
    shared.put(f"{prefix}00000.ndjson", b"".join(patient(f"p{number}") + b"\n" for number in range(n)))
    told = [{"lineId": number} | ({"resourceId": f"p{number}", "resourceType": "Patient"} if number % 2 else {})
            for number in range(n)]  # fmt: skip
    body = b"\n".join(line(**one, UpdateResourceResponse={"statusCode": 500}) for one in told) + b'\n{"lineId": 7, "Upd'
    shared.put("fhir/jobs/job/FAILURE/00000.ndjson", body)
    where = f"s3://{shared.bucket}/"
    found = read_failures(shared.pipeline, f"{where}fhir/jobs/job/", f"{where}{prefix}", limit=n)
    assert [(one.resource_id, one.line) for one in found.rows] == [(f"p{number}", number + 1) for number in range(n)]
    few = read_failures(shared.pipeline, f"{where}fhir/jobs/job/", f"{where}{prefix}", limit=3)
    assert (len(few.rows), few.rest.total(), few.n_lines, few.n_unreadable) == (3, n - 3, n, 1)
    assert len(few.tracked) == n
    gone = read_failures(shared.pipeline, f"{where}fhir/jobs/job/", f"{where}nowhere/", limit=n)
    assert gone.rows[1].line is None, "what was sent is gone: its lines are not known"


def test_a_manifest_adds_up_or_not():
    assert Manifest(3, 2, 1, 0).adds_up
    assert not Manifest(3, 2, 0, 0).adds_up
    assert not Manifest(None, None, None, None).adds_up


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Value 'Jane Doe' of born 1970-01-01 is wrong", "Value … of born … is wrong"),
        ("Invalid JSON found in input file", "Invalid JSON found in input file"),
        ("Missing required id field in resource json", "Missing required id field in resource json"),
        (
            "Value at 'resourceType' failed to satisfy constraint: regular expression pattern: [A-Za-z]{1,256}",
            "Value at … failed to satisfy constraint: regular expression pattern: […]{…}",
        ),
        ("Patient.name[0].given: Not a valid string", "Patient.name[].given: Not a valid string"),
        ("Patient.name[3].given: Not a valid string", "Patient.name[].given: Not a valid string"),
        (
            "ImagingStudy.series.uid: minimum required = 1, but only found 0",
            "ImagingStudy.series.uid: minimum required = …, but only found …",
        ),
        ("Patient: Unrecognised property '@telecom'", "Patient: Unrecognised property …"),
    ],
)
def test_a_diagnostic_is_shown_in_known_words(text, shown):
    assert template(text) == shown


@pytest.mark.parametrize(
    "value",
    [
        *("Doe", "Jane Doe", "Doe^Jane", "O'Brien", 'd\'Arc "Joan"', "Smith-Jones", "Müller", "Иванов", "山田^太郎"),
        *("MRN0042", "12 34 56", "jane.doe@example.org", "Patient/doe-jane", "s3://b/Doe/1.ndjson", "Will", "May"),
        *("1.2.840.113619", "1970-01-01T00:00:00", "doe_jane", "<Doe>", "(Doe)", "[Doe]", "Patient.Doe", "doe:jane"),
    ],
)
@pytest.mark.parametrize("around", ["Value {} is not valid", "{}: Unknown value", "Could not parse '{}' in id={},{}"])
def test_a_diagnostic_shows_no_name_and_no_id(value, around):
    shown = template(around.replace("{}", value))
    for part in re.findall(r"\w+", value):
        if part not in {"s", "Patient"}:
            assert part not in re.findall(r"\w+", shown), shown


@given(st.text())
def test_a_diagnostic_of_any_text_holds_known_words_alone(text):
    assert all(word in _schema() or word.lower() in _WORDS for word in re.findall(r"\w+", template(text)))


def test_reasons_are_the_same_for_alike_faults():
    one = diagnostic([("required", "ImagingStudy.series[0].uid", "is required")])
    assert one == diagnostic([("required", "ImagingStudy.series[7].uid", "is required")])
