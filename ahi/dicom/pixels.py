"""Whether an object's pixel data is all there. Belongs here: the judgement, from the size and a few small reads.

Does not belong here: decoding pixels.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING

from ahi.dicom.walker import ITEM, SEQUENCE_END, UNDEFINED, Encoding, Outcome, Walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ahi.dicom.source import Window
    from ahi.dicom.walker import Wanted

# Float, double float and integer pixel data: an object has one of them at most.
_FIRST_PIXELS = 0x7FE00008
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_NOTHING: Wanted = {}
_READS = 8
_BYTES = 256 * 1024
_TAIL = 64


def check(window: Window, walk: Walk, values: Mapping[str, object], *, encapsulated: bool) -> tuple[bool | None, bool]:
    """Judge the pixel data of an object whose header walk ended behind the last wanted tag.

    Args:
        window: The object; the walk's position is relative to its base.
        walk: The header walk. Goes on from there.
        values: Header values, for the size that an image should have.
        encapsulated: Whether the transfer syntax holds pixels in fragments.

    Returns:
        Whether the pixel data is complete (None: there is none, or finding out would take too much reading), and
        whether the object ends inside an element.
    """
    if _is_image(values) and _ends_well(window, walk, values, encapsulated=encapsulated):
        return True, False
    budget = (window.reads + _READS, window.bytes_read + _BYTES)
    on = Walk(walk.encoding, _NOTHING, _NOTHING, _FIRST_PIXELS - 1, {}, walk.position, walk.last_tag)
    while True:
        outcome = on.run(window.data)
        position = window.base + on.position
        if outcome is Outcome.DONE:
            return _pixels(window, position, walk.encoding, values, budget)
        if outcome is Outcome.ODD:
            return None, False
        if position >= window.size:
            is_cut = position > window.size
            return (False if is_cut and _is_image(values) else None), is_cut
        if window.reads >= budget[0] or window.bytes_read >= budget[1]:
            return None, False
        if position >= window.end:
            window.step = 4096
        if not window.grow(position):
            return (False if _is_image(values) else None), True
        on.position = 0


def _is_image(values: Mapping[str, object]) -> bool:
    return values.get("Rows") is not None and values.get("BitsAllocated") is not None


def _holds_pixels(window: Window, walk: Walk) -> bool:
    """Whether the window is likely to hold the head of the pixel data: cheap, and a wrong guess costs a small read."""
    order = walk.encoding.order
    mark = b"\x7f\xe0\x00\x10" if order == ">" else b"\xe0\x7f\x10\x00"
    return window.data.find(mark, walk.position) >= 0


def _ends_well(window: Window, walk: Walk, values: Mapping[str, object], *, encapsulated: bool) -> bool:
    """Whether the end of the object shows complete pixel data, without walking through what lies before it.

    Costs one small read at most, and none for uncompressed pixels whose head is in memory.
    """
    encoding = walk.encoding
    order = encoding.order
    if encapsulated:
        # Every code stream of the JPEG family ends so; the delimiter alone could be that of a sequence in a cut header.
        tail = window.fetch(max(0, window.size - _TAIL), _TAIL).rstrip(b"\0")
        return tail.endswith((b"\xff\xd9\xfe\xff\xdd\xe0", b"\xff\xd9\0\xfe\xff\xdd\xe0"))
    expected = native_length(values)
    head = 8 if encoding.implicit else 12
    start = window.size - expected - head if expected is not None else -1
    if expected is None or start < window.base + 8:
        return False
    if start + head > window.end and _holds_pixels(window, walk):
        return False
    found = window.fetch(start, head)
    if len(found) < head:
        return False
    group, number = unpack_from(f"{order}HH", found)
    return (group << 16 | number) in PIXEL_TAGS and unpack_from(f"{order}I", found, head - 4)[0] == expected


def native_length(values: Mapping[str, object]) -> int | None:
    """Bytes of uncompressed pixel data by the header, padded to an even number; None when it does not say."""
    keys = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    numbers = [values.get(key) for key in keys]
    frames = values.get("NumberOfFrames", 1)
    if not all(isinstance(one, int) and one > 0 for one in [*numbers, frames]):
        return None
    bits = 1
    for one in [*numbers, frames]:
        bits *= one  # type: ignore[operator]
    length = (bits + 7) // 8
    if values.get("PhotometricInterpretation") == "YBR_FULL_422":
        length = length * 2 // 3
    return length + length % 2


def _pixels(
    window: Window, position: int, encoding: Encoding, values: Mapping[str, object], budget: tuple[int, int]
) -> tuple[bool | None, bool]:
    """Judge from the head of the pixel data at `position`."""
    head = window.fetch(position, 12)
    order = encoding.order
    if len(head) < (8 if encoding.implicit else 12):
        return (False if _is_image(values) else None), True
    group, number = unpack_from(f"{order}HH", head)
    if (group << 16 | number) not in PIXEL_TAGS:
        return None, False
    if encoding.implicit:
        start, length = position + 8, unpack_from(f"{order}I", head, 4)[0]
    else:
        start, length = position + 12, unpack_from(f"{order}I", head, 8)[0]
    if length == UNDEFINED:
        return _fragments(window, start, values, budget), False
    expected = native_length(values)
    if expected is not None and length < expected - 1 and _is_image(values):
        return False, False
    return start + length <= window.size, False


def _fragments(window: Window, start: int, values: Mapping[str, object], budget: tuple[int, int]) -> bool | None:
    """Whether encapsulated pixel data from its first item on is complete: every fragment, and one at least a frame."""
    frames = values.get("NumberOfFrames", 1)
    count, position = -1, start  # The first item is the offset table.
    while True:
        head = window.fetch(position, 8)
        if len(head) < 8:  # noqa: PLR2004
            return False
        group, number, length = unpack_from("<HHI", head)
        tag = group << 16 | number
        if tag == SEQUENCE_END:
            return count >= (frames if isinstance(frames, int) else 1)
        if tag != ITEM or length == UNDEFINED:
            return False
        position += 8 + length
        count += 1
        if position > window.size:
            return False
        if window.reads >= budget[0]:
            return None
