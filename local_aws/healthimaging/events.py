"""HealthImaging's events on the default bus, in their documented shape.

Belongs here: the 19 detail-types and the envelope's parts. Does not belong here: when they are sent (`outbox.py`) and
how (`bus.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_aws.bus import Bus, Entry

if TYPE_CHECKING:
    import asyncio

    from local_aws.clock import Clock
    from local_aws.healthimaging.store import ImageSet, Job
    from local_aws.settings import LocalSettings

SOURCE = "aws.medical-imaging"
_JOB_TYPES = {
    "SUBMITTED": "Import Job Submitted",
    "IN_PROGRESS": "Import Job In Progress",
    "COMPLETED": "Import Job Completed",
    "FAILED": "Import Job Failed",
}
_DATASTORE_TYPES = {
    "CREATING": "Data Store Creating",
    "CREATE_FAILED": "Data Store Creation Failed",
    "ACTIVE": "Data Store Created",
    "DELETING": "Data Store Deleting",
    "DELETED": "Data Store Deleted",
}


def job_folder(output_uri: str, datastore_id: str, job_id: str) -> str:
    """The folder of one job's results under the output prefix that was asked for."""
    return f"{output_uri.rstrip('/')}/{datastore_id}-DicomImport-{job_id}/"


class Events(Bus):
    """Puts events on the bus, from any thread."""

    def __init__(self, settings: LocalSettings, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        super().__init__(SOURCE, settings, loop, clock)

    def _arn(self, datastore_id: str, image_set_id: str = "") -> str:
        tail = f"/imageset/{image_set_id}" if image_set_id else ""
        return (
            f"arn:aws:medical-imaging:{self._settings.region}:{self._settings.account}:datastore/{datastore_id}{tail}"
        )

    def _entry(self, detail_type: str, resource: str, detail: dict[str, Any]) -> Entry:
        return self.entry(detail_type, resource, {"imagingVersion": "1.0", **detail})

    def datastore_entry(self, datastore_id: str, name: str, status: str) -> Entry:
        """The event of a data store's new status, not yet sent."""
        detail = {"datastoreId": datastore_id, "datastoreName": name, "datastoreStatus": status}
        return self._entry(_DATASTORE_TYPES[status], self._arn(datastore_id), detail)

    def job_entry(self, job: Job) -> Entry:
        """The event of an import job's new status, not yet sent."""
        extended = self._settings.event_output_uri == "job"
        detail = {
            "datastoreId": job.datastore_id,
            "jobId": job.id,
            "jobName": job.name,
            "jobStatus": job.status,
            "inputS3Uri": job.input,
            "outputS3Uri": job_folder(job.output, job.datastore_id, job.id) if extended else job.output,
        }
        return self._entry(_JOB_TYPES[job.status], self._arn(job.datastore_id), detail)

    def image_set_entry(self, detail_type: str, image_set: ImageSet, **more: str) -> Entry:
        """The event of one image set's change, not yet sent; `more` are fields of this detail-type alone."""
        detail: dict[str, Any] = {"datastoreId": image_set.datastore_id, self._settings.event_id_key: image_set.id}
        if self._settings.event_version_fields:
            detail |= {"isPrimary": image_set.is_primary, "imageSetVersion": str(image_set.version)}
        detail |= {"imageSetState": image_set.state, "imageSetWorkflowStatus": image_set.workflow, **more}
        return self._entry(detail_type, self._arn(image_set.datastore_id, image_set.id), detail)
