"""What to send since last time. Belongs here: comparing resources with those sent before, and taking one back.

Does not belong here: keeping that state, sending.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from ahi.fhir.resources import Resource, resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Change(StrEnum):
    """What has become of a resource."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


# A resource goes before those that it refers to.
_ORDER = {"ImagingStudy": 0, "Patient": 1, "Endpoint": 2}


class Comparison:
    """Resources of now against the digests of what was sent before.

    Args:
        previous: Digest by reference (`Type/id`) of what HealthLake has of us. When only some studies are made again,
            the caller gives only what belongs to them: whatever does not come again is deleted.
    """

    def __init__(self, previous: Mapping[str, str]) -> None:
        self._previous = previous
        self._seen: set[str] = set()

    def changed(self, resources: Iterable[Resource]) -> Iterator[tuple[Change, Resource]]:
        """Those that are new or differ, in their order; what is the same is not told."""
        for one in resources:
            self._seen.add(one.reference)
            before = self._previous.get(one.reference)
            if before is None:
                yield Change.CREATE, one
            elif before != one.digest:
                yield Change.UPDATE, one

    def deleted(self) -> list[str]:
        """References of those that did not come again, after all resources have passed; studies before patients."""
        return _studies_first(self._previous.keys() - self._seen)


def _studies_first(references: Iterable[str]) -> list[str]:
    return sorted(references, key=lambda reference: (_ORDER.get(reference.partition("/")[0], 0), reference))


def changes(previous: Mapping[str, str], current: Mapping[str, str]) -> list[tuple[Change, str]]:
    """From one state to another, both digests by reference: what to create and update, then what to delete."""
    written = [
        (Change.UPDATE if one in previous else Change.CREATE, one)
        for one in reversed(_studies_first(current))
        if previous.get(one) != current[one]
    ]
    return [*written, *((Change.DELETE, one) for one in _studies_first(previous.keys() - current.keys()))]


def retraction(study: str, subject: str) -> Resource:
    """An ImagingStudy that says that the study is withdrawn.

    An import can only write. This takes a deleted study out of every search for available ones at once, by the same
    way as all else, and leaves nothing of it but its id; HealthLake's REST DELETE may follow.

    Args:
        study: Id of the ImagingStudy.
        subject: Id of its Patient, without which it would not be valid.
    """
    return resource(
        {
            "resourceType": "ImagingStudy",
            "id": study,
            "status": "entered-in-error",
            "subject": {"reference": f"Patient/{subject}"},
        },
        subject,
    )


def retired_patient(subject: str) -> Resource:
    """A Patient of whom no study is left: nothing of the person stays in it but the keyed hash.

    Args:
        subject: Id of the Patient.
    """
    return resource({"resourceType": "Patient", "id": subject, "active": False}, subject)
