"""The HealthLake endpoint: from a request of the control plane to an answer.

Belongs here: routing and the table of operations. Does not belong here: what an operation does (`datastores.py`,
`jobs.py`), FHIR REST (`rest.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from local_aws.endpoint import Endpoint
from local_aws.protocol import awsjson
from local_aws.protocol.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.endpoint import Operation
    from local_aws.faults import Faults
    from local_aws.healthlake.events import Events
    from local_aws.limits import Limits
    from local_aws.outbox import Outbox
    from local_aws.state import State

log = logging.getLogger(__name__)

Answer = tuple[str, int, dict[str, str], bytes]
CHANGING = ("Create", "Update", "Delete", "Start", "Tag", "Untag")


class Trail:
    """Tells of calls as CloudTrail would, when there is a trail."""

    def __init__(self, store: State, events: Events, outbox: Outbox, which: str) -> None:
        self._store = store
        self._events = events
        self._outbox = outbox
        self._which = which

    def call(self, name: str, request: dict[str, Any], output: dict[str, Any]) -> None:
        """A call of the control plane that changed something."""
        if self._which == "all" and name.startswith(CHANGING):
            parameters = {key[:1].lower() + key[1:]: value for key, value in request.items() if isinstance(value, str)}
            more = {key[:1].lower() + key[1:]: value for key, value in output.items() if isinstance(value, str)}
            self._tell(name, parameters, 200, more)

    def resource(self, name: str, datastore_id: str, kind: str, resource_id: str, status: int) -> None:
        """A create, update or delete over FHIR REST."""
        if self._which != "none":
            parameters = {"datastoreId": datastore_id, "resourceType": kind}
            self._tell(name, parameters, status, {"resourceId": resource_id})

    def _tell(self, name: str, parameters: dict[str, Any], status: int, more: dict[str, Any]) -> None:
        self._store.add_to_outbox([self._events.api_entry(name, parameters, status, more)])
        self._outbox.send()


class HealthLake:
    """Answers requests by the service model and a table of operations."""

    def __init__(self, operations: Mapping[str, Operation], limits: Limits, faults: Faults, trail: Trail) -> None:
        self._endpoint = Endpoint("healthlake", operations, limits, faults)
        self._trail = trail

    def handle(self, target: str, body: bytes) -> Answer:
        """Answer one request.

        Args:
            target: Value of the header X-Amz-Target.
            body: The body.

        Returns:
            Operation name, status, headers and body.
        """
        model, name = self._endpoint.model, ""
        try:
            operation = awsjson.operation_of(model, target)
            name = operation.name
            asked: dict[str, Any] = {}

            def parse() -> dict[str, Any]:
                asked.update(awsjson.parse(operation, body))
                return dict(asked)

            output = self._endpoint.perform(operation, target.encode() + body, parse)
            self._trail.call(name, asked, output)
            return name, *awsjson.serialize(operation, output)
        except ServiceError as error:
            return name, *awsjson.render(model, error)
        except Exception:
            log.exception("%s broke", name)
            broken = ServiceError("InternalServerException", "Internal server error")
            return name, *awsjson.render(model, broken)
