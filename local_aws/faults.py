"""Trouble on demand: the faults that are set, added over the control API while the server runs.

Belongs here: what strikes now. Does not belong here: which faults there are (`fault_kinds.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from local_aws.fault_base import Fault
from local_aws.fault_kinds import FailCall, KillServer, Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound=Fault)
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Faults:
    """The faults that are set. Safe from several threads."""

    _set: dict[str, Fault] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: int = 1
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, fault: Fault) -> str:
        """Set a fault. Returns its id."""
        with self._lock:
            name = f"{fault.kind}-{self._next}"
            self._next += 1
            self._set[name] = fault
        self._notify()
        return name

    def remove(self, name: str | None = None) -> None:
        """Remove one fault, or all of them and their counters."""
        with self._lock:
            if name is None:
                self._set.clear()
                self._calls.clear()
            else:
                self._set.pop(name, None)
        self._notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def listing(self) -> list[dict[str, Any]]:
        """What is set, in JSON form."""
        with self._lock:
            return [{"id": name, "kind": fault.kind, **asdict(fault)} for name, fault in self._set.items()]

    def take(self, cls: type[F], matches: Callable[[F], bool] | None = None) -> F | None:
        """The first fault of a kind that still strikes; spends one strike of it."""
        with self._lock:
            for fault in self._set.values():
                if isinstance(fault, cls) and (matches is None or matches(fault)) and fault.spend():
                    return fault
        return None

    def active(self, cls: type[F], matches: Callable[[F], bool] | None = None) -> bool:
        """Whether a fault of this kind is set."""
        with self._lock:
            return any(isinstance(f, cls) and (matches is None or matches(f)) for f in self._set.values())

    def reach(self, point: str) -> None:
        """An import came to a point of its work; a fault may end the process there."""
        if not self._set:
            return
        with self._lock:
            for name, fault in self._set.items():
                if isinstance(fault, KillServer) and fault.point == point:
                    self._calls[name] += 1
                    if self._calls[name] > fault.after:
                        os.kill(os.getpid(), signal.SIGKILL)

    def failing(self, operation: str, when: str) -> FailCall | None:
        """The fault by which a call fails before or after its work, or None. Counts the call."""
        with self._lock:
            for name, fault in self._set.items():
                if not isinstance(fault, FailCall) or fault.when != when or not fnmatchcase(operation, fault.operation):
                    continue
                self._calls[name] += 1
                count = self._calls[name]
                drawn = random.Random(f"{fault.seed}/{count}").random() < fault.probability  # noqa: S311 -- no secret
                if count >= fault.n and drawn and fault.spend():
                    return fault
        return None

    def throttled(self, service: str, operation: str, identity: bytes) -> bool:
        """Whether a call is to be refused now. `identity` tells one request from another."""
        with self._lock:
            found = [(name, f) for name, f in self._set.items() if isinstance(f, Throttle) and f.service == service]
            for name, fault in found:
                if not fnmatchcase(operation, fault.operation):
                    continue
                if fault.every:
                    self._calls[name] += 1
                    if self._calls[name] % fault.every == 0 and fault.spend():
                        return True
                if fault.first:
                    key = f"{name}/{hashlib.blake2b(identity, digest_size=12).hexdigest()}"
                    self._calls[key] += 1
                    if self._calls[key] <= fault.first and fault.spend():
                        return True
        return False

    def refuse(self, service: str, operation: str, scope: dict[str, Any]) -> Answer | None:
        """The throttling answer for a call on S3 or SQS, or None."""
        if not self._set or service not in {"s3", "sqs"}:
            return None
        identity = f"{scope['method']} {scope['path']} ".encode() + scope.get("query_string", b"")
        if not self.throttled(service, operation, identity):
            return None
        if service == "s3":
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            return 503, {"Content-Type": "application/xml"}, body
        error = {"__type": "com.amazonaws.sqs#RequestThrottled", "message": "Rate exceeded"}
        headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-query-error": "RequestThrottled;Sender"}
        return 400, headers, json.dumps(error).encode()
