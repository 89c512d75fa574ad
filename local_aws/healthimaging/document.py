"""The metadata document of an image set: read, changed, merged, written.

Belongs here: `SchemaVersion` 1.1 as the real samples show it. Does not belong here: how an object becomes an instance
(`instances.py`), when a new version comes about (`imports.py`, `updates.py`).

A document has each instance on a line of its own, which is white space to JSON. So a merge takes a document of
thousands of instances apart, and puts it together again, without parsing or holding their trees (`Draft`).

What an instance needs to come back as it was, and the documented form has no place for, lies beside the document
(`BESIDE`): in memory as members of the instance, on the disk in a file of its own, so that a client never meets it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from local_aws.healthimaging import levels
from local_aws.healthimaging.agreement import fill
from local_aws.healthimaging.instances import BESIDE, plain, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from local_aws.healthimaging.instances import Attributes, Instance

Document = dict[str, Any]
# JSON texts by SOP Instance UID, by Series Instance UID.
Texts = dict[str, dict[str, bytes]]
MAX_TEXT = 256
GZIP_LEVEL, GZIP_FORM = 1, 31
# Longest texts of search results where the service model allows fewer, and its pattern of UIDs.
_SHORTER = {
    "DICOMPatientBirthDate": 36, "DICOMPatientSex": 16, "DICOMStudyDate": 36, "DICOMStudyTime": 56,
    "DICOMSeriesModality": 32, "DICOMSeriesBodyPart": 128,
}  # fmt: skip
_UIDS = {"DICOMStudyInstanceUID", "DICOMSeriesInstanceUID"}
_MOST = 1_000_000


class Packed(NamedTuple):
    """A document as it is kept.

    Attributes:
        text: Compressed JSON, as GetImageSetMetadata sends it.
        beside: What else is known of its instances, compressed lines `[series UID, SOP instance UID, {...}]`; empty
            when there is nothing.
    """

    text: bytes
    beside: bytes = b""


class Draft:
    """A document that instances are put into; those that are there stay as they were written."""

    def __init__(self, head: Document, bodies: Texts, beside: Texts | None = None) -> None:
        """Take a document apart.

        Args:
            head: The document with empty `Instances`.
            bodies: Instances as JSON text, by SOP Instance UID, by Series Instance UID.
            beside: What lies beside some of them, likewise.
        """
        self.head = head
        self._bodies = bodies
        self._beside = beside or {}

    @classmethod
    def new(cls, datastore_id: str, image_set_id: str, first: Instance) -> Draft:
        """A document without instances, with the levels of its first one."""
        head = {
            "SchemaVersion": "1.1",
            "DatastoreID": datastore_id,
            "ImageSetID": image_set_id,
            "Patient": {"DICOM": dict(first.patient)},
            "Study": {
                "DICOM": dict(first.study),
                "Series": {first.series_uid: {"DICOM": dict(first.series), "Instances": {}}},
            },
        }
        return cls(head, {first.series_uid: {}})

    @classmethod
    def unpack(cls, packed: Packed) -> Draft:
        """A document as `pack` wrote it."""
        head, bodies = _split(gzip.decompress(packed.text))
        beside: Texts = {}
        for series_uid, sop_uid, members in _beside(packed):
            beside.setdefault(series_uid, {})[sop_uid] = to_json(members)
        return cls(head, bodies, beside)

    def add_levels(
        self, series_uid: str, patient: Attributes, study: Attributes, series: Attributes, *, latest: bool = False
    ) -> tuple[Attributes, Attributes, Attributes]:
        """Add attributes above the instances; what the document has stays, or the `latest` replaces it.

        Returns:
            What it has then, of patient, study and series.
        """
        own = self.head["Study"]["Series"].setdefault(series_uid, {"DICOM": {}, "Instances": {}})
        self._bodies.setdefault(series_uid, {})
        for level, values in ((self.head["Patient"], patient), (self.head["Study"], study), (own, series)):
            fill(level["DICOM"], values, latest=latest)
        return self.head["Patient"]["DICOM"], self.head["Study"]["DICOM"], own["DICOM"]

    def add(self, series_uid: str, bodies: Mapping[str, bytes], beside: Mapping[str, bytes]) -> None:
        """Add instances, or replace those of the same UID: the latest wins."""
        self._bodies[series_uid].update(bodies)
        kept = self._beside.get(series_uid, {})
        self._beside[series_uid] = {uid: text for uid, text in kept.items() if uid not in bodies} | dict(beside)

    def count(self) -> int:
        """How many instances there are."""
        return sum(len(bodies) for bodies in self._bodies.values())

    def size(self) -> int:
        """About how many bytes the document has, uncompressed."""
        return sum(len(uid) + len(body) + 4 for s in self._bodies.values() for uid, body in s.items())

    def pack(self) -> Packed:
        """The document as it is kept."""
        return _packed(self.head, self._bodies, self._beside)

    def search_tags(self) -> dict[str, Any]:
        """The `DICOMTags` of a search result."""
        return _tags(self.head, self.count())


def instances(document: Document) -> dict[str, Any]:
    """All instances by SOP Instance UID."""
    return {uid: body for s in document["Study"].get("Series", {}).values() for uid, body in s["Instances"].items()}


def search_tags(document: Document) -> dict[str, Any]:
    """The `DICOMTags` of a search result."""
    return _tags(document, len(instances(document)))


def _tags(document: Document, count: int) -> dict[str, Any]:
    patient, study = document["Patient"]["DICOM"], document["Study"]["DICOM"]
    all_series = document["Study"].get("Series", {})
    series: dict[str, Any] = next(iter(all_series.values()), {"DICOM": {}})["DICOM"]
    out: dict[str, Any] = {
        "DICOMPatientId": patient.get("PatientID"),
        "DICOMPatientName": patient.get("PatientName"),
        "DICOMPatientBirthDate": patient.get("PatientBirthDate"),
        "DICOMPatientSex": patient.get("PatientSex"),
        "DICOMStudyInstanceUID": study.get("StudyInstanceUID"),
        "DICOMStudyId": study.get("StudyID"),
        "DICOMStudyDescription": study.get("StudyDescription"),
        "DICOMAccessionNumber": study.get("AccessionNumber"),
        "DICOMStudyDate": study.get("StudyDate"),
        "DICOMStudyTime": study.get("StudyTime"),
        "DICOMSeriesInstanceUID": series.get("SeriesInstanceUID"),
        "DICOMSeriesModality": series.get("Modality"),
        "DICOMSeriesBodyPart": series.get("BodyPartExamined"),
    }
    # The model knows text and integers only; an odd object may have lists, numbers and items where text belongs.
    out = {key: plain(value)[: _SHORTER.get(key, MAX_TEXT)] for key, value in out.items()}
    out = {key: text for key, text in out.items() if text and (key not in _UIDS or not text.strip("0123456789."))}
    out["DICOMNumberOfStudyRelatedSeries"] = len(all_series)
    out["DICOMNumberOfStudyRelatedInstances"] = min(count, _MOST)
    with contextlib.suppress(ValueError):
        number = int(plain(series.get("SeriesNumber")))
        if abs(number) < 2**31:
            out["DICOMSeriesNumber"] = number
    return out


def groups(document: Document) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The grouping values of an image set: all seven, and the five of its study."""
    series: dict[str, Any] = next(iter(document["Study"].get("Series", {}).values()), {"DICOM": {}})["DICOM"]
    merged = {**document["Patient"]["DICOM"], **document["Study"]["DICOM"], **series}
    return (
        tuple(plain(merged.get(k)) for k in levels.GROUPING),
        tuple(plain(merged.get(k)) for k in levels.STUDY_GROUPING),
    )


