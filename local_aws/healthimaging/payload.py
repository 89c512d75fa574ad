"""The JSON text in which a caller names parts of a metadata document (`updatableAttributes`, `copiableAttributes`).

Belongs here: its form, checked once so that nobody else meets anything unexpected. Does not belong here: whether the
document has what is named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from local_aws.protocol.errors import validation

VERSIONS = frozenset({"1.1"})
MAX_DEPTH = 64


@dataclass(frozen=True)
class InstancePart:
    """What is said of one instance; `whole` when its object is empty: the instance itself is meant."""

    attributes: dict[str, Any]
    vrs: dict[str, str]
    whole: bool


@dataclass(frozen=True)
class SeriesPart:
    """What is said of one series."""

    attributes: dict[str, Any]
    instances: dict[str, InstancePart]


@dataclass(frozen=True)
class Payload:
    """One parsed text."""

    patient: dict[str, Any] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    series: dict[str, SeriesPart] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether it names nothing."""
        return not (self.patient or self.study or self.series)

    @classmethod
    def read(cls, name: str, raw: bytes | str) -> Payload:
        """Parse a text.

        Args:
            name: Member of the request, for the message.
            raw: The text.

        Raises:
            ServiceError: ValidationException, with what is wrong.
        """
        try:
            parsed = json.loads(raw)
            # Neither NaN nor a lone surrogate may get into a document.
            json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise validation(f"{name} is not JSON.") from error
        if _depth(parsed) > MAX_DEPTH:
            raise validation(f"{name} is nested more than {MAX_DEPTH} levels deep.")
        reader = _Reader(name)
        top = reader.members(parsed, "", {"SchemaVersion", "Patient", "Study"})
        version = top.get("SchemaVersion")
        if isinstance(version, bool) or str(version) not in VERSIONS:
            raise validation(f"{name} needs SchemaVersion 1.1.")
        patient = reader.members(top.get("Patient", {}), "Patient", {"DICOM"})
        study = reader.members(top.get("Study", {}), "Study", {"DICOM", "Series"})
        return cls(
            reader.members(patient.get("DICOM", {}), "Patient.DICOM"),
            reader.members(study.get("DICOM", {}), "Study.DICOM"),
            {uid: reader.series(s) for uid, s in reader.members(study.get("Series", {}), "Study.Series").items()},
        )


def _depth(value: Any) -> int:
    """Levels of objects and lists."""
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return depth


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name

    def members(self, value: Any, where: str, known: set[str] | None = None) -> dict[str, Any]:
        """An object, with no members but the known ones."""
        if not isinstance(value, dict):
            raise validation(f"{self._name}: {where or 'the text'} is not an object.")
        if known is not None and set(value) - known:
            raise validation(f"{self._name}: {where or 'the top'} may hold {', '.join(sorted(known))} only.")
        return value

    def series(self, value: Any) -> SeriesPart:
        """What is said of a series."""
        part = self.members(value, "a series", {"DICOM", "Instances"})
        items = self.members(part.get("Instances", {}), "Instances")
        return SeriesPart(
            self.members(part.get("DICOM", {}), "DICOM of a series"),
            {uid: self.instance(item) for uid, item in items.items()},
        )

    def instance(self, value: Any) -> InstancePart:
        """What is said of an instance: frames, checksums and sizes are the service's own."""
        part = self.members(value, "an instance", {"DICOM", "DICOMVRs"})
        vrs = self.members(part.get("DICOMVRs", {}), "DICOMVRs")
        if not all(isinstance(vr, str) for vr in vrs.values()):
            raise validation(f"{self._name}: DICOMVRs holds text only.")
        return InstancePart(self.members(part.get("DICOM", {}), "DICOM of an instance"), vrs, whole=not part)
