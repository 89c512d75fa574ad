"""What every call of an emulated service goes through: rates, faults, validation by the model, the operation.

Belongs here: what is the same whatever the protocol. Does not belong here: the wire (`protocol/`), what an operation
does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import LoseResponse
from local_aws.protocol.errors import ServiceError, validation
from local_aws.protocol.restjson import load_model
from local_aws.protocol.validate import problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.model import OperationModel, ServiceModel

    from local_aws.faults import Faults
    from local_aws.limits import Limits

Operation = Callable[[dict[str, Any]], dict[str, Any]]


class Endpoint:
    """The operations of one service."""

    def __init__(self, service: str, operations: Mapping[str, Operation], limits: Limits, faults: Faults) -> None:
        """Say which.

        Args:
            service: Name of the service in botocore and in faults.
            operations: What answers, by name of the operation; the rest of the model is not emulated.
            limits: Call rates.
            faults: What is to go wrong.
        """
        self._service = service
        self._operations = operations
        self._limits = limits
        self._faults = faults

    @cached_property
    def model(self) -> ServiceModel:
        """The service model, which is read when the first call comes."""
        return load_model(self._service)

    def errors(self, name: str) -> set[str]:
        """Names of the errors that the model gives an operation."""
        return {shape.name for shape in self.model.operation_model(name).error_shapes}

    def perform(
        self, operation: OperationModel, identity: bytes, parse: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Members of the answer of a call.

        Args:
            operation: The operation.
            identity: What tells this request from others.
            parse: Gives the members of the request as they came.

        Raises:
            ServiceError: What the caller gets instead.
        """
        name = operation.name
        if self._faults.throttled(self._service, name, identity) or not self._limits.allow(name):
            raise ServiceError("ThrottlingException", "Rate exceeded")
        self._trouble(name, "before")
        request = parse()
        check(operation.input_shape, request)
        if name not in self._operations:
            raise ServiceError("UnsupportedOperationException", f"{name} is not emulated.", 501)
        output = self._operations[name](request)
        if operation.output_shape is not None:
            wrong = list(problems(operation.output_shape, {k: v for k, v in output.items() if v is not None}))
            if wrong:
                raise RuntimeError(f"own answer is invalid: {wrong[:3]}")
        if self._faults.take(LoseResponse, lambda fault: fault.matches(name)):
            raise ServiceError("InternalServerException", "Internal server error")
        self._trouble(name, "after")
        return output

    def _trouble(self, name: str, when: str) -> None:
        """Fail a call that is to fail.

        Raises:
            ServiceError: What the fault says.
        """
        fault = self._faults.failing(name, when)
        if fault:
            raise ServiceError(fault.error, fault.text, fault.status)


def check(shape: Any, request: dict[str, Any]) -> None:
    """Refuse a request that is wrong in form.

    Raises:
        ServiceError: ValidationException, with all that is wrong.
    """
    wrong = list(problems(shape, request)) if shape is not None else []
    if wrong:
        count = len(wrong)
        raise validation(f"{count} validation error{'s' * (count > 1)} detected: {'; '.join(wrong)}"[:1024])
