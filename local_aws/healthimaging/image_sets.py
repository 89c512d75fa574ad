"""Reading image sets: get, metadata, versions; finding one that may be written. Searching is in `search.py`."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import LockMetadata
from local_aws.healthimaging import document
from local_aws.protocol.errors import conflict, not_found
from local_aws.protocol.paging import Listing
from local_aws.work import ChangeFailedError

if TYPE_CHECKING:
    from local_aws.healthimaging.datastores import Datastores
    from local_aws.healthimaging.document import Document, Packed
    from local_aws.healthimaging.shared import Shared
    from local_aws.healthimaging.store import ImageSet

LISTING = Listing("versions", ((int,),))

# After so long without an access an image set moves to the cheaper tier ("Cost optimization", developer guide).
TIER_SECONDS = 30 * 86_400
# While one of these goes on, the document of the new version is not there, or not for good.
CHANGING = ("UPDATING", "UPDATING_FOR_STUDY_CONSISTENCY", "COPYING")


def settled(version: int, state: str, workflow: str) -> int:
    """The latest version of an image set whose document stays as it is; 0 when there is none yet."""
    return version - 1 if state == "LOCKED" and workflow in CHANGING else version


def last_access(head: ImageSet) -> float:
    """When an image set was last read or changed; its creation counts."""
    return max(head.accessed or 0.0, head.created)


def tier(head: ImageSet, now: float) -> str:
    """Storage tier at a time."""
    return "FREQUENT_ACCESS" if now - last_access(head) < TIER_SECONDS else "ARCHIVE_INSTANT_ACCESS"


class ImageSets:
    """GetImageSet, GetImageSetMetadata, ListImageSetVersions, and what the changing operations need of a set."""

    def __init__(self, shared: Shared, datastores: Datastores) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._faults = shared.faults
        self._datastores = datastores

    def find(self, request: dict[str, Any], *, deleted: bool = False) -> ImageSet:
        """The image set that a request names.

        Raises:
            ServiceError: ResourceNotFoundException.
        """
        self._datastores.readable(request["datastoreId"])
        found = self._store.image_set(request["datastoreId"], request["imageSetId"])
        if found is None or (found.state == "DELETED" and not deleted):
            raise not_found("The image set does not exist.")
        return found

    def writable(self, datastore_id: str, image_set_id: str, latest: str | None) -> ImageSet:
        """An image set that may be changed now.

        Args:
            datastore_id: Its data store.
            image_set_id: Its id.
            latest: The version that the caller takes for the latest; None when the operation does not ask.

        Raises:
            ServiceError: It does not exist, is LOCKED, or has another latest version.
        """
        head = self.find({"datastoreId": datastore_id, "imageSetId": image_set_id})
        # First of all: who names the version of before is not wrong for good, only too early.
        if head.state == "LOCKED":
            raise conflict("The image set is locked by another operation.")
        if latest is not None and latest != str(head.version):
            raise not_found("Requested version(s) of ImageSet(s) is not the latest.")
        return head

    def arn(self, head: ImageSet) -> str:
        """ARN of an image set."""
        return f"{self._datastores.arn(head.datastore_id)}/imageset/{head.id}"

    def document(self, head: ImageSet, version: int | None = None) -> Document:
        """The metadata of one version; without one, of the latest that is settled.

        Raises:
            ServiceError: There is no such version, or it is being made.
        """
        return document.unpack(self._packed(head, version))

    def _packed(self, head: ImageSet, version: int | None) -> Packed:
        last = settled(head.version, head.state, head.workflow)
        wanted = last if version is None else version
        # A version never changes: what is written of one that is being made is shown to nobody.
        packed = self._store.read_document(head.datastore_id, head.id, wanted) if wanted <= last else None
        if packed is None and last < head.version and (version is None or version == head.version):
            raise conflict("The metadata of the image set is being processed. Try again later.")
        if packed is None:
            raise not_found("The image set has no such version.")
        return packed

    def check_size(self, packed: Packed) -> None:
        """Refuse metadata beyond the documented 50 MB.

        Raises:
            ChangeFailedError: With the text for the version's `message`.
        """
        if len(gzip.decompress(packed.text)) > self._settings.max_metadata_bytes:
            raise ChangeFailedError("INVALID_REQUEST:  ImageSetMetadata is too large.")

    @staticmethod
    def describe(head: ImageSet, new: Document) -> None:
        """Let an image set say of itself what its new document says."""
        head.tags = document.search_tags(new)
        head.grouping, head.study_grouping = document.groups(new)
        head.study_uid = new["Study"]["DICOM"].get("StudyInstanceUID") or head.study_uid
        head.series_uid = next(iter(new["Study"]["Series"]), head.series_uid)

    def touch(self, datastore_id: str, image_set_id: str) -> None:
        """An access: metadata, frames and WADO-RS keep an image set in, or bring it back to, frequent access."""
        self._store.execute(
            "UPDATE image_sets SET accessed = ? WHERE datastore_id = ? AND id = ?",
            (self._clock.now(), datastore_id, image_set_id),
        )

    # -- operations -----------------------------------------------------------------------------------------------

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetImageSet."""
        head = self.find(request, deleted=self._settings.get_deleted)
        out = {
            **self.properties(head, self._version(head, request.get("versionId"))),
            "datastoreId": head.datastore_id,
            "imageSetArn": self.arn(head),
            "lastAccessedAt": last_access(head),
            "storageTier": tier(head, self._clock.now()),
        }
        out["imageSetWorkflowStatus"] = out.pop("ImageSetWorkflowStatus", None)
        return out

    def _version(self, head: ImageSet, version: str | None) -> dict[str, Any]:
        wanted = number(version)
        rows = self._store.rows(
            "SELECT * FROM versions WHERE datastore_id = ? AND id = ? AND version = ?",
            (head.datastore_id, head.id, head.version if wanted is None else wanted),
        )
        if not rows:
            raise not_found("The image set has no such version.")
        return dict(rows[0])

    @staticmethod
    def properties(head: ImageSet, row: dict[str, Any]) -> dict[str, Any]:
        """One version as ListImageSetVersions shows it, with the model's capital I and the creation of the set."""
        out = {
            "imageSetId": row["id"],
            "versionId": str(row["version"]),
            "imageSetState": row["state"],
            "ImageSetWorkflowStatus": row["workflow"],
            "createdAt": head.created,
            "updatedAt": row["updated"],
            "deletedAt": row["deleted"],
            "message": row["message"],
            "isPrimary": bool(row["is_primary"]),
            "overrides": {"forced": True} if row["forced"] else None,
        }
        return {k: v for k, v in out.items() if v is not None}

    def versions(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListImageSetVersions, newest first."""
        head = self.find(request, deleted=self._settings.get_deleted)
        after = LISTING.start(self._store.page_secret, request)
        rows = self._store.rows(
            "SELECT * FROM versions WHERE datastore_id = ? AND id = ? AND version < ? ORDER BY version DESC LIMIT ?",
            (head.datastore_id, head.id, after[0] if after else 2**62, LISTING.size(request) + 1),
        )
        items, following = LISTING.turn(
            self._store.page_secret, request, [dict(r) for r in rows], lambda row: [row["version"]]
        )
        return {"imageSetPropertiesList": [self.properties(head, r) for r in items], "nextToken": following}

    def metadata(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetImageSetMetadata: gzip-compressed JSON. Counts as an access."""
        head = self.find(request)
        if self._faults.take(LockMetadata):
            raise conflict("The metadata of the image set is being processed. Try again later.")
        packed = self._packed(head, number(request.get("versionId")))
        self.touch(head.datastore_id, head.id)
        return {"imageSetMetadataBlob": packed.text, "contentType": "application/json", "contentEncoding": "gzip"}


def number(version: str | None) -> int | None:
    """A version id as a number; those beyond any version are one that nobody has."""
    if version is None:
        return None
    return int(version) if version.isdecimal() and len(version) < 16 else -1  # noqa: PLR2004
