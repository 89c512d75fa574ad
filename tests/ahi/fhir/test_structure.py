"""Structure by R4's rules, and the two promises of every check: quick and full agree, and values stay unsaid."""

from __future__ import annotations

import calendar
import copy
import datetime as dt
import json
import re
import tarfile
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ahi.fhir.definitions import load_definitions
from ahi.fhir.findings import Code
from ahi.fhir.primitives import primitive_checks
from ahi.fhir.validate import Validator, repeats_a_key
from tests.conftest import REPOSITORY

DEFINITIONS = load_definitions()
PATIENT = {"resourceType": "Patient", "id": "1"}
OBSERVATION = {"resourceType": "Observation", "id": "1", "status": "final", "code": {"text": "x"}}
ABSENT = {"extension": [{"url": "http://a", "valueCode": "unknown"}]}
SECRET = "Xyzzy Plugh 4711"


def codes(validator: Validator, resource: dict[str, Any]) -> set[tuple[str, str]]:
    return {(finding.code.value, finding.path) for finding in validator.check(orjson.dumps(resource)).problems}


@pytest.mark.parametrize(
    "more",
    [
        {"_birthDate": ABSENT},
        {"name": [{"given": ["A", None], "_given": [None, ABSENT]}]},
        {"name": [{"given": [None], "_given": [ABSENT]}]},
        {
            "contained": [{"resourceType": "Organization", "id": "o", "name": "O"}],
            "managingOrganization": {"reference": "#o"},
        },
        {"deceasedDateTime": "2024-02-29T23:59:60Z"},
        {"extension": [{"url": "http://a", "valueReference": {"reference": "http://b/c/Patient/1/_history/2"}}]},
        {"managingOrganization": {"display": "O"}},
        {"managingOrganization": {"reference": "http://elsewhere/anything"}},
        {"photo": [{"data": "QUJD\nREVG"}]},
    ],
)
def test_r4_allows(validator: Validator, more: dict[str, Any]) -> None:
    assert codes(validator, PATIENT | more) == set()


@pytest.mark.parametrize(
    ("more", "code", "path"),
    [
        ({"name": [{"given": ["A", None]}]}, "type", "Patient.name[0].given[1]"),
        ({"name": [{"given": ["A", None], "_given": [None]}]}, "type", "Patient.name[0].given[1]"),
        ({"_birthDate": {}}, "empty", "Patient._birthDate"),
        ({"birthDate": "2023-02-29"}, "value", "Patient.birthDate"),
        ({"birthDate": "0000"}, "value", "Patient.birthDate"),
        ({"deceasedDateTime": "2024-01-01T10:00Z"}, "value", "Patient.deceasedDateTime"),
        ({"multipleBirthInteger": 2**31}, "value", "Patient.multipleBirthInteger"),
        ({"multipleBirthInteger": 1.0}, "type", "Patient.multipleBirthInteger"),
        ({"multipleBirthInteger": True}, "type", "Patient.multipleBirthInteger"),
        ({"deceasedBoolean": True, "_deceasedDateTime": ABSENT}, "choice", "Patient.deceased[x]"),
        ({"extension": [{"url": "http://a"}]}, "extension", "Patient.extension[0]"),
        ({"extension": [{"valueCode": "a"}]}, "required", "Patient.extension[0].url"),
        ({"extension": [{"url": "u", "valueCode": "a", **ABSENT}]}, "extension", "Patient.extension[0]"),
        ({"contained": [{"resourceType": "Organization", "name": "O"}]}, "contained", "Patient.contained[0].id"),
        ({"contained": [{"resourceType": "Nothing", "id": "n"}]}, "resource-type", "Patient.contained[0]"),
        ({"contained": [{**PATIENT, "gender": "M"}]}, "binding", "Patient.contained[0].gender"),
        ({"managingOrganization": {"reference": "#gone"}}, "reference", "Patient"),
        (
            {"managingOrganization": {"reference": "Organization?x=1"}},
            "reference",
            "Patient.managingOrganization.reference",
        ),
        (
            {"managingOrganization": {"reference": "http://a/Patient/1"}},
            "reference",
            "Patient.managingOrganization.reference",
        ),
        ({"managingOrganization": ["url", "valueCode"]}, "type", "Patient.managingOrganization"),
        ({"name": ["family"]}, "type", "Patient.name[0]"),
        ({"telecom": [{"system": ["phone"]}]}, "type", "Patient.telecom[0].system"),
        ({"name": [{"family": "A\x00B"}]}, "value", "Patient.name[0].family"),
        ({"text": {"status": "generated", "div": "plain"}}, "value", "Patient.text.div"),
        ({"photo": [{"data": "QUJ"}]}, "value", "Patient.photo[0].data"),
    ],
)
def test_r4_forbids(validator: Validator, more: dict[str, Any], code: str, path: str) -> None:
    assert codes(validator, PATIENT | more) == {(code, path)}


