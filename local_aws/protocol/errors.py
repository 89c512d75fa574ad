"""Modelled errors of a service and their form on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from botocore.model import ServiceModel


class ServiceError(Exception):
    """A modelled error.

    Attributes:
        code: Shape name, such as `ConflictException`.
        message: Text for the caller.
        status: HTTP status of an error that stands in no model.
    """

    def __init__(self, code: str, message: str, status: int = 500) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def validation(message: str) -> ServiceError:
    """Bad input: 400."""
    return ServiceError("ValidationException", message)


def not_found(message: str) -> ServiceError:
    """Nothing of that name: 404."""
    return ServiceError("ResourceNotFoundException", message)


def conflict(message: str) -> ServiceError:
    """Not in this state: 409."""
    return ServiceError("ConflictException", message)


def render(model: ServiceModel, error: ServiceError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error.

    boto3 finds the error's class by the header; without it the code would be the bare status.
    """
    status = error.status
    if error.code in model.shape_names:
        status = int(model.shape_for(error.code).metadata.get("error", {}).get("httpStatusCode", 500))
    body = json.dumps({"message": error.message}).encode()
    return status, {"Content-Type": "application/json", "x-amzn-ErrorType": error.code}, body
