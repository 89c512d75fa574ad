"""CopyImageSet: into a new image set, into an existing one, or promoted to primary.

Belongs here: the rules of "Copying an image set" and of promotion in "Understanding image sets". Does not belong here:
waiting and resuming (`work.py`).
"""

from __future__ import annotations

import copy
import uuid
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging import document
from local_aws.healthimaging.agreement import disagree, fill
from local_aws.healthimaging.payload import Payload
from local_aws.healthimaging.store import ImageSet
from local_aws.protocol.errors import ServiceError, conflict, validation
from local_aws.work import ChangeFailedError

if TYPE_CHECKING:
    from local_aws.bus import Entry
    from local_aws.healthimaging.document import Document
    from local_aws.healthimaging.image_sets import ImageSets
    from local_aws.healthimaging.pixel_store import PixelStore
    from local_aws.healthimaging.shared import Shared
    from local_aws.work import Finish, Work

KIND = "copy"
# The one documented text, with its two blanks; the others are made after it.
MISMATCH = "INVALID_REQUEST:  {} of SourceImageSet and DestinationImageSet don't match."
NOT_UNIQUE = "INVALID_REQUEST:  SOP Instances of SourceImageSet and DestinationImageSet are not unique."


class Copies:
    """The operation CopyImageSet."""

    def __init__(self, shared: Shared, pixels: PixelStore, image_sets: ImageSets, work: Work) -> None:
        settings = self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._events = shared.events
        self._pixels = pixels
        self._image_sets = image_sets
        self._work = work
        work.register(KIND, self._settle, settings.copy_seconds)

    def copy(self, request: dict[str, Any]) -> dict[str, Any]:
        """CopyImageSet. Both image sets are LOCKED in the answer; only the destination gets a new version."""
        wanted = request["copyImageSetInformation"]
        force, promote = bool(request.get("force")), bool(request.get("promoteToPrimary"))
        with self._work.merging, self._store.transaction():
            source = self._image_sets.writable(
                request["datastoreId"], request["sourceImageSetId"], wanted["sourceImageSet"]["latestVersionId"]
            )
            self._work.allow(KIND, self._settings.max_concurrent_changes)
            selected = self._selected(source, wanted["sourceImageSet"].get("DICOMCopies"))
            named = wanted.get("destinationImageSet")
            target = (
                self._image_sets.writable(source.datastore_id, named["imageSetId"], named["latestVersionId"])
                if named
                else None
            )
            if target is not None and target.id == source.id:
                raise validation("An image set cannot be copied into itself.")
            if promote:
                target = self._primary(source, selected, target, force=force)
            remembered = {
                "datastore": source.datastore_id,
                "source": source.id,
                "before": source.workflow,
                "instances": list(document.instances(selected)),
                "force": force,
            }
            target, remembered["new"] = (target, False) if target else (self._new(source, is_primary=promote), True)
            remembered["destination"] = target.id
            now = self._clock.now()
            source.state, source.workflow = "LOCKED", "COPYING_WITH_READ_ONLY_ACCESS"
            source.updated = source.accessed = target.updated = now
            target.state, target.workflow = "LOCKED", "COPYING"
            target.version += 0 if remembered["new"] else 1
            arn = self._image_sets.arn(source)
            told = [
                self._events.image_set_entry("Image Set Copying", target, sourceImageSetArn=arn),
                self._events.image_set_entry("Image Set Copying With Read Only Access", source),
            ]
            with self._store.transaction():
                self._store.put_image_set(source)
                self._store.put_image_set(target, forced=force)
                begun = self._work.begin(KIND, remembered, told)
        self._work.go_on(begun)
        return {
            "datastoreId": source.datastore_id,
            "sourceImageSetProperties": self._properties(source),
            "destinationImageSetProperties": self._properties(target),
        }

    def _properties(self, head: ImageSet) -> dict[str, Any]:
        return {
            "imageSetId": head.id,
            "latestVersionId": str(head.version),
            "imageSetState": head.state,
            "imageSetWorkflowStatus": head.workflow,
            "createdAt": head.created,
            "updatedAt": head.updated,
            "imageSetArn": self._image_sets.arn(head),
        }

    def _selected(self, source: ImageSet, copies: dict[str, Any] | None) -> Document:
        """The source's document with those instances only that are to be copied."""
        whole = self._image_sets.document(source)
        if copies:
            payload = Payload.read("copiableAttributes", copies["copiableAttributes"])
            every = whole["Study"]["Series"]
            for uid, wanted in payload.series.items():
                if uid not in every:
                    raise validation(f"copiableAttributes: the source has no series {uid[:64]}.")
                if unknown := sorted(set(wanted.instances) - set(every[uid]["Instances"])):
                    raise validation(f"copiableAttributes: the source has no instance {unknown[0][:64]}.")
            whole["Study"]["Series"] = {
                uid: every[uid]
                | {"Instances": {s: b for s, b in every[uid]["Instances"].items() if s in (wanted.instances or (s,))}}
                for uid, wanted in payload.series.items()
            }
        if not document.instances(whole):
            raise validation("There is no instance to copy.")
        frames = sum(len(body.get("ImageFrames") or ()) for body in document.instances(whole).values())
        if frames > self._settings.max_copy_frames:
            limit = self._settings.max_copy_frames
            raise ServiceError("ServiceQuotaExceededException", f"A copy holds {limit} image frames at most.")
        return whole

    def _new(self, source: ImageSet, *, is_primary: bool) -> ImageSet:
        now = self._clock.now()
        return ImageSet(
            datastore_id=source.datastore_id,
            id=uuid.uuid4().hex,
            version=self._settings.copy_first_version,
            is_primary=is_primary,
            state="LOCKED",
            workflow="COPYING",
            study_uid=source.study_uid,
            series_uid=source.series_uid,
            grouping=source.grouping,
            study_grouping=source.study_grouping,
            tags=source.tags,
            created=now,
            updated=now,
        )

    # -- promotion ------------------------------------------------------------------------------------------------

    def _primary(
        self, source: ImageSet, selected: Document, target: ImageSet | None, *, force: bool
    ) -> ImageSet | None:
        """The primary image set that a promotion merges into; None when it makes a new one.

        Raises:
            ServiceError: The primaries of the study disagree with the source.
        """
        if source.is_primary:
            raise validation("The source image set is primary already.")
        study = self._store.image_sets(
            "datastore_id = ? AND study_uid = ? AND is_primary = 1 AND state <> 'DELETED'",
            (source.datastore_id, source.study_uid),
        )
        existing = next((p for p in study if p.series_uid == source.series_uid), None)
        if target is not None and (existing is None or target.id != existing.id):
            raise validation("The destination of a promotion is the primary image set of the series, or none.")
        if existing is None:
            if any(p.study_grouping != source.study_grouping for p in study):
                raise conflict("The study attributes of the source disagree with the primary image sets of the study.")
            return None
        if self._settings.promote_into_primary == "refuse":
            raise conflict("The series has a primary image set already.")
        if existing.state == "LOCKED":
            raise conflict("The primary image set is locked by another operation.")
        level = mismatch(selected, self._image_sets.document(existing))
        if level and not force:
            raise conflict(f"{level} attributes of the source disagree with the primary image set of the series.")
        return existing

    # -- the end --------------------------------------------------------------------------------------------------

    def _settle(self, body: dict[str, Any], message: str | None) -> Finish:
        source = self._store.image_set(body["datastore"], body["source"])
        target = self._store.image_set(body["datastore"], body["destination"])
        if source is None or target is None:
            return list
        before = self._image_sets.document(source)
        after = _without_instances(before, target, body) if body["new"] else self._image_sets.document(target)
        if message is None:
            self._merge(before, after, body)
        packed = document.pack(after)
        if message is None:
            self._image_sets.check_size(packed)
            self._image_sets.describe(target, after)
        else:
            target.is_primary = target.is_primary and not body["new"]
        self._store.write_document(target.datastore_id, target.id, target.version, packed)
        source.state, source.workflow = "ACTIVE", body["before"]
        target.state, target.workflow = "ACTIVE", "COPIED" if message is None else "COPY_FAILED"
        source.updated = target.updated = target.accessed = self._clock.now()
        bodies = document.instances(before)
        apart = {one for sop in body["instances"] for one in _stored_apart(bodies[sop])}

        def finish() -> list[Entry]:
            if message is None:
                self._pixels.copy(source.datastore_id, source.id, target.id, apart)
            self._store.put_image_set(source)
            self._store.put_image_set(target, message=message)
            kind = "Image Set Copied" if message is None else "Image Set Copy Failed"
            return [self._events.image_set_entry(kind, target)]

        return finish

    def _merge(self, source: Document, target: Document, body: dict[str, Any]) -> None:
        """Put the chosen instances of the source into the target's document."""
        level = mismatch(source, target)
        if level and not body["force"]:
            raise ChangeFailedError(MISMATCH.format(level))
        agrees = not level
        if agrees:
            for name in ("Patient", "Study"):
                fill(target[name]["DICOM"], source[name]["DICOM"])
        there = set(document.instances(target))
        chosen = set(body["instances"])
        if there & chosen:
            raise ChangeFailedError(NOT_UNIQUE)
        for uid, series in source["Study"]["Series"].items():
            picked = {sop: item for sop, item in series["Instances"].items() if sop in chosen}
            # Forced into a set of another series: the destination's series stays as it is.
            home = target["Study"]["Series"].get(uid) or next(iter(target["Study"]["Series"].values()))
            if agrees:
                fill(home["DICOM"], series["DICOM"])
            home["Instances"] |= copy.deepcopy(picked)


