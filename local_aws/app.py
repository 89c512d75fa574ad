"""The one ASGI application: HealthImaging, HealthLake, missing SQS actions and the control API beside ministack.

Belongs here: choosing who answers a request. Does not belong here: any answer itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any

from local_aws.asgi import read_body, respond
from local_aws.fault_kinds import CutAnswers
from local_aws.ministack_bridge import account_of
from local_aws.s3_gaps import ranged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.asgi import CallLog, Receive, Scope, Send
    from local_aws.control import Control
    from local_aws.dicomweb.routes import DicomWeb
    from local_aws.faults import Faults
    from local_aws.healthimaging.service import HealthImaging
    from local_aws.healthlake.http import LakeHttp
    from local_aws.settings import LocalSettings
    from local_aws.sqs_gaps import SqsGaps

_CREDENTIAL = re.compile(rb"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
_PRESIGNED = re.compile(rb"X-Amz-Credential=([^%&]+)%2F\d{8}%2F([^%&]+)%2F([^%&]+)%2Faws4_request")
_IMAGING_HOST = re.compile(rb"(runtime-|dicom-)?medical-imaging\.")
_IMAGING_PATH = re.compile(r"/datastore(/.*)?|/(start|get|list)DICOMImportJobs?/.*", re.DOTALL)
# Virtual hosts of buckets.
_BUCKET_HOST = re.compile(rb".*\.s3[.-]")
CONTROL = "/_local_aws/"
# The longest request of the model is some hundred kilobytes of copiableAttributes.
LONGEST_BODY = 8 * 2**20


def _error(code: str, message: str) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/json", "x-amzn-ErrorType": code}, json.dumps({"message": message}).encode()


UNSIGNED = _error("MissingAuthenticationTokenException", "Missing Authentication Token")
TOO_LONG = _error("RequestEntityTooLargeException", f"The request body is longer than {LONGEST_BODY} bytes.")


def _scope_of(scope: Scope) -> tuple[str, str, str]:
    """Account, region and service that signed a request; empty strings when it is not signed."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            found = _CREDENTIAL.search(value)
            if found:
                return found[1].decode(), found[2].decode(), found[3].decode()
    found = _PRESIGNED.search(scope.get("query_string", b""))
    return (found[1].decode(), found[2].decode(), found[3].decode()) if found else ("", "", "")


def _for_imaging(scope: Scope) -> bool:
    """Whether a request that nobody signed is one of HealthImaging: by its host name, or by its path."""
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"")
    if _IMAGING_HOST.match(host):
        return True
    if _BUCKET_HOST.match(host) or not _IMAGING_PATH.fullmatch(scope["path"]):
        return False
    # Signature version 2 and forms of S3 name no service; a bucket may be called like our path.
    form = headers.get(b"content-type", b"").startswith(b"multipart/form-data") and scope["path"].count("/") == 1
    old = b"AWSAccessKeyId=" in scope.get("query_string", b"")
    return not (form or old or headers.get(b"authorization", b"").startswith(b"AWS "))


def _elsewhere(settings: LocalSettings, access_key: str, region: str) -> str:
    """Why a signed call of ours is refused: it is for another account or region. Empty when it is not."""
    account = account_of(access_key)
    if account != settings.account:
        return (
            f"The call is signed for account {account}; there is one account here, {settings.account}. "
            "Sign with that as the access key, or start the server with LOCAL_AWS_ACCOUNT."
        )
    if region != settings.region:
        return (
            f"The call is signed for region {region}; there is one region here, {settings.region}. "
            "Use that region, or start the server with LOCAL_AWS_REGION."
        )
    return ""


def _operation(scope: Scope, service: str) -> str:
    """A name for a call that is not ours: the target header, or the method."""
    for name, value in scope["headers"]:
        if name == b"x-amz-target":
            return str(value.decode().rpartition(".")[2])
    if service == "s3":
        query = scope.get("query_string", b"")
        kind = "Bucket" if scope["path"].strip("/").count("/") == 0 else "Object"
        if scope["method"] == "GET" and kind == "Bucket" and (b"list-type" in query or b"prefix" in query):
            return "ListObjectsV2"
        copied = any(name == b"x-amz-copy-source" for name, _ in scope["headers"])
        return "CopyObject" if copied else f"{str(scope['method']).title()}{kind}"
    return str(scope["method"])


