"""What an import job does: files below a prefix, line by line, into the data store.

Belongs here: the order in which an import becomes true. Does not belong here: slots and statuses (`queue.py`), one line
(`validate.py`), the form of the results (`results.py`).

A file is read in parts. With the resources of a part the transaction writes how far the job came, and the lines of its
results are in S3 before the transaction that ends a file: a job that a kill interrupts goes on behind its last part,
and no line is stored twice.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import FailFiles, LateManifest, SlowJobs
from local_aws.fault_kinds_lake import CutFailures, FailLines
from local_aws.healthlake.jobs import split_uri
from local_aws.healthlake.queue import SERVICE, JobFailedError
from local_aws.healthlake.results import FAILURE, Lines, manifest, manifest_names
from local_aws.healthlake.validate import BOM, Refused, Resource, read
from local_aws.inprocess import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_aws.healthlake.queue import Queue
    from local_aws.healthlake.resources import Resources
    from local_aws.healthlake.shared import Shared
    from local_aws.healthlake.store import Job
    from local_aws.inprocess import S3Object
    from local_aws.work import Finish, Work

log = logging.getLogger(__name__)

# What of a file is read at a time, and what of it is worked on at a time; a line may be longer. ministack reads the
# whole object for each range.
FETCH_BYTES = 16 * 2**20
PART_BYTES = 2 * 2**20
# Number of the line, what it is, its bytes; or whether it failed by a fault.
Good = tuple[int, Resource, bytes]
Bad = tuple[int, Refused | Resource, bool]


class Imports:
    """Does the work of import jobs."""

    def __init__(self, shared: Shared, queue: Queue, resources: Resources, work: Work) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._faults = shared.faults
        self._caller = shared.caller
        self._closing = queue.closing
        self._resources = resources
        self._work = work
        work.register("manifest", self._late, 0.0)
        queue.register("import", self.run)

    def run(self, job: Job) -> str | None:
        """Do the work of a job. Returns how it ends; None when the server stops meanwhile.

        Raises:
            JobFailedError: It fails as a whole.
        """
        objects = self._listing(job)
        files = self._checked(job, objects)
        end = (job.started or 0.0) + self._seconds(job)
        failing = self._faults.take(FailLines)
        cut = self._faults.take(CutFailures)
        every = 1 if self._faults.take(FailFiles, lambda fault: fault.serves(SERVICE)) else 0
        for item in files:
            if item.key >= job.progress.key:
                _File(self, job, item, failing.every if failing else every).run(cut.kept if cut else 1.0)
            if self._closing.is_set():
                return None
        self._clock.wait_until(end, self._closing)
        if self._closing.is_set():
            return None
        self._tell(job)
        wrong = job.progress.customer + job.progress.server + job.progress.files_failed
        return "COMPLETED_WITH_ERRORS" if wrong else "COMPLETED"

    # -- what there is --------------------------------------------------------------------------------------------

    def _listing(self, job: Job) -> list[S3Object]:
        bucket, prefix = split_uri(job.input or "")
        try:
            found = list(self._caller.list_objects(bucket, prefix))
        except CallError as error:
            raise JobFailedError(f"The input location cannot be listed: {error.code}") from error
        return [o for o in found if not (o.key.endswith("/") and o.size == 0)]

    def _checked(self, job: Job, objects: list[S3Object]) -> list[S3Object]:
        """The files that are imported, in key order.

        Raises:
            JobFailedError: There is none, or a quota is exceeded.
        """
        files = [o for o in objects if o.key.endswith(".ndjson")]
        settings, size = self._settings, sum(o.size for o in files)
        job.progress.files, job.progress.bytes = len(files), size
        job.progress.others = len(objects) - len(files)
        if not files:
            raise JobFailedError("No .ndjson files were found at the input location.")
        if len(files) > settings.fhir_max_files_per_job:
            raise JobFailedError("The number of files exceeds the limit of an import job.")
        if size > settings.fhir_max_bytes_per_job:
            raise JobFailedError("The size of the files exceeds the limit of an import job.")
        if any(o.size > settings.fhir_max_bytes_per_file for o in files):
            raise JobFailedError("The size of a file exceeds the limit of an import job.")
        return files

    def _seconds(self, job: Job) -> float:
        slow = self._faults.take(SlowJobs, lambda fault: fault.serves(SERVICE))
        if slow:
            return slow.seconds
        settings = self._settings
        return settings.fhir_import_seconds + settings.fhir_seconds_per_gb * job.progress.bytes / 10**9

    # -- the end --------------------------------------------------------------------------------------------------

    def _tell(self, job: Job) -> None:
        """Write the manifest, now or later."""
        late = self._faults.take(LateManifest, lambda fault: fault.serves(SERVICE))
        if late is None:
            self._put_manifest(job)
            return
        name = f"manifest-{job.id}"
        due = self._clock.now() + late.seconds
        self._store.put("work", {"id": name, "kind": "manifest", "due": due, "body": {"job": job.id}})
        self._work.schedule(name)

    def _late(self, body: dict[str, Any], message: str | None) -> Finish:
        if message is None:
            self._put_manifest(self._store.job(body["job"]))
        return list

    def _put_manifest(self, job: Job) -> None:
        for name in manifest_names(self._settings):
            self.put(job, name, manifest(job))

    def put(self, job: Job, name: str, body: bytes) -> None:
        """Write one object of the results.

        Raises:
            JobFailedError: S3 refuses.
        """
        bucket, folder = split_uri(job.folder)
        try:
            self._caller.put_object(bucket, folder + name, body, "application/json")
        except CallError as error:
            raise JobFailedError(f"The output cannot be written: {error.code}") from error

    # -- one part of a file ---------------------------------------------------------------------------------------

    def get(self, job: Job, key: str, start: int, limit: int) -> bytes:
        """A part of an input file."""
        return self._caller.get_object(split_uri(job.input or "")[0], key, start=start, limit=limit)

    def commit(self, job: Job, found: list[tuple[Resource, bytes]]) -> list[int]:
        """Store the resources of a part; the caller is in the transaction that also writes the progress."""
        store = self._resources.store_of(job.datastore_id)
        rows = ((r.type, r.id, r.body, text) for r, text in found)
        return self._resources.put_all(store, rows, job.number or 0)


class _File:
    """One input file of a job."""

    def __init__(self, imports: Imports, job: Job, item: S3Object, failing: int) -> None:
        self._imports = imports
        self._job = job
        self._item = item
        self._failing = failing
        self._store = imports._store  # noqa: SLF001 -- of the same module
        self._faults = imports._faults  # noqa: SLF001
        self._closing = imports._closing  # noqa: SLF001
        self._settings = imports._settings  # noqa: SLF001

    def run(self, kept: float) -> None:
        """Import what of the file is not imported yet. `kept` is the share of FAILURE that is written."""
        done = self._job.progress
        if done.key != self._item.key:
            done.key, done.offset, done.line = self._item.key, 0, 0
            self._store.drop_lines(self._job.id)
        elif done.offset < 0:
            return
        try:
            for lines, last in self._parts(done.offset):
                self._faults.reach("fhir_read")
                self._part(lines, last=last, kept=kept)
                self._faults.reach("fhir_committed")
                if self._closing.is_set():
                    return
        except CallError:
            log.warning("a file of import job %s could not be read", self._job.id)
            done.files_failed += 1
            done.offset = -1
            self._store.put_job(self._job)

    def _parts(self, start: int) -> Iterator[tuple[list[bytes], bool]]:
        """Whole lines, a bounded number of bytes at a time, and whether they are the last."""
        rest = b""
        while True:
            data = self._imports.get(self._job, self._item.key, start, FETCH_BYTES) if start < self._item.size else b""
            start += len(data)
            ends = not data or start >= self._item.size
            buffer, at = rest + data, 0
            while (cut := _cut(buffer, at)) >= 0:
                last = ends and cut + 1 == len(buffer)
                yield buffer[at:cut].split(b"\n"), last
                if last:
                    return
                at = cut + 1
            rest = buffer[at:]
            if ends:
                yield [rest] if rest else [], True
                return

    def _part(self, lines: list[bytes], *, last: bool, kept: float) -> None:
        job, done = self._job, self._job.progress
        good: list[Good] = []
        bad: list[Bad] = []
        for number, line in enumerate(lines, done.line):
            if not line.strip():
                continue
            found = read(line, job.level or "strict")
            if self._failing and (number + 1) % self._failing == 0:
                bad.append((number, found, True))
            elif isinstance(found, Refused):
                bad.append((number, found, False))
            else:
                good.append((number, found, line.strip().removeprefix(BOM)))
        before = replace(done)
        try:
            self._commit(lines, good, bad, last=last, kept=kept)
        except BaseException:
            job.progress = before
            raise

    def _commit(self, lines: list[bytes], good: list[Good], bad: list[Bad], *, last: bool, kept: float) -> None:
        """Store a part, and write how far the job came with it."""
        job, done = self._job, self._job.progress
        with self._store.transaction():
            statuses = self._imports.commit(job, [(found, line) for _, found, line in good])
            written = self._written(good, statuses, bad)
            self._count(lines, good, bad)
            if last:
                bodies = self._store.kept_lines(job.id)
                for folder, body in written.items():
                    bodies[folder] = bodies.get(folder, b"") + body
                self._put(bodies, kept)
                self._faults.reach("fhir_results")
                self._store.drop_lines(job.id)
                done.files_read, done.offset = done.files_read + 1, -1
            else:
                self._store.keep_lines(job.id, written)
            self._store.put_job(job)

    def _written(
        self,
        good: list[Good],
        statuses: list[int],
        bad: list[Bad],
    ) -> dict[str, bytes]:
        lines = Lines(self._settings)
        for (number, resource, _), status in zip(good, statuses, strict=True):
            lines.stored(number, resource, status)
        for number, found, broken in bad:
            if broken:
                lines.broken(number, found)
            elif isinstance(found, Refused):
                lines.refused(number, found)
        return lines.take()

    def _count(
        self,
        lines: list[bytes],
        good: list[Good],
        bad: list[Bad],
    ) -> None:
        done = self._job.progress
        server = sum(broken for _, _, broken in bad)
        done.scanned += len(good) + len(bad)
        done.imported += len(good)
        done.imported_bytes += sum(len(line) for _, _, line in good)
        done.server += server
        done.customer += len(bad) - server
        done.line += len(lines)
        done.offset += sum(len(line) + 1 for line in lines)

    def _put(self, bodies: dict[str, bytes], kept: float) -> None:
        """Results of a file, under its path below the prefix."""
        _, prefix = split_uri(self._job.input or "")
        name = self._item.key.removeprefix(prefix).lstrip("/") or self._item.key.rpartition("/")[2]
        for folder, body in bodies.items():
            part = body[: int(len(body) * kept)] if folder == FAILURE else body
            self._imports.put(self._job, f"{folder}/{name}", part)


def _cut(buffer: bytes, at: int) -> int:
    """Where a part ends that begins at `at`: at its last newline, or the first one of a line that is longer; or -1."""
    found = buffer.rfind(b"\n", at, at + PART_BYTES)
    return found if found >= 0 else buffer.find(b"\n", at)
