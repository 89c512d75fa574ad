"""References between resources. Belongs here: their forms, allowed targets, and a list of those in a text.

Does not belong here: whether a target exists (`batch`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ahi.fhir.findings import Code, Finding
from ahi.fhir.primitives import Check, Known

if TYPE_CHECKING:
    from collections.abc import Callable

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_URN = re.compile(
    r"urn:uuid:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+", re.ASCII
)
# "Literal References" of R4 allow an absolute URL with any path before the type.
_ABSOLUTE = re.compile(r"https?://\S+", re.ASCII)
_TYPE_AND_ID = re.compile(r"(?:.*/)?([A-Z][A-Za-z]*)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?", re.ASCII)
_FORM = [Finding(Code.REFERENCE, "", "must be Type/id, #id, an absolute URL, urn:uuid: or urn:oid:")]


_RELATIVE = re.compile(rb'"reference"\s*:\s*"([A-Z][A-Za-z]*/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]+)?"')


def relative_references(body: bytes) -> list[str]:
    """References of the form `Type/id` in the JSON text of a resource that is good, without their versions."""
    return [found.decode() for found in _RELATIVE.findall(body)]


class _Met(Known):
    """References that were good once; those to contained resources are noted each time, as their target may differ."""

    def __init__(self, good: Callable[[Any], object], local: list[str]) -> None:
        super().__init__(good)
        self._local = local

    def __missing__(self, value: Any) -> bool:
        if value.startswith("#"):
            self._local.append(value[1:])
            return True
        return super().__missing__(value)


class References:
    """Forms of references.

    Attributes:
        local: Names of contained resources to which the resource that is being checked refers.
    """

    def __init__(self, resources: frozenset[str]) -> None:
        self.local: list[str] = []
        self._resources = resources

    def check(self, targets: frozenset[str] | None) -> Check:
        """Check of `Reference.reference` whose target must be one of the types; None allows all."""
        allowed = targets or self._resources
        is_id = ID.fullmatch
        text = f"must refer to one of: {', '.join(sorted(allowed))}" if targets else "must refer to a type of R4"
        wrong = [Finding(Code.REFERENCE, "", text)]

        def good(value: Any) -> bool:
            kind, _, name = value.partition("/")
            return kind in allowed and is_id(name) is not None

        def explain(value: Any) -> list[Finding] | None:
            if type(value) is not str:
                return [Finding(Code.TYPE, "", "must be a text")]
            if not value:
                return [Finding(Code.EMPTY, "", "must not be empty")]
            return None if good(value) else self._other(value, allowed, wrong)

        return Check(_Met(good, self.local).__getitem__, explain)

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
