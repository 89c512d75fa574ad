"""The control API for tests and drills, on the same loopback port under `/_local_aws/`.

Belongs here: its paths. Does not belong here: what a fault does (`faults.py`).
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from local_aws.faults import FaultError, HoldJobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_aws.app import CallLog
    from local_aws.faults import Faults
    from local_aws.healthimaging.limits import Limits

Answer = tuple[int, dict[str, str], bytes]


def _json(status: int, value: Any) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


class Control:
    """`faults` (GET, POST, DELETE), `log` (GET, DELETE), `release`, `rate-limits` and `reset` (POST)."""

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
        actions: dict[str, Callable[[], Any]] = {
            "GET faults": lambda: {"faults": self._faults.listing()},
            "POST faults": lambda: {"id": self._faults.add(request)},
            "DELETE faults": lambda: self._faults.remove(parts[1] if len(parts) > 1 else None),
            "GET log": lambda: {"calls": self._log.read()},
            "DELETE log": self._log.clear,
            "POST release": self._release,
            "POST rate-limits": lambda: self._limits.enable(on=bool(request["enabled"])),
            "POST reset": self._reset,
        }
        action = actions.get(f"{method} {parts[0]}")
        if action is None:
            return _json(404, {"message": f"There is: {', '.join(actions)}."})
        return _json(200, action() or {})

    def _release(self) -> None:
        """Let held jobs go."""
        for fault in self._faults.listing():
            if fault["kind"] == HoldJobs.kind:
                self._faults.remove(fault["id"])

    def _reset(self) -> None:
        """No faults, no log."""
        self._faults.remove()
        self._log.clear()
