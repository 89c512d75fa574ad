"""What UpdateImageSetMetadata may change in a metadata document, and the change itself.

Belongs here: "DICOM metadata constraints" and "Updating image set metadata" of the developer guide. Does not belong
here: versions and states (`updates.py`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import document, levels
from local_aws.healthimaging.instances import BESIDE, LIMITS, is_too_long
from local_aws.healthimaging.values import BINARY, NUMERIC, entry, load_libraries
from local_aws.protocol.errors import validation
from local_aws.work import ChangeFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from local_aws.healthimaging.document import Document
    from local_aws.healthimaging.payload import Payload

UIDS = {"Study": "StudyInstanceUID", "Series": "SeriesInstanceUID", "Instance": "SOPInstanceUID"}
# Made by HealthImaging, never to be changed.
GENERATED = frozenset(
    {
        *("SchemaVersion", "DatastoreID", "ImageSetID", "PixelData", "Checksum", "Width", "Height"),
        *("MinPixelValue", "MaxPixelValue", "FrameSizeInBytes"),
    }
)
IDENTIFIERS = frozenset({*UIDS.values(), "StudyID"})
# Told by SearchImageSets, as text.
SEARCHED = frozenset({*LIMITS, "Modality", "BodyPartExamined", "SeriesNumber"})
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_MESSAGE = re.compile(r"[^\w !-:`]")
# What a text of a VR looks like (PS3.5, section 6.2); VRs that are absent take any text.
FORMS = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "DA": re.compile(r"\d{8}|\d{4}\.\d\d\.\d\d"),
    "DS": re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *"),
    "DT": re.compile(r"\d{4,14}(\.\d{1,6})?([+-]\d{4})? *"),
    "IS": re.compile(r" *[+-]?\d{1,11} *"),
    "TM": re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)? *|\d\d:\d\d(:\d\d(\.\d{1,6})?)?"),
    "UI": re.compile(r"[0-9.]*"),
    "CS": re.compile(r"[A-Z0-9 _]*"),
}
# With force too: a UID becomes a key of the document and a part of URLs.
_UID = re.compile(r"[0-9.]{1,64}")
# One level of a document: its name, its DICOM object, what is wanted of it, and the instances that have it.
Part = tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]


def plain(message: str) -> str:
    """A text with the characters only that the `message` of an image set may have."""
    return _MESSAGE.sub(" ", message)[:1024]


def _named(*names: str) -> str:
    """What a caller named, as a message repeats it."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0][:64] + more


def remove(current: Document, wanted: Payload, *, force: bool) -> None:
    """Remove attributes and instances.

    Raises:
        ServiceError: ValidationException, with what cannot be removed.
    """
    for level, existing, attributes, below in _parts(current, wanted):
        for key in attributes:
            _check_key(level, key, force=force)
            if key in UIDS.values():
                raise validation(f"{key} cannot be removed.")
            existing.pop(key, None)
        for own in below:
            _forget(own, attributes, ("DICOMVRs", *BESIDE))
    for uid, series in wanted.series.items():
        instances = current["Study"]["Series"][uid]["Instances"]
        gone = [sop for sop, item in series.instances.items() if item.whole]
        if gone and not force:
            raise validation(f"Instance {_named(*gone)} is removed with force only.")
        for sop in gone:
            del instances[sop]
        if not instances:
            raise validation(
                f"The last instance of series {_named(uid)} cannot be removed; delete the image set or keep one."
            )


def update(current: Document, wanted: Payload, *, force: bool, is_primary: bool) -> None:
    """Add and replace attributes; a sequence is replaced whole.

    Raises:
        ServiceError: ValidationException, with what cannot be changed.
        ChangeFailedError: Two instances or series would have one UID.
    """
    for level, existing, attributes, below in _parts(current, wanted):
        for key, value in attributes.items():
            _check_key(level, key, force=force)
            if key in UIDS.values() and (is_primary or not value):
                raise validation(f"{key} can be changed on image sets only that are not primary, and not to nothing.")
            _check_value(key, value, force=force)
            existing[key] = value
        for own in below:
            # A large private value that lay beside the pixels is replaced by what the text says, a sequence whole.
            _forget(own, attributes, BESIDE)
    for series in wanted.series.values():
        for sop, item in series.instances.items():
            if item.whole:
                raise validation(f"updatableAttributes names instance {_named(sop)} without attributes.")
    _private_vrs(current, wanted)
    _rename(current)


def _parts(current: Document, wanted: Payload) -> Iterator[Part]:
    """The existing and the wanted attributes, level by level.

    Raises:
        ServiceError: A series or instance is named that the image set does not have.
    """
    load_libraries()
    if wanted.patient:
        yield "Patient", current["Patient"]["DICOM"], wanted.patient, list(document.instances(current).values())
    if wanted.study:
        yield "Study", current["Study"]["DICOM"], wanted.study, list(document.instances(current).values())
    for uid, series in wanted.series.items():
        existing = current["Study"]["Series"].get(uid)
        if existing is None:
            raise validation(f"The image set has no series {_named(uid)}.")
        if series.attributes:
            yield "Series", existing["DICOM"], series.attributes, list(existing["Instances"].values())
        for sop, item in series.instances.items():
            if sop not in existing["Instances"]:
                raise validation(f"The image set has no instance {_named(sop)} in series {_named(uid)}.")
            body = existing["Instances"][sop]
            yield "Instance", body["DICOM"], item.attributes, [body]


