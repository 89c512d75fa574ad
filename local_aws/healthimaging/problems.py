"""Warnings of an import: instances that are imported although something is wrong with them.

Belongs here: the codes and types of "HealthImaging warning codes". Does not belong here: finding out (`instances.py`,
`frames.py`).
"""

from __future__ import annotations

from typing import Any

# Type in the developer guide: value of (0008,1196), and what follows "The file was imported but". One text is
# documented, that of INVALID_OFFSET_TABLE.
COERCION = "COERCION_OF_DATA_ELEMENTS"
CODES = {
    COERCION: (45056, "one or more data elements are those of its image set, not its own."),
    "ELEMENTS_DISCARDED": (45062, "some data elements came twice or were cut off, and were discarded."),
    "SOP_CLASS_DATA_MISMATCH": (45063, "its SOP Class UID is not that of its file meta information."),
    "TRANSCODING_EXCEPTION": (45312, "its pixel data could not be transcoded and is kept as it is."),
    "FRAMES_EXTRACTION_FAILURE": (45328, "its frames could not be made out in its pixel data."),
    "FRAME_NUMBER_MISMATCH": (45329, "its number of frames is not that of its fragments."),
    "INVALID_OFFSET_TABLE": (
        45330,
        "contains an invalid offset table, may see issues when retrieving certain frames.",
    ),
    "UNSUPPORTED_TRANSFER_SYNTAX": (
        45344,
        "its transfer syntax is not supported, its pixel data is kept as it is.",
    ),
    "INVALID_UID_FORMAT": (45570, "one or more of its UIDs are not valid."),
    "INVALID_DICOM_VALUE_LENGTH": (45571, "one or more of its values are longer than their VR allows."),
    "OTHER": (47513, "its data set is not encoded as its transfer syntax says."),
}


def warning(kind: str) -> dict[str, Any]:
    """A warning as warning.ndjson has it: CamelCase of what the guide's table writes in capitals."""
    code, text = CODES[kind]
    camel = "".join(word.capitalize() for word in kind.split("_"))
    return {"warning_reason_code": code, "type": camel, "message": f"The file was imported but {text}"}
