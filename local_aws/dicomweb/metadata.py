"""Metadata of instances: everything but the pixels, in the DICOM JSON Model.

Belongs here: what WADO-RS says of an instance. Does not belong here: finding it (`locate.py`), the form of an element
(`json_model.py`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_aws.dicomweb.elements import Document, Vrs, element, in_data_set, large, merged, tag_of
from local_aws.dicomweb.json_model import Written, bulk_url, json_element, write
from local_aws.healthimaging.dicom import PIXEL_DATA
from local_aws.healthimaging.syntaxes import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Mapping

BYTE = 8
PIXEL_PATH = f"{PIXEL_DATA:08X}"


class Metadata:
    """Writes the metadata of the instances of one series.

    Instances of a series say the same in most attributes, so each different value is written once.
    """

    def __init__(self, document: Document, series_uid: str, url: str, lossless: str) -> None:
        """Prepare.

        Args:
            document: The document of the image set.
            series_uid: The series.
            url: Address of its instances.
            lossless: Transfer syntax of frames where an instance names none: the data store's format.
        """
        self._lossless = lossless
        self._document = document
        self._series_uid = series_uid
        self._instances: dict[str, Any] = document["Study"]["Series"][series_uid]["Instances"]
        self._url = url
        self._known: dict[tuple[Any, ...], str] = {}

    def written(self, sop_uid: str) -> Written:
        """The data set of one instance."""
        instance = self._instances[sop_uid]
        url = f"{self._url}/{sop_uid}"
        values = merged(self._document, self._series_uid, sop_uid)
        vrs = Vrs.of(instance)
        signed = values.get("PixelRepresentation") == 1
        beside = large(instance)
        out = {"00020010": write({"vr": "UI", "Value": [self._stored_syntax(instance)]})}
        for key, value in values.items():
            tag = tag_of(key)
            if tag is None or not in_data_set(tag):
                continue
            if tag in beside:
                vr = vrs.own.get(key, "UN")
                out[f"{tag:08X}"] = write({"vr": vr, "BulkDataURI": bulk_url(url, f"{tag:08X}")})
            else:
                out[f"{tag:08X}"] = self._element(tag, key, value, vrs, url, signed=signed)
        if instance.get("ImageFrames"):
            vr = "OW" if (values.get("BitsAllocated") or 0) > BYTE else "OB"
            out[PIXEL_PATH] = write({"vr": vr, "BulkDataURI": bulk_url(url, PIXEL_PATH)})
        return out

    def _element(self, tag: int, key: str, value: Any, vrs: Vrs, url: str, *, signed: bool) -> str:
        # 1, 1.0 and True are one key of a dict; inside a sequence the noted VRs decide as well.
        declared, noted = vrs.own.get(key, ""), vrs.nested.get(key, {})
        same: Any = (type(value), value)
        if isinstance(value, list | dict):
            same = json.dumps(value)
            same = (same, json.dumps(noted)) if noted else same
        known = (tag, declared, signed, same)
        found = self._known.get(known)
        if found is None:
            one = element(tag, declared, value, noted, signed=signed)
            found = write(json_element(one, lambda path: bulk_url(url, path), f"{tag:08X}"))
            if '"BulkDataURI"' not in found:
                self._known[known] = found
        return found

    def _stored_syntax(self, instance: Mapping[str, Any]) -> str:
        """The metadata name the stored transfer syntax, not the object's own ("Getting DICOM instance metadata")."""
        if not instance.get("ImageFrames"):
            return EXPLICIT
        # No such key means the data store's lossless format ("Getting image set metadata").
        return str(instance.get("StoredTransferSyntaxUID") or self._lossless)
