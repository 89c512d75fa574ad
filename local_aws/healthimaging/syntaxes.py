"""Transfer syntaxes, and what HealthImaging does with pixels in each ("Supported transfer syntaxes").

Belongs here: UIDs of PS3.6, annex A. Does not belong here: media types (`retrieve.py`, `dicomweb/media.py`), decoders.
"""

from __future__ import annotations

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
# Everything of JPEG and of video begins with this.
JPEG = "1.2.840.10008.1.2.4."
JPEG_2000 = f"{JPEG}90"
HTJ2K = f"{JPEG}202"
# `losslessStorageFormat` of a data store.
LOSSLESS = {"HTJ2K": HTJ2K, "JPEG_2000_LOSSLESS": JPEG_2000}

NATIVE = frozenset({IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN})
TRANSCODED = NATIVE | {JPEG + n for n in ("51", "57", "70", "80", "81", "90", "92", "93", "201", "202")} | {RLE}
VIDEO = frozenset(
    JPEG + n
    for n in (
        *("100", "100.1", "101", "101.1"),
        *("102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1", "106", "106.1", "107", "108"),
    )
)
KEPT = VIDEO | {JPEG + n for n in ("50", "91", "112", "203")}
