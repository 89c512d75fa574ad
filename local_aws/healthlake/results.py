"""What an import job writes to S3: manifest, SUCCESS and FAILURE lines, in the documented layout.

Belongs here: names and formats (developer guide, "Import job manifest file"). Does not belong here: why a line failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from local_aws.healthlake.jobs import MEGABYTE
from local_aws.healthlake.outcomes import outcome
from local_aws.healthlake.validate import INVALID_JSON, Refused, Resource

if TYPE_CHECKING:
    from local_aws.healthlake.store import Job
    from local_aws.settings import LocalSettings

SUCCESS, FAILURE, REMARKS = "SUCCESS", "FAILURE", "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES"
SERVER_ERROR = "Internal server error"


class Lines:
    """Lines of the results of one input file, until they are put into S3."""

    def __init__(self, settings: LocalSettings) -> None:
        self._base = settings.fhir_line_base
        self._as_string = settings.fhir_json_blob == "string"
        self.bodies: dict[str, list[bytes]] = {SUCCESS: [], FAILURE: [], REMARKS: []}

    def _add(self, folder: str, number: int, found: Resource | Refused, response: dict[str, Any]) -> None:
        if self._as_string and "jsonBlob" in response:
            response["jsonBlob"] = orjson.dumps(response["jsonBlob"]).decode()
        line: dict[str, Any] = {"lineId": number + self._base}
        if found.id:
            line["resourceId"] = found.id
        if found.type:
            line["resourceType"] = found.type
        self.bodies[folder].append(orjson.dumps(line | {"UpdateResourceResponse": response}) + b"\n")

    def stored(self, number: int, found: Resource, status: int) -> None:
        """A line that was stored; `number` counts from 0."""
        if found.remarks:
            blob = outcome(found.remarks, "warning")
            self._add(REMARKS, number, found, {"jsonBlob": blob, "statusCode": status})
        else:
            self._add(SUCCESS, number, found, {"statusCode": status})

    def refused(self, number: int, found: Refused) -> None:
        """A line that the customer has to correct."""
        code = "structure" if found.diagnostics == (INVALID_JSON,) else "invalid"
        blob = outcome(found.diagnostics, code=code)
        self._add(FAILURE, number, found, {"jsonBlob": blob, "statusCode": 400})

    def broken(self, number: int, found: Resource | Refused) -> None:
        """A line that failed by no fault of its own."""
        blob = outcome((SERVER_ERROR,), code="exception")
        self._add(FAILURE, number, found, {"jsonBlob": blob, "statusCode": 500})

    def take(self) -> dict[str, bytes]:
        """All lines since the last time, by folder."""
        found = {folder: b"".join(lines) for folder, lines in self.bodies.items() if lines}
        for lines in self.bodies.values():
            lines.clear()
        return found


def manifest(job: Job) -> bytes:
    """The manifest of a job."""
    done = job.progress
    return orjson.dumps(
        {
            "inputDataConfig": {"s3Uri": job.input},
            "outputDataConfig": {"s3Uri": job.folder, "encryptionKeyID": job.kms},
            "successOutput": {"successOutputS3Uri": f"{job.folder}{SUCCESS}/"},
            "failureOutput": {"failureOutputS3Uri": f"{job.folder}{FAILURE}/"},
            "numberOfScannedFiles": done.files,
            "numberOfFilesImported": done.files_read,
            "sizeOfScannedFilesInMB": done.bytes / MEGABYTE,
            "sizeOfDataImportedSuccessfullyInMB": done.imported_bytes / MEGABYTE,
            "numberOfResourcesScanned": done.scanned,
            "numberOfResourcesImportedSuccessfully": done.imported,
            "numberOfResourcesWithCustomerError": done.customer,
            "numberOfResourcesWithServerError": done.server,
        }
    )


def manifest_names(settings: LocalSettings) -> tuple[str, ...]:
    """How the manifest is called."""
    name = settings.fhir_manifest_name
    return ("Manifest.json", "manifest.json") if name == "both" else (name,)
