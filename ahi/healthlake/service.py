"""AWS HealthLake as a service of the chain: its calls, and what their answers mean.

Belongs here: StartFHIRImportJob, DescribeFHIRImportJob, ListFHIRImportJobs and ListFHIRDatastores. Does not belong
here: which job is started (`ahi.healthlake.lane`), what a job's results say (`ahi.healthlake.results`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ahi import chain
from ahi.aws import THROTTLED, error_code
from ahi.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_healthlake.type_defs import ImportJobPropertiesTypeDef

    from ahi.pipeline import Pipeline

SERVICE = "healthlake"
TERMINAL = frozenset({"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCEL_COMPLETED"})
"""States that a job does not leave. A status that a newer HealthLake adds counts as none of them."""

PENDING = ("SUBMITTED", "QUEUED", "IN_PROGRESS", "CANCEL_SUBMITTED", "CANCEL_IN_PROGRESS")
CONFIGURATION = frozenset({"AccessDeniedException", "ResourceNotFoundException"})
"""Codes that no batch can help: the role, or the data store."""

# No quota error is modelled for imports, so a full queue may come as a ValidationException in words.
_FULL = re.compile(r"\b(limit|quota|maximum|too many|exceed\w*|already)\b.*\b(job|import|queue)", re.IGNORECASE)


class HealthLake:
    """AWS HealthLake."""

    name = SERVICE

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def start(self, job: chain.Job) -> str:
        """StartFHIRImportJob. The job's name is its key, which holds nothing of a patient."""
        settings = self._pipeline.settings
        if not settings.fhir_role_arn or not settings.fhir_key_arn:
            raise PermanentError("Set AHI_FHIR_ROLE_ARN and AHI_FHIR_KEY_ARN: outputs of infra/template.yaml.")
        try:
            answer = self._pipeline.aws.healthlake.start_fhir_import_job(
                JobName=job.job_key,
                InputDataConfig={"S3Uri": job.input_uri},
                JobOutputDataConfig={
                    "S3Configuration": {"S3Uri": job.output_uri, "KmsKeyId": settings.fhir_key_arn},
                },
                DatastoreId=job.datastore_id,
                DataAccessRoleArn=settings.fhir_role_arn,
                ClientToken=job.client_token or job.job_key,
                ValidationLevel=settings.fhir_validation_level,
            )
        except ClientError as error:
            code, text = error_code(error), str(error)
            if code in THROTTLED | {"ServiceQuotaExceededException", "LimitExceededException"}:
                raise chain.BackPressureError(code) from error
            if code == "ValidationException" and _FULL.search(text):
                raise chain.BackPressureError("queue full") from error
            if code == "ValidationException":
                raise chain.RejectedError(text) from error
            raise
        return answer["JobId"]

    def find(self, job: chain.Job) -> str | None:
        """ListFHIRImportJobs by the job's name. Rare: only for claims that have gone silent."""
        for found in self._list(job.datastore_id, JobName=job.job_key):
            if found.get("JobName") == job.job_key:
                return found["JobId"]
        return None

    def describe(self, job_id: str, datastore_id: str = "") -> chain.Report | None:
        """DescribeFHIRImportJob. Its output URI is the job's own folder, not the prefix that was asked for."""
        store = datastore_id or self._pipeline.settings.fhir_datastore_id
        try:
            answer = self._pipeline.aws.healthlake.describe_fhir_import_job(DatastoreId=store, JobId=job_id)
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return None
            raise
        job = answer["ImportJobProperties"]
        folder = job.get("JobOutputDataConfig", {}).get("S3Configuration", {}).get("S3Uri", "")
        return chain.Report(
            job_id,
            job["JobStatus"],
            ended=job["JobStatus"] in TERMINAL,
            ended_at=job.get("EndTime"),
            message=job.get("Message"),
            output_folder=own_folder(folder, store, job_id) if folder else None,
        )

    def foreign(self, ours: set[str]) -> int:
        """How many jobs of others take up the slot: running or waiting, in our data store or in the account's."""
        settings, stores = self._pipeline.settings, [self._pipeline.settings.fhir_datastore_id]
        if settings.fhir_slot_scope == "account":
            stores = [*stores, *(store for store in self._datastores() if store not in stores)]
        found = (job["JobId"] for store in stores for status in PENDING[:3] for job in self._list(store, status))
        return len(set(found) - ours)

    def _list(self, datastore_id: str, status: str = "", **filters: str) -> Iterator[ImportJobPropertiesTypeDef]:
        """ListFHIRImportJobs, page by page: the SDK has no paginator for it."""
        request: dict[str, Any] = {"DatastoreId": datastore_id, "MaxResults": 100, **filters}
        if status:
            request["JobStatus"] = status
        while True:
            page = self._pipeline.aws.healthlake.list_fhir_import_jobs(**request)
            yield from page["ImportJobPropertiesList"]
            if not page.get("NextToken"):
                return
            request["NextToken"] = page["NextToken"]

    def _datastores(self) -> Iterator[str]:
        request: dict[str, Any] = {"Filter": {"DatastoreStatus": "ACTIVE"}}
        while True:
            page = self._pipeline.aws.healthlake.list_fhir_datastores(**request)
            yield from (store["DatastoreId"] for store in page["DatastorePropertiesList"])
            if not page.get("NextToken"):
                return
            request["NextToken"] = page["NextToken"]


def own_folder(uri: str, datastore_id: str, job_id: str) -> str:
    """Folder of a job's results. Should Describe give the prefix that was asked for, the folder is below it."""
    uri = uri.rstrip("/") + "/"
    return uri if job_id in uri else f"{uri}{datastore_id}-FHIR_IMPORT-{job_id}/"
