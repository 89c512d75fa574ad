"""In which form pixels are handed out: the Accept header against the stored transfer syntax.

Belongs here: the rules of "Getting DICOM instance frames from HealthImaging" and PS3.18, 8.7. Does not belong here:
making the bytes (`retrieve.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_aws.dicomweb.media import DICOM, OF_SYNTAX
from local_aws.healthimaging.retrieve import OCTETS
from local_aws.healthimaging.syntaxes import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from local_aws.dicomweb.media import MediaType


@dataclass(frozen=True)
class Form:
    """One form that would do.

    Attributes:
        media_type: Name of a part's content, or of the whole answer.
        native: Uncompressed, Explicit VR Little Endian; else as it is stored.
        multipart: Whether the answer has parts.
    """

    media_type: str
    native: bool
    multipart: bool


def forms(accepted: Sequence[MediaType], stored: str, *, single: bool) -> Iterator[Form]:
    """Forms of image frames, best first; making one may fail, then the next is tried.

    Without a transfer syntax it is Explicit VR Little Endian, and as stored where that is not feasible. A media type
    of compressed images names its transfer syntax by itself.

    Args:
        accepted: What the client asked for.
        stored: The stored transfer syntax.
        single: Whether one frame is wanted, which can be answered without parts.
    """
    names = (*OF_SYNTAX.get(stored, ()), OCTETS)
    for wanted in accepted:
        if not wanted.multipart and not single and wanted.name != "*/*":
            continue
        multipart = wanted.multipart or wanted.name == "*/*"
        syntax = wanted.transfer_syntax
        if syntax in {"", EXPLICIT} and wanted.covers(OCTETS):
            yield Form(OCTETS, native=True, multipart=multipart)
        if syntax in {"", "*", stored}:
            name = next((n for n in names if wanted.covers(n)), None)
            if name is not None:
                yield Form(name, native=stored == EXPLICIT, multipart=multipart)


def instance_forms(accepted: Sequence[MediaType], stored: str) -> Iterator[Form]:
    """Forms of a whole instance, best first."""
    for wanted in accepted:
        if not wanted.covers(DICOM):
            continue
        syntax = wanted.transfer_syntax
        if syntax in {"", EXPLICIT}:
            yield Form(DICOM, native=True, multipart=wanted.multipart)
        if syntax in {"", "*", stored}:
            yield Form(DICOM, native=stored == EXPLICIT, multipart=wanted.multipart)


def refusal(stored: str) -> str:
    """Text of a 406."""
    return (
        f"The image frames are stored in transfer syntax {stored} and cannot be returned in the requested one. "
        "Retry with transfer-syntax=*."
    )
