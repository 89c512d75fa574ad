"""The operations on import jobs. What a job does is in `imports.py`."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.events import job_folder
from local_aws.healthimaging.store import Job
from local_aws.healthimaging.tokens import check_token
from local_aws.protocol.errors import ServiceError, not_found, validation
from local_aws.protocol.paging import TIME_AND_ID, Listing

if TYPE_CHECKING:
    from local_aws.healthimaging.datastores import Datastores
    from local_aws.healthimaging.imports import Imports
    from local_aws.healthimaging.shared import Shared

LISTING = Listing("jobs", TIME_AND_ID)

LISTED_SECONDS = 90 * 86_400


class Jobs:
    """StartDICOMImportJob, GetDICOMImportJob, ListDICOMImportJobs."""

    def __init__(self, shared: Shared, datastores: Datastores, imports: Imports) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._events = shared.events
        self._datastores = datastores
        self._imports = imports

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """StartDICOMImportJob. The same client token with the same parameters is the same job."""
        datastore_id = request["datastoreId"]
        self._datastores.active(datastore_id)
        if not request["dataAccessRoleArn"].startswith("arn:aws"):
            raise validation("dataAccessRoleArn is not an ARN.")
        wanted = json.dumps({k: v for k, v in request.items() if k != "clientToken"}, sort_keys=True)
        fingerprint = hashlib.sha256(wanted.encode()).hexdigest()
        with self._store.transaction():
            self._datastores.active(datastore_id)  # it may be going since
            if self._settings.token_seconds:
                self._store.execute(
                    # A blank stands in no token.
                    "UPDATE jobs SET token = token || ' ' || id"
                    " WHERE datastore_id = ? AND token = ? AND submitted <= ?",
                    (datastore_id, request["clientToken"], self._clock.now() - self._settings.token_seconds),
                )
            same = self._store.jobs("datastore_id = ? AND token = ?", (datastore_id, request["clientToken"]))
            if same and same[0].request != fingerprint:
                check_token(self._settings)
            if same:
                return self._started(same[0])
            active = self._store.rows(
                "SELECT count(*) AS n FROM jobs WHERE datastore_id = ? AND status IN ('SUBMITTED', 'IN_PROGRESS')",
                (datastore_id,),
            )[0]["n"]
            if active >= self._settings.max_concurrent_jobs:
                raise ServiceError("ServiceQuotaExceededException", f"{active} import jobs are running already.")
            job_id = uuid.uuid4().hex
            job = Job(
                id=job_id,
                datastore_id=datastore_id,
                name=request.get("jobName") or f"import-{job_id[:8]}",
                status="SUBMITTED",
                role=request["dataAccessRoleArn"],
                input=request["inputS3Uri"],
                output=request["outputS3Uri"],
                token=request["clientToken"],
                request=fingerprint,
                submitted=self._clock.now(),
                owner=request.get("inputOwnerAccountId"),
                configuration=json.dumps(request["importConfiguration"]) if "importConfiguration" in request else None,
            )
            self._store.put_job(job)
            self._store.add_to_outbox([self._events.job_entry(job)])
        self._imports.tell()
        self._imports.submit(job.id)
        return self._started(job)

    def _started(self, job: Job) -> dict[str, Any]:
        return {
            "datastoreId": job.datastore_id,
            "jobId": job.id,
            "jobStatus": job.status,
            "submittedAt": job.submitted,
        }

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetDICOMImportJob. outputS3Uri is the job's own folder, not what was asked for."""
        self._datastores.readable(request["datastoreId"])
        found = self._store.jobs("id = ? AND datastore_id = ?", (request["jobId"], request["datastoreId"]))
        if not found:
            raise not_found("The import job does not exist.")
        job = found[0]
        folder = job_folder(job.output, job.datastore_id, job.id)
        out = self._summary(job) | {"inputS3Uri": job.input, "outputS3Uri": folder}
        if job.configuration:
            out["importConfiguration"] = json.loads(job.configuration)
        return {"jobProperties": out}

    def _summary(self, job: Job) -> dict[str, Any]:
        out = {
            "jobId": job.id,
            "jobName": job.name,
            "jobStatus": job.status,
            "datastoreId": job.datastore_id,
            "dataAccessRoleArn": job.role,
            "submittedAt": job.submitted,
            "endedAt": job.ended,
            "message": job.message,
        }
        return {k: v for k, v in out.items() if v is not None}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListDICOMImportJobs, newest first; older ones than 90 days are archived."""
        self._datastores.readable(request["datastoreId"])
        where = "datastore_id = ? AND submitted > ?"
        values = [request["datastoreId"], self._clock.now() - LISTED_SECONDS]
        if request.get("jobStatus"):
            where += " AND status = ?"
            values.append(request["jobStatus"])
        after = LISTING.start(self._store.page_secret, request)
        if after:
            where += " AND (submitted < ? OR (submitted = ? AND id > ?))"
            values += [after[0], *after]
        found = self._store.jobs(where, values, f"ORDER BY submitted DESC, id LIMIT {LISTING.size(request) + 1}")
        jobs, following = LISTING.turn(self._store.page_secret, request, found, lambda job: [job.submitted, job.id])
        return {"jobSummaries": [self._summary(j) for j in jobs], "nextToken": following}
