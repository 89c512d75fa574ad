"""Import jobs: read a prefix of S3, put every object into an image set or into failure.ndjson, tell everybody.

Belongs here: the life of a job. Does not belong here: reading DICOM (`dicom.py`, `document.py`), the choice of image
set (`grouping.py`), the form of the results (`results.py`).
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from local_aws.faults import FailFiles, FailJob, HoldJobs, LateManifest, SlowJobs, StuckJobs
from local_aws.healthimaging import dicom, document
from local_aws.healthimaging.events import job_folder
from local_aws.healthimaging.grouping import Grouping, Touched
from local_aws.healthimaging.results import Results, split_uri
from local_aws.healthimaging.values import load_libraries
from local_aws.inprocess import CallError, S3Object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_aws.clock import Clock
    from local_aws.faults import Fault, Faults
    from local_aws.healthimaging.events import Events
    from local_aws.healthimaging.pixel_store import PixelStore, PixelWriter
    from local_aws.healthimaging.store import Job, Store
    from local_aws.inprocess import Caller
    from local_aws.settings import LocalSettings

log = logging.getLogger(__name__)

WHOLE_BYTES = 64 * 2**20
PREFIX_BYTES = 4 * 2**20
CHUNK_OBJECTS = 32
CHUNK_BYTES = 32 * 2**20
ACTIVE_JOBS = ("SUBMITTED", "IN_PROGRESS")


class JobFailedError(Exception):
    """The whole job fails; the text becomes its message."""


class Imports:
    """Runs the import jobs of all data stores in a few threads."""

    def __init__(
        self,
        settings: LocalSettings,
        store: Store,
        pixels: PixelStore,
        caller: Caller,
        events: Events,
        faults: Faults,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._pixels = pixels
        self._caller = caller
        self._events = events
        self._faults = faults
        self._clock = clock
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=settings.workers, thread_name_prefix="import")
        # One writer of image sets at a time; updates and deletes take it as well.
        self.merging = threading.Lock()

    def resume(self) -> None:
        """Take up the jobs that a stop or a kill interrupted. None of their work was committed."""
        for job in self._store.jobs("status IN (?, ?)", ACTIVE_JOBS, "ORDER BY submitted"):
            self.submit(job.id)

    def submit(self, job_id: str) -> None:
        """Run a job soon."""
        self._pool.submit(self._run, job_id)

    def close(self) -> None:
        """Stop; unfinished jobs are taken up at the next start."""
        self._closing.set()
        self._clock.wake()
        with self._faults.changed:
            self._faults.changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job_id: str) -> None:
        try:
            job = self._store.jobs("id = ?", (job_id,))[0]
            self._wait_out(HoldJobs)
            if self._closing.is_set():
                return
            if job.status == "SUBMITTED":
                job.status = "IN_PROGRESS"
                self._store.put_job(job)
                self._events.job(job)
            try:
                self._import(job)
            except JobFailedError as error:
                self._end(job, "FAILED", str(error))
        except Exception:
            if not self._closing.is_set():
                log.exception("import job %s broke", job_id)

    def _wait_out(self, cls: type[Fault]) -> None:
        """Wait until no fault of this kind is set, or the server stops."""
        with self._faults.changed:
            self._faults.changed.wait_for(lambda: self._closing.is_set() or not self._faults.active(cls))

    def _end(self, job: Job, status: str, message: str | None = None) -> None:
        job.status, job.ended, job.message = status, self._clock.now(), message
        self._store.put_job(job)
        self._events.job(job)

    # -- the work -------------------------------------------------------------------------------------------------

    def _import(self, job: Job) -> None:
        slow = self._faults.take(SlowJobs)
        self._clock.wait_until(
            self._clock.now() + (slow.seconds if slow else self._settings.import_seconds), self._closing
        )
        if self._faults.take(StuckJobs):
            self._wait_out(StuckJobs)
        if self._closing.is_set():
            return
        broken = self._faults.take(FailJob)
        results = Results()
        if broken:
            if broken.manifest:
                self._write(job, results)
            raise JobFailedError(broken.message)
        bucket, prefix = split_uri(job.input)
        objects = self._listing(bucket, prefix)
        results.scanned = len(objects)
        spoiled = self._faults.take(FailFiles)
        if spoiled:
            for item in objects:
                results.fail(item.key, spoiled.message, spoiled.exception_type)
            with self._pixels.writer(job.datastore_id, job.id) as writer:
                self._finish(job, results, [], writer)
            return
        with self._pixels.writer(job.datastore_id, job.id) as writer:
            read = self._read(job, bucket, objects, results, writer)
            if self._closing.is_set():
                return
            with self.merging:
                placed = Grouping(self._store, job.datastore_id, self._clock).place(read)
                self._finish(job, results, placed, writer)

    def _read(
        self, job: Job, bucket: str, objects: list[S3Object], results: Results, writer: PixelWriter
    ) -> list[tuple[str, document.Instance]]:
        """Every object as an instance; those that are none go to `results`."""
        load_libraries()
        read: list[tuple[str, document.Instance]] = []
        for item, body in self._bodies(bucket, objects):
            if isinstance(body, CallError):
                results.fail(item.key, f"Object could not be read from S3: {body.code}")
                continue
            try:
                read.append((item.key, self._instance(job, bucket, item, body, writer)))
            except dicom.DicomError as error:
                results.fail(item.key, str(error))
            except Exception:
                log.exception("an object of import job %s could not be read", job.id)
                results.fail(item.key, "Internal error during import", "InternalServerException")
        return read

    def _instance(self, job: Job, bucket: str, item: S3Object, body: bytes, writer: PixelWriter) -> document.Instance:
        seed = f"{job.id}/{item.key}"

        def fetch(start: int, length: int) -> bytes:
            return self._caller.get_object(bucket, item.key, start=start, limit=length)

        try:
            return document.instance(dicom.read(body, item.size), seed, writer, fetch)
        except dicom.DicomError:
            if len(body) == item.size:
                raise
        # The beginning was not enough: an attribute before the pixels is longer than it.
        return document.instance(dicom.read(self._caller.get_object(bucket, item.key)), seed, writer)

    def _listing(self, bucket: str, prefix: str) -> list[S3Object]:
        try:
            found = list(self._caller.list_objects(bucket, prefix))
        except CallError as error:
            raise JobFailedError(f"DICOM import job has failed. Input could not be listed: {error.code}") from error
        found = [o for o in found if not (o.key.endswith("/") and o.size == 0)]
        if not found:
            raise JobFailedError("DICOM import job has failed. No files were found at the input location")
        if len(found) > self._settings.max_files_per_job:
            raise JobFailedError("DICOM import job has failed. FILE_COUNTS_LIMIT_EXCEEDED")
        if sum(o.size for o in found) > self._settings.max_bytes_per_job:
            raise JobFailedError("DICOM import job has failed. FILE_SIZES_LIMIT_EXCEEDED")
        return found

    def _bodies(self, bucket: str, objects: list[S3Object]) -> Iterator[tuple[S3Object, bytes | CallError]]:
        """Bodies in key order, a bounded number of them in memory."""
        chunk: list[S3Object] = []
        size = 0
        for item in objects:
            if self._closing.is_set():
                return
            if chunk and (len(chunk) == CHUNK_OBJECTS or size + item.size > CHUNK_BYTES):
                yield from self._fetch(bucket, chunk)
                chunk, size = [], 0
            chunk.append(item)
            size += item.size
        yield from self._fetch(bucket, chunk)

    def _fetch(self, bucket: str, chunk: list[S3Object]) -> Iterator[tuple[S3Object, bytes | CallError]]:
        wanted = [(o.key, PREFIX_BYTES if o.size > WHOLE_BYTES else None) for o in chunk]
        yield from zip(chunk, self._caller.get_objects(bucket, wanted), strict=True)

    # -- the end --------------------------------------------------------------------------------------------------

    def _finish(self, job: Job, results: Results, touched: list[Touched], writer: PixelWriter) -> None:
        """Documents, result files, then one transaction, then the events.

        A kill before the transaction leaves nothing that anybody can see, and the job runs again.
        """
        for change in touched:
            head = change.head
            self._store.write_document(head.datastore_id, head.id, head.version, document.pack(change.document))
            results.image_sets[head.id] = (head.version, head.is_primary, len(change.files))
            for key, item in change.files:
                answer = {"imageSetId": head.id, "isPrimary": head.is_primary}
                results.success.append({"inputFile": key, "importResponse": answer})
                if item.warnings:
                    full = answer | {"imageSetVersion": head.version, "warnings": list(item.warnings)}
                    results.warning.append({"inputFile": key, "importResponse": full})
        late = self._faults.take(LateManifest)
        if late is None:
            self._write(job, results)
        job.status, job.ended = "COMPLETED", self._clock.now()
        with self._store.transaction():
            for change in touched:
                self._store.put_image_set(change.head)
                writer.assign(change.head.id, (item.body for _, item in change.files))
            self._store.put_job(job)
        writer.keep()
        merged = self._settings.merge_detail_type
        entries = [
            self._events.image_set_entry("Image Set Created" if c.head.version == 1 else merged, c.head)
            for c in touched
        ]
        self._events.send(entries)
        self._events.job(job)
        if late is not None:
            self._clock.call_later(late.seconds, lambda: self._write(job, results))

    def _write(self, job: Job, results: Results) -> None:
        bucket, folder = split_uri(job_folder(job.output, job.datastore_id, job.id))
        try:
            for name, body in results.files(job, keep_empty=self._settings.empty_result_files).items():
                self._caller.put_object(bucket, folder + name, body, "application/json")
        except CallError as error:
            raise JobFailedError(f"DICOM import job has failed. Output could not be written: {error.code}") from error
