"""What faults have in common: how often they strike, what they strike, the refusal of values that cannot be.

Belongs here: the bases of all kinds. Does not belong here: a kind (`fault_kinds.py`, `fault_kinds_lake.py`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from local_aws.fault_names import DETAIL_TYPES, OPERATIONS, SERVICES


class FaultError(Exception):
    """A fault was asked for that does not exist or cannot be; the text says what can."""


def known(operation: str) -> None:
    """Refuse a name that no operation has: the fault would never strike."""
    if not any(fnmatchcase(name, operation) for name in OPERATIONS):
        raise FaultError(f"No operation is called {operation}. Known: {', '.join(OPERATIONS)}; * stands for any text.")


def known_events(detail_type: str) -> None:
    """The same for a detail-type."""
    if not any(fnmatchcase(name, detail_type) for name in DETAIL_TYPES):
        raise FaultError(
            f"No event has the detail-type {detail_type}. Known: {', '.join(DETAIL_TYPES)}; * stands for any text."
        )


def known_service(service: str) -> None:
    """The same for a service."""
    if service not in {"*", *SERVICES}:
        raise FaultError(f"service is *, {' or '.join(SERVICES)}.")


@dataclass
class Fault:
    """What all faults share."""

    kind: ClassVar[str] = ""
    # How many more times it strikes; None: until it is removed.
    times: int | None = None

    def spend(self) -> bool:
        """Strike once. False when the fault is used up."""
        if self.times is None:
            return True
        if self.times <= 0:
            return False
        self.times -= 1
        return True

    def check(self) -> None:
        """Refuse values that this kind cannot have, beyond their types.

        Raises:
            FaultError: One of them.
        """


@dataclass
class EventFault(Fault):
    """What those share that strike events: of `service` (`*`: of all), each with `probability` as `seed` draws it."""

    detail_type: str = "*"
    service: str = "*"
    probability: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Begin to draw."""
        self._dice = random.Random(self.seed)  # noqa: S311 -- no secret

    def spend(self) -> bool:
        """Strike once, unless the dice say no."""
        return self._dice.random() < self.probability and super().spend()

    def matches(self, source: str, detail_type: str) -> bool:
        """Whether it is for this event."""
        return fnmatchcase(source, f"aws.{self.service}") and fnmatchcase(detail_type, self.detail_type)

    def check(self) -> None:
        """See `Fault.check`."""
        known_events(self.detail_type)
        known_service(self.service)
        if self.probability > 1:
            raise FaultError(f"{self.kind}: probability lies between 0 and 1.")


@dataclass
class JobFault(Fault):
    """What those share that strike jobs: of `service`, or of all (`*`)."""

    service: str = "*"

    def serves(self, service: str) -> bool:
        """Whether it is for this service."""
        return self.service in {"*", service}

    def check(self) -> None:
        """See `Fault.check`."""
        known_service(self.service)


@dataclass
class CallFault(Fault):
    """What those share that strike the answers of calls."""

    times: int | None = 1
    operation: str = "*"

    def check(self) -> None:
        """See `Fault.check`."""
        known(self.operation)

    def matches(self, operation: str) -> bool:
        """Whether it is for this operation."""
        return fnmatchcase(operation, self.operation)
