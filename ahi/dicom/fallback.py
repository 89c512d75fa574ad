"""Headers that the walker finds odd, read by pydicom. Belongs here: handing it bytes and taking the elements raw.

Does not belong here: trusting it with more than structure. It takes a cut value for a whole one, reads anything with
`force`, inflates without bound and validates no UID; all of that is guarded here or by the caller.
"""

from __future__ import annotations

import io
import threading
import warnings
from typing import TYPE_CHECKING, Any

from ahi.dicom.elements import WANTED, WANTED_IN_ITEMS
from ahi.dicom.walker import UNREAD
from ahi.index.registry import LAST_HEADER_TAG

if TYPE_CHECKING:
    from ahi.dicom.source import Window
    from ahi.dicom.walker import Elements, Encoding

_FIRST_PREFIX = 256 * 1024
# A mebibyte made of the smallest elements takes pydicom seconds.
_MAX_PREFIX = 1024 * 1024

# Filters of warnings belong to the whole process.
_ONE_AT_A_TIME = threading.Lock()


def read_elements(window: Window, start: int, encoding: Encoding) -> Elements | None:
    """Wanted elements of the data set at `start`, or None when pydicom cannot read it either.

    Reads 256 KiB and then 1 MiB, until pydicom has come past the wanted tags or the object ends.
    """
    length = _FIRST_PREFIX
    while True:
        data = window.fetch(start, length)
        is_whole = start + len(data) >= window.size
        elements, has_passed = _read(data, encoding)
        if is_whole or (elements is not None and has_passed) or length >= _MAX_PREFIX:
            return elements
        length *= 4


def _read(data: bytes, encoding: Encoding) -> tuple[Elements | None, bool]:
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        # Inside the lock: two threads that import pydicom at once meet it half made.
        from pydicom.filereader import read_dataset

        warnings.simplefilter("ignore")
        try:
            dataset = read_dataset(
                io.BytesIO(data),
                is_implicit_VR=encoding.implicit,
                is_little_endian=not encoding.big,
                stop_when=lambda tag, _vr, _length: tag >= 0x7FE00000,  # noqa: PLR2004
            )
            elements = _wanted(dataset, WANTED)
            return elements, bool(dataset) and max(dataset.keys()) > LAST_HEADER_TAG
        except Exception:  # noqa: BLE001 (any error of a parser on broken bytes means the same: it cannot be read)
            return None, False


def _wanted(dataset: Any, wanted: dict[int, bool]) -> Elements:
    elements: Elements = {}
    for tag, is_sequence in wanted.items():
        if tag not in dataset:
            continue
        if is_sequence:
            element = dataset[tag]
            if element.VR == "SQ":
                elements[tag] = (b"SQ", [_unread(item) | _wanted(item, WANTED_IN_ITEMS) for item in element.value])
            continue
        raw = dataset.get_item(tag)
        value = raw.value
        if isinstance(value, bytes) and len(value) == raw.length:
            elements[tag] = ((raw.VR or "").encode(), value)
    return elements


def _unread(item: Any) -> Elements:
    """Elements of an item that have a value which nobody asked for."""
    values = {int(tag): item.get_item(tag).value for tag in item.keys() - WANTED_IN_ITEMS.keys() if tag.element}
    return {tag: UNREAD for tag, value in values.items() if (value.strip() if isinstance(value, bytes) else value)}