def test_a_required_value_may_be_absent_with_a_reason(validator: Validator) -> None:
    assert codes(validator, {**OBSERVATION, "_status": ABSENT} | {}) == set()
    without = {key: value for key, value in OBSERVATION.items() if key != "status"}
    assert codes(validator, without) == {("required", "Observation.status")}
    assert codes(validator, without | {"_status": ABSENT}) == set()


def test_a_required_choice(validator: Validator) -> None:
    request = {"resourceType": "MedicationRequest", "id": "1", "status": "active", "intent": "order"}
    request["subject"] = {"reference": "Patient/1"}
    assert codes(validator, request) == {("required", "MedicationRequest.medication[x]")}


def test_a_bound_concept_needs_a_coding_of_the_set(validator: Validator) -> None:
    system = "http://terminology.hl7.org/CodeSystem/condition-clinical"
    condition = {"resourceType": "Condition", "id": "1", "subject": {"reference": "Patient/1"}}
    for concept, good in (
        ({"coding": [{"system": system, "code": "active"}]}, True),
        ({"coding": [{"code": "x"}, {"system": system, "code": "active"}]}, True),
        ({"coding": [{"system": "http://other", "code": "active"}]}, False),
        ({"text": "active"}, True),
    ):
        found = codes(validator, condition | {"clinicalStatus": concept})
        assert found == (set() if good else {("binding", "Condition.clinicalStatus")})


def test_resources_in_a_bundle_are_checked(validator: Validator) -> None:
    bundle = {"resourceType": "Bundle", "id": "1", "type": "collection"}
    good = bundle | {"entry": [{"resource": {"resourceType": "Patient"}}]}
    bad = bundle | {"entry": [{"resource": {"resourceType": "Patient", "gender": "M"}}]}
    assert codes(validator, good) == set()
    assert codes(validator, bad) == {("binding", "Bundle.entry[0].resource.gender")}


def test_nesting_beyond_reason_is_a_finding(validator: Validator) -> None:
    # orjson reads 1,024 levels, and so many calls Python does not make.
    deep = '{"url":"u","extension":[' * 500 + '{"url":"u","valueCode":"a"}' + "]}" * 500
    line = '{"resourceType":"Patient","id":"1","extension":[' + deep + "]}"
    assert {finding.code for finding in validator.check(line.encode()).problems} <= {Code.TOO_DEEP, Code.JSON}
    assert not validator.check(line.encode()).ok


def test_an_unknown_name_is_shown_only_if_it_looks_like_one(validator: Validator) -> None:
    assert codes(validator, PATIENT | {"@telecom": 1}) == {("unknown-element", "Patient.@telecom")}
    assert codes(validator, PATIENT | {SECRET: 1}) == {("unknown-element", "Patient.?")}


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in below for place in places(item, (*at, key)))]


def put(resource: Any, place: tuple[Any, ...], item: Any) -> Any:
    changed = copy.deepcopy(resource)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = item
    return changed


