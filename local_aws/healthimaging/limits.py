"""Call rates: a token bucket for each operation, at the documented rate and burst."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_aws.clock import Clock

# Operation: (calls a second, burst). Developer guide, "Throttling limits".
RATES: dict[str, tuple[float, float]] = {
    "CreateDatastore": (0.085, 1),
    "DeleteDatastore": (0.085, 1),
    "GetDatastore": (10, 20),
    "ListDatastores": (5, 10),
    "StartDICOMImportJob": (1, 2),
    "GetDICOMImportJob": (25, 50),
    "ListDICOMImportJobs": (10, 20),
    "SearchImageSets": (25, 50),
    "GetImageSet": (25, 50),
    "ListImageSetVersions": (25, 50),
    "GetImageSetMetadata": (50, 100),
    "GetImageFrame": (1000, 2000),
    **dict.fromkeys(
        ("GetDICOMInstance", "GetDICOMInstanceMetadata", "GetDICOMInstanceFrames", "GetDICOMSeriesMetadata"), (50, 100)
    ),
    "UpdateImageSetMetadata": (0.25, 1),
    "CopyImageSet": (0.25, 1),
    "DeleteImageSet": (0.25, 1),
    "TagResource": (10, 20),
    "UntagResource": (10, 20),
    "ListTagsForResource": (10, 20),
}


@dataclass
class _Bucket:
    rate: float
    burst: float
    tokens: float
    at: float


class Limits:
    """Buckets of one account. Safe from several threads."""

    def __init__(self, clock: Clock, *, enabled: bool, factor: float = 1.0, others: float = 0.0) -> None:
        """Full buckets.

        Args:
            clock: The time.
            enabled: Whether they count.
            factor: The documented rates and bursts are multiplied by it; a burst is 1 at least.
            others: Calls a second of operations without a documented rate; 0 for no limit.
        """
        self._clock = clock
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
        bursts = {name: max(1.0, burst * self._factor) for name, (_, burst) in RATES.items()}
        with self._lock:
            self.enabled = self._configured
            self._buckets = {
                name: _Bucket(rate * self._factor, bursts[name], bursts[name], now) for name, (rate, _) in RATES.items()
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
