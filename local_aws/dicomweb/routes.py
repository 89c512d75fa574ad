"""The DICOMweb endpoint: from a request to an answer.

Belongs here: paths, who may call, rates and faults of calls, and the table of resources. Does not belong here: what a
resource answers (`search.py`, `retrieve.py`, `stow.py`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from local_aws.asgi import read_body, respond
from local_aws.dicomweb import access
from local_aws.dicomweb.errors import DicomWebError, bad_request, not_found
from local_aws.dicomweb.json_model import join
from local_aws.dicomweb.media import JSON
from local_aws.dicomweb.query import check_image_set_id, pairs, parse
from local_aws.dicomweb.retrieve import check_json
from local_aws.fault_kinds import LoseResponse
from local_aws.protocol.errors import ServiceError

if TYPE_CHECKING:
    from local_aws.asgi import Receive, Scope, Send
    from local_aws.dicomweb.errors import Answer
    from local_aws.dicomweb.index import Index
    from local_aws.dicomweb.retrieve import Retrieval
    from local_aws.dicomweb.search import Search
    from local_aws.dicomweb.stow import Storing
    from local_aws.faults import Faults
    from local_aws.healthimaging.datastores import Datastores
    from local_aws.limits import Limits
    from local_aws.settings import LocalSettings

log = logging.getLogger(__name__)

HOST = "dicom-medical-imaging."
_OURS = re.compile(r"/datastore/([^/]*)/(?:studies|series|instances)(?:/.*)?", re.DOTALL)
_ID = re.compile(r"[0-9a-z]{32}")
_STUDY, _SERIES = "/studies/(?P<StudyInstanceUID>[^/]+)", "/series/(?P<SeriesInstanceUID>[^/]+)"
_INSTANCE = f"{_STUDY}{_SERIES}/instances/(?P<SOPInstanceUID>[^/]+)"


@dataclass(frozen=True)
class Route:
    """One resource: method, path, the operation it is called by, what answers it."""

    method: str
    path: re.Pattern[str]
    operation: str
    kind: str


def _route(method: str, path: str, operation: str, kind: str) -> Route:
    return Route(method, re.compile(path), operation, kind)


ROUTES = (
    _route("GET", "/studies", "SearchDICOMStudies", "study"),
    _route("GET", f"{_STUDY}/series", "SearchDICOMSeries", "series"),
    _route("GET", "/series", "SearchDICOMAllSeries", "series"),
    _route("GET", f"{_STUDY}{_SERIES}/instances", "SearchDICOMInstances", "instance"),
    _route("GET", f"{_STUDY}/instances", "SearchDICOMStudyInstances", "instance"),
    _route("GET", "/instances", "SearchDICOMAllInstances", "instance"),
    _route("GET", f"{_STUDY}{_SERIES}/metadata", "GetDICOMSeriesMetadata", "metadata"),
    _route("GET", f"{_INSTANCE}/metadata", "GetDICOMInstanceMetadata", "metadata"),
    _route("GET", _INSTANCE, "GetDICOMInstance", "object"),
    _route("GET", f"{_INSTANCE}/frames/(?P<FrameList>[^/]+)", "GetDICOMInstanceFrames", "frames"),
    _route("GET", f"{_INSTANCE}/bulkdata/(?P<BulkData>[^/]+)", "GetDICOMBulkdata", "bulkdata"),
    _route("POST", "/studies", "StoreDICOM", "store"),
    _route("POST", _STUDY, "StoreDICOMStudy", "store"),
)
# Of errors that come from the native service or from a fault.
STATUSES = {
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "NotAcceptableException": 406,
    "ConflictException": 409,
    "ThrottlingException": 429,
    "InternalServerException": 500,
}
_UID = re.compile(r"[0-9.]{1,256}")
# Stores that work at a time; the rest wait.
STORES = 4


@dataclass(frozen=True)
class Request:
    """One request, its body read."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    server: str = ""

    @property
    def base(self) -> str:
        """URL of the data store, as the client sees it."""
        found = _OURS.fullmatch(self.path)
        return f"{self.server}/datastore/{found[1] if found else ''}"


