"""GetImageFrame: one frame of an image set, in the form in which HealthImaging stores it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.codecs import CodecError, StreamCache
from local_aws.healthimaging.syntaxes import JPEG, JPEG_2000, VIDEO
from local_aws.protocol.errors import ServiceError, conflict, not_found

if TYPE_CHECKING:
    from local_aws.healthimaging.image_sets import ImageSets
    from local_aws.healthimaging.pixel_store import PixelStore, StoredFrame
    from local_aws.healthimaging.shared import Shared

log = logging.getLogger(__name__)

OCTETS = "application/octet-stream"
# "GetImageFrame" of the service model; what it does not list is octets. HEVC's type is its own spelling.
CONTENT_TYPES = {
    **dict.fromkeys((s for s in VIDEO if s.startswith((JPEG + "100", JPEG + "101"))), "video/mpeg"),
    **dict.fromkeys((s for s in VIDEO if JPEG + "102" <= s < JPEG + "107"), "video/mp4"),
    **dict.fromkeys((JPEG + "107", JPEG + "108"), "video/H256"),
    JPEG + "50": "image/jpeg",
    JPEG + "91": "image/j2c",
    JPEG + "112": "image/jxl",
    JPEG + "202": "image/jph",
    JPEG + "203": "image/jphc",
}


class Frames:
    """Image frames as clients get them."""

    def __init__(self, shared: Shared, image_sets: ImageSets, pixels: PixelStore) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._image_sets = image_sets
        self._pixels = pixels
        self._cache = StreamCache(shared.settings.frame_cache_bytes)

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetImageFrame. A frame belongs to its image set whichever version has it; counts as an access."""
        head = self._image_sets.find(request)
        if head.workflow == "DELETING":
            raise conflict("The image set is being deleted.")
        frame_id = request["imageFrameInformation"]["imageFrameId"]
        frame = self._pixels.read(head.datastore_id, head.id, frame_id)
        if frame is None:
            raise not_found("The image set has no such image frame.")
        body = self.stored_stream(frame)
        self._store.execute(
            "UPDATE image_sets SET accessed = ? WHERE datastore_id = ? AND id = ?",
            (self._clock.now(), head.datastore_id, head.id),
        )
        return {"imageFrameBlob": body, "contentType": self.content_type(frame)}

    def stored_stream(self, frame: StoredFrame) -> bytes:
        """The frame as it is handed out; what was transcoded last comes from memory.

        Raises:
            ServiceError: NotAcceptableException, for a frame whose stream turns out to be broken.
        """
        try:
            return self._cache.stored_stream(frame)
        except CodecError as error:
            # Only frames that were too large to be decoded at import come here.
            log.warning("an image frame cannot be transcoded: %s", error)
            raise ServiceError(
                "NotAcceptableException", "The image frame cannot be transcoded into the data store's format."
            ) from error

    def content_type(self, frame: StoredFrame) -> str:
        """Content-Type of a stored frame."""
        if frame.blob:
            return OCTETS
        if frame.stored_syntax == JPEG_2000:
            return self._settings.jpeg_2000_content_type
        return CONTENT_TYPES.get(frame.stored_syntax, OCTETS)
