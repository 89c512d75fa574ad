"""HealthImaging as a service of the job chain. Belongs here: its calls for import jobs, and what its errors mean.

Does not belong here: what a job contains (`ahi.imports`), and when it is started (`ahi.chain`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from ahi import chain
from ahi.aws import THROTTLED, error_code

if TYPE_CHECKING:
    from ahi.pipeline import Pipeline

SERVICE = "medical-imaging"


class HealthImaging:
    """AWS HealthImaging as a service of the chain."""

    name = SERVICE

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def start(self, job: chain.Job) -> str:
        """StartDICOMImportJob. The job's name is its key, which holds nothing of a patient."""
        imaging, settings = self._pipeline.aws.imaging, self._pipeline.settings
        try:
            answer = imaging.start_dicom_import_job(
                jobName=job.job_key,
                datastoreId=job.datastore_id,
                dataAccessRoleArn=settings.import_role_arn,
                clientToken=job.client_token or job.job_key,
                inputS3Uri=job.input_uri,
                outputS3Uri=job.output_uri,
            )
        except ClientError as error:
            if error_code(error) in THROTTLED | {"ServiceQuotaExceededException"}:
                raise chain.BackPressureError(error_code(error)) from error
            if error_code(error) == "ConflictException":
                raise chain.BackPressureError(error_code(error), of_service=False) from error
            if error_code(error) == "ValidationException":
                raise chain.RejectedError(str(error)) from error
            raise
        return answer["jobId"]

    def find(self, job: chain.Job) -> str | None:
        """ListDICOMImportJobs, looking for the job's name. Rare: only for claims that have gone silent."""
        pages = self._pipeline.aws.imaging.get_paginator("list_dicom_import_jobs")
        for page in pages.paginate(datastoreId=job.datastore_id, PaginationConfig={"PageSize": 50}):
            for summary in page["jobSummaries"]:
                if summary["jobName"] == job.job_key:
                    return summary["jobId"]
        return None

    def describe(self, job_id: str) -> chain.Report | None:
        """GetDICOMImportJob. Its output URI already ends in the job's own folder."""
        try:
            answer = self._pipeline.aws.imaging.get_dicom_import_job(
                datastoreId=self._pipeline.settings.datastore_id, jobId=job_id
            )
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return None
            raise
        job = answer["jobProperties"]
        status = job["jobStatus"]
        folder = job["outputS3Uri"]
        return chain.Report(
            job_id,
            status,
            ended=status in {"COMPLETED", "FAILED"},
            ended_at=job.get("endedAt"),
            message=job.get("message"),
            output_folder=folder if folder.endswith("/") else folder + "/",
        )