# -- attributes ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _known(key: str) -> tuple[int, str, bool] | None:
    """Tag, VR and whether it takes several values; None for what is no keyword of the dictionary."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(key)
    found = entry(tag) if tag is not None else None
    return (tag, found[0], found[2]) if tag is not None and found else None


def _level(tag: int) -> str:
    if tag in levels.PATIENT:
        return "Patient"
    if tag in levels.STUDY:
        return "Study"
    return "Series" if tag in levels.SERIES else "Instance"


def _private(key: str) -> bool:
    return bool(_TAG.fullmatch(key)) and int(key[:4], 16) % 2 == 1


def _check_key(level: str, key: str, *, force: bool) -> None:
    """Whether an attribute may be touched at a level at all."""
    if key in GENERATED:
        raise validation(f"{key} cannot be changed.")
    known = _known(key)
    if known and _level(known[0]) != level:
        raise validation(f"{key} belongs to the {_level(known[0])} level, not to {level}.")
    if not force and key in IDENTIFIERS:
        raise validation(f"{key} is changed with force only.")
    if not force and known is None:
        kind = "a private attribute" if _private(key) else "no attribute of the DICOM standard"
        raise validation(f"{_named(key)} is {kind}, which is changed with force only.")
    if known is None and _private(key) and level != "Instance":
        raise validation(f"{key} is a private attribute, which is changed at the Instance level only.")


def _check_value(key: str, value: Any, *, force: bool) -> None:
    if key in LIMITS and isinstance(value, str) and len(value.strip()) > LIMITS[key]:
        raise validation(f"{key} is longer than {LIMITS[key]} characters.")
    known = _known(key)
    if known is None:
        return
    _tag, vr, many = known
    if not _formed(key, vr, value, many=many):
        raise validation(f"The value of {key} has not the form that {vr} has in the metadata.")
    uids = [one for one in (value if isinstance(value, list) else [value]) if one not in (None, "")]
    if vr == "UI" and not all(isinstance(one, str) and _UID.fullmatch(one) for one in uids):
        raise validation(f"The value of {key} is no UID: 1 to 64 digits and dots.")
    if force:
        return
    if vr == "SQ":
        raise validation(f"{key} is a sequence, which is changed with force only.")
    if many or isinstance(value, list):
        raise validation(f"{key} has several values, which are changed with force only.")
    if value is not None and not _fits(key, vr, value):
        raise validation(f"The value of {key} does not fit its value representation {vr}.")


def _formed(key: str, vr: str, value: Any, *, many: bool) -> bool:
    """Whether a value can stand in a document at all: nobody who reads it meets an object where a text should be."""
    if vr == "SQ":
        return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))
    values = value if many and isinstance(value, list) else [value]
    kinds: tuple[type, ...] = (str,) if key in SEARCHED else (str, int, float)
    return all(v is None or (isinstance(v, kinds) and not isinstance(v, bool)) for v in values)


def _fits(key: str, vr: str, value: Any) -> bool:
    """Whether a single value is one of a VR, in the document's form."""
    kinds = vr.split(" or ")
    if any(kind in NUMERIC for kind in kinds):
        whole = not {"FL", "FD"} & set(kinds)
        return isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not isinstance(value, str):
        return False
    if kinds[0] in BINARY or value == "":
        return True
    # HealthImaging's own limits stand above those of the VR.
    form = FORMS.get(kinds[0])
    return (form is None or bool(form.fullmatch(value))) and (key in LIMITS or not is_too_long(kinds[0], value))


# -- private attributes and UIDs ----------------------------------------------------------------------------------


def _forget(body: dict[str, Any], keys: Iterable[str], members: tuple[str, ...]) -> None:
    """Take attributes out of members of an instance that speak of them."""
    for member in members:
        body[member] = {key: value for key, value in body.get(member, {}).items() if key not in keys}
    for member in BESIDE:
        if not body.get(member):
            body.pop(member, None)


def _private_vrs(current: Document, wanted: Payload) -> None:
    """Keep the VRs of private attributes; a new one must say its own."""
    for uid, series in wanted.series.items():
        for sop, item in series.instances.items():
            body = current["Study"]["Series"][uid]["Instances"][sop]
            if unknown := sorted(set(item.vrs) - set(body["DICOM"])):
                raise validation(f"DICOMVRs names {_named(*unknown)}, which instance {_named(sop)} does not have.")
            body["DICOMVRs"] = {**body.get("DICOMVRs", {}), **item.vrs}
            if new := [key for key in item.attributes if _private(key) and key not in body["DICOMVRs"]]:
                raise validation(f"{_named(*new)}: a new private attribute needs its value representation in DICOMVRs.")


def _rename(current: Document) -> None:
    """Let the keys of series and instances follow their UIDs."""
    for series in current["Study"]["Series"].values():
        series["Instances"] = _keyed(series["Instances"], "SOPInstanceUID")
    current["Study"]["Series"] = _keyed(current["Study"]["Series"], "SeriesInstanceUID")


def _keyed(items: dict[str, Any], uid: str) -> dict[str, Any]:
    new: dict[str, Any] = {}
    for key, item in items.items():
        name = item["DICOM"].get(uid) or key
        if name in new:
            raise ChangeFailedError(f"INVALID_REQUEST:  {uid} {plain(str(name))[:64]} is not unique.")
        new[name] = item
    return new
