"""How an import becomes true: documents, result files, one transaction with the events in it, the events.

Belongs here: the order of these, and who may change image sets meanwhile. Does not belong here: jobs (`imports.py`),
the choice of image set (`grouping.py`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.grouping import Grouping
from local_aws.protocol.errors import conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from local_aws.healthimaging.grouping import File, Group
    from local_aws.healthimaging.pixel_store import PixelWriter
    from local_aws.healthimaging.shared import Shared
    from local_aws.healthimaging.store import ImageSet, Job
    from local_aws.outbox import Outbox

# How often an import looks whether an image set that it wants to change is unlocked.
LOCK_SECONDS = 0.02
# How long a request waits for that; it holds one of the few threads that store.
SHORT_WAIT_SECONDS = 2.0
TOO_LARGE = "ImageSetMetadata of the image set would be larger than the limit"


@dataclass
class Placed:
    """Files that went into one image set, or did not because its metadata would have become too large."""

    head: ImageSet
    files: list[File]
    refused: bool = False


class Commits:
    """Makes imports true, one at a time."""

    def __init__(self, shared: Shared, outbox: Outbox) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._faults = shared.faults
        self._events = shared.events
        self._outbox = outbox
        # One writer of image sets at a time; updates, copies and deletes take it as well.
        self.merging = threading.Lock()

    def resume(self) -> None:
        """After a kill: remove documents that never became true, send the events of what did."""
        self._store.discard_pending_documents()
        self._outbox.resume()

    def put_job(self, job: Job) -> None:
        """Write a job's new status and tell of it."""
        with self._store.transaction():
            self._store.put_job(job)
            self._store.add_to_outbox([self._events.job_entry(job)])
        self.tell()

    def tell(self) -> None:
        """Send what is in the outbox, once the transaction that put it there is true."""
        self._outbox.send()

    def commit(
        self,
        datastore_id: str,
        groups: list[Group],
        writer: PixelWriter,
        stop: threading.Event,
        job: Job | None = None,
        before: Callable[[list[Placed]], None] | None = None,
        parked: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> list[Placed]:
        """Put groups into image sets.

        A kill before the transaction leaves nothing that anybody can see: the next start removes the documents, and the
        job runs again. A kill after it leaves events in the outbox, which the next start sends.

        Args:
            datastore_id: The data store.
            groups: What was read.
            writer: Where its pixels are.
            stop: Gives up while waiting for a locked image set.
            job: Its job, which `before` brings to its end.
            before: What is to be done before the transaction, such as writing the result files.
            parked: Gives the worker of a job to another one while it waits. Without it the wait is short.

        Returns:
            What went where; nothing when `stop` was set.

        Raises:
            ServiceError: ConflictException: without `parked`, and an image set stayed locked for too long.
        """
        deadline = time.monotonic() + SHORT_WAIT_SECONDS
        while not stop.is_set():
            with self.merging:
                if not self._locked(datastore_id, groups):
                    placed = self._make_true(datastore_id, groups, writer, job, before)
                    break
            if parked is None and time.monotonic() > deadline:
                raise conflict("An image set of the study is locked by another operation.")
            with parked() if parked else contextlib.nullcontext():
                self._clock.wait_until(self._clock.now() + LOCK_SECONDS, stop)
        else:
            return []
        self.tell()
        return placed

    def _make_true(
        self,
        datastore_id: str,
        groups: list[Group],
        writer: PixelWriter,
        job: Job | None,
        before: Callable[[list[Placed]], None] | None,
    ) -> list[Placed]:
        try:
            placed = list(self._written(datastore_id, groups))
            if before:
                before(placed)
            self._faults.reach("results")
            with self._store.transaction():
                self._check_active(datastore_id)
                true = [p for p in placed if not p.refused]
                for one in true:
                    self._store.put_image_set(one.head)
                    writer.assign(one.head.id, (i for file in one.files for i in file.frame_ids))
                entries = [self._entry(one.head) for one in true]
                if job:
                    self._store.put_job(job)
                    entries.insert(0 if self._settings.job_event_first else len(entries), self._events.job_entry(job))
                self._store.keep_pending_documents()
                self._store.add_to_outbox(entries)
        except BaseException:
            self._store.discard_pending_documents()
            raise
        writer.keep()
        self._faults.reach("committed")
        return placed

    def _check_active(self, datastore_id: str) -> None:
        """Refuse what comes into a data store that was deleted meanwhile; who deletes it looks in a transaction too."""
        if not self._store.rows("SELECT 1 FROM datastores WHERE id = ? AND status = 'ACTIVE'", (datastore_id,)):
            raise conflict(f"Data store {datastore_id} is not ACTIVE any more.")

    def _ordered(self, groups: list[Group]) -> list[Group]:
        """The groups by their right to be primary."""
        if self._settings.primary_variant == "largest":
            return sorted(groups, key=lambda group: -len(group.files))
        return groups[::-1] if self._settings.primary_variant == "last" else groups

    def _written(self, datastore_id: str, groups: list[Group]) -> Iterator[Placed]:
        """Write the documents, one of them in memory at a time."""
        latest, coercion = self._settings.attribute_wins == "latest", self._settings.coercion_warnings
        grouping = Grouping(self._store, datastore_id, self._clock, latest=latest, coercion=coercion)
        for change in grouping.place(self._ordered(groups)):
            head = change.head
            if self._settings.import_workflow == "imported":
                head.workflow = "IMPORTED"
            refused = change.oversized or change.draft.size() > self._settings.max_metadata_bytes
            if not refused:
                self._store.note_pending_document(head.datastore_id, head.id, head.version)
                self._store.write_document(head.datastore_id, head.id, head.version, change.draft.pack())
                self._faults.reach("document")
            yield Placed(head, change.files, refused)

    def _entry(self, head: ImageSet) -> dict[str, Any]:
        created = head.version == 1
        return self._events.image_set_entry("Image Set Created" if created else self._settings.merge_detail_type, head)

    def _locked(self, datastore_id: str, groups: list[Group]) -> bool:
        """Whether a primary image set of one of these studies is being changed by somebody else."""
        studies = {g.first.study_uid for g in groups}
        locked = self._store.image_sets("datastore_id = ? AND is_primary = 1 AND state = 'LOCKED'", (datastore_id,))
        return any(head.study_uid in studies for head in locked)
