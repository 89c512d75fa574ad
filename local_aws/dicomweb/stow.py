"""Storing instances (STOW-RS): the body's objects go through an import at once.

Belongs here: the request's parts and the response module (PS3.18, 10.5 and annex I). Does not belong here: importing
(`healthimaging/imports.py`).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from local_aws.dicomweb.errors import DicomWebError, bad_request
from local_aws.dicomweb.media import DICOM, JSON, media_type
from local_aws.dicomweb.multipart import decode
from local_aws.healthimaging import dicom

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from local_aws.dicomweb.errors import Answer
    from local_aws.dicomweb.json_model import DataSet
    from local_aws.healthimaging.imports import Imports, Stored

# Failure Reason (PS3.18, table I.2-2): the data set does not match what it is stored into.
OTHER_STUDY = 0xA900
STUDY = 0x0020000D
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,16});chunk-signature=[0-9a-f]+\r\n")


class Storing:
    """Answers STOW-RS requests."""

    def __init__(self, imports: Imports) -> None:
        self._imports = imports

    def store(self, datastore_id: str, study_uid: str, headers: Mapping[str, str], body: bytes, base: str) -> Answer:
        """Store the objects of a request.

        Args:
            datastore_id: The data store.
            study_uid: The study that all of them must belong to; empty: any.
            headers: Of the request, lower case names.
            body: Of the request.
            base: URL of the data store, for Retrieve URLs.

        Raises:
            DicomWebError: The request itself is wrong; nothing was stored.
        """
        objects = [(str(n), part) for n, part in enumerate(_objects(headers, _unsigned(headers, body)))]
        if not objects:
            raise bad_request("The request has no DICOM object.")
        refused = {name: uids for name, part in objects if (uids := _elsewhere(part, study_uid)) is not None}
        taken = [(name, part) for name, part in objects if name not in refused]
        stored = self._imports.store(datastore_id, taken, "stow") if taken else []
        return _response(stored, list(refused.values()), study_uid, base)


def _unsigned(headers: Mapping[str, str], body: bytes) -> bytes:
    """The body without the signatures between its chunks, where a client streamed it (`aws-chunked`)."""
    if not headers.get("x-amz-content-sha256", "").startswith("STREAMING-") or not _CHUNK.match(body):
        return body
    out, position = [], 0
    while found := _CHUNK.match(body, position):
        size = int(found[1], 16)
        out.append(body[found.end() : found.end() + size])
        position = found.end() + size + 2
    return b"".join(out)


def _objects(headers: Mapping[str, str], body: bytes) -> Iterable[bytes]:
    given = media_type(headers.get("content-type", ""))
    if given.name == DICOM:
        return [body] if body else []
    if not given.multipart or given.parameters.get("type", DICOM).lower() != DICOM:
        raise _unsupported(f"The body must be {DICOM}, or multipart/related of that type.")
    boundary = given.parameters.get("boundary", "")
    if not boundary:
        raise bad_request("The Content-Type has no boundary.")
    parts = list(decode(boundary, body))
    if any(media_type(kind).name not in {"", DICOM} for kind, _ in parts):
        raise _unsupported(f"Every part must be {DICOM}.")
    return [content for _, content in parts]


def _unsupported(message: str) -> DicomWebError:
    return DicomWebError(415, "UnsupportedMediaTypeException", message)


def _elsewhere(part: bytes, study_uid: str) -> tuple[str, str] | None:
    """SOP class and instance of an object that belongs to another study than the one of the URL."""
    if not study_uid:
        return None
    try:
        parsed = dicom.read(part)
    except dicom.DicomError:
        return None  # the import says what is wrong with it
    if parsed.text(STUDY) == study_uid:
        return None
    return parsed.text(0x00080016), parsed.text(0x00080018)


def _response(stored: list[Stored], refused: list[tuple[str, str]], study_uid: str, base: str) -> Answer:
    """Status and response module: what was stored, what failed and why."""
    good, failed = [], [_reference(*uids) | {"00081197": _number(OTHER_STUDY)} for uids in refused]
    for one in stored:
        item = _reference(one.sop_class_uid, one.sop_uid)
        if one.image_set_id is None:
            failed.append(item | {"00081197": _number(one.failure_code)})
            continue
        url = f"{base}/studies/{one.study_uid}/series/{one.series_uid}/instances/{one.sop_uid}"
        # A set that is not primary answers only when it is named.
        item["00081190"] = {"vr": "UR", "Value": [url if one.is_primary else f"{url}?imageSetId={one.image_set_id}"]}
        if one.warnings:
            item["00081196"] = _number(one.warnings[0]["warning_reason_code"])
        good.append(item)
    studies = {one.study_uid for one in stored if one.image_set_id is not None} | ({study_uid} - {""})
    out: DataSet = {}
    if len(studies) == 1:
        out["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{studies.pop()}"]}
    if failed:
        out["00081198"] = {"vr": "SQ", "Value": failed}
    if good:
        out["00081199"] = {"vr": "SQ", "Value": good}
    warned = any("00081196" in item for item in good)
    status = 409 if not good else 202 if failed or warned else 200
    return status, {"Content-Type": JSON}, json.dumps(out).encode()


def _number(value: int) -> dict[str, Any]:
    return {"vr": "US", "Value": [value]}


def _reference(sop_class: str, sop_uid: str) -> DataSet:
    """Referenced SOP class and instance, as far as the object says."""
    found = {"00081150": sop_class, "00081155": sop_uid}
    return {tag: {"vr": "UI", "Value": [uid]} for tag, uid in found.items() if uid}
