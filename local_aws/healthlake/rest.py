"""FHIR REST of a data store: read, search, create, update, delete.

Belongs here: from a request to an answer. Does not belong here: parameters of a search (`search.py`), rules of a
resource (`validate.py`), HTTP itself (`local_aws/app.py`).

Developer guide, "Managing FHIR resources"; R4, "RESTful API".
"""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode

from local_aws.healthlake.events import iso
from local_aws.healthlake.outcomes import Answer, FhirError, answer, refusal
from local_aws.healthlake.search import Search
from local_aws.healthlake.terms import NAMES
from local_aws.healthlake.types import NEVER_CHANGED, NOT_OVER_REST, TYPES
from local_aws.healthlake.validate import Refused, read
from local_aws.protocol.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from local_aws.faults import Faults
    from local_aws.healthlake.datastores import Datastores
    from local_aws.healthlake.resources import Resources, Version
    from local_aws.healthlake.service import Trail
    from local_aws.healthlake.shared import Shared
    from local_aws.limits import Limits

log = logging.getLogger(__name__)

PATH = re.compile(r"/datastore/([0-9a-f]{32})/r4(?:/(.*))?", re.DOTALL)
LEVEL = "x-amzn-healthlake-fhir-validation-level"
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
CREATED = 201


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        datastore_id: Data store of the path.
        method: Method.
        parts: Segments of the path behind `r4/`.
        pairs: Parameters of the query, or of the form of a `_search`.
        headers: Headers, by lower-case name.
        body: Body.
    """

    datastore_id: str
    method: str
    parts: tuple[str, ...]
    pairs: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes


class Rest:
    """Answers requests of FHIR REST."""

    def __init__(
        self,
        shared: Shared,
        datastores: Datastores,
        resources: Resources,
        limits: Limits,
        faults: Faults,
        trail: Trail,
    ) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._events = shared.events
        self._datastores = datastores
        self._resources = resources
        self._search = Search(shared)
        self._limits = limits
        self._faults = faults
        self._trail = trail

    def handle(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, int, dict[str, str], bytes]:
        """Answer one request. Returns operation name, status, headers and body."""
        name = ""
        try:
            request = _parsed(method, path, query, headers, body)
            name, act = self._route(request)
            self._admit(name, f"{method} {path}?{query}".encode() + body)
            out = act(request)
            self._trouble(name, "after")
        except FhirError as error:
            return name, *refusal(error)
        except ServiceError as error:
            status = 404 if error.code == "ResourceNotFoundException" else 400
            return name, *refusal(FhirError(status, "not-found" if status == 404 else "value", error.message))  # noqa: PLR2004
        except Exception:
            log.exception("%s broke", name)
            return name, *refusal(FhirError(500, "exception", "Internal server error"))
        return name, *out

    def _admit(self, name: str, identity: bytes) -> None:
        """Let a call in.

        Raises:
            FhirError: It comes too soon, or a fault says no.
        """
        if self._faults.throttled("healthlake", name, identity) or not self._limits.allow(name):
            raise FhirError(429, "throttled", "Rate exceeded")
        self._trouble(name, "before")

    def _trouble(self, name: str, when: str) -> None:
        fault = self._faults.failing(name, when)
        if fault:
            raise FhirError(fault.status, "exception", fault.text)

    def _route(self, request: Request) -> tuple[str, Callable[[Request], Answer]]:
        """Name of the operation and who answers.

        Raises:
            FhirError: There is none.
        """
        match (request.method, *request.parts):
            case ("GET", "metadata"):
                return "GetCapabilities", self._capabilities
            case ("POST", kind, "_search") if _known(kind):
                return "SearchWithPost", self._find
            case (method, kind) if _known(kind) and method in {"GET", "POST"}:
                return ("SearchWithGet", self._find) if method == "GET" else ("CreateResource", self._create)
            case ("GET", kind, name, "_history") if _known(kind, name):
                return "GetHistory", self._history
            case ("GET", kind, name, "_history", version) if _known(kind, name) and version.isdigit():
                return "VersionReadResource", self._read
            case (method, kind, name) if _known(kind, name) and method in {"GET", "PUT", "DELETE"}:
                return {
                    "GET": ("ReadResource", self._read),
                    "PUT": ("UpdateResource", self._update),
                    "DELETE": ("DeleteResource", self._delete),
                }[method]
        raise FhirError(400, "not-supported", "No operation of HealthLake that is emulated has this method and path.")

    # -- read -----------------------------------------------------------------------------------------------------

    def _opened(self, request: Request) -> int:
        """Number of the data store."""
        return int(self._datastores.active(request.datastore_id)["number"])

    def _capabilities(self, request: Request) -> Answer:
        row = self._datastores.active(request.datastore_id)
        parameters = [{"name": name, "type": "token"} for name in ("_id", "_lastUpdated", *sorted(NAMES))]
        interactions = [{"code": code} for code in ("create", "read", "vread", "update", "delete", "search-type")]
        types = [
            {"type": kind, "interaction": interactions, "versioning": "versioned", "searchParam": parameters}
            for kind in sorted(TYPES - NOT_OVER_REST)
        ]
        statement = {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": iso(row["created"]),
            "kind": "instance",
            "implementation": {"description": "Emulated HealthLake", "url": self._base(request)},
            "fhirVersion": "4.0.1",
            "format": ["json"],
            "rest": [{"mode": "server", "resource": types}],
        }
        return answer(200, statement)

    def _read(self, request: Request) -> Answer:
        kind, name, *rest = request.parts
        version = int(rest[1][:9]) if rest else None
        found = self._resources.get(self._opened(request), kind, name, version)
        if found is None:
            raise FhirError(404, "not-found", "The resource does not exist.")
        if found.deleted:
            raise FhirError(410, "deleted", "The resource was deleted.")
        if request.headers.get("if-none-match") == f'W/"{found.version}"':
            return answer(304, b"", ETag=f'W/"{found.version}"')
        return _told(200, found)

    def _history(self, request: Request) -> Answer:
        kind, name, _ = request.parts
        found = self._resources.history(self._opened(request), kind, name)
        if not found:
            raise FhirError(404, "not-found", "The resource does not exist.")
        entries = [self._entry(request, version) for version in found if not version.deleted]
        return answer(200, _bundle("history", entries, len(found), []))

    def _find(self, request: Request) -> Answer:
        kind = request.parts[0]
        page = self._search.run(self._opened(request), kind, request.pairs)
        entries = [self._entry(request, version, "match") for version in page.matches]
        entries += [self._entry(request, version, "include") for version in page.included]
        links = [{"relation": "self", "url": self._link(request, kind, request.pairs)}]
        if page.following:
            pairs = [p for p in request.pairs if p[0] != "page"]
            if not any(name == "_count" for name, _ in pairs):
                pairs.append(("_count", str(self._settings.fhir_page_size)))
            links.append({"relation": "next", "url": self._link(request, kind, [*pairs, ("page", page.following)])})
        return answer(200, _bundle("searchset", entries, page.total, links))

    def _base(self, request: Request) -> str:
        return self._events.endpoint(request.datastore_id)

    def _link(self, request: Request, kind: str, pairs: list[tuple[str, str]]) -> str:
        return f"{self._base(request)}{kind}?{urlencode(pairs)}".rstrip("?")

    def _entry(self, request: Request, version: Version, mode: str = "") -> bytes:
        url = f"{self._base(request)}{version.type}/{version.id}".encode()
        search = b',"search":{"mode":"%s"}' % mode.encode() if mode else b""
        return b'{"fullUrl":"%s","resource":%s%s}' % (url, version.json(), search)

    # -- write ----------------------------------------------------------------------------------------------------

    def _resource(self, request: Request, kind: str) -> dict[str, Any]:
        """The resource of a body.

        Raises:
            FhirError: It is none, or of another type.
        """
        if kind in NOT_OVER_REST:
            raise FhirError(400, "not-supported", f"{kind} is not written over REST.")
        if len(request.body) > self._settings.fhir_max_rest_bytes:
            raise FhirError(413, "too-long", "The resource is larger than the limit.")
        level = request.headers.get(LEVEL, "strict")
        found = read(request.body, level, needs_id=request.method == "PUT")
        if isinstance(found, Refused):
            raise FhirError(400, "invalid", found.diagnostics)
        if found.type != kind:
            raise FhirError(400, "invalid", "resourceType is not the type of the path.")
        return found.body

    def _create(self, request: Request) -> Answer:
        [kind] = request.parts
        body = self._resource(request, kind) | {"id": str(uuid.uuid4())}
        with self._store.transaction():
            _, version = self._resources.put(self._opened(request), kind, body["id"], body)
        return self._wrote("CreateResource", request, CREATED, version)

    def _update(self, request: Request) -> Answer:
        kind, name = request.parts
        if kind in NEVER_CHANGED:
            raise FhirError(400, "not-supported", f"{kind} is created and read only.")
        body = self._resource(request, kind)
        if body["id"] != name:
            raise FhirError(400, "invalid", "id is not that of the path.")
        with self._store.transaction():
            store = self._opened(request)
            there = self._resources.get(store, kind, name)
            live = there if there is not None and not there.deleted else None
            wanted = request.headers.get("if-match")
            if wanted is not None and (live is None or wanted != f'W/"{live.version}"'):
                raise FhirError(412, "conflict", "The resource has another version.")
            if request.headers.get("if-none-match") == "*" and live is not None:
                raise FhirError(412, "conflict", "The resource exists.")
            status, version = self._resources.put(store, kind, name, body)
        return self._wrote("UpdateResource", request, status, version)

    def _wrote(self, operation: str, request: Request, status: int, version: Version) -> Answer:
        self._trail.resource(operation, request.datastore_id, version.type, version.id, status)
        more = {"Location": f"{self._base(request)}{version.type}/{version.id}/_history/{version.version}"}
        return _told(status, version, **(more if status == CREATED else {}))

    def _delete(self, request: Request) -> Answer:
        kind, name = request.parts
        if kind in NEVER_CHANGED:
            raise FhirError(400, "not-supported", f"{kind} is created and read only.")
        with self._store.transaction():
            found = self._resources.delete(self._opened(request), kind, name)
        if found is None:
            raise FhirError(404, "not-found", "The resource does not exist.")
        if found.deleted:
            raise FhirError(410, "deleted", "The resource was deleted.")
        self._trail.resource("DeleteResource", request.datastore_id, kind, name, 204)
        return answer(204, b"")


def _parsed(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Request:
    found = PATH.fullmatch(path)
    if not found:
        raise FhirError(404, "not-found", "The path is not /datastore/ID/r4/...")
    parts = tuple(unquote(part) for part in (found[2] or "").split("/") if part)
    text = query
    if method == "POST" and parts[-1:] == ("_search",):
        text = "&".join(part for part in (query, body.decode("latin-1")) if part)
    return Request(found[1], method, parts, parse_qsl(text, keep_blank_values=True), headers, body)


def _known(kind: str, name: str | None = None) -> bool:
    """Whether a path names a type, and may name a resource.

    Raises:
        FhirError: The type is none, or the id cannot be one.
    """
    if kind not in TYPES:
        raise FhirError(404, "not-found", "HealthLake has no resources of this type.")
    if name is not None and not _ID.fullmatch(name):
        raise FhirError(400, "value", "The id is not one.")
    return True


def _told(status: int, version: Version, **more: str) -> Answer:
    changed = formatdate(version.updated, usegmt=True)
    return answer(status, version.json(), ETag=f'W/"{version.version}"', Last_Modified=changed, **more)


def _bundle(kind: str, entries: list[bytes], total: int | None, links: list[dict[str, str]]) -> bytes:
    """A Bundle around resources that are bytes already."""
    import orjson

    head: dict[str, Any] = {"resourceType": "Bundle", "type": kind, "link": links}
    if total is not None:
        head["total"] = total
    return orjson.dumps(head)[:-1] + b',"entry":[' + b",".join(entries) + b"]}"
