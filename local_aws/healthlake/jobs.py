"""The operations on import and export jobs. What a job does is in `imports.py` and `exports.py`."""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds_lake import ForeignJobs, LagJobs
from local_aws.healthlake.store import Job
from local_aws.inprocess import CallError
from local_aws.protocol.errors import not_found, validation
from local_aws.protocol.paging import Listing

if TYPE_CHECKING:
    from local_aws.healthlake.datastores import Datastores
    from local_aws.healthlake.queue import Queue
    from local_aws.healthlake.shared import Shared
    from local_aws.healthlake.store import Progress

# The file that is written where results go to before a job is taken (live uses).
CHECK_FILE = ".healthlake_write_access_check_file.temp"
FOREIGN_ROLE = "arn:aws:iam::000000000000:role/somebody-else"
MEGABYTE = 2**20
LISTING = Listing("jobs", ((int,),), token="NextToken", most="MaxResults")  # noqa: S106 -- a name


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


class Jobs:
    """Start, Describe and List of FHIR import and export jobs."""

    def __init__(self, shared: Shared, datastores: Datastores, queue: Queue) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._faults = shared.faults
        self._outbox = shared.outbox
        self._caller = shared.caller
        self._datastores = datastores
        self._queue = queue

    # -- start ----------------------------------------------------------------------------------------------------

    def start_import(self, request: dict[str, Any]) -> dict[str, Any]:
        """StartFHIRImportJob."""
        if request.get("InputFormat") or request.get("ProfileId"):
            raise validation("Data transformation is not emulated: give neither ProfileId nor InputFormat.")
        self._datastores.active(request["DatastoreId"])
        bucket, prefix = split_uri(request["InputDataConfig"]["S3Uri"])
        try:
            next(self._caller.list_objects(bucket, prefix), None)
        except CallError as error:
            raise validation(f"The input location cannot be listed: {error.code}") from error
        return self._start("import", request, request["JobOutputDataConfig"]["S3Configuration"])

    def start_export(self, request: dict[str, Any]) -> dict[str, Any]:
        """StartFHIRExportJob."""
        self._datastores.active(request["DatastoreId"])
        return self._start("export", request, request["OutputDataConfig"]["S3Configuration"])

    def _start(self, kind: str, request: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        wanted = json.dumps({k: v for k, v in request.items() if k != "ClientToken"}, sort_keys=True)
        job = Job(
            id=uuid.uuid4().hex,
            kind=kind,
            datastore_id=request["DatastoreId"],
            name=request.get("JobName"),
            status="SUBMITTED",
            role=request["DataAccessRoleArn"],
            input=request["InputDataConfig"]["S3Uri"] if kind == "import" else None,
            output=output["S3Uri"],
            kms=output["KmsKeyId"],
            level=request.get("ValidationLevel", "strict") if kind == "import" else None,
            token=request.get("ClientToken") or uuid.uuid4().hex,
            request=hashlib.sha256(wanted.encode()).hexdigest(),
            submitted=0.0,
        )
        foreign = self._faults.take(ForeignJobs) if kind == "import" else None
        self._check_output(output["S3Uri"])
        with self._store.transaction():
            self._datastores.active(job.datastore_id)  # it may be going since
            if foreign:
                self._queue.add(self._somebody_elses(job, foreign.seconds))
            same = self._same(job)
            if same is None:
                self._queue.check(job)
                self._queue.add(job)
        self._outbox.send()
        self._queue.advance()
        return {"JobId": (same or job).id, "JobStatus": "SUBMITTED", "DatastoreId": job.datastore_id}

    def _check_output(self, uri: str) -> None:
        bucket, prefix = split_uri(uri)
        key = f"{prefix.rstrip('/')}/{CHECK_FILE}".lstrip("/")
        try:
            self._caller.put_object(bucket, key, b"", "application/octet-stream")
        except CallError as error:
            raise validation(f"The output location cannot be written: {error.code}") from error

    def _same(self, job: Job) -> Job | None:
        """The job that this client token already started.

        Raises:
            ServiceError: It did so with other parameters.
        """
        found = self._store.jobs("kind = ? AND datastore_id = ? AND token = ?", (job.kind, job.datastore_id, job.token))
        if found and found[0].request != job.request and self._settings.fhir_idempotency_mismatch != "first":
            raise validation("The client token was used with other parameters.")
        return found[0] if found else None

    def _somebody_elses(self, job: Job, seconds: float) -> Job:
        """A job that nobody who looks at his own jobs knows of."""
        more = {"id": uuid.uuid4().hex, "token": uuid.uuid4().hex, "name": "foreign", "role": FOREIGN_ROLE}
        return Job(**{**job.__dict__, **more, "seconds": seconds})

    # -- describe and list ----------------------------------------------------------------------------------------

    def describe_import(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeFHIRImportJob."""
        return {"ImportJobProperties": self._describe("import", request)}

    def describe_export(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeFHIRExportJob."""
        return {"ExportJobProperties": self._describe("export", request)}

    def _describe(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        self._datastores.row(request["DatastoreId"])
        found = self._store.jobs(
            "kind = ? AND datastore_id = ? AND id = ?", (kind, request["DatastoreId"], request["JobId"])
        )
        if not found:
            raise not_found("The job does not exist.")
        return self._properties(self._lagging(found[0]))

    def _lagging(self, job: Job) -> Job:
        """The job as Describe knows it, which may be as it was some seconds ago."""
        lag = self._faults.take(LagJobs)
        if lag is None:
            return job
        then = self._clock.now() - lag.seconds
        if job.ended is not None and job.ended > then:
            job.ended, job.message, job.status = None, None, "IN_PROGRESS" if job.started else "SUBMITTED"
        if job.started is not None and job.started > then:
            job.started, job.status = None, "SUBMITTED"
        return job

    def _properties(self, job: Job) -> dict[str, Any]:
        configuration = {"S3Configuration": {"S3Uri": job.folder, "KmsKeyId": job.kms}}
        out: dict[str, Any] = {
            "JobId": job.id,
            "JobName": job.name,
            "JobStatus": job.status,
            "SubmitTime": job.submitted,
            "EndTime": job.ended,
            "DatastoreId": job.datastore_id,
            "DataAccessRoleArn": job.role,
            "Message": job.message,
        }
        if job.kind == "import":
            out["InputDataConfig"] = {"S3Uri": job.input}
            out["JobOutputDataConfig"] = configuration
            out["ValidationLevel"] = job.level
            out["JobProgressReport"] = _report(job.progress, self._seconds(job)) if job.started else None
        else:
            out["OutputDataConfig"] = configuration
        return {k: v for k, v in out.items() if v is not None}

    def _seconds(self, job: Job) -> float:
        return (job.ended or self._clock.now()) - (job.started or 0.0)

    def list_imports(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListFHIRImportJobs."""
        jobs, token = self._list("import", request)
        return {"ImportJobPropertiesList": jobs, "NextToken": token}

    def list_exports(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListFHIRExportJobs."""
        jobs, token = self._list("export", request)
        return {"ExportJobPropertiesList": jobs, "NextToken": token}

    def _list(self, kind: str, request: dict[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
        self._datastores.row(request["DatastoreId"])
        where, values = "kind = ? AND datastore_id = ?", [kind, request["DatastoreId"]]
        for name, clause in (
            ("JobName", "name = ?"),
            ("JobStatus", "status = ?"),
            ("SubmittedBefore", "submitted <= ?"),
            ("SubmittedAfter", "submitted >= ?"),
        ):
            if name in request:
                where += f" AND {clause}"
                values.append(request[name].timestamp() if name.startswith("Submitted") else request[name])
        order = self._settings.fhir_list_order
        after = LISTING.start(self._store.page_secret, request)
        if after:
            where += f" AND number {'>' if order == 'oldest' else '<'} ?"
            values.append(after[0])
        request.setdefault("MaxResults", self._settings.fhir_list_size)
        tail = f"ORDER BY number {'ASC' if order == 'oldest' else 'DESC'} LIMIT {LISTING.size(request) + 1}"
        page, token = LISTING.turn(
            self._store.page_secret, request, self._store.jobs(where, values, tail), lambda job: [job.number]
        )
        found = list(page)
        if order == "shuffled":
            random.Random(f"{found[0].id if found else ''}").shuffle(found)  # noqa: S311 -- an order, not a secret
        return [self._properties(job) for job in found], token


def _report(progress: Progress, seconds: float) -> dict[str, Any]:
    """JobProgressReport, which has no count of server errors."""
    return {
        "TotalNumberOfScannedFiles": progress.files,
        "TotalSizeOfScannedFilesInMB": progress.bytes / MEGABYTE,
        "TotalNumberOfImportedFiles": progress.files_read,
        "TotalNumberOfResourcesScanned": progress.scanned,
        "TotalNumberOfResourcesImported": progress.imported,
        "TotalNumberOfResourcesWithCustomerError": progress.customer,
        "TotalNumberOfFilesReadWithCustomerError": progress.files_failed,
        "TotalNumberOfScannedNonFhirFiles": progress.others,
        "Throughput": progress.imported_bytes / MEGABYTE / seconds if seconds > 0 else 0.0,
    }
