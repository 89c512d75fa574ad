"""Rules of the mapping from their file: what they may say, and that each of them makes resources anew."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from ahi.errors import PermanentError
from ahi.fhir.rules import Rules
from ahi.healthlake.mapping import read_rules

RULES = """
default_patient_id_system = "https://site.example/mrn"
default_accession_system = "urn:oid:1.2.3"
placeholder_ids = ["test", "n/a"]
image_set_extension = "https://site.example/image-set"
most_instances = 100
linked_patients = "linked.csv"

[patient_id_systems]
"HOSPITAL A" = "https://a.example/mrn"

[accession_systems]
"1.2.840.1" = "https://a.example/accession"
"""


def test_a_file_of_rules(tmp_path):
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "linked.csv").write_text(f"patient_key,id\n{'a' * 64},emr-7\n")
    found = Rules("https://dicom.example", **read_rules(tmp_path / "rules.toml"))
    assert found.default_patient_id_system == "https://site.example/mrn"
    assert found.patient_id_systems == {"HOSPITAL A": "https://a.example/mrn"}
    assert found.accession_systems == {"1.2.840.1": "https://a.example/accession"}
    assert found.linked_patients == {"a" * 64: "emr-7"}
    assert {"TEST", "N/A", "", "ANONYMOUS"} <= found.placeholder_ids
    assert (found.default_accession_system, found.most_instances) == ("urn:oid:1.2.3", 100)


@pytest.mark.parametrize(
    "text",
    [
        *("patient_id_system = 'https://a.example'", "default_patient_id_system = 'MRN'", "patient_id_systems = 'x'"),
        *("default_accession_system = 'https://a b'", "placeholder_ids = 'ANON'", "most_instances = '9'", "= 1"),
        *("linked_patients = 'nowhere.csv'", "linked_patients = 'bad.csv'", "[accession_systems]\nA = 'MRN'"),
    ],
)
def test_what_is_wrong_with_it_is_named(tmp_path, text):
    (tmp_path / "bad.csv").write_text("patient_key,id\nk,Jane Doe\n")
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(PermanentError, match=r"rules\.toml") as error:
        read_rules(tmp_path / "rules.toml")
    assert "Jane" not in str(error.value)


CHANGES = {
    "dicomweb_root": "https://other.example",
    "time_zone": dt.UTC,
    "patient_id_systems": {"A": "urn:oid:1.2"},
    "default_patient_id_system": "urn:oid:1.2",
    "accession_systems": {"A": "urn:oid:1.2"},
    "default_accession_system": "urn:oid:1.2",
    "placeholder_ids": frozenset({"X"}),
    "linked_patients": {"a": "b"},
    "image_set_extension": "urn:oid:1.2",
    "most_instances": 7,
}


def test_every_rule_counts_but_the_secret_tells_nothing():
    plain = Rules("https://dicom.example")
    assert {one.name for one in dataclasses.fields(Rules)} == {*CHANGES, "secret"}
    digests = {dataclasses.replace(plain, **{name: value}).digest for name, value in CHANGES.items()}
    assert len({*digests, plain.digest}) == len(CHANGES) + 1
    assert dataclasses.replace(plain, secret=b"x").digest == plain.digest