def _without_instances(source: Document, target: ImageSet, body: dict[str, Any]) -> Document:
    """The document of a new set before its instances are put in: what the source says above them."""
    chosen = set(body["instances"])
    series = {
        uid: one | {"DICOM": dict(one["DICOM"]), "Instances": {}}
        for uid, one in source["Study"]["Series"].items()
        if chosen & set(one["Instances"])
    }
    return source | {"ImageSetID": target.id, "Study": source["Study"] | {"Series": series}}


def _stored_apart(instance: dict[str, Any]) -> list[str]:
    """Ids of what the pixel store has of an instance: its frames, and its large private values."""
    return [*(f["ID"] for f in instance.get("ImageFrames") or ()), *instance.get("BulkData", {}).values()]


def mismatch(source: Document, target: Document) -> str | None:
    """The first level at which two documents disagree: `Patient`, `Study` or `Series`; None when they agree.

    An attribute that one of them does not have, or has empty, is no disagreement.
    """
    for level in ("Patient", "Study"):
        if disagree(source[level]["DICOM"], target[level]["DICOM"]):
            return level
    theirs = target["Study"]["Series"]
    for uid, series in source["Study"]["Series"].items():
        if series["Instances"] and (uid not in theirs or disagree(series["DICOM"], theirs[uid]["DICOM"])):
            return "Series"
    return None