def pack(document: Mapping[str, Any]) -> Packed:
    """A document as it is kept."""
    return _packed(*_apart(document))


def unpack(packed: Packed) -> Document:
    """The document behind `pack`."""
    loaded: Document = json.loads(gzip.decompress(packed.text))
    for series_uid, sop_uid, members in _beside(packed):
        loaded["Study"]["Series"][series_uid]["Instances"][sop_uid] |= members
    return loaded


def _packed(head: Mapping[str, Any], bodies: Texts, beside: Texts) -> Packed:
    lines = [
        b"[%s,%s,%s]\n" % (to_json(series_uid), to_json(sop_uid), text)
        for series_uid, texts in beside.items()
        for sop_uid, text in texts.items()
    ]
    return Packed(_compressed(_lines(head, bodies)), _compressed(lines) if lines else b"")


def _beside(packed: Packed) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What lies beside a document: series, instance, members."""
    for line in gzip.decompress(packed.beside).splitlines() if packed.beside else ():
        yield tuple(json.loads(line))


# -- the text: one instance a line ------------------------------------------------------------------------------------


def _lines(head: Mapping[str, Any], bodies: Texts) -> Iterator[bytes]:
    """The document's text. Every line but those of instances opens or closes an object."""
    study = {k: v for k, v in head["Study"].items() if k != "Series"} | {"Series": {}}
    yield to_json({k: v for k, v in head.items() if k != "Study"} | {"Study": study})[: -len("}}}")] + b"\n"
    for left, (uid, series) in _counting_down(head["Study"].get("Series", {}).items()):
        opening = to_json({uid: {k: v for k, v in series.items() if k != "Instances"} | {"Instances": {}}})
        yield opening[1 : -len("}}}")] + b"\n"
        for more, (sop_uid, body) in _counting_down(bodies[uid].items()):
            yield b"%s:%s%s\n" % (to_json(sop_uid), body, b"," if more else b"")
        yield b"}},\n" if left else b"}}\n"
    yield b"}}}\n"


