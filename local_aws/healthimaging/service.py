"""The HealthImaging endpoint: from a request to an answer.

Belongs here: routing, validation, limits, faults of calls, and the table of operations. Does not belong here: what an
operation does (`datastores.py`, `jobs.py`, `image_sets.py`, `updates.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import LoseResponse
from local_aws.protocol import restjson
from local_aws.protocol.errors import ServiceError, render, validation
from local_aws.protocol.validate import problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.faults import Faults
    from local_aws.healthimaging.limits import Limits

log = logging.getLogger(__name__)

Operation = Callable[[dict[str, Any]], dict[str, Any]]
Answer = tuple[str, int, dict[str, str], bytes]


class HealthImaging:
    """Answers requests by the service model and a table of operations."""

    def __init__(self, operations: Mapping[str, Operation], limits: Limits, faults: Faults, page_size: int) -> None:
        self._model = restjson.load_model("medical-imaging")
        self._router = restjson.Router(self._model)
        self._operations = operations
        self._limits = limits
        self._faults = faults
        self._page_size = page_size

    def handle(self, method: str, raw_path: str, query: str, body: bytes, accept: str = "") -> Answer:
        """Answer one request.

        Returns:
            Operation name, status, headers and body.
        """
        name, status, headers, answer = self._handle(method, raw_path, query, body)
        if status == HTTPStatus.OK and "NotAcceptableException" in self._errors(name):
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

    def _errors(self, name: str) -> set[str]:
        """Names of the errors that the model gives an operation."""
        return {shape.name for shape in self._model.operation_model(name).error_shapes}

    def _trouble(self, name: str, when: str) -> None:
        """Fail a call that is to fail.

        Raises:
            ServiceError: What the fault says.
        """
        fault = self._faults.failing(name, when)
        if fault:
            raise ServiceError(fault.error, fault.text, fault.status)

    def _request(self, operation: Any, path: dict[str, str], query: str, body: bytes) -> dict[str, Any]:
        """Members of a request that is right in form.

        Raises:
            ServiceError: ValidationException, BadRequestException.
        """
        try:
            request = restjson.parse(operation, path, query, body)
        except ServiceError as error:
            if "BadRequestException" in self._errors(operation.name):
                raise ServiceError("BadRequestException", error.message) from error
            raise
        shape = operation.input_shape
        wrong = list(problems(shape, request)) if shape is not None else []
        if wrong:
            count = len(wrong)
            raise validation(f"{count} validation error{'s' * (count > 1)} detected: {'; '.join(wrong)}"[:1024])
        if shape is not None and "maxResults" in shape.members:
            request.setdefault("maxResults", self._page_size)
        return request

    def _answer(
        self, operation: Any, path: dict[str, str], query: str, body: bytes, line: str
    ) -> tuple[int, dict[str, str], bytes]:
        name = operation.name
        throttled = self._faults.throttled("medical-imaging", name, line.encode() + body)
        if throttled or not self._limits.allow(name):
            raise ServiceError("ThrottlingException", "Rate exceeded")
        self._trouble(name, "before")
        request = self._request(operation, path, query, body)
        output = self._operations[name](request)
        if operation.output_shape is not None:
            wrong = list(problems(operation.output_shape, {k: v for k, v in output.items() if v is not None}))
            if wrong:
                raise RuntimeError(f"own answer is invalid: {wrong[:3]}")
        if self._faults.take(LoseResponse, lambda fault: fault.matches(name)):
            raise ServiceError("InternalServerException", "Internal server error")
        self._trouble(name, "after")
        return restjson.serialize(operation, output)


def acceptable(accept: str, kind: str) -> bool:
    """Whether an Accept header allows a content type. Octets are always right, and so is no header."""
    ranges = {part.split(";")[0].strip().lower() for part in accept.split(",")} - {""}
    if not ranges:
        return True
    fitting = {"*/*", "application/octet-stream", kind.lower(), f"{kind.lower().partition('/')[0]}/*"}
    return bool(ranges & fitting)
