"""Judging NDJSON lines before HealthLake sees them. Belongs here: a verdict for each line.

Does not belong here: what spans lines (`batch`), the structure of resources (`structure`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ahi.fhir.definitions import load_definitions
from ahi.fhir.findings import Code, Finding
from ahi.fhir.healthlake import ACCEPTED_TYPES, REST_LIMIT_BYTES
from ahi.fhir.imaging_rules import imaging_warnings
from ahi.fhir.references import ID
from ahi.fhir.structure import Structure

if TYPE_CHECKING:
    from ahi.fhir.definitions import Definitions

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"
_WITHOUT_TRAPS = ACCEPTED_TYPES - {"Bundle", "ImagingStudy"}


class Verdict(NamedTuple):
    """What is to be done with one line.

    Attributes:
        ok: Whether it may be sent. A blank line may, and is no resource.
        kind: resourceType, when it is one of R4.
        id: Id of the resource, when it has a legal one. It may identify a person: keep it out of logs.
        problems: Why it must not be sent.
        warnings: What is legal in R4 and yet a trap.
    """

    ok: bool
    kind: str | None = None
    id: str | None = None
    problems: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()

    @property
    def is_blank(self) -> bool:
        """Whether the line holds nothing at all."""
        return self.ok and self.kind is None


BLANK = Verdict(ok=True)


def payload(line: bytes) -> bytes:
    """The line as it is to be sent: without a byte order mark and without its end."""
    return line.strip(_SPACE).removeprefix(BYTE_ORDER_MARK).strip(_SPACE)


class Validator:
    """Judges lines one by one against R4 (4.0.1). Not for two threads at a time.

    Args:
        definitions: The table of elements.
        require_id: HealthLake's import takes no resource without an id, R4 does.
    """

    def __init__(self, definitions: Definitions | None = None, *, require_id: bool = True) -> None:
        self._definitions = definitions or load_definitions()
        self._structure = Structure(self._definitions)
        self._require_id = require_id

    def check(self, line: bytes) -> Verdict:
        """Verdict on one line, with or without its line end."""
        body = line.strip(_SPACE)
        marked = body.startswith(BYTE_ORDER_MARK)
        if marked:
            body = body[len(BYTE_ORDER_MARK) :].strip(_SPACE)
        if not body:
            return BLANK
        try:
            resource = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            return _refused(Code.JSON, f"is not one JSON value; reading ended at character {error.pos}")
        if type(resource) is not dict:
            return _refused(Code.NOT_AN_OBJECT, "must be a JSON object")
        kind = resource.get("resourceType")
        if type(kind) is not str or kind not in self._definitions.resources:
            return _refused(Code.RESOURCE_TYPE, "must be the name of an R4 resource", ".resourceType")
        problems = self._problems(body, resource, kind)
        name = resource.get("id")
        known = name if type(name) is str and ID.fullmatch(name) else None
        warnings = _warnings(resource, kind, len(body))
        if marked:
            mark = Finding(Code.BYTE_ORDER_MARK, "", "begins with a byte order mark, which is left out")
            warnings = (mark, *warnings)
        return Verdict(not problems, kind, known, problems, warnings)

    def _problems(self, body: bytes, resource: dict[str, Any], kind: str) -> tuple[Finding, ...]:
        try:
            found = self._structure.check(resource, empty_texts=b'""' in body)
            repeats = repeats_a_key(body, resource)
        except (RecursionError, orjson.JSONEncodeError):
            # orjson reads deeper than it writes.
            return (Finding(Code.TOO_DEEP, "", "is nested too deeply"),)
        if self._require_id and "id" not in resource:
            found.append(Finding(Code.ID_MISSING, f"{kind}.id", "is required for an import"))
        if repeats:
            found.append(Finding(Code.DUPLICATE_KEY, "", "has the same name twice in one object"))
        return tuple(found)


def _refused(code: Code, text: str, path: str = "") -> Verdict:
    return Verdict(ok=False, problems=(Finding(code, path, text),))


def repeats_a_key(body: bytes, parsed: object) -> bool:
    """Whether an object in the JSON text has a name twice. orjson keeps the last one and says nothing.

    Writing what was read gives each name once. Equal texts therefore have no name twice, nor have texts with equally
    many names; only the rest is read again, by a slower reader that sees every name.
    """
    again = orjson.dumps(parsed)
    if again == body:
        return False
    # A name ends with a quote and a colon. Inside a text the quote is escaped, and then counts in both alike, unless
    # the escape or white space before the colon hides it.
    hidden = any(sign in body for sign in (b"\\u0022", b'" ', b'"\t', b'"\r', b'"\n'))
    if not hidden and body.count(b'":') == again.count(b'":'):
        return False
    try:
        json.loads(body, object_pairs_hook=_once)
    except _RepeatedError:
        return True
    return False


class _RepeatedError(Exception):
    """A name is there twice."""


def _once(pairs: list[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _RepeatedError


def _warnings(resource: dict[str, Any], kind: str, size: int) -> tuple[Finding, ...]:
    meta = resource.get("meta")
    claims = type(meta) is dict and "profile" in meta
    if kind in _WITHOUT_TRAPS and not claims and size <= REST_LIMIT_BYTES:
        return ()
    found = []
    if kind not in ACCEPTED_TYPES:
        found.append(Finding(Code.NOT_ACCEPTED, "", "is of a type that HealthLake does not list"))
    if kind == "Bundle":
        found.append(Finding(Code.BUNDLE, "", "is a Bundle; whether an import takes it apart is not documented"))
    if size > REST_LIMIT_BYTES:
        found.append(Finding(Code.LINE_SIZE, "", "is larger than HealthLake's REST interface takes (5 MB)"))
    if claims:
        text = "is claimed; a strict import checks the resource against it, this check does not"
        found.append(Finding(Code.PROFILE, f"{kind}.meta.profile", text))
    if kind == "ImagingStudy":
        found += imaging_warnings(resource)
    return tuple(found)
