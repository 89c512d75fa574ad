"""Rebuild a DICOM instance from what HealthImaging hands out: its metadata document and its frames.

Belongs here: what a client can do that has boto3, pydicom and a decoder, and never saw the object. Does not belong
here: anything of the emulator.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

BINARY = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}
_TAG = re.compile(r"[0-9A-F]{8}")


def instance_of(document: dict[str, Any], sop_uid: str) -> tuple[Dataset, dict[str, Any]]:
    """An instance as one data set (file meta information included) and its part of the document."""
    for series in document["Study"]["Series"].values():
        if sop_uid in series["Instances"]:
            instance = series["Instances"][sop_uid]
            levels = (document["Patient"], document["Study"], series, instance)
            values = {key: value for level in levels for key, value in level["DICOM"].items()}
            return dataset(values, instance["DICOMVRs"]), instance
    raise KeyError(sop_uid)


def dataset(values: dict[str, Any], private: dict[str, str]) -> Dataset:
    """A data set from keywords and values.

    Args:
        values: Values by keyword, or by tag where there is none.
        private: VRs of the tags.
    """
    out = Dataset()
    signed = values.get("PixelRepresentation") == 1
    for key, value in values.items():
        tag = Tag(int(key, 16)) if _TAG.fullmatch(key) else Tag(tag_for_keyword(key) or 0)
        vr = private.get(key) or _vr(tag, value, signed=signed)
        # Without a VR the value stays as the document has it.
        # The text of a decimal or integer string stays what it is, padding included.
        as_it_is = not vr or vr in {"DS", "IS"}
        out[tag] = DataElement(tag, vr or "UN", value if as_it_is else _value(vr, value), already_converted=as_it_is)
    return out


def _vr(tag: BaseTag, value: Any, *, signed: bool) -> str:
    """VR by the dictionary; inside sequences the document does not say that of a private attribute."""
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "SQ"
        return "LO" if tag.is_private_creator else ""
    if " or " not in vr:
        return vr
    if isinstance(value, str):
        return "OW"
    return "SS" if signed else "US"


def _value(vr: str, value: Any) -> Any:
    if vr == "SQ":
        return [dataset(item, {}) for item in value or []]
    if value is None:
        return b"" if vr in BINARY else None
    if vr in BINARY:
        return base64.b64decode(value) if isinstance(value, str) else value
    if vr == "AT":
        return [int(v, 16) for v in value] if isinstance(value, list) else int(value, 16)
    return value
