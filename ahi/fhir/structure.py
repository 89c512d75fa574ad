"""Structure of resources: names, cardinality, types, choices, extensions, contained resources, bindings, references.

Belongs here: turning the table of elements into checks, one for each type. Does not belong here: lines and JSON
(`validate`), one object (`objects`), values of primitive types (`primitives`), forms of references (`references`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ahi.fhir.findings import Code, Finding
from ahi.fhir.objects import NOT_AN_OBJECT, bound, list_of, object_check, or_null
from ahi.fhir.primitives import Check, code_check, primitive_checks
from ahi.fhir.references import References

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.fhir.definitions import Definitions, Element

_HAS_CODES = frozenset({"CodeableConcept", "Coding"})


class Structure:
    """Checks of every type of resource, compiled when a type is first met. Not for two threads at a time."""

    def __init__(self, definitions: Definitions) -> None:
        self.references = References(definitions.resources)
        self._definitions = definitions
        self._primitives = frozenset(definitions.primitives)
        self._resources: dict[str, Check] = {}
        self._checks = primitive_checks(definitions) | {"Resource": Check(self._good_inner, self._explain_inner)}

    def check(self, resource: Mapping[str, Any], *, empty_texts: bool = True) -> list[Finding]:
        """What is wrong with the structure of a resource, whose type must be known.

        Args:
            resource: The resource.
            empty_texts: Whether there may be an empty text somewhere in it; without any, it is quickly judged.
        """
        kind = resource["resourceType"]
        check = self._resources.get(kind) or self._resource(kind)
        local = self.references.local
        local.clear()
        found: list[Finding] = []
        if empty_texts or not _is_good(check, resource):
            local.clear()
            found = check.explain(resource) or []
        if local or "contained" in resource:
            found = [*found, *_contained(resource.get("contained"), local)]
        return [finding._replace(path=f"{kind}{finding.path}") for finding in found]

    def _resource(self, kind: str) -> Check:
        # Whoever comes here has looked at the type.
        check = self._object(kind, {"resourceType": Check(bool, lambda _: None)})
        self._resources[kind] = check
        return check

    def _inner(self, value: Any) -> Check | None:
        kind = value.get("resourceType")
        if type(kind) is not str or kind not in self._definitions.resources:
            return None
        return self._resources.get(kind) or self._resource(kind)

    def _good_inner(self, value: Any) -> bool:
        check = self._inner(value)
        return check is not None and bool(check.good(value))

    def _explain_inner(self, value: Any) -> list[Finding] | None:
        """A resource inside another: contained, or an entry of a Bundle or of Parameters."""
        if type(value) is not dict:
            return NOT_AN_OBJECT
        check = self._inner(value)
        if check is None:
            return [Finding(Code.RESOURCE_TYPE, "", "must have the resourceType of an R4 resource")]
        return check.explain(value)

    def _of(self, name: str) -> Check:
        """Check of a type by its name in the table."""
        if name in self._checks:
            return self._checks[name]
        if name.startswith("Reference"):
            targets = frozenset(name[len("Reference(") : -1].split("|")) if "(" in name else None
            self._checks[name] = self._object("Reference", {"reference": self.references.check(targets)})
        else:
            # A type may hold itself, as Extension does: until it is compiled, calls go through this.
            self._checks[name] = _later(self._checks, name)
            self._checks[name] = self._object(name, {})
        return self._checks[name]

    def _member(self, element: Element, kind: str) -> Check:
        check = self._of(kind)
        codes = self._definitions.value_sets.get(element.value_set or "")
        if codes is not None:
            if kind == "code":
                check = code_check(frozenset().union(*codes.values()))
            elif kind in _HAS_CODES:
                check = bound(check, codes, kind)
        return list_of(check) if element.repeats else check

    def _object(self, name: str, given: Mapping[str, Check]) -> Check:
        """Check of an object. `given` holds checks of members that are not those of the table."""
        members: dict[str, Check] = {}
        required: list[str] = []
        choices: list[tuple[frozenset[str], bool]] = []
        for element in self._definitions.elements(name):
            names = {_name(element, kind): kind for kind in element.types}
            for key, kind in names.items():
                members[key] = self._member(element, kind)
                if kind in self._primitives:
                    others = self._of("Element")
                    members[f"_{key}"] = list_of(or_null(others)) if element.repeats else others
            if element.name.endswith("[x]"):
                choices.append((frozenset(names), element.required))
            elif element.required:
                required += names
        members.update(given)
        return object_check(members, tuple(required), tuple(choices), is_extension=name == "Extension")


def _later(checks: Mapping[str, Check], name: str) -> Check:
    """A check that is looked up when it is called."""

    def good(value: Any) -> object:
        return checks[name].good(value)

    def explain(value: Any) -> list[Finding] | None:
        return checks[name].explain(value)

    return Check(good, explain)


def _is_good(check: Check, value: Any) -> bool:
    try:
        return bool(check.good(value))
    except (TypeError, AttributeError):
        return False  # A value of another type, which the quick tests do not look for.


def _name(element: Element, kind: str) -> str:
    if not element.name.endswith("[x]"):
        return element.name
    kind = kind.partition("(")[0]
    return f"{element.name[:-3]}{kind[0].upper()}{kind[1:]}"


def _contained(contained: Any, local: list[str]) -> list[Finding]:
    """Rules of contained resources, and references to them (R4 "Contained Resources")."""
    found = []
    resources = [one for one in contained if isinstance(one, dict)] if isinstance(contained, list) else []
    for at, one in enumerate(resources):
        if not isinstance(one.get("id"), str):
            found.append(Finding(Code.CONTAINED, f".contained[{at}].id", "is required"))
        if "contained" in one:
            found.append(Finding(Code.CONTAINED, f".contained[{at}].contained", "must not be there"))
    ids = {one.get("id") for one in resources if isinstance(one.get("id"), str)}
    if any(name and name not in ids for name in local):
        found.append(Finding(Code.REFERENCE, "", "refers to a contained resource that is not there"))
    return found
