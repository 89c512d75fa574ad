"""The hand-made lines get the verdicts that they were made for."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ahi.fhir.findings import Code
from ahi.fhir.validate import Validator, payload

DATA = Path(__file__).parent / "data"
LINES = (DATA / "malformed.ndjson").read_bytes().removesuffix(b"\n").split(b"\n")
CASES = list(csv.DictReader((DATA / "malformed_expect.csv").read_text().splitlines()))

# The code of the finding, where the layer of the case does not settle it.
CODES = {
    "array_line": Code.NOT_AN_OBJECT,
    "duplicate_key": Code.DUPLICATE_KEY,
    "no_resourceType": Code.RESOURCE_TYPE,
    "unknown_resourceType": Code.RESOURCE_TYPE,
    "id_missing": Code.ID_MISSING,
    "id_empty": Code.EMPTY,
    "id_too_long": Code.VALUE,
    "id_bad_char": Code.VALUE,
    "id_number": Code.TYPE,
    "unknown_property": Code.UNKNOWN_ELEMENT,
    "choice_conflict": Code.CHOICE,
    "choice_unknown": Code.UNKNOWN_ELEMENT,
    "empty_array": Code.EMPTY,
    "empty_object": Code.EMPTY,
    "empty_string": Code.EMPTY,
    "obs_no_status": Code.REQUIRED,
    "obs_no_code": Code.REQUIRED,
    "gender_code": Code.BINDING,
    "code_space": Code.BINDING,
    "bool_string": Code.TYPE,
    "decimal_string": Code.TYPE,
    "ref_wrong_type": Code.REFERENCE,
    "ref_empty": Code.EMPTY,
    "img_no_subject": Code.REQUIRED,
    "img_no_status": Code.REQUIRED,
    "img_status": Code.BINDING,
    "img_series_no_uid": Code.REQUIRED,
    "img_series_no_modality": Code.REQUIRED,
    "img_instance_no_sop": Code.REQUIRED,
    "img_r5_modality": Code.UNKNOWN_ELEMENT,
    "img_count_string": Code.TYPE,
    "img_modality_str": Code.TYPE,
}
OF_LAYER = {"json": Code.JSON, "structure": Code.TYPE, "primitive": Code.VALUE, "imaging": Code.VALUE}
WARNED = {
    "bom_prefix": Code.BYTE_ORDER_MARK,
    "profile_claim": Code.PROFILE,
    "bundle_line": Code.BUNDLE,
    "img_identifier_no_oid": Code.IMAGING,
}
# R4 allows a resource without an id, HealthLake's import does not.
REFUSED = {"invalid", "valid-R4/HL-reject"}


@pytest.mark.parametrize(("case", "line"), list(zip(CASES, LINES, strict=True)), ids=[case["case"] for case in CASES])
def test_a_case_gets_its_verdict(validator: Validator, case: dict[str, str], line: bytes) -> None:
    verdict = validator.check(line)
    name = case["case"]
    if case["r4_verdict"] in REFUSED:
        assert not verdict.ok
        code = CODES.get(name) or OF_LAYER[case["layer"]]
        if name == "integer_float":
            code = Code.TYPE
        assert code in {finding.code for finding in verdict.problems}
    else:
        assert verdict.ok
        assert not verdict.problems
        assert verdict.is_blank == (case["layer"] == "line" and name != "big_line")
    assert {finding.code for finding in verdict.warnings} >= ({WARNED[name]} if name in WARNED else set())


def test_there_are_as_many_cases_as_were_made() -> None:
    assert len(CASES) == 68
    assert sum(case["r4_verdict"] in REFUSED for case in CASES) == 53


def test_the_lines_of_a_resource_spread_over_lines_are_refused(validator: Validator) -> None:
    lines = b'{\n "resourceType": "Patient",\n "id": "1"\n}\n'.splitlines()
    assert not any(validator.check(line).ok for line in lines)


def test_an_id_may_be_missing_where_no_import_follows() -> None:
    assert Validator(require_id=False).check(LINES[13]).ok


def test_what_is_sent_has_neither_mark_nor_line_end() -> None:
    assert payload(b'\xef\xbb\xbf{"id":"1"}\r\n') == b'{"id":"1"}'
    assert payload(b' \xef\xbb\xbf {"id":"1"}') == b'{"id":"1"}'
