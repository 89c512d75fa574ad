"""HealthLake's events on the default bus, in their documented shape.

Belongs here: the detail-types and details (EventBridge events reference, "AWS HealthLake events"). Does not belong
here: when they are sent (`outbox.py`) and how (`bus.py`).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from local_aws.bus import Bus, Entry

if TYPE_CHECKING:
    import asyncio

    from local_aws.clock import Clock
    from local_aws.healthlake.store import Job
    from local_aws.settings import LocalSettings

SOURCE = "aws.healthlake"
JOB_TYPES = {
    "SUBMITTED": "Submitted",
    "QUEUED": "Queued",
    "IN_PROGRESS": "In Progress",
    "COMPLETED": "Completed",
    "COMPLETED_WITH_ERRORS": "Completed With Errors",
    "FAILED": "Failed",
}
# No event is documented of an update.
DATASTORE_TYPES = {
    "CREATING": "Data Store Creating",
    "ACTIVE": "Data Store Active",
    "DELETING": "Data Store Deleting",
    "DELETED": "Data Store Deleted",
    "CREATE_FAILED": "Data Store Creation Failed",
}
API_CALL = "AWS API Call via CloudTrail"


def iso(seconds: float, *, spec: str = "milliseconds") -> str:
    """A time as FHIR and events have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=spec).replace("+00:00", "Z")


class Events(Bus):
    """Events of data stores, jobs and calls."""

    def __init__(self, settings: LocalSettings, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        super().__init__(SOURCE, settings, loop, clock)

    def arn(self, datastore_id: str) -> str:
        """ARN of a data store."""
        return f"arn:aws:healthlake:{self._settings.region}:{self._settings.account}:datastore/fhir/{datastore_id}"

    def endpoint(self, datastore_id: str) -> str:
        """Where FHIR REST of a data store is: this server, and not https://healthlake.REGION.amazonaws.com."""
        return f"http://127.0.0.1:{self._settings.port}/datastore/{datastore_id}/r4/"

    def datastore_entry(self, datastore_id: str, name: str, status: str) -> list[Entry]:
        """The event of a data store's new status, not yet sent; none when none is documented."""
        if status not in DATASTORE_TYPES:
            return []
        detail = {
            "datastoreId": datastore_id,
            "datastoreName": name,
            "datastoreTypeVersion": "R4",
            "datastoreEndpoint": self.endpoint(datastore_id),
        }
        return [self.entry(DATASTORE_TYPES[status], self.arn(datastore_id), detail)]

    def job_entry(self, job: Job, status: str = "") -> Entry:
        """The event of a job's new status, not yet sent. It says how the job ended by its detail-type alone."""
        uris = {"import": ("inputDataConfig", job.input), "export": ("outputDataConfig", job.output)}
        name, uri = uris[job.kind]
        detail = {
            "jobId": job.id,
            "submitTime": iso(job.submitted),
            "datastoreId": job.datastore_id,
            name: {"s3Uri": uri},
        }
        detail_type = f"{job.kind.title()} Job {JOB_TYPES[status or job.status]}"
        return self.entry(detail_type, self.arn(job.datastore_id), detail)

    def api_entry(self, name: str, parameters: dict[str, Any], status: int, more: dict[str, Any]) -> Entry:
        """The event of a call as a trail delivers it (blog post; no `resources` in the envelope)."""
        detail = {
            "eventVersion": "1.08",
            "userIdentity": {"type": "IAMUser", "accountId": self._settings.account},
            "eventTime": iso(self._clock.now(), spec="seconds"),
            "eventSource": "healthlake.amazonaws.com",
            "eventName": name,
            "awsRegion": self._settings.region,
            "requestParameters": parameters,
            "responseElements": {"statusCode": status},
            "additionalEventData": more,
            "eventID": str(uuid.uuid4()),
            "readOnly": False,
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": self._settings.account,
            "eventCategory": "Management",
        }
        return self.entry(API_CALL, "", detail)
