"""What an export job does: all resources of the data store as NDJSON.

Belongs here: the documented layout (developer guide, "Exporting FHIR data"). Does not belong here: slots and statuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from local_aws.healthlake.jobs import split_uri
from local_aws.healthlake.queue import JobFailedError
from local_aws.healthlake.resources import Version
from local_aws.inprocess import CallError

if TYPE_CHECKING:
    from local_aws.healthlake.queue import Queue
    from local_aws.healthlake.resources import Resources
    from local_aws.healthlake.shared import Shared
    from local_aws.healthlake.store import Job

# Resources of one file.
FILE_RESOURCES = 10_000


class Exports:
    """Does the work of export jobs."""

    def __init__(self, shared: Shared, queue: Queue, resources: Resources) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._caller = shared.caller
        self._closing = queue.closing
        self._resources = resources
        queue.register("export", self.run)

    def run(self, job: Job) -> str | None:
        """Do the work of a job; a file is written again when a kill interrupted the job."""
        store = self._resources.store_of(job.datastore_id)
        rows = self._store.rows("SELECT DISTINCT type FROM resources WHERE store = ? ORDER BY type", (store,))
        written = []
        for kind in (row["type"] for row in rows):
            after, part = "", 0
            while not self._closing.is_set() and (found := self._some(store, kind, after)):
                name = f"{kind}/{kind}-{int((job.started or 0) * 1e9):019d}-{part}-0.ndjson"
                self._put(job, name, b"".join(version.json() + b"\n" for version in found))
                written.append({"type": kind, "url": f"{job.folder}{name}", "count": len(found)})
                after, part = found[-1].id, part + 1
        self._clock.wait_until((job.started or 0.0) + self._settings.fhir_export_seconds, self._closing)
        if self._closing.is_set():
            return None
        self._put(job, "manifest.json", orjson.dumps({"datastoreId": job.datastore_id, "output": written}))
        return "COMPLETED"

    def _some(self, store: int, kind: str, after: str) -> list[Version]:
        rows = self._store.rows(
            "SELECT id, version, updated, body FROM resources WHERE store = ? AND type = ? AND id > ? AND deleted = 0"
            " ORDER BY id LIMIT ?",
            (store, kind, after, FILE_RESOURCES),
        )
        return [Version(kind, r["id"], r["version"], r["updated"], False, r["body"]) for r in rows]

    def _put(self, job: Job, name: str, body: bytes) -> None:
        bucket, folder = split_uri(job.folder)
        try:
            self._caller.put_object(bucket, folder + name, body, "application/fhir+ndjson")
        except CallError as error:
            raise JobFailedError(f"The output cannot be written: {error.code}") from error
