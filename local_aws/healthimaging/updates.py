"""UpdateImageSetMetadata and DeleteImageSet. Both answer LOCKED and finish later.

Belongs here: versions, states and events of the two. Does not belong here: what may be changed in a document
(`edits.py`), waiting and resuming (`work.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import document, edits
from local_aws.healthimaging.image_sets import number
from local_aws.healthimaging.payload import Payload
from local_aws.protocol.errors import ServiceError, conflict, validation
from local_aws.work import ChangeFailedError

if TYPE_CHECKING:
    from local_aws.bus import Entry
    from local_aws.healthimaging.document import Document, Packed
    from local_aws.healthimaging.image_sets import ImageSets
    from local_aws.healthimaging.pixel_store import PixelStore
    from local_aws.healthimaging.shared import Shared
    from local_aws.healthimaging.store import ImageSet
    from local_aws.work import Finish, Work

# Documented quota of the payload of an update.
MAX_PAYLOAD = 10 * 1024


class Updates:
    """The operations that make a new version or end an image set."""

    def __init__(self, shared: Shared, pixels: PixelStore, image_sets: ImageSets, work: Work) -> None:
        settings = self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._events = shared.events
        self._pixels = pixels
        self._image_sets = image_sets
        self._work = work
        work.register("update", self._updated, settings.update_seconds)
        work.register("delete", self._deleted, settings.delete_seconds)

    # -- delete ---------------------------------------------------------------------------------------------------

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteImageSet."""
        with self._work.merging:
            head = self._image_sets.writable(request["datastoreId"], request["imageSetId"], None)
            self._work.allow("delete", self._settings.max_concurrent_changes)
            head.state, head.workflow, head.updated = "LOCKED", "DELETING", self._clock.now()
            told = [self._events.image_set_entry("Image Set Deleting", head)]
            with self._store.transaction():
                # Why an older change of this version failed is of no interest any more.
                self._store.put_image_set(head, message="")
                begun = self._work.begin("delete", {"datastore": head.datastore_id, "id": head.id}, told)
        self._work.go_on(begun)
        return {
            "datastoreId": head.datastore_id,
            "imageSetId": head.id,
            "imageSetState": head.state,
            "imageSetWorkflowStatus": head.workflow,
        }

    def _deleted(self, body: dict[str, Any], _message: str | None) -> Finish:
        head = self._store.image_set(body["datastore"], body["id"])
        if head is None:
            return list
        now = self._clock.now()
        head.state, head.workflow, head.updated, head.deleted = "DELETED", "DELETED", now, now
        # Before the commit: a kill in between leaves a set that is being deleted, and this runs again.
        self._store.drop_documents(head.datastore_id, head.id)

        def finish() -> list[Entry]:
            self._store.put_image_set(head)
            self._store.execute(
                "DELETE FROM versions WHERE datastore_id = ? AND id = ? AND version < ?",
                (head.datastore_id, head.id, head.version),
            )
            self._store.execute("DELETE FROM tags WHERE arn = ?", (self._image_sets.arn(head),))
            self._pixels.drop(head.datastore_id, head.id)
            return [self._events.image_set_entry("Image Set Deleted", head)]

        return finish

    # -- update ---------------------------------------------------------------------------------------------------

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        """UpdateImageSetMetadata: change or remove attributes, remove instances, revert; one set or its study."""
        changes, force = request["updateImageSetMetadataUpdates"], bool(request.get("force"))
        studywide = bool(request.get("includeStudyImageSets"))
        revert = changes.get("revertToVersionId")
        if revert and studywide:
            raise validation("includeStudyImageSets cannot be used with revertToVersionId.")
        texts = {} if revert else _texts(changes["DICOMUpdates"])
        with self._work.merging:
            head = self._image_sets.writable(request["datastoreId"], request["imageSetId"], request["latestVersionId"])
            self._work.allow("update", self._settings.max_concurrent_changes)
            heads = [head, *(self._others(head, texts) if studywide else ())]
            remembered = {
                "datastore": head.datastore_id,
                "sets": [{"id": h.id, "version": h.version} for h in heads],
                "revert": number(revert),
                "texts": texts,
                "force": force,
            }
            for one in heads:
                self._check(one, remembered)
            now = self._clock.now()
            for one in heads:
                one.version, one.state, one.updated = one.version + 1, "LOCKED", now
                one.workflow = "UPDATING" if one is head else "UPDATING_FOR_STUDY_CONSISTENCY"
            told = [self._events.image_set_entry("Image Set Updating", one) for one in heads]
            with self._store.transaction():
                for one in heads:
                    self._store.put_image_set(one, forced=force)
                begun = self._work.begin("update", remembered, told)
        self._work.go_on(begun)
        return {
            "datastoreId": head.datastore_id,
            "imageSetId": head.id,
            "latestVersionId": str(head.version),
            "imageSetState": head.state,
            "imageSetWorkflowStatus": head.workflow,
            "createdAt": head.created,
            "updatedAt": head.updated,
        }

    def _others(self, head: ImageSet, texts: dict[str, str]) -> list[ImageSet]:
        """The other primary image sets of the study, all free to be changed."""
        if any(Payload.read(name, text).series for name, text in texts.items()):
            raise validation("includeStudyImageSets takes Patient and Study attributes only.")
        others = self._store.image_sets(
            "datastore_id = ? AND study_uid = ? AND is_primary = 1 AND state <> 'DELETED' AND id <> ?",
            (head.datastore_id, head.study_uid, head.id),
            "ORDER BY created, id",
        )
        if locked := [one.id for one in others if one.state == "LOCKED"]:
            raise conflict(f"Image set {locked[0]} of the study is locked by another operation.")
        return others

    def _check(self, head: ImageSet, remembered: dict[str, Any]) -> None:
        """Refuse now what can be known now; with `update_errors` = "later" it fails after the answer instead."""
        try:
            self._changed(head, head.version, remembered)
        except ServiceError as error:
            if self._settings.update_errors != "later" or error.code != "ValidationException":
                raise
        except ChangeFailedError:
            return

    def _updated(self, body: dict[str, Any], message: str | None) -> Finish:
        """All sets of an update together, or none."""
        now = self._clock.now()
        heads = [h for item in body["sets"] if (h := self._store.image_set(body["datastore"], item["id"])) is not None]
        before = {item["id"]: item["version"] for item in body["sets"]}
        for head in heads:
            if message is None:
                packed = self._packed(head, before[head.id], body)
            else:
                packed = document.pack(self._image_sets.document(head, before[head.id]))
            self._store.write_document(head.datastore_id, head.id, head.version, packed)
            head.state, head.updated, head.accessed = "ACTIVE", now, now
            head.workflow = "UPDATED" if message is None else "UPDATE_FAILED"

        def finish() -> list[Entry]:
            for head in heads:
                self._store.put_image_set(head, message=message)
            kind = "Image Set Updated" if message is None else "Image Set Update Failed"
            return [self._events.image_set_entry(kind, head) for head in heads]

        return finish

    def _packed(self, head: ImageSet, version: int, body: dict[str, Any]) -> Packed:
        """The new document of one set, of which the set then says what it says.

        Raises:
            ChangeFailedError: It breaks a rule.
        """
        try:
            new = self._changed(head, version, body)
        except ServiceError as error:
            raise ChangeFailedError(f"INVALID_REQUEST:  {edits.plain(error.message)}") from error
        packed = document.pack(new)
        self._image_sets.check_size(packed)
        self._image_sets.describe(head, new)
        return packed

    def _changed(self, head: ImageSet, version: int, body: dict[str, Any]) -> Document:
        """The document after the update of one set that was at a version."""
        if body["revert"] is not None:
            return self._image_sets.document(head, body["revert"])
        current = self._image_sets.document(head, version)
        texts, force = body["texts"], body["force"]
        if "removableAttributes" in texts:
            edits.remove(current, Payload.read("removableAttributes", texts["removableAttributes"]), force=force)
        if "updatableAttributes" in texts:
            payload = Payload.read("updatableAttributes", texts["updatableAttributes"])
            edits.update(current, payload, force=force, is_primary=head.is_primary)
        return current


def _texts(updates: dict[str, Any]) -> dict[str, str]:
    """The payloads of an update by their names."""
    texts = {}
    for name in ("removableAttributes", "updatableAttributes"):
        raw = updates.get(name)
        if not raw:
            continue
        if len(raw) > MAX_PAYLOAD:
            raise validation(f"{name} is longer than 10 KB.")
        if Payload.read(name, raw).empty:
            raise validation(f"{name} names nothing.")
        texts[name] = raw.decode()
    if not texts:
        raise validation("Neither removableAttributes nor updatableAttributes is given.")
    return texts
