"""Route, parse and serialize rest-json requests by a botocore service model.

Belongs here: the wire. Does not belong here: what is allowed (`validate.py`) and what is answered.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from local_aws.protocol.errors import validation

if TYPE_CHECKING:
    from botocore.model import OperationModel, ServiceModel


def load_model(service: str) -> ServiceModel:
    """The model of a service as botocore ships it."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


class Router:
    """Finds the operation of a request. Matches the raw path: an encoded slash stays inside its segment."""

    def __init__(self, model: ServiceModel) -> None:
        self._routes: list[tuple[str, re.Pattern[str], OperationModel]] = []
        for name in model.operation_names:
            operation = model.operation_model(name)
            template = operation.http["requestUri"].split("?")[0]
            pattern = "".join(
                f"(?P<{part[1:-1].rstrip('+')}>{'.+' if part.endswith('+}') else '[^/]+'})"
                if part.startswith("{")
                else re.escape(part)
                for part in re.split(r"(\{[^}]+\})", template)
            )
            self._routes.append((operation.http["method"], re.compile(pattern), operation))

    def match(self, method: str, raw_path: str) -> tuple[OperationModel, dict[str, str]] | None:
        """Operation and decoded path parameters, or None."""
        for verb, pattern, operation in self._routes:
            found = pattern.fullmatch(raw_path) if verb == method else None
            if found:
                return operation, {k: unquote(v) for k, v in found.groupdict().items()}
        return None

    def methods(self, raw_path: str) -> list[str]:
        """Methods that some operation of this path takes."""
        return sorted({verb for verb, pattern, _ in self._routes if pattern.fullmatch(raw_path)})


def parse(operation: OperationModel, path: dict[str, str], query: str, body: bytes) -> dict[str, Any]:
    """Input members of a request.

    Raises:
        ServiceError: The body is not JSON, or a value has the wrong form.
    """
    shape = operation.input_shape
    if shape is None:
        return {}
    values = parse_qs(query, keep_blank_values=True)
    payload = shape.serialization.get("payload")
    document = None if payload and shape.members[payload].type_name == "blob" else load_json(body)
    in_body = [m for m in shape.members.values() if m.serialization.get("location") is None]
    if in_body and payload is None and document is not None and not isinstance(document, dict):
        raise validation("The request body is not a structure.")
    out: dict[str, Any] = {}
    for name, member in shape.members.items():
        wire = member.serialization.get("name", name)
        where = member.serialization.get("location")
        if where == "uri":
            out[name] = _scalar(member, path[wire], name)
        elif where == "querystring" and wire in values:
            out[name] = (
                values[wire] if member.type_name == "list" else _scalar(member, _single(values[wire], name), name)
            )
        elif where is None and name == payload:
            out[name] = body if member.type_name == "blob" else from_json(member, document, name)
        elif where is None and payload is None and isinstance(document, dict):
            out[name] = from_json(member, document.get(wire), name)
    return {name: value for name, value in out.items() if value is not None}


def load_json(body: bytes | str) -> Any:
    """A JSON text of a caller's; None when it is empty.

    Raises:
        ServiceError: It is no JSON, nests too deeply, or holds what JSON cannot (NaN, half a surrogate pair).
    """
    if not body:
        return None
    try:
        value = json.loads(body, parse_constant=_no_constant)
        # Half a surrogate pair can be written in JSON, but in no file and no database.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise validation("The request body is not JSON.") from error
    return value


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _single(found: list[str], name: str) -> str:
    if len(found) > 1:
        raise validation(f"Value at '{name}' is given more than once.")
    return found[0]


def _scalar(shape: Any, text: str, name: str) -> Any:
    if shape.type_name in {"integer", "long"}:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise validation(f"Value at '{name}' is not an integer.")
        return int(text)
    if shape.type_name == "boolean":
        if text.lower() not in {"true", "false"}:
            raise validation(f"Value at '{name}' is not a boolean.")
        return text.lower() == "true"
    return text


def from_json(shape: Any, value: Any, name: str) -> Any:  # noqa: C901, PLR0911 -- one branch a type
    """A value of a request as its shape has it.

    Raises:
        ServiceError: It has another form.
    """
    kind = shape.type_name
    if value is None:
        return None
    if kind == "structure":
        if not isinstance(value, dict):
            raise validation(f"Value at '{name}' is not a structure.")
        pairs = [
            (key, member, value.get(member.serialization.get("name", key))) for key, member in shape.members.items()
        ]
        return {key: from_json(member, found, f"{name}.{key}") for key, member, found in pairs if found is not None}
    if kind == "list":
        if not isinstance(value, list):
            raise validation(f"Value at '{name}' is not a list.")
        return [from_json(shape.member, item, f"{name}.{i}") for i, item in enumerate(value)]
    if kind == "map":
        if not isinstance(value, dict):
            raise validation(f"Value at '{name}' is not a map.")
        return {str(k): from_json(shape.value, v, f"{name}.{k}") for k, v in value.items()}
    if kind == "blob":
        try:
            return base64.b64decode(value, validate=True)
        except (ValueError, TypeError) as error:
            raise validation(f"Value at '{name}' is not base64.") from error
    if kind == "timestamp":
        return _timestamp(value, name)
    return value


def _timestamp(value: Any, name: str) -> datetime:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise validation(f"Value at '{name}' is not a timestamp.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def serialize(operation: OperationModel, output: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a success."""
    status = int(operation.http.get("responseCode", 200))
    headers = {"Content-Type": "application/json"}
    shape = operation.output_shape
    if shape is None:
        return status, headers, b"{}"
    payload = shape.serialization.get("payload")
    body: dict[str, Any] = {}
    raw: bytes | None = None
    for name, member in shape.members.items():
        if name not in output or output[name] is None:
            continue
        wire = member.serialization.get("name", name)
        if member.serialization.get("location") == "header":
            headers[wire] = str(output[name])
        elif name == payload and member.type_name == "blob":
            raw = output[name]
        elif name == payload:
            body = to_json(member, output[name])
        else:
            body[wire] = to_json(member, output[name])
    return status, headers, raw if raw is not None else json.dumps(body).encode()


def to_json(shape: Any, value: Any) -> Any:
    """A value of an answer as JSON has it."""
    kind = shape.type_name
    if kind == "structure":
        return {
            member.serialization.get("name", key): to_json(member, value[key])
            for key, member in shape.members.items()
            if value.get(key) is not None
        }
    if kind == "list":
        return [to_json(shape.member, item) for item in value]
    if kind == "map":
        return {k: to_json(shape.value, v) for k, v in value.items()}
    if kind == "blob":
        return base64.b64encode(value).decode()
    if kind == "timestamp":
        seconds = value.timestamp() if isinstance(value, datetime) else float(value)
        return round(seconds, 3)
    return value