WRONG = [
    None,
    "",
    SECRET,
    1,
    -1,
    1.5,
    True,
    [],
    {},
    [None],
    [SECRET],
    {SECRET: SECRET},
    [[1]],
    "Patient/1",
    {"url": "a"},
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_quick_and_full_check_agree_and_say_no_value(
    validator: Validator, synthea: list[dict[str, Any]], data: st.DataObject
) -> None:
    resource = data.draw(st.sampled_from(synthea))
    place = data.draw(st.sampled_from([place for place in places(resource) if place and place != ("resourceType",)]))
    changed = put(resource, place, data.draw(st.sampled_from(WRONG)))
    structure = validator._structure
    quick = structure.check(changed, empty_texts=b'""' in orjson.dumps(changed))
    found = structure.check(changed)
    assert quick == found
    said = "".join(f"{finding.path} {finding.text}" for finding in found)
    assert "Xyzzy" not in said
    assert "4711" not in said


@pytest.mark.parametrize("name", ["date", "dateTime", "instant", "id", "code", "base64Binary"])
def test_a_primitive_is_what_the_definitions_match(name: str) -> None:
    good, explain = primitive_checks(DEFINITIONS)[name]
    regex = re.compile(DEFINITIONS.primitives[name], re.ASCII)
    texts = st.one_of(
        st.from_regex(regex, fullmatch=True, alphabet=st.characters(codec="ascii")),
        st.text("0123456789-:TZ.+/=aur \n", min_size=1, max_size=30),
    )

    @settings(max_examples=20, deadline=None)
    @given(texts)
    @example("00000000000 0")
    def agree(text: str) -> None:
        matches = bool(regex.fullmatch(text)) and text != ""
        if matches and re.match(r"\d{4}-(02-(29|30|31)|(04|06|09|11)-31)", text):
            return  # The regex knows no calendar.
        assert matches == (explain(text) is None)
        assert matches or not good(text), "quick tests may leave a good value to the full one, never a bad one"
        assert good(text) or "-02-29" in text or not matches

    agree()


@pytest.mark.parametrize("year", [1900, 2000, 2023, 2024])
def test_a_date_is_one_of_the_calendar(validator: Validator, year: int) -> None:
    accepted = 0
    for month in range(14):
        for day in range(33):
            text = f"{year}-{month:02}-{day:02}"
            good = validator.check(orjson.dumps(PATIENT | {"birthDate": text})).ok
            assert good == is_date(text)
            accepted += good
    assert accepted == 365 + calendar.isleap(year)


def is_date(text: str) -> bool:
    try:
        return bool(dt.date.fromisoformat(text))
    except ValueError:
        return False


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(['x":', "\\", 'q":\\', 1, "é", {"a": 1}])), max_size=4
    ),
    between=st.sampled_from([("", ""), (" ", " "), ("", " "), ("\t", "")]),
    ascii_only=st.booleans(),
)
def test_a_name_given_twice_is_seen_in_any_layout(
    pairs: list[tuple[str, Any]], between: tuple[str, str], ascii_only: bool
) -> None:
    before, after = between
    text = "{" + ",".join(
        f"{json.dumps(name)}{before}:{after}{json.dumps(value, ensure_ascii=ascii_only)}" for name, value in pairs
    )
    hide = {'\\"': "\\u0022"} if ascii_only else {}
    body = re.sub(r'\\[\\"]', lambda found: hide.get(found[0], found[0]), text + "}").encode()
    names = [name for name, _ in pairs]
    assert repeats_a_key(body, orjson.loads(body)) == (len(set(names)) != len(names))


def test_the_sample_of_real_resources_passes(validator: Validator, synthea: list[dict[str, Any]]) -> None:
    assert len({one["resourceType"] for one in synthea}) == 16
    assert all(validator.check(orjson.dumps(one)).ok for one in synthea)


def test_none_of_7031_real_resources_is_refused(validator: Validator) -> None:
    with tarfile.open(REPOSITORY / "samples" / "synthea2021.tar.xz") as archive:
        files = [archive.extractfile(one) for one in archive if one.name.endswith(".ndjson")]
        lines = [line for file in files if file for line in file.read().splitlines()]
    assert len(lines) == 7_031
    assert [verdict.problems for line in lines if not (verdict := validator.check(line)).ok] == []
