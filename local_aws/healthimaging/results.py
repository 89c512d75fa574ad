"""What an import job writes to S3: manifest and ndjson files, in the documented layout.

Belongs here: names and formats. Does not belong here: why a file failed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.events import job_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_aws.healthimaging.grouping import File
    from local_aws.healthimaging.store import ImageSet


@dataclass
class Results:
    """The outcome of one job, file by file."""

    # Whether a line of SUCCESS tells the version.
    versions: bool = False
    scanned: int = 0
    success: list[dict[str, Any]] = field(default_factory=list)
    failure: list[dict[str, Any]] = field(default_factory=list)
    warning: list[dict[str, Any]] = field(default_factory=list)
    # image set id -> (version, is primary, files of this job in it)
    image_sets: dict[str, tuple[int, bool, int]] = field(default_factory=dict)

    def fail(self, key: str, message: str, exception_type: str = "ValidationException") -> None:
        """One file was not imported."""
        self.failure.append({"inputFile": key, "exception": {"exceptionType": exception_type, "message": message}})

    def add(self, head: ImageSet, files: Sequence[File]) -> None:
        """Files that went into an image set."""
        known = self.image_sets.get(head.id, (0, False, 0))
        self.image_sets[head.id] = (head.version, head.is_primary, known[2] + len(files))
        for file in files:
            answer = {"imageSetId": head.id, "isPrimary": head.is_primary}
            told = answer | ({"imageSetVersion": head.version} if self.versions else {})
            self.success.append({"inputFile": file.name, "importResponse": told})
            if file.warnings:
                full = answer | {"imageSetVersion": head.version, "warnings": list(file.warnings)}
                self.warning.append({"inputFile": file.name, "importResponse": full})

    def files(self, job: Any, *, keep_empty: bool) -> dict[str, bytes]:
        """Object keys below the job's folder and their bodies; the manifest comes last."""
        folder = job_folder(job.output, job.datastore_id, job.id)
        server_errors = sum(1 for f in self.failure if f["exception"]["exceptionType"] == "InternalServerException")
        out = {}
        for name, lines in (("SUCCESS", self.success), ("FAILURE", self.failure), ("WARNING", self.warning)):
            if lines or keep_empty:
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                out[f"{name}/{name.lower()}.ndjson"] = text.encode()
        summary = {
            "jobId": job.id,
            "datastoreId": job.datastore_id,
            "inputS3Uri": job.input,
            "outputS3Uri": folder,
            "successOutputS3Uri": f"{folder}SUCCESS/",
            "failureOutputS3Uri": f"{folder}FAILURE/",
            "warningsOutputS3Uri": f"{folder}WARNING/",
            "numberOfScannedFiles": self.scanned,
            "numberOfImportedFiles": self.scanned - len(self.failure),
            "numberOfFilesWithCustomerError": len(self.failure) - server_errors,
            "numberOfFilesWithServerError": server_errors,
            "numberOfGeneratedImageSets": len(self.image_sets),
            "imageSetsSummary": [
                {"imageSetId": k, "imageSetVersion": v, "isPrimary": p, "numberOfMatchedSOPInstances": n}
                for k, (v, p, n) in self.image_sets.items()
            ],
        }
        out["job-output-manifest.json"] = json.dumps({"jobSummary": summary}, ensure_ascii=False).encode()
        return out


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