def _apart(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], Texts, Texts]:
    """A document, its instances as text, and what lies beside them."""
    bodies: Texts = {}
    beside: Texts = {}
    for uid, series in document["Study"].get("Series", {}).items():
        bodies[uid], beside[uid] = {}, {}
        for sop_uid, item in series["Instances"].items():
            bodies[uid][sop_uid] = to_json({key: value for key, value in item.items() if key not in BESIDE})
            if members := {key: item[key] for key in BESIDE if item.get(key)}:
                beside[uid][sop_uid] = to_json(members)
    return document, bodies, beside


def _counting_down(items: Any) -> Iterator[tuple[int, Any]]:
    """Items with how many are still to come."""
    return zip(range(len(items) - 1, -1, -1), items, strict=True)


def _split(text: bytes) -> tuple[Document, Texts]:
    """The document with empty `Instances`, and its instances as text."""
    lines = text.splitlines()
    head: Document = json.loads(lines[0] + b"}}}")
    bodies: dict[str, dict[str, bytes]] = {}
    current: dict[str, bytes] = {}
    for line in lines[1:]:
        if line.endswith(b'"Instances":{'):
            [(uid, series)] = json.loads(b"{" + line + b"}}}").items()
            head["Study"]["Series"][uid] = series
            current = bodies[uid] = {}
        elif line not in {b"}},", b"}}", b"}}}"}:
            end = _end_of_key(line)
            current[json.loads(line[:end])] = line[end + 1 :].removesuffix(b",")
    return head, bodies


def _end_of_key(line: bytes) -> int:
    """Where the text at the beginning of a line ends; a UID that was forced may hold anything."""
    end = line.index(b'"', 1)
    while (end - len(line[:end].rstrip(b"\\"))) % 2:  # an escaped quotation mark
        end = line.index(b'"', end + 1)
    return end + 1


def _compressed(lines: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_FORM)
    chunks = [packer.compress(line) for line in lines]
    return b"".join([*chunks, packer.flush()])
