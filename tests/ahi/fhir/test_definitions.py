"""The committed table is of R4, and is made from HL7's files alone."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from ahi.fhir.compile_definitions import compile_table, definitions
from ahi.fhir.definitions import TABLE, load_definitions
from ahi.fhir.healthlake import ACCEPTED_TYPES

BASE = "http://hl7.org/fhir/StructureDefinition/"


def test_the_table_says_what_it_is_and_whose() -> None:
    table = json.loads(TABLE.read_text())
    assert table["fhir_version"] == "4.0.1"
    assert table["licence"].startswith("CC0-1.0")
    assert "sha256:" in table["source"]


def test_the_table_has_every_resource_of_r4_and_none_of_r5() -> None:
    found = load_definitions()
    assert len(found.resources) == 146
    assert found.resources >= ACCEPTED_TYPES
    assert len(ACCEPTED_TYPES) == 106
    assert not found.resources & {"SubscriptionStatus", "ImagingSelection", "DomainResource", "Resource"}


def test_elements_come_with_those_of_their_base() -> None:
    found = load_definitions()
    study = {element.name: element for element in found.elements("ImagingStudy")}
    assert set(study) >= {"id", "meta", "contained", "extension", "identifier", "series"}
    assert study["subject"].required
    assert study["subject"].types == ("Reference(Device|Group|Patient)",)
    assert study["modality"].repeats
    assert {element.name for element in found.elements("Age")} >= {"id", "extension", "value"}
    assert found.value_sets[study["status"].value_set or ""]["http://hl7.org/fhir/imagingstudy-status"] == {
        "registered",
        "available",
        "cancelled",
        "entered-in-error",
        "unknown",
    }


def structure(name: str, *elements: dict[str, Any], kind: str = "resource") -> dict[str, Any]:
    return {
        "resourceType": "StructureDefinition",
        "url": f"{BASE}{name}",
        "type": name,
        "kind": kind,
        "fhirVersion": "4.0.1",
        "derivation": "specialization",
        "baseDefinition": f"{BASE}DomainResource",
        "snapshot": {"element": [{"path": name}, *elements]},
    }


def test_a_package_is_compiled_whatever_else_it_holds(tmp_path: Path) -> None:
    code = {"path": "Thing.state", "min": 1, "max": "1", "base": {"path": "Thing.state"}, "type": [{"code": "code"}]}
    code["binding"] = {"strength": "required", "valueSet": "http://v|4.0.1"}
    inherited = {"path": "Thing.id", "min": 0, "max": "1", "base": {"path": "Resource.id"}, "type": [{"code": "id"}]}
    resources = [
        structure("Thing", inherited, code),
        structure("Later") | {"fhirVersion": "4.3.0"},
        structure("Profile") | {"derivation": "constraint"},
        structure("Vendor") | {"url": "http://vendor/Vendor"},
        {"resourceType": "ValueSet", "url": "http://v", "compose": {"include": [{"system": "http://s"}]}},
        {
            "resourceType": "CodeSystem",
            "url": "http://s",
            "concept": [{"code": "a", "concept": [{"code": "a1"}]}, {"code": "b"}],
        },
    ]
    files = {
        "package/a.json": json.dumps({"resourceType": "Bundle", "entry": [{"resource": one} for one in resources[:4]]})
    }
    files |= {f"package/{at}.json": json.dumps(one) for at, one in enumerate(resources[4:])}
    files |= {"package/broken.json": "{", "package/list.json": "[]", "package/readme.md": "x"}
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    assert compile_table(list(definitions(tmp_path / "p.tgz"))) == {
        "primitives": {},
        "types": {"Thing": {"base": "DomainResource", "elements": [["state", 1, "1", ["code"], "http://v"]]}},
        "value_sets": {"http://v": {"http://s": ["a", "a1", "b"]}},
    }
