"""Parse and serialize awsJson 1.0 requests by a botocore service model.

Belongs here: the wire. Does not belong here: what is allowed (`validate.py`) and what is answered.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_aws.protocol.errors import ServiceError
from local_aws.protocol.restjson import from_json, load_json, to_json

if TYPE_CHECKING:
    from botocore.model import OperationModel, ServiceModel

CONTENT_TYPE = "application/x-amz-json-1.0"
BAD_REQUEST, SERVER_ERROR = 400, 500


def operation_of(model: ServiceModel, target: str) -> OperationModel:
    """The operation that the header X-Amz-Target names.

    Raises:
        ServiceError: UnknownOperationException.
    """
    prefix, _, name = target.partition(".")
    if prefix != model.metadata["targetPrefix"] or name not in model.operation_names:
        raise ServiceError("UnknownOperationException", "X-Amz-Target names no operation.", BAD_REQUEST)
    return model.operation_model(name)


def parse(operation: OperationModel, body: bytes) -> dict[str, Any]:
    """Input members of a request.

    Raises:
        ServiceError: The body is no JSON object, or a value has the wrong form.
    """
    try:
        document = load_json(body)
    except ServiceError as error:
        raise ServiceError("SerializationException", error.message, BAD_REQUEST) from error
    if not isinstance(document, dict):
        raise ServiceError("SerializationException", "The request body is not a structure.", BAD_REQUEST)
    shape = operation.input_shape
    return {} if shape is None else dict(from_json(shape, document, "") or {})


def serialize(operation: OperationModel, output: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a success."""
    shape = operation.output_shape
    body = {} if shape is None else to_json(shape, output)
    return 200, {"Content-Type": CONTENT_TYPE}, json.dumps(body).encode()


def render(model: ServiceModel, error: ServiceError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error."""
    status = error.status
    if error.code in model.shape_names:
        # The model of a service need not say which errors are the server's; this is the one that all call so.
        status = SERVER_ERROR if error.code == "InternalServerException" else BAD_REQUEST
    namespace = model.metadata["uid"].replace("-", ".", 1)
    body = json.dumps({"__type": f"com.amazonaws.{namespace}#{error.code}", "Message": error.message})
    return status, {"Content-Type": CONTENT_TYPE, "x-amzn-ErrorType": error.code}, body.encode()


def refused(code: str, text: str, status: int) -> tuple[int, dict[str, str], bytes]:
    """The answer to a request that does not reach the service."""
    return status, {"Content-Type": CONTENT_TYPE}, json.dumps({"__type": code, "Message": text}).encode()
