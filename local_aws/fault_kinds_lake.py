"""Faults that only HealthLake has; it also has those of all services (`fault_kinds.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from local_aws.fault_base import Fault, FaultError


@dataclass
class ForeignJobs(Fault):
    """Somebody else's import job of HealthLake takes the slot right before StartFHIRImportJob, for `seconds`."""

    kind = "foreign_jobs"
    times: int | None = 1
    seconds: float = 60.0


@dataclass
class LagJobs(Fault):
    """DescribeFHIRImportJob and DescribeFHIRExportJob tell of a job as it was `seconds` ago."""

    kind = "lag_jobs"
    seconds: float = 5.0


@dataclass
class FailLines(Fault):
    """Every `every`-th line of an import job of HealthLake fails with a server error, which no report counts."""

    kind = "fail_lines"
    times: int | None = 1
    every: int = 10

    def check(self) -> None:
        """See `Fault.check`."""
        if self.every < 1:
            raise FaultError("fail_lines: every is 1 or more.")


@dataclass
class CutFailures(Fault):
    """The files of FAILURE of an import job of HealthLake hold only the share `kept` of their bytes."""

    kind = "cut_failures"
    times: int | None = 1
    kept: float = 0.5

    def check(self) -> None:
        """See `Fault.check`."""
        if self.kept >= 1:
            raise FaultError("cut_failures: kept is less than 1.")
