"""Which faults there are: each a small dataclass. What is set at the moment is in `faults.py`.

Belongs here: the fields of each, what they may be, how long it lasts. Does not belong here: carrying an event
(`events.py`) or a job (`healthimaging/imports.py`); they ask `Faults` what to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from local_aws.fault_base import CallFault, EventFault, Fault, FaultError, JobFault, known
from local_aws.fault_kinds_lake import CutFailures, FailLines, ForeignJobs, LagJobs
from local_aws.fault_names import ERROR_TEXTS, ERRORS, SERVICES

MOST_COPIES = 100


@dataclass
class DropEvents(EventFault):
    """Events whose detail-type matches the pattern (`*` allowed) are never delivered."""

    kind = "drop_events"


@dataclass
class DuplicateEvents(EventFault):
    """Matching events are delivered `copies` times: one event, or without `same_id` one with an id for each."""

    kind = "duplicate_events"
    copies: int = 2
    same_id: bool = True

    def check(self) -> None:
        """See `Fault.check`."""
        super().check()
        if not 1 <= self.copies <= MOST_COPIES:
            raise FaultError(f"duplicate_events: copies lies between 1 and {MOST_COPIES}.")


@dataclass
class RefuseEvents(EventFault):
    """The bus refuses matching events; each is sent again a second later."""

    kind = "refuse_events"
    times: int | None = 1


@dataclass
class DelayEvents(EventFault):
    """Matching events are delivered `seconds` later."""

    kind = "delay_events"
    seconds: float = 1.0


@dataclass
class ShuffleEvents(EventFault):
    """Matching events are gathered for `seconds` and delivered in a random order drawn from `seed`."""

    kind = "shuffle_events"
    seconds: float = 1.0


@dataclass
class Throttle(Fault):
    """Calls are refused as throttled: the `first` attempts of each different request, or every `every`-th call.

    `service` is `medical-imaging`, `healthlake`, `s3` or `sqs`; `operation` may hold `*`.
    """

    kind = "throttle"
    service: str = "medical-imaging"
    operation: str = "*"
    first: int = 0
    every: int = 0

    def check(self) -> None:
        """See `Fault.check`."""
        if self.service not in {*SERVICES, "s3", "sqs"}:
            raise FaultError("throttle: service is medical-imaging, healthlake, s3 or sqs.")
        if self.service in SERVICES:
            known(self.operation)
        if not self.first and not self.every:
            raise FaultError("throttle: give first or every.")


@dataclass
class LoseResponse(CallFault):
    """The operation does its work, then the caller gets InternalServerException instead of the answer."""

    kind = "lose_response"
    operation: str = "StartDICOMImportJob"


@dataclass
class FailCall(Fault):
    """The n-th matching call fails with `error`, before its work or after it; then the next ones, `times` in all.

    `operation` may hold `*`; DICOMweb actions have their documented names. With `probability` below 1 each of them
    fails as `seed` draws it.
    """

    kind = "fail_call"
    times: int | None = 1
    operation: str = "*"
    n: int = 1
    when: str = "before"
    error: str = "InternalServerException"
    message: str = ""
    probability: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """See `Fault.check`."""
        known(self.operation)
        if self.when not in {"before", "after"}:
            raise FaultError('fail_call: when is "before" or "after" the work of the call.')
        if self.error not in ERRORS:
            raise FaultError(f"fail_call: error is one of {', '.join(ERRORS)}.")
        if not (self.n >= 1 and 0 <= self.probability <= 1):
            raise FaultError("fail_call: n is 1 or more, probability lies between 0 and 1.")

    @property
    def status(self) -> int:
        """HTTP status of the error."""
        return ERRORS[self.error]

    @property
    def text(self) -> str:
        """Text of the error."""
        return self.message or ERROR_TEXTS.get(self.error, "The request cannot be served.")


@dataclass
class CutAnswers(CallFault):
    """The answer of a native call breaks off after the share `kept` of its body, and the connection closes."""

    kind = "cut_answers"
    kept: float = 0.5

    def check(self) -> None:
        """See `Fault.check`."""
        super().check()
        if self.kept >= 1:
            raise FaultError("cut_answers: kept is less than 1.")


@dataclass
class StuckJobs(JobFault):
    """Import jobs that start stay IN_PROGRESS until this fault is removed or POST /_local_aws/release is called."""

    kind = "stuck_jobs"


@dataclass
class SlowJobs(JobFault):
    """Import jobs that start take `seconds`, whatever the settings say."""

    kind = "slow_jobs"
    seconds: float = 60.0


@dataclass
class FailJob(JobFault):
    """An import job ends FAILED, without having imported anything; a manifest is written with `manifest`.

    With `holding` only jobs of which a file has these bytes in it: one bad file that takes its job along.
    """

    kind = "fail_job"
    times: int | None = 1
    holding: str = ""
    message: str = "DICOM import job has failed."
    manifest: bool = False


@dataclass
class FailFiles(JobFault):
    """An import job ends COMPLETED with every file failed, as a server error or as the customer's."""

    kind = "fail_files"
    times: int | None = 1
    exception_type: str = "InternalServerException"
    message: str = "Internal error during import"


