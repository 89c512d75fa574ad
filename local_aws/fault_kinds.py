"""Which faults there are: each a small dataclass. What is set at the moment is in `faults.py`.

Belongs here: the fields of each, what they may be, how long it lasts. Does not belong here: carrying an event
(`events.py`) or a job (`healthimaging/imports.py`); they ask `Faults` what to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

# Status of the errors that a call can be made to fail with: those of the model, then those of every AWS service.
ERRORS = {
    "ValidationException": 400,
    "BadRequestException": 400,
    "ServiceQuotaExceededException": 402,
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "NotAcceptableException": 406,
    "ConflictException": 409,
    "ThrottlingException": 429,
    "InternalServerException": 500,
    "UnrecognizedClientException": 403,
    "InvalidSignatureException": 403,
    "ExpiredTokenException": 403,
    "MissingAuthenticationTokenException": 403,
    "ServiceUnavailableException": 503,
}
_ERROR_TEXTS = {
    "AccessDeniedException": "User is not authorized to perform this action.",
    "ExpiredTokenException": "The security token included in the request is expired",
    "InternalServerException": "Internal server error",
    "ThrottlingException": "Rate exceeded",
    "UnrecognizedClientException": "The security token included in the request is invalid.",
}
# What a call can be named in a fault: the operations of the model, and the actions of DICOMweb (developer guide).
OPERATIONS = (
    *("CopyImageSet", "CreateDatastore", "DeleteDatastore", "DeleteImageSet", "GetDICOMImportJob", "GetDatastore"),
    *("GetImageFrame", "GetImageSet", "GetImageSetMetadata", "ListDICOMImportJobs", "ListDatastores"),
    *("ListImageSetVersions", "ListTagsForResource", "SearchImageSets", "StartDICOMImportJob", "TagResource"),
    *("UntagResource", "UpdateImageSetMetadata"),
    *("GetDICOMBulkdata", "GetDICOMInstance", "GetDICOMInstanceFrames", "GetDICOMInstanceMetadata"),
    *("GetDICOMSeriesMetadata", "SearchDICOMAllInstances", "SearchDICOMAllSeries", "SearchDICOMInstances"),
    *("SearchDICOMSeries", "SearchDICOMStudies", "SearchDICOMStudyInstances", "StoreDICOM", "StoreDICOMStudy"),
)


# Developer guide, "Using Amazon EventBridge with HealthImaging".
DETAIL_TYPES = (
    *("Data Store Creating", "Data Store Creation Failed", "Data Store Created", "Data Store Deleting"),
    *("Data Store Deleted", "Import Job Submitted", "Import Job In Progress", "Import Job Completed"),
    *("Import Job Failed", "Image Set Created", "Image Set Copying", "Image Set Copying With Read Only Access"),
    *("Image Set Copied", "Image Set Copy Failed", "Image Set Updating", "Image Set Updated"),
    *("Image Set Update Failed", "Image Set Deleting", "Image Set Deleted"),
)
MOST_COPIES = 100


class FaultError(Exception):
    """A fault was asked for that does not exist or cannot be; the text says what can."""


def _known(operation: str) -> None:
    """Refuse a name that no operation has: the fault would never strike."""
    if not any(fnmatchcase(name, operation) for name in OPERATIONS):
        raise FaultError(f"No operation is called {operation}. Known: {', '.join(OPERATIONS)}; * stands for any text.")


def _known_events(detail_type: str) -> None:
    """The same for a detail-type."""
    if not any(fnmatchcase(name, detail_type) for name in DETAIL_TYPES):
        raise FaultError(
            f"No event has the detail-type {detail_type}. Known: {', '.join(DETAIL_TYPES)}; * stands for any text."
        )


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
    """What those share that strike events."""

    detail_type: str = "*"

    def check(self) -> None:
        """See `Fault.check`."""
        _known_events(self.detail_type)


@dataclass
class CallFault(Fault):
    """What those share that strike the answers of calls."""

    times: int | None = 1
    operation: str = "*"

    def check(self) -> None:
        """See `Fault.check`."""
        _known(self.operation)

    def matches(self, operation: str) -> bool:
        """Whether it is for this operation."""
        return fnmatchcase(operation, self.operation)


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
    seed: int = 0


@dataclass
class Throttle(Fault):
    """Calls are refused as throttled: the `first` attempts of each different request, or every `every`-th call.

    `service` is `medical-imaging`, `s3` or `sqs`; `operation` may hold `*`.
    """

    kind = "throttle"
    service: str = "medical-imaging"
    operation: str = "*"
    first: int = 0
    every: int = 0

    def check(self) -> None:
        """See `Fault.check`."""
        if self.service not in {"medical-imaging", "s3", "sqs"}:
            raise FaultError("throttle: service is medical-imaging, s3 or sqs.")
        if self.service == "medical-imaging":
            _known(self.operation)
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
        _known(self.operation)
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
        return self.message or _ERROR_TEXTS.get(self.error, "The request cannot be served.")


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
class StuckJobs(Fault):
    """Import jobs that start stay IN_PROGRESS until this fault is removed or POST /_local_aws/release is called."""

    kind = "stuck_jobs"


@dataclass
class SlowJobs(Fault):
    """Import jobs that start take `seconds`, whatever the settings say."""

    kind = "slow_jobs"
    seconds: float = 60.0


@dataclass
class FailJob(Fault):
    """An import job ends FAILED, without having imported anything; a manifest is written with `manifest`."""

    kind = "fail_job"
    times: int | None = 1
    message: str = "DICOM import job has failed."
    manifest: bool = False


@dataclass
class FailFiles(Fault):
    """An import job ends COMPLETED with every file failed, as a server error or as the customer's."""

    kind = "fail_files"
    times: int | None = 1
    exception_type: str = "InternalServerException"
    message: str = "Internal error during import"


@dataclass
class LateManifest(Fault):
    """The job is COMPLETED and its event sent `seconds` before manifest and result files appear in S3."""

    kind = "late_manifest"
    times: int | None = 1
    seconds: float = 2.0


@dataclass
class HoldJobs(Fault):
    """Import jobs stay SUBMITTED until this fault is removed or POST /_local_aws/release is called."""

    kind = "hold_jobs"


@dataclass
class KillServer(Fault):
    """The process is gone as by SIGKILL when work comes to `point`, the first time or `after` so many times.

    The points: `read` (an object is read), `document` (a document is written), `results` (the result files are in S3,
    the transaction is to come), `committed` (the transaction is done, the events are to come). Of an update, a copy or
    a delete: `settled` (its documents are written, the transaction is to come), `told` (it is done, the events not).
    """

    kind = "kill_server"
    times: int | None = 1
    point: str = "committed"
    after: int = 0

    def check(self) -> None:
        """Refuse a point that there is not."""
        if self.point not in {"read", "document", "results", "committed", "settled", "told"}:
            raise FaultError("kill_server: point is read, document, results, committed, settled or told.")


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
class FailDatastore(Fault):
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
    )
}
