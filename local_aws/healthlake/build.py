"""Put the parts of HealthLake together.

Belongs here: who gets what. Does not belong here: what anybody does with it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from local_aws.healthlake.datastores import Datastores
from local_aws.healthlake.events import Events
from local_aws.healthlake.exports import Exports
from local_aws.healthlake.imports import Imports
from local_aws.healthlake.jobs import Jobs
from local_aws.healthlake.queue import Queue
from local_aws.healthlake.rates import RATES
from local_aws.healthlake.resources import Resources
from local_aws.healthlake.rest import Rest
from local_aws.healthlake.service import HealthLake, Trail
from local_aws.healthlake.shared import Shared
from local_aws.healthlake.store import Store
from local_aws.limits import Limits
from local_aws.outbox import Outbox
from local_aws.work import Work

if TYPE_CHECKING:
    import asyncio

    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.inprocess import Caller
    from local_aws.settings import LocalSettings

DATASTORE_NAME = "ahi"


class Lake:
    """The emulated HealthLake as the server starts and stops it."""

    def __init__(
        self, settings: LocalSettings, loop: asyncio.AbstractEventLoop, clock: Clock, faults: Faults, caller: Caller
    ) -> None:
        self._store = store = Store(settings.aws_dir / "healthlake")
        events = Events(settings, loop, clock)
        outbox = Outbox(store, events, faults, clock)
        shared = Shared(settings, store, clock, faults, events, outbox, caller)
        self.limits = Limits(clock, RATES, enabled=settings.rate_limits, factor=settings.rate_factor)
        self._work = Work(store, clock, threading.Lock(), outbox, faults)
        self._queue = Queue(shared)
        self._datastores = datastores = Datastores(shared, self._work)
        resources = Resources(shared)
        Imports(shared, self._queue, resources, self._work)
        Exports(shared, self._queue, resources)
        jobs = Jobs(shared, datastores, self._queue)
        operations = {
            "CreateFHIRDatastore": datastores.create,
            "DescribeFHIRDatastore": datastores.describe,
            "ListFHIRDatastores": datastores.list,
            "UpdateFHIRDatastore": datastores.update,
            "DeleteFHIRDatastore": datastores.delete,
            "TagResource": datastores.tag,
            "UntagResource": datastores.untag,
            "ListTagsForResource": datastores.list_tags,
            "StartFHIRImportJob": jobs.start_import,
            "DescribeFHIRImportJob": jobs.describe_import,
            "ListFHIRImportJobs": jobs.list_imports,
            "StartFHIRExportJob": jobs.start_export,
            "DescribeFHIRExportJob": jobs.describe_export,
            "ListFHIRExportJobs": jobs.list_exports,
        }
        trail = Trail(store, events, outbox, settings.fhir_api_events)
        self.service = HealthLake(operations, self.limits, faults, trail)
        self.rest = Rest(shared, datastores, resources, self.limits, faults, trail)

    def bootstrap(self) -> str:
        """A data store, and the unfinished work of the last time. Returns the data store's id."""
        rows = self._store.rows("SELECT id FROM datastores WHERE name = ? AND status = 'ACTIVE'", (DATASTORE_NAME,))
        datastore_id = str(rows[0]["id"]) if rows else ""
        if not datastore_id:
            request = {
                "DatastoreName": DATASTORE_NAME,
                "DatastoreTypeVersion": "R4",
                "ClientToken": f"start-{time.time_ns()}",
            }
            datastore_id = str(self._datastores.create(request, at_once=True)["DatastoreId"])
        self._queue.resume()
        self._work.resume()
        return datastore_id

    def stopping(self) -> None:
        """Say that the server stops."""
        self._queue.stopping()
        self._work.close()

    def stop(self) -> None:
        """Wait for what works."""
        self._queue.close()

    def close(self) -> None:
        """Close what calls still used, once there are none."""
        self._store.close()
