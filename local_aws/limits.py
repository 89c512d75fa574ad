"""Call rates: a token bucket for each operation, at the documented rate and burst. The rates are each service's own."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_aws.clock import Clock


@dataclass
class _Bucket:
    rate: float
    burst: float
    tokens: float
    at: float


class Limits:
    """Buckets of one account. Safe from several threads."""

    def __init__(
        self,
        clock: Clock,
        rates: Mapping[str, tuple[float, float]],
        *,
        enabled: bool,
        factor: float = 1.0,
        others: float = 0.0,
    ) -> None:
        """Full buckets.

        Args:
            clock: The time.
            rates: Calls a second and burst of each operation.
            enabled: Whether they count.
            factor: The documented rates and bursts are multiplied by it; a burst is 1 at least.
            others: Calls a second of operations without a documented rate; 0 for no limit.
        """
        self._clock = clock
        self._rates = rates
        self._configured = enabled
        self._factor = factor
        self._lock = threading.Lock()
        self._others = others
        self.restore()

    def enable(self, *, on: bool) -> None:
        """Switch the rates on or off."""
        self.enabled = on

    def restore(self) -> None:
        """Back to the settings, with full buckets."""
        now = self._clock.now()
        bursts = {name: max(1.0, burst * self._factor) for name, (_, burst) in self._rates.items()}
        with self._lock:
            self.enabled = self._configured
            self._buckets = {
                name: _Bucket(rate * self._factor, bursts[name], bursts[name], now)
                for name, (rate, _) in self._rates.items()
            }

    def allow(self, operation: str) -> bool:
        """Take one token. False when the bucket is empty."""
        if not self.enabled:
            return True
        with self._lock:
            now = self._clock.now()
            if operation not in self._buckets and self._others:
                self._buckets[operation] = _Bucket(self._others, 2 * self._others, 2 * self._others, now)
            bucket = self._buckets.get(operation)
            if bucket is None:
                return True
            bucket.tokens = min(bucket.burst, bucket.tokens + (now - bucket.at) * bucket.rate)
            bucket.at = now
            if bucket.tokens < 1:
                return False
            bucket.tokens -= 1
            return True
