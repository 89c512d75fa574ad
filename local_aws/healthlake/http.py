"""HealthLake over HTTP: the control plane at `/`, FHIR REST at `/datastore/ID/r4/`.

Belongs here: bodies and headers. Does not belong here: any answer itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from local_aws.asgi import read_body, respond
from local_aws.fault_kinds import CutAnswers
from local_aws.healthlake.outcomes import FhirError, refusal
from local_aws.healthlake.rest import PATH
from local_aws.protocol.awsjson import refused

if TYPE_CHECKING:
    from local_aws.asgi import Receive, Scope, Send
    from local_aws.faults import Faults
    from local_aws.healthlake.rest import Rest
    from local_aws.healthlake.service import HealthLake

# More than the largest resource over REST, so that it is the service that refuses one.
LONGEST_BODY = 16 * 2**20
UNSIGNED = FhirError(401, "login", "Missing Authentication Token")
TOO_LONG = FhirError(413, "too-long", "The request body is too long.")


class LakeHttp:
    """Answers the requests that are for HealthLake."""

    def __init__(self, service: HealthLake, rest: Rest, faults: Faults) -> None:
        self._service = service
        self._rest = rest
        self._faults = faults

    def takes(self, scope: Scope, service: str) -> bool:
        """Whether a request is for HealthLake: by what signed it, or else by its path."""
        return service == "healthlake" or (not service and PATH.fullmatch(scope["path"]) is not None)

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, *, signed: bool, why: str
    ) -> tuple[str, int, int]:
        """Answer a request.

        Args:
            scope: Of ASGI.
            receive: Of ASGI.
            send: Of ASGI.
            signed: Whether it is signed.
            why: Why it is refused; empty when it is not.

        Returns:
            Operation, status and bytes sent.
        """
        body = await read_body(receive, LONGEST_BODY)
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        name = ""
        if PATH.fullmatch(scope["path"]):
            if not signed or why or body is None:
                error = UNSIGNED if not signed else FhirError(403, "forbidden", why) if why else TOO_LONG
                status, out, text = refusal(error)
            else:
                raw = (scope.get("raw_path") or scope["path"].encode()).split(b"?")[0].decode("latin-1")
                query = scope.get("query_string", b"").decode("latin-1")
                name, status, out, text = await asyncio.to_thread(
                    self._rest.handle, scope["method"], raw, query, headers, body
                )
        elif why or body is None:
            code, said = ("AccessDeniedException", why) if why else ("RequestEntityTooLargeException", "Too long.")
            status, out, text = refused(code, said, 403 if why else 413)
        else:
            target = headers.get("x-amz-target", "")
            name, status, out, text = await asyncio.to_thread(self._service.handle, target, body)
        cut = self._faults.take(CutAnswers, lambda fault: fault.matches(name))
        await respond(send, status, out, text, kept=cut.kept if cut else None)
        return name, status, len(text)
