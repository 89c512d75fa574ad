"""Imports: instances put into image sets, by jobs over a prefix of S3 and by DICOMweb's store.

Belongs here: the life of a job, and the order in which an import becomes true. Does not belong here: reading DICOM
(`dicom.py`, `instances.py`), the choice of image set (`grouping.py`), the form of the results (`results.py`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import FailFiles, FailJob, HoldJobs, LateManifest, SlowJobs, StuckJobs
from local_aws.healthimaging import dicom, instances
from local_aws.healthimaging.commits import TOO_LARGE, Commits, Placed
from local_aws.healthimaging.events import job_folder
from local_aws.healthimaging.grouping import File, Gathered
from local_aws.healthimaging.json_metadata import JsonMetadata
from local_aws.healthimaging.reading import INTERNAL, Reading
from local_aws.healthimaging.results import Results, split_uri
from local_aws.healthimaging.sources import FAILED, JobFailedError, Source
from local_aws.healthimaging.values import load_libraries
from local_aws.inprocess import CallError, S3Object, StoppedError
from local_aws.protocol.errors import ServiceError
from local_aws.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_aws.fault_base import JobFault
    from local_aws.healthimaging.pixel_store import PixelStore, PixelWriter
    from local_aws.healthimaging.shared import Shared
    from local_aws.healthimaging.store import Job
    from local_aws.inprocess import Caller
    from local_aws.outbox import Outbox
    from local_aws.work import Finish, Work

log = logging.getLogger(__name__)

ACTIVE_JOBS = ("SUBMITTED", "IN_PROGRESS")
# Failure reasons of DICOM (PS3.18, table I.2-2).
IDENTITY_TAGS = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
CANNOT_UNDERSTAND, PROCESSING_FAILURE, OUT_OF_RESOURCES = 0xC000, 0x0110, 0xA700


@dataclass(frozen=True)
class Stored:
    """What became of one object of `Imports.store`.

    Attributes:
        name: As the caller named it.
        sop_class_uid: SOP Class UID, empty when it could not be read.
        sop_uid: SOP Instance UID, likewise.
        study_uid: Study Instance UID, likewise.
        series_uid: Series Instance UID, likewise.
        image_set_id: Where it went; None when it failed.
        version: Version of that image set.
        is_primary: Whether that image set is primary.
        warnings: `{"warning_reason_code": ..., "type": ..., "message": ...}`; the codes are those of (0008,1196).
        failure: Why it failed; empty when it did not.
        failure_code: Value of (0008,1197), 0 when it did not fail.
    """

    name: str
    sop_class_uid: str = ""
    sop_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    image_set_id: str | None = None
    version: int = 0
    is_primary: bool = False
    warnings: tuple[dict[str, Any], ...] = ()
    failure: str = ""
    failure_code: int = 0


class Imports:
    """Runs the import jobs of all data stores in a few threads."""

    def __init__(self, shared: Shared, pixels: PixelStore, caller: Caller, outbox: Outbox) -> None:
        settings = self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._faults = shared.faults
        self._pixels = pixels
        self._caller = caller
        self._closing = threading.Event()
        self._work: Work | None = None
        self._pool = Workers(settings.workers)
        self._commits = Commits(shared, outbox)
        self.merging = self._commits.merging
        self._latest = settings.attribute_wins == "latest"
        self._rules = instances.Rules(
            long_values=settings.long_values == "warn",
            invalid_uids=settings.invalid_uids == "warn",
            discard_warnings=settings.discard_warnings,
            other_warnings=settings.other_warnings,
            null_pixels=settings.pixel_data_key == "null",
            checksum_type=settings.checksum_type == "present",
            store_syntax=settings.stored_syntax == "always",
            strip_numbers=settings.number_padding == "stripped",
        )

    def resume(self) -> None:
        """Take up what a stop or a kill interrupted: events of what is true already, then jobs from their beginning."""
        self._commits.resume()
        for job in self._store.jobs("status IN (?, ?)", ACTIVE_JOBS, "ORDER BY submitted"):
            self.submit(job.id)

    def attach(self, work: Work) -> None:
        """Let result files come late, also after a stop."""
        self._work = work
        work.register("manifest", self._late, 0.0)

    def tell(self) -> None:
        """Send what is in the outbox, once the transaction that put it there is true."""
        self._commits.tell()

    def submit(self, job_id: str) -> None:
        """Run a job soon."""
        self._pool.submit(lambda: self._run(job_id))

    def stopping(self) -> None:
        """Say that the server stops: what waits gives up, and what ends in an error was only interrupted."""
        self._closing.set()
        self._clock.wake()
        with self._faults.changed:
            self._faults.changed.notify_all()

    def close(self) -> None:
        """Stop; unfinished jobs are taken up at the next start."""
        self.stopping()
        self._pool.close()

    # -- DICOMweb's store -----------------------------------------------------------------------------------------

    def store(self, datastore_id: str, objects: Sequence[tuple[str, bytes]], source: str = "") -> list[Stored]:
        """Import objects at once, by the rules of a job but without one: there are events of image sets only.

        Args:
            datastore_id: An active data store.
            objects: Names of the caller's choice, each once, and whole objects.
            source: What the import is called in the log; no path.

        Returns:
            What became of each, in the same order.
        """
        load_libraries()
        source = f"{source or 'store'}-{uuid.uuid4().hex}"
        gathered, outcome = Gathered(self._settings.max_metadata_bytes, latest=self._latest), {}
        with self._pixels.writer(datastore_id, source) as writer:
            for name, body in objects:
                parsed = None
                try:
                    parsed = dicom.read(body)
                    gathered.add(name, instances.instance(parsed, f"{source}/{name}", writer, rules=self._rules))
                except dicom.DicomError as error:
                    outcome[name] = _failed(name, parsed, str(error), CANNOT_UNDERSTAND)
                except Exception:
                    log.exception("an object of %s could not be read", source)
                    outcome[name] = _failed(name, parsed, INTERNAL, PROCESSING_FAILURE)
            placed = self._commits.commit(datastore_id, gathered.groups(), writer, self._closing)
        for one in placed:
            for file in one.files:
                outcome[file.name] = _stored(one, file)
        stopped = Stored("", failure=INTERNAL, failure_code=PROCESSING_FAILURE)
        return [outcome.get(name, stopped) for name, _ in objects]

    # -- jobs -----------------------------------------------------------------------------------------------------

    def _run(self, job_id: str) -> None:
        try:
            job = self._store.jobs("id = ?", (job_id,))[0]
            self._wait_out(HoldJobs)
            if self._closing.is_set():
                return
            if job.status == "SUBMITTED":
                job.status = "IN_PROGRESS"
                self._commits.put_job(job)
            results = Results(versions=self._settings.success_versions)
            try:
                self._import(job, results)
            except JobFailedError as error:
                if not self._closing.is_set():
                    self._fail(job, results, str(error), manifest=self._settings.failed_job_manifest)
        except ServiceError as error:
            self._fail(job, Results(), f"{FAILED} {error.message}")
        except StoppedError:
            log.info("import job %s goes on at the next start", job_id)
        except Exception:
            if not self._closing.is_set():
                log.exception("import job %s broke", job_id)
                self._fail(self._store.jobs("id = ?", (job_id,))[0], Results(), f"{FAILED} Internal error")

    def _fail(self, job: Job, results: Results, message: str, *, manifest: bool = False) -> None:
        """End a job without anything imported."""
        if manifest:
            with contextlib.suppress(JobFailedError):
                self._write(job, results)
        job.status, job.ended, job.message = "FAILED", self._clock.now(), message
        self._commits.put_job(job)

    def _wait_out(self, cls: type[JobFault]) -> None:
        """Wait until no fault of this kind is set, or the server stops."""
        with self._faults.changed:
            self._faults.changed.wait_for(lambda: self._closing.is_set() or not self._faults.active(cls, _ours))

    def _import(self, job: Job, results: Results) -> None:
        source = Source(self._settings, self._caller.of(job.owner), job.input, self._closing)
        # Read before it is asked: the files come through a server that asks the faults too.
        wanted = {str(fault["holding"]) for fault in self._faults.listing() if fault.get("holding")}
        held = {text for text in wanted if _holds(source, text.encode())}
        broken = self._faults.take(FailJob, lambda fault: _ours(fault) and (not fault.holding or fault.holding in held))
        configuration = json.loads(job.configuration) if job.configuration else None
        metadata = JsonMetadata(source, configuration, wins=self._settings.json_metadata_wins)
        objects = [] if broken else [o for o in source.listing() if o.key not in metadata.keys]
        results.scanned = len(objects)
        self._clock.wait_until(job.submitted + self._seconds(objects), self._closing)
        if self._faults.take(StuckJobs, _ours):
            self._wait_out(StuckJobs)
        if self._closing.is_set():
            return
        if broken:
            if broken.manifest:
                self._write(job, results)
            raise JobFailedError(broken.message)
        gathered = Gathered(self._settings.max_metadata_bytes, latest=self._latest)
        spoiled = self._faults.take(FailFiles, _ours)
        with self._pixels.writer(job.datastore_id, job.id) as writer:
            if spoiled:
                for item in objects:
                    results.fail(item.key, spoiled.message, spoiled.exception_type)
            else:
                most = self._settings.max_bytes_per_file
                reading = Reading(job.id, source, metadata, writer, self._rules, most)
                reading.run(objects, gathered, results, lambda: self._faults.reach("read"))
            if not self._closing.is_set():
                self._finish(job, results, gathered, writer)

    def _seconds(self, objects: list[S3Object]) -> float:
        """How long a job takes, by a fault or by the settings' model."""
        slow = self._faults.take(SlowJobs, _ours)
        if slow:
            return slow.seconds
        settings = self._settings
        size = sum(o.size for o in objects) / 10**9
        return settings.import_seconds + settings.seconds_per_instance * len(objects) + settings.seconds_per_gb * size

    def _finish(self, job: Job, results: Results, gathered: Gathered, writer: PixelWriter) -> None:
        late = self._faults.take(LateManifest, _ours)

        def before(placed: list[Placed]) -> None:
            for one in placed:
                if one.refused:
                    for file in one.files:
                        results.fail(file.name, TOO_LARGE)
                else:
                    results.add(one.head, one.files)
            if late is None:
                self._store.execute("DELETE FROM work WHERE id = ?", (f"manifest-{job.id}",))
                self._write(job, results)
            job.status, job.ended = "COMPLETED", self._clock.now()
            if late is not None:
                # Before the transaction: as long as the job is not COMPLETED, nothing comes of it.
                files = {n: body.decode() for n, body in self._files(job, results).items()}
                due = self._clock.now() + late.seconds
                body = {"job": job.id, "files": files}
                self._store.put("work", {"id": f"manifest-{job.id}", "kind": "manifest", "due": due, "body": body})

        groups = gathered.groups()
        self._commits.commit(job.datastore_id, groups, writer, self._closing, job, before, self._pool.parked)
        if late is not None and self._work:
            self._work.schedule(f"manifest-{job.id}")

    def _late(self, body: dict[str, Any], message: str | None) -> Finish:
        """The result files of a job that is COMPLETED for a while."""
        found = self._store.jobs("id = ? AND status = 'COMPLETED'", (body["job"],))
        if found and message is None:
            self._put(found[0], {name: text.encode() for name, text in body["files"].items()})
        return list

    def _files(self, job: Job, results: Results) -> dict[str, bytes]:
        return dict(results.files(job, keep_empty=self._settings.empty_result_files))

    def _write(self, job: Job, results: Results) -> None:
        self._put(job, self._files(job, results))

    def _put(self, job: Job, files: dict[str, bytes]) -> None:
        bucket, folder = split_uri(job_folder(job.output, job.datastore_id, job.id))
        try:
            for name, body in files.items():
                self._caller.put_object(bucket, folder + name, body, "application/json")
        except CallError as error:
            raise JobFailedError.because(f"Output could not be written: {error.code}") from error


def _ours(fault: JobFault) -> bool:
    return fault.serves("medical-imaging")


def _stored(placed: Placed, file: File) -> Stored:
    """A file that came to its image set."""
    head = placed.head
    uids = (file.sop_class_uid, file.sop_uid, head.study_uid, head.series_uid)
    if placed.refused:
        return Stored(file.name, *uids, failure=TOO_LARGE, failure_code=OUT_OF_RESOURCES)
    return Stored(file.name, *uids, head.id, head.version, head.is_primary, file.warnings)


def _failed(name: str, parsed: dicom.Parsed | None, text: str, code: int) -> Stored:
    class_uid, sop_uid, study_uid, series_uid = (parsed.text(tag) if parsed else "" for tag in IDENTITY_TAGS)
    return Stored(name, class_uid, sop_uid, study_uid, series_uid, failure=text, failure_code=code)


def _holds(source: Source, wanted: bytes) -> bool:
    """Whether a file of a job has these bytes in it."""
    return any(isinstance(body, bytes) and wanted in body for _, body in source.bodies(source.listing()))
