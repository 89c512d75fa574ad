"""The slots of jobs: who runs now, who waits, first in first out.

Belongs here: the queue, the life of a job from SUBMITTED to its end, and its events. Does not belong here: what a job
does (`imports.py`, `exports.py`).

Developer guide, "Importing FHIR data": jobs wait by themselves; formerly a second one was refused.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from local_aws.fault_kinds import FailJob, HoldJobs, StuckJobs
from local_aws.inprocess import StoppedError
from local_aws.protocol.errors import ServiceError
from local_aws.workers import Workers

if TYPE_CHECKING:
    from local_aws.fault_base import JobFault
    from local_aws.healthlake.shared import Shared
    from local_aws.healthlake.store import Job

log = logging.getLogger(__name__)

SERVICE = "healthlake"
# Jobs that run at the same time, of all data stores, whatever the scope of the slots is.
MOST_AT_ONCE = 64


class JobFailedError(Exception):
    """The whole job fails; the text becomes its message."""


# Does the work of a job and returns how it ends; None when the server stops meanwhile.
Runner = Callable[["Job"], "str | None"]


class Queue:
    """Runs the jobs of all data stores."""

    def __init__(self, shared: Shared) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._faults = shared.faults
        self._events = shared.events
        self._outbox = shared.outbox
        self.closing = threading.Event()
        self._pool = Workers(MOST_AT_ONCE)
        self._runners: dict[str, Runner] = {}

    def register(self, kind: str, runner: Runner) -> None:
        """Say who does the work of the jobs of a kind."""
        self._runners[kind] = runner

    # -- who may come in ------------------------------------------------------------------------------------------

    def _scope(self, job: Job) -> tuple[str, str]:
        """Jobs of the same scope share the slots."""
        return job.kind, job.datastore_id if self._settings.fhir_queue_scope == "datastore" else ""

    def _must_wait(self, job: Job) -> bool:
        scope = self._scope(job)
        open_jobs = [j for j in self._store.jobs("ended IS NULL") if self._scope(j) == scope]
        return len(open_jobs) >= self._settings.fhir_concurrent_jobs

    def check(self, job: Job) -> None:
        """Refuse one more job than can wait. Inside the transaction that adds it.

        Raises:
            ServiceError: The model has no error for it.
        """
        waiting = [
            j
            for j in self._store.jobs("ended IS NULL AND claimed = 0 AND kind = ?", (job.kind,))
            if j.datastore_id == job.datastore_id
        ]
        if not self._must_wait(job):
            return
        if self._settings.fhir_queue == "reject":
            raise ServiceError("ThrottlingException", "A job is running already.")
        if len(waiting) >= self._settings.fhir_max_queued_jobs:
            text = f"{len(waiting)} jobs are queued already."
            raise ServiceError(self._settings.fhir_queue_full_error, text)

    def add(self, job: Job) -> None:
        """Take a job in. Inside a transaction; `advance` comes after it."""
        # In milliseconds, as answers and events have it: what is told can be compared with what is asked.
        job.submitted = round(self._clock.now(), 3)
        waits = self._must_wait(job) or self._settings.fhir_always_queued
        entries = [self._events.job_entry(job)]
        if waits:
            job.status = "QUEUED"
            entries.append(self._events.job_entry(job))
        self._store.put_job(job)
        self._store.add_to_outbox(entries)

    def advance(self) -> None:
        """Give the free slots to those who wait longest."""
        claimed = []
        with self._store.transaction():
            open_jobs = self._store.jobs("ended IS NULL")
            taken = Counter(self._scope(job) for job in open_jobs if job.claimed)
            for job in open_jobs:
                if not job.claimed and taken[self._scope(job)] < self._settings.fhir_concurrent_jobs:
                    taken[self._scope(job)] += 1
                    self._store.execute("UPDATE jobs SET claimed = 1 WHERE id = ?", (job.id,))
                    claimed.append(job.id)
        for job_id in claimed:
            self._submit(job_id)

    def resume(self) -> None:
        """Take up what a stop or a kill interrupted: events of what is true already, then jobs where they were."""
        self._outbox.resume()
        for job in self._store.jobs("ended IS NULL AND claimed = 1"):
            self._submit(job.id)
        self.advance()

    def _submit(self, job_id: str) -> None:
        self._pool.submit(lambda: self._run(job_id))

    def stopping(self) -> None:
        """Say that the server stops: what waits gives up."""
        self.closing.set()
        self._clock.wake()
        with self._faults.changed:
            self._faults.changed.notify_all()

    def close(self) -> None:
        """Stop; unfinished jobs go on at the next start."""
        self.stopping()
        self._pool.close()

    # -- the life of a job ----------------------------------------------------------------------------------------

    def _run(self, job_id: str) -> None:
        try:
            job = self._store.job(job_id)
            if job.started is None:
                self._clock.wait_until(self._clock.now() + self._settings.fhir_start_seconds, self.closing)
                self._wait_out(HoldJobs)
                if self.closing.is_set():
                    return
                job.status, job.started = "IN_PROGRESS", self._clock.now()
                self._put(job)
            status = self._work(job)
            if status is not None and not self.closing.is_set():
                self._end(job, status)
        except JobFailedError as error:
            if not self.closing.is_set():
                self._end(job, "FAILED", str(error))
        except StoppedError:
            log.info("job %s goes on at the next start", job_id)
        except Exception:
            if not self.closing.is_set():
                log.exception("job %s broke", job_id)
                self._end(self._store.job(job_id), "FAILED", "Internal error")

    def _work(self, job: Job) -> str | None:
        if self._faults.take(StuckJobs, lambda fault: fault.serves(SERVICE)):
            self._wait_out(StuckJobs)
        if job.seconds is not None:  # somebody else's
            self._clock.wait_until((job.started or 0.0) + job.seconds, self.closing)
            return "COMPLETED"
        # What names bytes of a file is for files of HealthImaging.
        broken = self._faults.take(FailJob, lambda fault: fault.serves(SERVICE) and not fault.holding)
        if broken:
            raise JobFailedError(broken.message)
        return self._runners[job.kind](job)

    def _end(self, job: Job, status: str, message: str = "") -> None:
        # What the model lets a message be made of.
        text = re.sub(r"[^\w .:/=+\-%@]", " ", message)[:2048].strip()
        job.status, job.ended, job.message = status, self._clock.now(), text or None
        self._put(job)
        self.advance()

    def _put(self, job: Job) -> None:
        """Write a job's new status and tell of it."""
        with self._store.transaction():
            self._store.put_job(job)
            self._store.add_to_outbox([self._events.job_entry(job)])
        self._outbox.send()

    def _wait_out(self, cls: type[JobFault]) -> None:
        """Wait until no fault of this kind is set, or the server stops."""
        with self._faults.changed:
            self._faults.changed.wait_for(
                lambda: self.closing.is_set() or not self._faults.active(cls, lambda fault: fault.serves(SERVICE))
            )