class LocalAws:
    """The application. Its parts are attached once the event loop runs (`local_aws.server`)."""

    def __init__(self, ministack: Any, log: CallLog, settings: LocalSettings) -> None:
        self.ministack = ministack
        self.settings = settings
        self.log = log
        self.health_imaging: HealthImaging | None = None
        self.health_lake: LakeHttp | None = None
        self.dicom_web: DicomWeb | None = None
        self.control: Control | None = None
        self.sqs_gaps: SqsGaps | None = None
        self.faults: Faults | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self.ministack(scope, receive, send)
            return
        if f"{scope['path']}/".startswith(CONTROL) and self.control:
            body = await read_body(receive, LONGEST_BODY) or b""
            await respond(send, *await self.control.handle(scope["method"], scope["path"], body))
            return
        account, region, service = _scope_of(scope)
        started = time.time()
        source = "inside" if scope["client"] and scope["client"][1] == 0 else "outside"
        if await self._ours(scope, receive, send, (account, region, service), source):
            return
        operation = _operation(scope, service)
        if source == "outside" and self.faults and (refusal := self.faults.refuse(service, operation, scope)):
            await read_body(receive)
            await respond(send, *refusal)
            self.log.add(service, operation, started, refusal[0], len(refusal[2]), source)
            return
        if service == "sqs" and self.sqs_gaps and self.sqs_gaps.handles(operation):
            body = await read_body(receive) or b""
            status, headers, answer = await self.sqs_gaps.handle(operation, body, account, region)
            await respond(send, status, headers, answer)
            self.log.add(service, operation, started, status, len(answer), source)
            return
        await self._pass_on(scope, receive, send, (service, operation, started, source))

    async def _ours(self, scope: Scope, receive: Receive, send: Send, by: tuple[str, str, str], source: str) -> bool:
        """Answer a request that is for HealthImaging or HealthLake. False when it is not."""
        account, region, service = by
        started = time.time()
        if self.health_lake and self.health_lake.takes(scope, service):
            why = _elsewhere(self.settings, account, region) if service else ""
            name, status, size = await self.health_lake.answer(scope, receive, send, signed=bool(service), why=why)
            self.log.add("healthlake", name, started, status, size, source)
            return True
        ours = service == "medical-imaging" or (not service and _for_imaging(scope))
        dicom_web = self.dicom_web if ours and self.dicom_web and self.dicom_web.takes(scope) else None
        if dicom_web or (ours and service and self.health_imaging):
            if service and (why := _elsewhere(self.settings, account, region)):
                await read_body(receive, LONGEST_BODY)
                name, status, (headers, text) = "", 403, _error("AccessDeniedException", why)
                size = len(text)
                await respond(send, status, headers, text)
            elif dicom_web:
                name, status, size = await dicom_web.answer(scope, receive, send)
            else:
                name, status, size = await self._imaging(scope, receive, send)
            self.log.add("medical-imaging", name, started, status, size, source)
        elif ours:
            await read_body(receive, LONGEST_BODY)
            await respond(send, 403, *UNSIGNED)
        return ours

    async def _imaging(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, int, int]:
        """Answer a call of HealthImaging. Returns operation, status and bytes sent."""
        assert self.health_imaging is not None
        body = await read_body(receive, LONGEST_BODY)
        if body is None:
            await respond(send, 413, *TOO_LONG)
            return "", 413, 0
        raw_path = (scope.get("raw_path") or scope["path"].encode()).split(b"?")[0].decode("latin-1")
        query = scope.get("query_string", b"").decode("latin-1")
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        name, status, headers, answer = await asyncio.to_thread(
            self.health_imaging.handle, scope["method"], raw_path, query, body, accept
        )
        cut = self.faults.take(CutAnswers, lambda fault: fault.matches(name)) if self.faults else None
        await respond(send, status, headers, answer, kept=cut.kept if cut else None)
        return name, status, len(answer)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, call: tuple[str, str, float, str]) -> None:
        status = 500
        size = 0

        async def counted(message: Mapping[str, Any]) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.ministack(scope, receive, ranged(scope, counted))
        finally:
            service, operation, started, source = call
            self.log.add(service, operation, started, status, size, source)