class DicomWeb:
    """Answers DICOMweb requests."""

    def __init__(
        self,
        settings: LocalSettings,
        datastores: Datastores,
        index: Index,
        search: Search,
        retrieval: Retrieval,
        storing: Storing,
        limits: Limits,
        faults: Faults,
    ) -> None:
        self._settings = settings
        self._datastores = datastores
        self._index = index
        self._search = search
        self._retrieval = retrieval
        self._storing = storing
        self._limits = limits
        self._faults = faults
        # Their own: a store may wait for a locked image set, and no other request shall wait for that.
        self._stores = ThreadPoolExecutor(max_workers=STORES, thread_name_prefix="store")

    def close(self) -> None:
        """Close the index."""
        self._stores.shutdown()
        self._index.close()

    @staticmethod
    def takes(scope: Scope) -> bool:
        """Whether a request of HealthImaging is DICOMweb's: by its host, or by its path."""
        host = next((v for k, v in scope["headers"] if k == b"host"), b"").decode("latin-1")
        return host.startswith(HOST) or _OURS.fullmatch(scope["path"]) is not None

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, int, int]:
        """Answer one request.

        Returns:
            Operation, status and size of the body, for the log of calls.
        """
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        query = scope.get("query_string", b"").decode("utf-8", "replace")  # some clients leave names unencoded
        raw_path = (scope.get("raw_path") or scope["path"].encode()).split(b"?")[0].decode("latin-1")
        most = self._settings.max_stow_bytes
        declared = headers.get("content-length", "")
        too_long = declared.isdecimal() and int(declared) > most
        body = None if too_long else await read_body(receive, most)
        request = Request(scope["method"], raw_path, query, headers, body or b"", _server(scope, headers))
        if body is None:
            text = f"A request stores up to {most} bytes."
            operation, found = "StoreDICOM", DicomWebError(413, "PayloadTooLargeException", text).answer()
        else:
            loop, threads = asyncio.get_running_loop(), self._stores if request.method == "POST" else None
            operation, found = await loop.run_in_executor(threads, self.handle, request)
        status, answer_headers, content = found
        answer_headers = answer_headers | access.cors(self._settings, headers)
        await respond(send, status, answer_headers, content, head=request.method == "HEAD")
        return operation, status, len(content)

    def handle(self, request: Request) -> tuple[str, Answer]:
        """Operation and answer of a request; a wrong one gets an error in JSON, never an exception."""
        operation = ""
        try:
            if request.method == "OPTIONS":
                return "Preflight", (204, {"Allow": access.METHODS}, b"")
            route, path = _match(request)
            operation = route.operation
            return operation, self._checked(route, path, request)
        except DicomWebError as error:
            return operation, error.answer()
        except ServiceError as error:
            return operation, DicomWebError(STATUSES.get(error.code, 400), error.code, error.message).answer()
        except Exception:
            log.exception("%s broke", operation)
            return operation, _broken().answer()

    def _checked(self, route: Route, path: dict[str, str], request: Request) -> Answer:
        # A body may be a gigabyte; its beginning tells one request from another.
        identity = f"{request.method} {request.path}?{request.query}".encode() + request.body[:65536]
        throttled = self._faults.throttled("medical-imaging", route.operation, identity)
        if throttled or not self._limits.allow(route.operation):
            raise DicomWebError(429, "ThrottlingException", "Rate exceeded")
        self._trouble(route, "before")
        found = _OURS.fullmatch(request.path)
        datastore_id = found[1] if found else ""
        datastore = self._datastores.row(datastore_id)
        if datastore["status"] != "ACTIVE":
            raise not_found(f"Data store {datastore_id} is not active.")
        access.check(self._settings, datastore, request.headers, request.query)
        answer = self._act(route, datastore_id, path, request)
        if self._faults.take(LoseResponse, lambda fault: fault.matches(route.operation)):
            raise _broken()
        self._trouble(route, "after")
        return answer

    def _trouble(self, route: Route, when: str) -> None:
        """Fail a call that is to fail."""
        fault = self._faults.failing(route.operation, when)
        if fault:
            raise DicomWebError(fault.status, fault.error, fault.text)

    def _act(self, route: Route, datastore_id: str, path: dict[str, str], request: Request) -> Answer:
        accept = request.headers.get("accept", "")
        if route.kind in {"study", "series", "instance"}:
            return self._found(route.kind, datastore_id, path, request)
        if route.kind == "store":
            check_json(accept)
            uid = path.get("StudyInstanceUID", "")
            return self._storing.store(datastore_id, uid, request.headers, request.body, request.base)
        image_set_id = dict(pairs(request.query)).get("imageSetId", "")
        if image_set_id:
            check_image_set_id(image_set_id)
        if route.kind == "metadata":
            return self._retrieval.metadata(datastore_id, path, image_set_id, accept, request.base)
        actions = {
            "object": self._retrieval.instance,
            "frames": self._retrieval.frames,
            "bulkdata": self._retrieval.bulk_data,
        }
        return actions[route.kind](datastore_id, path, image_set_id, accept)

    def _found(self, level: str, datastore_id: str, path: dict[str, str], request: Request) -> Answer:
        check_json(request.headers.get("accept", ""))
        query = parse(level, request.query, ignore_unknown=self._settings.dicomweb_unknown_keys == "ignore")
        results = self._search.find(level, datastore_id, path, query, request.base)
        headers = {"Content-Type": JSON}
        if query.ignored:
            # The wording of PS3.18, 8.3.4.
            headers["Warning"] = (
                f'299 {request.headers.get("host", "")}: "These keys are not supported: {_listed(query.ignored)}"'
            )
        if not results and self._settings.dicomweb_empty_status == 204:  # noqa: PLR2004
            return 204, headers, b""
        return 200, headers, join(results)


