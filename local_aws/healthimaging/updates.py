"""Changing image sets: UpdateImageSetMetadata and DeleteImageSet. Both answer LOCKED and finish in the background."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import document
from local_aws.protocol.errors import conflict, not_found, validation

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.healthimaging.events import Events
    from local_aws.healthimaging.image_sets import ImageSets
    from local_aws.healthimaging.imports import Imports
    from local_aws.healthimaging.store import ImageSet, Store

MAX_PAYLOAD = 10 * 1024
UIDS = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"})
FIXED = frozenset({"SchemaVersion", "DatastoreID", "ImageSetID", "PixelData"})


class Updates:
    """The operations that make a new version or end an image set."""

    def __init__(self, store: Store, image_sets: ImageSets, imports: Imports, events: Events, clock: Clock) -> None:
        self._store = store
        self._image_sets = image_sets
        self._imports = imports
        self._events = events
        self._clock = clock

    def _unlocked(self, request: dict[str, Any]) -> ImageSet:
        head = self._image_sets.find(request)
        if head.state == "LOCKED":
            raise conflict("The image set is locked by another operation.")
        return head

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteImageSet."""
        with self._imports.merging:
            head = self._unlocked(request)
            head.state, head.workflow, head.updated = "LOCKED", "DELETING", self._clock.now()
            self._store.put_image_set(head)
        self._events.image_set("Image Set Deleting", head)
        answer = {
            "datastoreId": head.datastore_id,
            "imageSetId": head.id,
            "imageSetState": head.state,
            "imageSetWorkflowStatus": head.workflow,
        }
        threading.Thread(target=self._deleted, args=(head,)).start()
        return answer

    def _deleted(self, head: ImageSet) -> None:
        with self._imports.merging:
            now = self._clock.now()
            head.state, head.workflow, head.updated, head.deleted = "DELETED", "DELETED", now, now
            self._store.put_image_set(head)
        self._events.image_set("Image Set Deleted", head)

    def resume(self) -> None:
        """Finish what a stop or a kill left LOCKED."""
        for head in self._store.image_sets("state = 'LOCKED'", ()):
            if head.workflow == "DELETING":
                self._deleted(head)
            else:
                # The update's content is gone with the process; the version stays, as that of a failed update.
                self._settle(head, None, "The update was interrupted.")

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        """UpdateImageSetMetadata, for one image set: change or remove attributes, remove instances, revert."""
        changes = request["updateImageSetMetadataUpdates"]
        with self._imports.merging:
            head = self._unlocked(request)
            if request["latestVersionId"] != str(head.version):
                raise not_found("Requested version(s) of ImageSet(s) is not the latest.")
            if request.get("includeStudyImageSets"):
                raise validation("includeStudyImageSets is not emulated yet.")
            changed = self._changed(head, changes, force=bool(request.get("force")))
            before = head.version
            head.version, head.state, head.workflow = before + 1, "LOCKED", "UPDATING"
            head.updated = self._clock.now()
            self._store.put_image_set(head, forced=bool(request.get("force")))
            created = head.created
        self._events.image_set("Image Set Updating", head)
        answer = {
            "datastoreId": head.datastore_id,
            "imageSetId": head.id,
            "latestVersionId": str(head.version),
            "imageSetState": head.state,
            "imageSetWorkflowStatus": head.workflow,
            "createdAt": created,
            "updatedAt": head.updated,
        }
        threading.Thread(target=self._settle, args=(head, changed, None)).start()
        return answer

    def _settle(self, head: ImageSet, changed: document.Document | None, message: str | None) -> None:
        with self._imports.merging:
            if changed is None:
                packed = self._store.read_document(head.datastore_id, head.id, head.version - 1) or b""
            else:
                packed = document.pack(changed)
                head.tags = document.search_tags(changed)
                head.grouping, head.study_grouping = document.groups(changed)
                head.study_uid = changed["Study"]["DICOM"].get("StudyInstanceUID") or head.study_uid
            self._store.write_document(head.datastore_id, head.id, head.version, packed)
            head.state, head.updated = "ACTIVE", self._clock.now()
            head.workflow = "UPDATED" if changed is not None else "UPDATE_FAILED"
            self._store.put_image_set(head, message=message)
        self._events.image_set("Image Set Updated" if changed is not None else "Image Set Update Failed", head)

    # -- the new document -----------------------------------------------------------------------------------------

    def _changed(self, head: ImageSet, changes: dict[str, Any], *, force: bool) -> document.Document:
        revert = changes.get("revertToVersionId")
        packed = self._store.read_document(head.datastore_id, head.id, int(revert or head.version))
        if packed is None:
            raise not_found("The image set has no such version.")
        current = document.unpack(packed)
        if revert:
            return current
        updates = changes["DICOMUpdates"]
        removable, updatable = _payload(updates, "removableAttributes"), _payload(updates, "updatableAttributes")
        if not removable and not updatable:
            raise validation("Neither removableAttributes nor updatableAttributes is given.")
        _remove(current, removable, force=force)
        _update(current, updatable, force=force, is_primary=head.is_primary)
        return current


def _payload(updates: dict[str, Any], name: str) -> dict[str, Any]:
    raw = updates.get(name)
    if not raw:
        return {}
    if len(raw) > MAX_PAYLOAD:
        raise validation(f"{name} is longer than 10 KB.")
    try:
        parsed = json.loads(raw)
    except ValueError as error:
        raise validation(f"{name} is not JSON.") from error
    if not isinstance(parsed, dict) or str(parsed.get("SchemaVersion")) != "1.1":
        raise validation(f"{name} needs SchemaVersion 1.1.")
    return parsed


def _levels(current: document.Document, wanted: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of an existing DICOM object and the wanted one, level by level.

    Raises:
        ServiceError: A series or instance is named that does not exist.
    """
    named = [level for level in ("Patient", "Study") if "DICOM" in wanted.get(level, {})]
    pairs = [(current[level]["DICOM"], wanted[level]["DICOM"]) for level in named]
    for uid, series in wanted.get("Study", {}).get("Series", {}).items():
        existing = current["Study"]["Series"].get(uid)
        if existing is None:
            raise validation("A series is named that the image set does not have.")
        if "DICOM" in series:
            pairs.append((existing["DICOM"], series["DICOM"]))
        for sop, item in series.get("Instances", {}).items():
            if sop not in existing["Instances"]:
                raise validation("An instance is named that the image set does not have.")
            if "DICOM" in item:
                pairs.append((existing["Instances"][sop]["DICOM"], item["DICOM"]))
    return pairs


def _remove(current: document.Document, wanted: dict[str, Any], *, force: bool) -> None:
    for existing, attributes in _levels(current, wanted):
        if not force and UIDS & set(attributes):
            raise validation("UIDs cannot be removed.")
        for key in attributes:
            existing.pop(key, None)
    for uid, series in wanted.get("Study", {}).get("Series", {}).items():
        for sop, item in series.get("Instances", {}).items():
            if not item:
                current["Study"]["Series"][uid]["Instances"].pop(sop)
        if "Instances" in series and not current["Study"]["Series"][uid]["Instances"]:
            raise validation("The last instance of an image set cannot be removed; delete the image set.")


def _update(current: document.Document, wanted: dict[str, Any], *, force: bool, is_primary: bool) -> None:
    for existing, attributes in _levels(current, wanted):
        if FIXED & set(attributes):
            raise validation("An attribute is named that cannot be changed.")
        if UIDS & set(attributes) and (not force or is_primary):
            raise validation("UIDs can be changed with force only, and on primary image sets not at all.")
        existing.update(attributes)
