"""Parsed documents of image sets, the last few of them kept.

Belongs here: from an image set to its document. Does not belong here: what an answer takes from it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from local_aws.healthimaging import document

if TYPE_CHECKING:
    from local_aws.dicomweb.elements import Document
    from local_aws.healthimaging.store import Store

# Compressed bytes of the documents that are kept parsed: a document grows about twentyfold.
MAX_KEPT = 4 * 2**20


class Documents:
    """Reads documents. What it returns is shared: never change it. Safe from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, str, int], tuple[int, Document]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def version(
        self, datastore_id: str, image_set_id: str, version: int, above: int = 0
    ) -> tuple[int, Document] | None:
        """The document of a version, or of the newest before it that has one.

        Args:
            datastore_id: Its data store.
            image_set_id: The image set.
            version: Its current version.
            above: Older than this or as old is of no interest.

        Returns:
            The version found and its document, or None.
        """
        for number in range(version, above, -1):
            key = (datastore_id, image_set_id, number)
            with self._lock:
                kept = self._kept.get(key)
                if kept:
                    self._kept.move_to_end(key)
                    return number, kept[1]
            packed = self._store.read_document(*key)
            if packed is not None:
                loaded = document.unpack(packed)
                self._keep(key, len(packed.text), loaded)
                return number, loaded
        return None

    def _keep(self, key: tuple[str, str, int], size: int, loaded: Document) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = (size, loaded)
            self._size += size
            while self._size > MAX_KEPT and len(self._kept) > 1:
                _, (dropped, _) = self._kept.popitem(last=False)
                self._size -= dropped
