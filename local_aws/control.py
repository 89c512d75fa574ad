"""The control API for tests and drills, on the same loopback port under `/_local_aws/`.

Belongs here: its paths. Does not belong here: what a fault does (`faults.py`).
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_aws import fault_forms
from local_aws.fault_base import FaultError
from local_aws.fault_kinds import HoldJobs, StuckJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from local_aws.asgi import CallLog
    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.limits import Limits
    from local_aws.settings import LocalSettings

# A hundred years; timestamps far beyond cannot be formatted.
LONGEST_ADVANCE = 100 * 365 * 86_400
Answer = tuple[int, dict[str, str], bytes]


def _json(status: int, value: Any) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _flag(request: Any, name: str) -> bool:
    value = request.get(name) if isinstance(request, dict) else None
    if not isinstance(value, bool):
        raise ValueError(f'The body is {{"{name}": true}} or {{"{name}": false}}.')  # noqa: TRY004 -- a 400
    return value


class Control:
    """`faults`, `log`, `clock`, `release`, `rate-limits` and `reset`: see docs/emulator.md."""

    def __init__(
        self, faults: Faults, log: CallLog, limits: Sequence[Limits], clock: Clock, settings: LocalSettings
    ) -> None:
        self._faults = faults
        self._log = log
        self._limits = limits
        self._clock = clock
        self._settings = settings
        # Its own: who removes a fault must not queue behind the calls that the fault holds.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="control")

    async def handle(self, method: str, path: str, body: bytes) -> Answer:
        """Answer one request."""
        parts = path.removeprefix("/_local_aws").strip("/").split("/")
        try:
            request = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            return _json(400, {"message": "The body is not JSON."})
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._act, method, parts, request)
        except (FaultError, ValueError) as error:
            return _json(400, {"message": str(error)})

    def _act(self, method: str, parts: list[str], request: Any) -> Answer:
        actions: dict[str, Callable[[], Any]] = {
            "GET ": lambda: self._about(actions),
            "GET faults": lambda: {"faults": self._faults.listing()},
            "POST faults": lambda: {"id": self._faults.add(fault_forms.make(request))},
            "DELETE faults": lambda: self._faults.remove(parts[1] if len(parts) > 1 else None),
            "GET log": lambda: {"calls": self._log.read()},
            "DELETE log": self._log.clear,
            "GET clock": self._time,
            "POST clock": lambda: self._advance(request),
            "POST release": self._release,
            "POST rate-limits": lambda: self._enable(on=_flag(request, "enabled")),
            "POST reset": self._reset,
        }
        action = actions.get(f"{method} {parts[0]}")
        if action is None:
            return _json(404, {"message": f"There is: {', '.join(actions)}."})
        return _json(200, action() or {})

    def _about(self, actions: Iterable[str]) -> dict[str, Any]:
        """What there is: calls, kinds of faults, settings in effect."""
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self._settings).items()}
        return {
            "calls": [a.replace(" ", " /_local_aws/") for a in actions],
            "faults": fault_forms.catalog(),
            "settings": settings,
            "clock": self._time(),
            "documentation": "docs/emulator.md",
        }

    def _time(self) -> dict[str, float]:
        """The time of the service, and how far it is ahead of the machine's."""
        return {"now": self._clock.now(), "offset": self._clock.offset}

    def _advance(self, request: Any) -> dict[str, float]:
        """Put the clock forward."""
        seconds = request.get("advance") if isinstance(request, dict) else None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_ADVANCE:
            raise ValueError(f'POST clock takes {{"advance": SECONDS}}, from 0 to {LONGEST_ADVANCE}.')
        self._clock.advance(seconds)
        return self._time()

    def _enable(self, *, on: bool) -> None:
        """Switch the call rates of all services."""
        for limits in self._limits:
            limits.enable(on=on)

    def _release(self) -> None:
        """Let held and stuck jobs go."""
        for fault in self._faults.listing():
            if fault["kind"] in {HoldJobs.kind, StuckJobs.kind}:
                self._faults.remove(fault["id"])

    def _reset(self) -> None:
        """No faults, no log, call rates as they are configured. The clock stays: it goes forward only."""
        self._faults.remove()
        for limits in self._limits:
            limits.restore()
        self._log.clear()
