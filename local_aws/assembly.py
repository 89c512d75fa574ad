"""Put the parts together once the event loop runs.

Belongs here: who gets what. Does not belong here: what anybody does with it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from local_aws import bootstrap, fault_forms
from local_aws.clock import Clock
from local_aws.control import Control
from local_aws.dicomweb.build import build
from local_aws.faults import Faults
from local_aws.healthimaging.copies import Copies
from local_aws.healthimaging.datastores import Datastores
from local_aws.healthimaging.events import Events
from local_aws.healthimaging.image_sets import ImageSets
from local_aws.healthimaging.imports import Imports
from local_aws.healthimaging.jobs import Jobs
from local_aws.healthimaging.pixel_store import FrameRules, PixelStore
from local_aws.healthimaging.rates import RATES
from local_aws.healthimaging.retrieve import Frames
from local_aws.healthimaging.search import Search
from local_aws.healthimaging.service import HealthImaging
from local_aws.healthimaging.shared import Shared
from local_aws.healthimaging.store import Store
from local_aws.healthimaging.updates import Updates
from local_aws.healthimaging.values import load_libraries
from local_aws.healthlake.build import Lake
from local_aws.healthlake.http import LakeHttp
from local_aws.inprocess import Caller
from local_aws.limits import Limits
from local_aws.outbox import Outbox
from local_aws.sqs_gaps import SqsGaps
from local_aws.work import Work

if TYPE_CHECKING:
    import asyncio

    from local_aws.app import LocalAws
    from local_aws.settings import LocalSettings

DATASTORE_NAME = "ahi"


class Parts:
    """Everything beside ministack."""

    def __init__(self, settings: LocalSettings, app: LocalAws, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._store = Store(settings.aws_dir / "healthimaging")
        self._caller = Caller(app, loop, settings.account, settings.region)
        self._clock = Clock(file=settings.aws_dir / "clock")
        clock = self._clock
        faults = Faults()
        for fault in fault_forms.make_all(settings.faults) if settings.faults else ():
            faults.add(fault)
        limits = Limits(
            clock, RATES, enabled=settings.rate_limits, factor=settings.rate_factor, others=settings.undocumented_rate
        )
        events = Events(settings, loop, clock)
        outbox = Outbox(self._store, events, faults, clock)
        shared = Shared(settings, self._store, clock, faults, events)
        self._datastores = Datastores(shared, outbox)
        self._pixels = PixelStore(
            settings.aws_dir / "healthimaging" / "pixels",
            self._store,
            FrameRules(
                settings.checked_frame_bytes,
                pyramid=settings.frame_resolutions == "pyramid",
                encoded_sizes=settings.frame_sizes == "encoded",
            ),
        )
        self._imports = Imports(shared, self._pixels, self._caller, outbox)
        self._work = Work(self._store, clock, self._imports.merging, outbox, faults)
        self._datastores.attach(self._work)
        self._imports.attach(self._work)
        jobs = Jobs(shared, self._datastores, self._imports)
        image_sets = ImageSets(shared, self._datastores)
        search = Search(shared, self._datastores)
        frames = Frames(shared, image_sets, self._pixels)
        updates = Updates(shared, self._pixels, image_sets, self._work)
        copies = Copies(shared, self._pixels, image_sets, self._work)
        operations = {
            "CreateDatastore": self._datastores.create,
            "GetDatastore": self._datastores.get,
            "ListDatastores": self._datastores.list,
            "DeleteDatastore": self._datastores.delete,
            "TagResource": self._datastores.tag,
            "UntagResource": self._datastores.untag,
            "ListTagsForResource": self._datastores.list_tags,
            "StartDICOMImportJob": jobs.start,
            "GetDICOMImportJob": jobs.get,
            "ListDICOMImportJobs": jobs.list,
            "SearchImageSets": search.search,
            "GetImageSet": image_sets.get,
            "GetImageSetMetadata": image_sets.metadata,
            "GetImageFrame": frames.get,
            "ListImageSetVersions": image_sets.versions,
            "UpdateImageSetMetadata": updates.update,
            "CopyImageSet": copies.copy,
            "DeleteImageSet": updates.delete,
        }
        app.health_imaging = HealthImaging(operations, limits, faults, settings.page_size)
        self._lake = Lake(settings, loop, clock, faults, self._caller)
        app.health_lake = LakeHttp(self._lake.service, self._lake.rest, faults)
        app.control = Control(faults, app.log, (limits, self._lake.limits), clock, settings)
        app.dicom_web = self._dicom_web = build(
            settings,
            store=self._store,
            datastores=self._datastores,
            pixels=self._pixels,
            frames=frames,
            native=search,
            imports=self._imports,
            limits=limits,
            faults=faults,
            clock=clock,
        )
        app.sqs_gaps = SqsGaps(app.ministack)
        app.faults = faults

    def bootstrap(self, port: int) -> dict[str, str]:
        """Template, data store, unfinished work of the last time. Returns the environment."""
        template = bootstrap.template_of(self._settings)
        outputs = bootstrap.apply_template(self._caller, template) if template else {}
        rows = self._store.rows("SELECT id FROM datastores WHERE name = ? AND status = 'ACTIVE'", (DATASTORE_NAME,))
        datastore_id = rows[0]["id"] if rows else ""
        if not datastore_id:
            answer = self._datastores.create(
                {"datastoreName": DATASTORE_NAME, "clientToken": f"start-{time.time_ns()}"}, at_once=True
            )
            datastore_id = answer["datastoreId"]
        self._imports.resume()
        self._work.resume()
        self._datastores.resume()
        ids = {"AHI_DATASTORE_ID": datastore_id, "AHI_FHIR_DATASTORE_ID": self._lake.bootstrap()}
        return bootstrap.environment(self._settings, port, outputs, ids)

    def warm_up(self) -> None:
        """Import what the first job needs, so that it does not wait for it."""
        load_libraries()

    def stop(self) -> None:
        """Stop working; what is unfinished is taken up at the next start. The loop must run, in another thread."""
        # All know that it ends before anybody is waited for.
        self._imports.stopping()
        self._lake.stopping()
        self._work.close()
        self._lake.stop()
        self._imports.close()
        self._clock.close()

    def close(self) -> None:
        """Close what calls still used, once there are none."""
        self._dicom_web.close()
        self._lake.close()
        self._store.close()