@dataclass
class LateManifest(JobFault):
    """The job is COMPLETED and its event sent `seconds` before manifest and result files appear in S3."""

    kind = "late_manifest"
    times: int | None = 1
    seconds: float = 2.0


@dataclass
class HoldJobs(JobFault):
    """Import jobs stay SUBMITTED until this fault is removed or POST /_local_aws/release is called."""

    kind = "hold_jobs"


@dataclass
class KillServer(Fault):
    """The process is gone as by SIGKILL when work comes to `point`, the first time or `after` so many times.

    The points: `read` (an object is read), `document` (a document is written), `results` (the result files are in S3,
    the transaction is to come), `committed` (the transaction is done, the events are to come). Of an update, a copy or
    a delete: `settled` (its documents are written, the transaction is to come), `told` (it is done, the events not).
    Of an import of HealthLake: `fhir_read`, `fhir_results` and `fhir_committed`, for each part of a file.
    """

    kind = "kill_server"
    times: int | None = 1
    point: str = "committed"
    after: int = 0

    def check(self) -> None:
        """Refuse a point that there is not."""
        points = ("read", "document", "results", "committed", "settled", "told")
        ours = ("fhir_read", "fhir_results", "fhir_committed")
        if self.point not in {*points, *ours}:
            raise FaultError(f"kill_server: point is one of {', '.join((*points, *ours))}.")


@dataclass
class LockMetadata(Fault):
    """GetImageSetMetadata answers ConflictException, as it may shortly after an import."""

    kind = "lock_metadata"
    times: int | None = 1


@dataclass
class FailChange(Fault):
    """An update or a copy (`operation`: `update`, `copy` or `*`) fails after its answer, with this message."""

    kind = "fail_change"
    operation: str = "*"
    times: int | None = 1
    message: str = "INTERNAL_ERROR: the operation failed."

    def check(self) -> None:
        """See `Fault.check`."""
        if self.operation not in {"update", "copy", "*"}:
            raise FaultError("fail_change: operation is update, copy or *.")
        if not re.fullmatch(r"[\w -:`]{1,2048}", self.message):
            raise FaultError("fail_change: message holds letters, digits, blanks and punctuation up to the colon.")


@dataclass
class LagSearch(Fault):
    """SearchImageSets sees the image sets as they were `seconds` ago."""

    kind = "lag_search"
    seconds: float = 5.0


@dataclass
class FailDatastore(JobFault):
    """The next data store ends CREATE_FAILED."""

    kind = "fail_datastore"
    times: int | None = 1


KINDS: dict[str, type[Fault]] = {
    cls.kind: cls
    for cls in (
        *(DropEvents, DuplicateEvents, RefuseEvents, DelayEvents, ShuffleEvents),
        *(Throttle, LoseResponse, FailCall, CutAnswers, LockMetadata),
        *(FailJob, FailFiles, LateManifest, HoldJobs, StuckJobs, SlowJobs),
        *(FailChange, LagSearch, FailDatastore, KillServer),
        *(ForeignJobs, LagJobs, FailLines, CutFailures),
    )
}
