"""Reading image sets: search, get, metadata, versions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from local_aws.faults import LockMetadata
from local_aws.healthimaging.paging import offset, page, token
from local_aws.protocol.errors import conflict, not_found, validation

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.faults import Faults
    from local_aws.healthimaging.datastores import Datastores
    from local_aws.healthimaging.store import ImageSet, Store
    from local_aws.settings import LocalSettings

PAGE = 50
STUDY_TIME = "json_extract(tags, '$.DICOMStudyDate') || coalesce(json_extract(tags, '$.DICOMStudyTime'), '')"
SORTS = {"updatedAt": "updated", "createdAt": "created", "DICOMStudyDateAndTime": STUDY_TIME}
# Search key: SQL of its value.
KEYS = {
    "DICOMPatientId": "json_extract(tags, '$.DICOMPatientId')",
    "DICOMAccessionNumber": "json_extract(tags, '$.DICOMAccessionNumber')",
    "DICOMStudyId": "json_extract(tags, '$.DICOMStudyId')",
    "DICOMStudyInstanceUID": "study_uid",
    "DICOMSeriesInstanceUID": "series_uid",
    "createdAt": "created",
    "updatedAt": "updated",
    "isPrimary": "is_primary",
    "DICOMStudyDateAndTime": STUDY_TIME,
}
RANGES = frozenset({"createdAt", "updatedAt", "DICOMStudyDateAndTime"})


class ImageSets:
    """SearchImageSets, GetImageSet, GetImageSetMetadata, ListImageSetVersions."""

    def __init__(
        self, settings: LocalSettings, store: Store, datastores: Datastores, faults: Faults, clock: Clock
    ) -> None:
        self._settings = settings
        self._store = store
        self._datastores = datastores
        self._faults = faults
        self._clock = clock

    def find(self, request: dict[str, Any], *, deleted: bool = False) -> ImageSet:
        """The image set that a request names.

        Raises:
            ServiceError: ResourceNotFoundException.
        """
        self._datastores.row(request["datastoreId"])
        found = self._store.image_set(request["datastoreId"], request["imageSetId"])
        if found is None or (found.state == "DELETED" and not deleted):
            raise not_found("The image set does not exist.")
        return found

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetImageSet."""
        head = self.find(request, deleted=self._settings.get_deleted)
        row = self._version(head, request.get("versionId"))
        arn = f"{self._datastores.arn(head.datastore_id)}/imageset/{head.id}"
        out = {
            **self.properties(row),
            "datastoreId": head.datastore_id,
            "imageSetArn": arn,
            "lastAccessedAt": head.accessed or head.created,
            "storageTier": "FREQUENT_ACCESS",
        }
        out["imageSetWorkflowStatus"] = out.pop("ImageSetWorkflowStatus", None)
        return out

    def _version(self, head: ImageSet, version: str | None) -> dict[str, Any]:
        rows = self._store.rows(
            "SELECT * FROM versions WHERE datastore_id = ? AND id = ? AND version = ?",
            (head.datastore_id, head.id, int(version or head.version)),
        )
        if not rows:
            raise not_found("The image set has no such version.")
        return dict(rows[0])

    @staticmethod
    def properties(row: dict[str, Any]) -> dict[str, Any]:
        """One version as ListImageSetVersions shows it, with the model's capital I."""
        out = {
            "imageSetId": row["id"],
            "versionId": str(row["version"]),
            "imageSetState": row["state"],
            "ImageSetWorkflowStatus": row["workflow"],
            "createdAt": row["created"],
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
        rows = self._store.rows(
            "SELECT * FROM versions WHERE datastore_id = ? AND id = ? ORDER BY version DESC",
            (head.datastore_id, head.id),
        )
        items, following = page([dict(r) for r in rows], request, PAGE)
        return {"imageSetPropertiesList": [self.properties(r) for r in items], "nextToken": following}

    def metadata(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetImageSetMetadata: gzip-compressed JSON. Counts as an access."""
        head = self.find(request)
        if self._faults.take(LockMetadata):
            raise conflict("The metadata of the image set is being processed. Try again later.")
        version = int(request.get("versionId") or head.version)
        packed = self._store.read_document(head.datastore_id, head.id, version)
        if packed is None:
            raise not_found("The image set has no such version.")
        self._store.execute(
            "UPDATE image_sets SET accessed = ? WHERE datastore_id = ? AND id = ?",
            (self._clock.now(), head.datastore_id, head.id),
        )
        return {"imageSetMetadataBlob": packed, "contentType": "application/json", "contentEncoding": "gzip"}

    # -- search ---------------------------------------------------------------------------------------------------

    def search(self, request: dict[str, Any]) -> dict[str, Any]:
        """SearchImageSets: at most one attribute with EQUAL, ranges inclusive, deleted sets left out."""
        self._datastores.row(request["datastoreId"])
        criteria = request.get("searchCriteria", {})
        where, values = "datastore_id = ? AND state <> 'DELETED'", [request["datastoreId"]]
        equal = set()
        for one in criteria.get("filters", []):
            keys = {next(iter(v)) for v in one["values"]}
            if len(keys) != 1:
                raise validation("The values of a filter must be of one kind.")
            key = keys.pop()
            bounds = [_bound(key, v[key]) for v in one["values"]]
            if one["operator"] == "BETWEEN":
                if key not in RANGES or len(bounds) != 2:  # noqa: PLR2004
                    raise validation("BETWEEN needs two values of createdAt, updatedAt or DICOMStudyDateAndTime.")
                where += f" AND {KEYS[key]} >= ? AND {KEYS[key]} <= ?"
            else:
                if len(bounds) != 1 or key in RANGES:
                    raise validation("EQUAL needs one value of an attribute or isPrimary.")
                if key != "isPrimary":
                    equal.add(key)
                where += f" AND {KEYS[key]} = ?"
            values += bounds
        if len(equal) > 1:
            raise validation("Only one attribute can be searched for at a time.")
        sort = criteria.get("sort") or {"sortField": "updatedAt", "sortOrder": "DESC"}
        order = f"ORDER BY {SORTS[sort['sortField']]} {sort['sortOrder']}, id {sort['sortOrder']}"
        start, size = offset(request), request.get("maxResults", PAGE)
        found = self._store.image_sets(where, values, f"{order} LIMIT {size + 1} OFFSET {start}")
        return {
            "imageSetsMetadataSummaries": [_summary(i) for i in found[:size]],
            "sort": sort,
            "nextToken": token(start + size) if len(found) > size else None,
        }


def _bound(key: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
    if key == "DICOMStudyDateAndTime":
        return value["DICOMStudyDate"] + value.get("DICOMStudyTime", "")
    return int(value) if isinstance(value, bool) else value


def _summary(image_set: ImageSet) -> dict[str, Any]:
    return {
        "imageSetId": image_set.id,
        "version": image_set.version,
        "createdAt": image_set.created,
        "updatedAt": image_set.updated,
        "lastAccessedAt": image_set.accessed or image_set.created,
        "storageTier": "FREQUENT_ACCESS",
        "isPrimary": image_set.is_primary,
        "DICOMTags": image_set.tags,
    }
