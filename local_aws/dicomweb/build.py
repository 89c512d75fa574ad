"""Put the DICOMweb plane together.

Belongs here: who gets what. Does not belong here: what anybody does with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_aws.dicomweb.documents import Documents
from local_aws.dicomweb.index import Index
from local_aws.dicomweb.locate import Locator
from local_aws.dicomweb.retrieve import Retrieval
from local_aws.dicomweb.routes import DicomWeb
from local_aws.dicomweb.search import Search
from local_aws.dicomweb.stow import Storing

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.healthimaging.datastores import Datastores
    from local_aws.healthimaging.imports import Imports
    from local_aws.healthimaging.pixel_store import PixelStore
    from local_aws.healthimaging.retrieve import Frames
    from local_aws.healthimaging.search import Search as NativeSearch
    from local_aws.healthimaging.store import Store
    from local_aws.limits import Limits
    from local_aws.settings import LocalSettings


def build(
    settings: LocalSettings,
    *,
    store: Store,
    datastores: Datastores,
    pixels: PixelStore,
    frames: Frames,
    native: NativeSearch,
    imports: Imports,
    limits: Limits,
    faults: Faults,
    clock: Clock,
) -> DicomWeb:
    """The endpoint over the parts of the native service."""
    documents = Documents(store)
    index = Index(settings.aws_dir / "healthimaging" / "dicomweb.sqlite", store, documents, native.table)
    search = Search(index, documents)
    retrieval = Retrieval(Locator(store, documents, clock), pixels, frames)
    return DicomWeb(settings, datastores, index, search, retrieval, Storing(imports), limits, faults)
