"""AWS HealthLake as a service of the chain: its calls, and what their answers mean.

Belongs here: StartFHIRImportJob, DescribeFHIRImportJob, ListFHIRImportJobs and ListFHIRDatastores. Does not belong
here: which job is started (`ahi.healthlake.starts`), what a job's results say (`ahi.healthlake.results`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from botocore.exceptions import ClientError

from ahi import chain
from ahi.aws import THROTTLED, error_code
from ahi.errors import PermanentError
from ahi.index.catalog_fhir import fhir_batches, fhir_imports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_healthlake.literals import ValidationLevelType
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
        settings, level = self._pipeline.settings, self._validation_level(job)
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
                ValidationLevel=level,
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

    def _validation_level(self, job: chain.Job) -> ValidationLevelType:
        """What the import was planned with, whatever the setting is now."""
        query = sa.select(fhir_imports.c.validation_level).join(
            fhir_batches, fhir_batches.c.import_id == fhir_imports.c.import_id
        )
        with self._pipeline.index.engine.connect() as connection:
            found = connection.execute(query.where(fhir_batches.c.job_key == job.job_key)).scalar_one_or_none()
        return cast("ValidationLevelType", found) if found else self._pipeline.settings.fhir_validation_level

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

    def foreign(self, ours: set[str], datastore_id: str) -> int:
        """How many jobs of others take up the slot: running or waiting, in one data store or in the account's.

        Raises ClientError when HealthLake does not say, which must not be read as none.
        """
        found = {job["JobId"] for status in PENDING[:3] for job in self._list(datastore_id, status)}
        if self._pipeline.settings.fhir_slot_scope == "account":
            for store in self._datastores():
                if store != datastore_id:
                    found |= self._pending_in(store)
        return len(found - ours)

    def _pending_in(self, datastore_id: str) -> set[str]:
        """Jobs of a data store that is not ours, which may be deleted while we look."""
        try:
            return {job["JobId"] for status in PENDING[:3] for job in self._list(datastore_id, status)}
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return set()
            raise

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