def _server(scope: Scope, headers: dict[str, str]) -> str:
    """Scheme, host and port under which the client reached us."""
    host = headers.get("host", "")
    if host in {"", "localhost", "127.0.0.1"}:  # dicomweb-client leaves the port out
        host = f"{host or '127.0.0.1'}:{scope['server'][1]}"
    return f"{scope.get('scheme', 'http')}://{host}"


def _listed(keys: list[str]) -> str:
    return ", ".join(re.sub(r"[^A-Za-z0-9.]", "", k)[:64] for k in keys[:20])


def _broken() -> DicomWebError:
    return DicomWebError(500, "InternalServerException", "Internal server error")


def _match(request: Request) -> tuple[Route, dict[str, str]]:
    """The resource of a request, and the parameters of its path.

    Raises:
        DicomWebError: There is none, not with this method, or a UID is none.
    """
    ours = _OURS.fullmatch(request.path)
    if not ours:
        raise not_found("DICOMweb resources are under /datastore/{datastoreId}/studies, /series and /instances.")
    if not _ID.fullmatch(ours[1]):
        raise bad_request("The id of a data store is 32 digits and lower case letters.")
    path = request.path.split("/", 3)[3].rstrip("/")
    method = "GET" if request.method == "HEAD" else request.method
    found = [(r, m) for r in ROUTES if (m := r.path.fullmatch(f"/{path}"))]
    if not found:
        raise not_found("HealthImaging has no such DICOMweb resource. See 'Using DICOMweb with AWS HealthImaging'.")
    for route, match in found:
        if route.method == method:
            values = {k: unquote(v) for k, v in match.groupdict().items()}
            for name, value in values.items():
                if name.endswith("UID") and not _UID.fullmatch(value):
                    raise bad_request(f"{name} must be a UID.")
            return route, values
    raise DicomWebError(405, "MethodNotAllowedException", f"Allowed here: {', '.join(r.method for r, _ in found)}.")
