"""The control API for tests and drills, on the same loopback port under `/_local_aws/`.

Belongs here: its paths. Does not belong here: what a fault does (`faults.py`).
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from local_aws.faults import FaultError, HoldJobs

if TYPE_CHECKING:
    from local_aws.app import CallLog
    from local_aws.faults import Faults
    from local_aws.healthimaging.limits import Limits

Answer = tuple[int, dict[str, str], bytes]


def _json(status: int, value: Any) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


class Control:
    """`faults` (GET, POST, DELETE), `log` (GET, DELETE), `release`, `rate-limits`, `save` and `reset` (POST)."""

    def __init__(self, faults: Faults, log: CallLog, limits: Limits) -> None:
        self._faults = faults
        self._log = log
        self._limits = limits

    async def handle(self, method: str, path: str, query: bytes, body: bytes) -> Answer:  # noqa: ARG002
        """Answer one request."""
        parts = path.removeprefix("/_local_aws/").strip("/").split("/")
        try:
            request = json.loads(body) if body else {}
            return await asyncio.to_thread(self._act, method, parts, request)
        except (FaultError, ValueError, TypeError, KeyError) as error:
            return _json(400, {"message": str(error)})

    def _act(self, method: str, parts: list[str], request: Any) -> Answer:
        match (method, *parts):
            case ("GET", "faults"):
                return _json(200, {"faults": self._faults.listing()})
            case ("POST", "faults"):
                return _json(200, {"id": self._faults.add(request)})
            case ("DELETE", "faults"):
                self._faults.remove()
            case ("DELETE", "faults", name):
                self._faults.remove(name)
            case ("GET", "log"):
                return _json(200, {"calls": self._log.read()})
            case ("DELETE", "log"):
                self._log.clear()
            case ("POST", "release"):
                for fault in self._faults.listing():
                    if fault["kind"] == HoldJobs.kind:
                        self._faults.remove(fault["id"])
            case ("POST", "rate-limits"):
                self._limits.enabled = bool(request["enabled"])
            case ("POST", "reset"):
                self._faults.remove()
                self._log.clear()
            case ("GET", "health"):
                pass
            case _:
                return _json(404, {"message": f"{self.__class__.__doc__}"})
        return _json(200, {})
