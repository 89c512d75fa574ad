"""Which image set answers for a study, series or instance.

Belongs here: from UIDs to a document. Does not belong here: what is done with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_aws.dicomweb.errors import not_found
from local_aws.healthimaging.image_sets import settled

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.dicomweb.documents import Documents
    from local_aws.dicomweb.elements import Document
    from local_aws.healthimaging.store import ImageSet, Store

# An access moves an image set back to the frequent tier; noting it once a minute is exact enough for 30 days.
NOTED_SECONDS = 60.0


@dataclass(frozen=True)
class Found:
    """A series, and an instance of it when one was asked for."""

    head: ImageSet
    document: Document
    series_uid: str
    sop_uid: str

    @property
    def series(self) -> dict[str, Any]:
        """The series in the document."""
        body: dict[str, Any] = self.document["Study"]["Series"][self.series_uid]
        return body

    @property
    def instance(self) -> dict[str, Any]:
        """The instance in the document."""
        body: dict[str, Any] = self.series["Instances"][self.sop_uid]
        return body


class Locator:
    """Finds what WADO-RS paths name."""

    def __init__(self, store: Store, documents: Documents, clock: Clock) -> None:
        self._store = store
        self._documents = documents
        self._clock = clock

    def find(self, datastore_id: str, path: dict[str, str], image_set_id: str) -> Found:
        """The series or instance of a path. Counts as an access.

        Args:
            datastore_id: The data store.
            path: `StudyInstanceUID`, `SeriesInstanceUID` and, for an instance, `SOPInstanceUID`.
            image_set_id: The image set to look into, primary or not; empty: the primary one.

        Raises:
            DicomWebError: There is none.
        """
        study_uid, series_uid = path["StudyInstanceUID"], path["SeriesInstanceUID"]
        sop_uid = path.get("SOPInstanceUID", "")
        for head in self._heads(datastore_id, study_uid, series_uid, image_set_id):
            version = settled(head.version, head.state, head.workflow)
            found = self._documents.version(datastore_id, head.id, version)
            series = found[1]["Study"].get("Series", {}).get(series_uid) if found else None
            if found and series and head.study_uid == study_uid and (not sop_uid or sop_uid in series["Instances"]):
                self._note(head)
                return Found(head, found[1], series_uid, sop_uid)
        what = "instance" if sop_uid else "series"
        where = "This image set has" if image_set_id else "No primary image set has"
        raise not_found(f"{where} no such {what}." if image_set_id else f"{where} this {what}.")

    def _heads(self, datastore_id: str, study_uid: str, series_uid: str, image_set_id: str) -> list[ImageSet]:
        if image_set_id:
            head = self._store.image_set(datastore_id, image_set_id)
            if head is None or head.state == "DELETED":
                raise not_found("The image set does not exist.")
            return [head]
        return self._store.image_sets(
            "datastore_id = ? AND study_uid = ? AND series_uid = ? AND is_primary = 1 AND state <> 'DELETED'",
            (datastore_id, study_uid, series_uid),
            "ORDER BY created",
        )

    def _note(self, head: ImageSet) -> None:
        now = self._clock.now()
        if head.accessed is None or now - head.accessed > NOTED_SECONDS:
            self._store.execute(
                "UPDATE image_sets SET accessed = ? WHERE datastore_id = ? AND id = ?",
                (now, head.datastore_id, head.id),
            )
