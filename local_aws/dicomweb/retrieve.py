"""Retrieving metadata, instances, frames and bulk data (WADO-RS).

Belongs here: from an instance of a document to an answer. Does not belong here: finding it (`locate.py`), choosing the
form (`negotiation.py`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from local_aws.dicomweb import part10
from local_aws.dicomweb.elements import Element, Vrs, elements, large, merged, walk
from local_aws.dicomweb.errors import bad_request, not_acceptable, not_found
from local_aws.dicomweb.json_model import bulk_url, join
from local_aws.dicomweb.media import DICOM, JSON, accepted
from local_aws.dicomweb.metadata import Metadata
from local_aws.dicomweb.multipart import encode
from local_aws.dicomweb.negotiation import Form, forms, instance_forms, refusal
from local_aws.healthimaging.dicom import PIXEL_DATA
from local_aws.healthimaging.retrieve import OCTETS
from local_aws.healthimaging.syntaxes import EXPLICIT, NATIVE
from local_aws.healthimaging.values import BINARY
from local_aws.protocol.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from local_aws.dicomweb.errors import Answer
    from local_aws.dicomweb.locate import Found, Locator
    from local_aws.healthimaging.pixel_store import PixelStore, StoredFrame
    from local_aws.healthimaging.retrieve import Frames

MAX_FRAMES = 10_000
BYTE = 8
# Float and Double Float Pixel Data by Bits Allocated; such an object has no Bits Stored (PS3.3, C.7.6.24).
FLOATS = {32: ("OF", 0x7FE00008), 64: ("OD", 0x7FE00009)}
PHOTOMETRIC, PLANAR = 0x00280004, 0x00280006


class Retrieval:
    """Answers WADO-RS requests."""

    def __init__(self, locator: Locator, pixels: PixelStore, frames: Frames) -> None:
        self._locator = locator
        self._pixels = pixels
        self._frames = frames

    # -- metadata -------------------------------------------------------------------------------------------------

    def metadata(self, datastore_id: str, path: dict[str, str], image_set_id: str, accept: str, base: str) -> Answer:
        """Metadata of a series or of one instance: an array of data sets.

        Raises:
            DicomWebError: There is no such thing, or no JSON is wanted.
        """
        check_json(accept)
        found = self._locator.find(datastore_id, path, image_set_id)
        uids = [found.sop_uid] if found.sop_uid else list(found.series["Instances"])
        url = f"{base}/studies/{path['StudyInstanceUID']}/series/{found.series_uid}/instances"
        metadata = Metadata(found.document, found.series_uid, url, self._pixels.lossless_syntax(datastore_id))
        return 200, {"Content-Type": JSON}, join(metadata.written(uid) for uid in uids)

    # -- bulk data ------------------------------------------------------------------------------------------------

    def bulk_data(self, datastore_id: str, path: dict[str, str], image_set_id: str, accept: str) -> Answer:
        """The binary value behind a BulkDataURI.

        Raises:
            DicomWebError: There is none of that name.
        """
        found = self._locator.find(datastore_id, path, image_set_id)
        wanted = path["BulkData"]
        if bulk_url("", f"{PIXEL_DATA:08X}").endswith(f"/{wanted}") and found.instance.get("ImageFrames"):
            return self.frames(datastore_id, path, image_set_id, accept, everything=True)
        for tag, identity in large(found.instance).items():
            if bulk_url("", f"{tag:08X}").endswith(f"/{wanted}"):
                return _octets(self._beside(found, identity), accept)
        values = merged(found.document, found.series_uid, found.sop_uid)
        for where, element in walk(elements(values, Vrs.of(found.instance))):
            if element.vr in BINARY and element.values and bulk_url("", where).endswith(f"/{wanted}"):
                return _octets(element.values[0], accept)
        raise not_found("The instance has no such bulk data.")

    # -- pixels ---------------------------------------------------------------------------------------------------

    def frames(
        self, datastore_id: str, path: dict[str, str], image_set_id: str, accept: str, *, everything: bool = False
    ) -> Answer:
        """Image frames, in the form that the Accept header asks for.

        Raises:
            DicomWebError: The list is no list of frame numbers, there is no such frame, or no such form of it.
        """
        found = self._locator.find(datastore_id, path, image_set_id)
        described = found.instance.get("ImageFrames") or []
        numbers = list(range(1, len(described) + 1)) if everything else frame_numbers(path["FrameList"])
        if not numbers or max(numbers) > len(described):
            raise not_found(f"The instance has {len(described)} image frames.")
        stored = self._read(found, [described[n - 1] for n in numbers])
        syntax = _syntax(stored)
        for form in forms(accepted(accept), syntax, single=len(numbers) == 1):
            made = self._made(stored, form)
            if made is not None:
                named = f"{form.media_type}; transfer-syntax={EXPLICIT if form.native else syntax}"
                return _answer([(named, data) for data in made], form)
        raise not_acceptable(refusal(syntax))

    def instance(self, datastore_id: str, path: dict[str, str], image_set_id: str, accept: str) -> Answer:
        """A whole instance as a DICOM file, rebuilt from document and frames.

        Raises:
            DicomWebError: There is no such instance, or no such form of it.
        """
        found = self._locator.find(datastore_id, path, image_set_id)
        stored = self._read(found, found.instance.get("ImageFrames") or [])
        syntax = _syntax(stored)
        for form in instance_forms(accepted(accept), syntax):
            made = self._made(stored, form)
            if made is not None:
                uid = EXPLICIT if form.native else syntax
                named = f"{DICOM}; transfer-syntax={uid}"
                return _answer([(named, _file(found, self._elements(found), stored, made, uid))], form)
        raise not_acceptable(refusal(syntax))

    def _elements(self, found: Found) -> list[Element]:
        """All of an instance but its pixels."""
        values = merged(found.document, found.series_uid, found.sop_uid)
        beside = large(found.instance)
        return [
            Element(e.tag, e.vr, [self._beside(found, beside[e.tag])]) if e.tag in beside else e
            for e in elements(values, Vrs.of(found.instance))
        ]

    def _beside(self, found: Found, identity: str) -> bytes:
        """A private value that is kept beside the pixels."""
        kept = self._pixels.read(found.head.datastore_id, found.head.id, identity)
        if kept is None:
            raise not_found("The bulk data is not stored.")
        return kept.data

    def _read(self, found: Found, described: Iterable[dict[str, Any]]) -> list[StoredFrame]:
        head = found.head
        frames = [self._pixels.read(head.datastore_id, head.id, d["ID"]) for d in described]
        if any(f is None for f in frames):
            raise not_found("The pixels of this instance are not stored: it was imported by an older emulator.")
        return [f for f in frames if f is not None]

    def _made(self, stored: Sequence[StoredFrame], form: Form) -> list[bytes] | None:
        """The frames in a form; None when they cannot be had in it."""
        from local_aws.healthimaging import codecs

        try:
            if form.native and not _is_plain_blob(stored):
                return [codecs.native(f) for f in stored]
            return [self._frames.stored_stream(f) for f in stored]
        except codecs.CodecError:
            return None
        except ServiceError:
            return None


def _is_plain_blob(stored: Sequence[StoredFrame]) -> bool:
    """Whether this is one uncompressed value, such as floats, kept whole: it is Explicit VR Little Endian already."""
    return bool(stored) and stored[0].blob and stored[0].syntax in NATIVE and not part10.is_fragments(stored[0].data)


def _syntax(stored: Sequence[StoredFrame]) -> str:
    """Stored transfer syntax of an instance."""
    return EXPLICIT if not stored or _is_plain_blob(stored) else stored[0].stored_syntax


def check_json(accept: str) -> None:
    """Metadata and results of searches are JSON only.

    Raises:
        DicomWebError: The client takes no JSON.
    """
    if not any(m.covers(JSON) or m.covers("application/json") for m in accepted(accept) if not m.multipart):
        raise not_acceptable(f"This is available as {JSON} only.")


def frame_numbers(text: str) -> list[int]:
    """Frame numbers of a path, such as `1,4,2`.

    Raises:
        DicomWebError: It is no list of different positive numbers.
    """
    parts = text.split(",")
    if len(parts) > MAX_FRAMES or not all(re.fullmatch(r"[1-9][0-9]{0,8}", p) for p in parts):
        raise bad_request("The frame list must be numbers from 1, separated by commas.")
    if len(set(parts)) < len(parts):
        raise bad_request("The frame list must not name a frame twice.")
    return [int(p) for p in parts]


def _octets(data: bytes, accept: str) -> Answer:
    for wanted in accepted(accept):
        if wanted.covers(OCTETS):
            return _answer([(OCTETS, data)], Form(OCTETS, native=True, multipart=wanted.multipart))
    raise not_acceptable(f"Bulk data is available as {OCTETS} only.")


def _answer(parts: list[tuple[str, bytes]], form: Form) -> Answer:
    if not form.multipart:
        return 200, {"Content-Type": parts[0][0]}, parts[0][1]
    content_type, body = encode(parts, form.media_type)
    return 200, {"Content-Type": content_type}, body


def _file(found: Found, items: list[Element], stored: list[StoredFrame], frames: list[bytes], syntax: str) -> bytes:
    """A DICOM file of an instance."""
    from local_aws.healthimaging import codecs

    if not stored:
        return part10.file(items, b"", syntax)
    first = stored[0]
    if first.blob:
        return part10.file(items, _blob(first.data, found.instance["DICOM"]), syntax)
    replaced = {}
    if syntax != first.syntax or syntax == EXPLICIT:  # what is kept as it was stays what it was
        replaced[PHOTOMETRIC] = Element(PHOTOMETRIC, "CS", [codecs.photometric(first)])
        if first.samples > 1:
            replaced[PLANAR] = Element(PLANAR, "US", [0])
    items = sorted([e for e in items if e.tag not in replaced] + list(replaced.values()), key=lambda e: e.tag)
    if syntax != EXPLICIT:
        return part10.file(items, part10.encapsulated_pixels(frames), syntax)
    data = _single_bits(stored) if first.bits_allocated == 1 else b"".join(frames)
    return part10.file(items, part10.native_pixels("OW" if first.bits_allocated > BYTE else "OB", data), syntax)


def _blob(data: bytes, values: dict[str, Any]) -> bytes:
    """Pixel data whose frames could not be made out: the value of the object as it came."""
    if part10.is_fragments(data):
        return part10.whole_pixels(data)
    bits = values.get("BitsAllocated") or 0
    if "BitsStored" in values or bits not in FLOATS:
        return part10.native_pixels("OW" if bits > BYTE else "OB", data)
    vr, tag = FLOATS[bits]
    return part10.native_pixels(vr, data, tag)


def _single_bits(stored: list[StoredFrame]) -> bytes:
    """Frames of single bits follow each other without a gap, so a frame may begin inside a byte (PS3.5, 8.1.1)."""
    import numpy as np

    from local_aws.healthimaging import codecs

    bits = np.concatenate([codecs.decode(f).ravel() for f in stored])
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
