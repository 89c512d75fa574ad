"""The HealthImaging endpoint: from a request to an answer.

Belongs here: routing, validation, limits, faults of calls, and the table of operations. Does not belong here: what an
operation does (`datastores.py`, `jobs.py`, `image_sets.py`, `updates.py`).
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from local_aws.endpoint import Endpoint
from local_aws.protocol import restjson
from local_aws.protocol.errors import ServiceError, render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.endpoint import Operation
    from local_aws.faults import Faults
    from local_aws.limits import Limits

log = logging.getLogger(__name__)

Answer = tuple[str, int, dict[str, str], bytes]


class HealthImaging:
    """Answers requests by the service model and a table of operations."""

    def __init__(self, operations: Mapping[str, Operation], limits: Limits, faults: Faults, page_size: int) -> None:
        self._endpoint = Endpoint("medical-imaging", operations, limits, faults)
        self._model = self._endpoint.model
        self._router = restjson.Router(self._model)
        self._page_size = page_size

    def handle(self, method: str, raw_path: str, query: str, body: bytes, accept: str = "") -> Answer:
        """Answer one request.

        Returns:
            Operation name, status, headers and body.
        """
        name, status, headers, answer = self._handle(method, raw_path, query, body)
        if status == HTTPStatus.OK and "NotAcceptableException" in self._endpoint.errors(name):
            kind = headers["Content-Type"]
            if not acceptable(accept, kind):
                text = f"The answer is {kind}, which the Accept header does not allow."
                status, headers, answer = render(self._model, ServiceError("NotAcceptableException", text))
        return name, status, headers, answer

    def _handle(self, method: str, raw_path: str, query: str, body: bytes) -> Answer:
        found = self._router.match(method, raw_path)
        if found is None:
            others = self._router.methods(raw_path)
            text = "No operation of medical-imaging has this method and path."
            status, headers, answer = render(
                self._model, ServiceError("UnknownOperationException", text, 405 if others else 404)
            )
            return "", status, headers | ({"Allow": ", ".join(others)} if others else {}), answer
        operation, path = found
        try:
            return operation.name, *self._answer(operation, path, query, body, f"{method} {raw_path}?{query}")
        except ServiceError as error:
            return operation.name, *render(self._model, error)
        except Exception:
            log.exception("%s broke", operation.name)
            return operation.name, *render(
                self._model, ServiceError("InternalServerException", "Internal server error")
            )

    def _request(self, operation: Any, path: dict[str, str], query: str, body: bytes) -> dict[str, Any]:
        """Members of a request.

        Raises:
            ServiceError: ValidationException, BadRequestException.
        """
        try:
            request = restjson.parse(operation, path, query, body)
        except ServiceError as error:
            if "BadRequestException" in self._endpoint.errors(operation.name):
                raise ServiceError("BadRequestException", error.message) from error
            raise
        members = operation.input_shape.members if operation.input_shape is not None else {}
        return request if "maxResults" not in members else {"maxResults": self._page_size} | request

    def _answer(
        self, operation: Any, path: dict[str, str], query: str, body: bytes, line: str
    ) -> tuple[int, dict[str, str], bytes]:
        output = self._endpoint.perform(
            operation, line.encode() + body, lambda: self._request(operation, path, query, body)
        )
        return restjson.serialize(operation, output)


def acceptable(accept: str, kind: str) -> bool:
    """Whether an Accept header allows a content type. Octets are always right, and so is no header."""
    ranges = {part.split(";")[0].strip().lower() for part in accept.split(",")} - {""}
    if not ranges:
        return True
    fitting = {"*/*", "application/octet-stream", kind.lower(), f"{kind.lower().partition('/')[0]}/*"}
    return bool(ranges & fitting)
