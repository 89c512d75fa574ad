"""References between resources. Belongs here: their forms, allowed targets, and a list of those that were met.

Does not belong here: whether a target exists (`batch`).
"""

from __future__ import annotations

import re
from typing import Any

from ahi.fhir.findings import Code, Finding
from ahi.fhir.primitives import Check

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_URN = re.compile(
    r"urn:uuid:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+", re.ASCII
)
# "Literal References" of R4 allow an absolute URL with any path before the type.
_ABSOLUTE = re.compile(r"https?://\S+", re.ASCII)
_TYPE_AND_ID = re.compile(r"(?:.*/)?([A-Z][A-Za-z]*)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?", re.ASCII)
_FORM = [Finding(Code.REFERENCE, "", "must be Type/id, #id, an absolute URL, urn:uuid: or urn:oid:")]


class References:
    """References of one resource, gathered while its structure is checked.

    Attributes:
        relative: Those of the form `Type/id`.
        local: Names of contained resources that are referred to.
    """

    def __init__(self, resources: frozenset[str]) -> None:
        self.relative: list[str] = []
        self.local: list[str] = []
        self._resources = resources

    def clear(self) -> None:
        """Begin the next resource."""
        self.relative.clear()
        self.local.clear()

    def check(self, targets: frozenset[str] | None) -> Check:
        """Check of `Reference.reference` whose target must be one of the types; None allows all."""
        allowed = targets or self._resources
        is_id, met = ID.fullmatch, self.relative.append
        text = f"must refer to one of: {', '.join(sorted(allowed))}" if targets else "must refer to a type of R4"
        wrong = [Finding(Code.REFERENCE, "", text)]

        def good(value: Any) -> bool:
            if type(value) is not str:
                return False
            kind, _, name = value.partition("/")
            if kind in allowed and is_id(name):
                met(value)
                return True
            return value != "" and self._other(value, allowed, wrong) is None

        def explain(value: Any) -> list[Finding] | None:
            if type(value) is not str:
                return [Finding(Code.TYPE, "", "must be a text")]
            if good(value):
                return None
            return self._other(value, allowed, wrong) if value else [Finding(Code.EMPTY, "", "must not be empty")]

        return Check(good, explain)

    def _other(self, reference: str, allowed: frozenset[str], wrong: list[Finding]) -> list[Finding] | None:
        if reference.startswith("#"):
            self.local.append(reference[1:])
            return None
        if _URN.fullmatch(reference):
            return None
        absolute = _ABSOLUTE.fullmatch(reference)
        found = _TYPE_AND_ID.fullmatch(reference)
        if found is None:
            return None if absolute else _FORM
        if found[1] not in self._resources:
            return None if absolute else wrong
        if not absolute and not reference.startswith(f"{found[1]}/"):
            return _FORM
        return None if found[1] in allowed else wrong
