"""What only shows when lines are seen together."""

from __future__ import annotations

import orjson

from ahi.fhir.batch import Batch, Place
from ahi.fhir.validate import Validator


def patient(name: str, **more: object) -> bytes:
    return orjson.dumps({"resourceType": "Patient", "id": name, **more})


def test_duplicates_are_told_apart_from_conflicts(validator: Validator) -> None:
    batch = Batch(validator)
    lines = [
        patient("a"),
        patient("b"),
        patient("a") + b"\r\n",
        patient("a", active=True),
        patient("a", gender="M"),
        b"",
    ]
    verdicts = [batch.check(line, Place("f.ndjson", number)) for number, line in enumerate(lines, 1)]
    assert [verdict.ok for verdict in verdicts] == [True, True, True, True, False, True]
    assert [(one.reference, one.first.line, one.again.line, one.same_content) for one in batch.duplicates] == [
        ("Patient/a", 1, 3, True),
        ("Patient/a", 1, 4, False),
    ]


def test_the_same_id_of_another_type_is_another_resource(validator: Validator) -> None:
    batch = Batch(validator)
    for number, kind in enumerate(("Patient", "Group")):
        more = {"type": "person", "actual": True} if kind == "Group" else {}
        line = orjson.dumps({"resourceType": kind, "id": "a", **more})
        assert batch.check(line, Place("f", number)).ok
    assert batch.duplicates == []


def test_dangling_references(validator: Validator) -> None:
    batch = Batch(validator, resolve=True)
    link = [
        {"other": {"reference": reference}, "type": "seealso"} for reference in ("Patient/b", "Patient/x", "Patient/y")
    ]
    batch.check(patient("a", link=link), Place("f", 1))
    batch.check(
        patient("c", link=[{"other": {"reference": "Patient/lost"}, "type": "seealso"}], gender="M"), Place("f", 2)
    )
    batch.check(
        patient("b", generalPractitioner=[{"reference": "urn:uuid:" + "1" * 8 + "-1111" * 3 + "-" + "1" * 12}]),
        Place("f", 3),
    )
    found = list(batch.dangling(known=lambda reference: reference == "Patient/y"))
    assert [(one.reference, one.first.line) for one in found] == [("Patient/x", 1)]
