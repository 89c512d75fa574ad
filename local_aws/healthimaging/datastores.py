"""Data stores and tags."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.paging import page
from local_aws.protocol.errors import ServiceError, conflict, not_found

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.healthimaging.events import Events
    from local_aws.healthimaging.store import Store
    from local_aws.settings import LocalSettings

MAX_DATASTORES = 100


class Datastores:
    """The operations on data stores. They become ACTIVE at once; the answer of the creation still says CREATING."""

    def __init__(self, settings: LocalSettings, store: Store, events: Events, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._events = events
        self._clock = clock

    def row(self, datastore_id: str) -> dict[str, Any]:
        """One data store that is not deleted.

        Raises:
            ServiceError: ResourceNotFoundException.
        """
        rows = self._store.rows("SELECT * FROM datastores WHERE id = ? AND status <> 'DELETED'", (datastore_id,))
        if not rows:
            raise not_found(f"Data store {datastore_id} does not exist.")
        return dict(rows[0])

    def arn(self, datastore_id: str) -> str:
        """ARN of a data store."""
        return f"arn:aws:medical-imaging:{self._settings.region}:{self._settings.account}:datastore/{datastore_id}"

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """CreateDatastore."""
        token = request.get("clientToken")
        wanted = json.dumps({k: v for k, v in request.items() if k != "clientToken"}, sort_keys=True)
        with self._store.transaction():
            same = self._store.rows("SELECT id, request FROM datastores WHERE token = ?", (token,)) if token else []
            if same:
                if same[0]["request"] != wanted:
                    raise conflict("The client token was used with other parameters.")
                return {"datastoreId": same[0]["id"], "datastoreStatus": "CREATING"}
            if len(self._store.rows("SELECT 1 FROM datastores WHERE status <> 'DELETED'")) >= MAX_DATASTORES:
                raise ServiceError("ServiceQuotaExceededException", f"More than {MAX_DATASTORES} data stores.")
            datastore_id = uuid.uuid4().hex
            now = self._clock.now()
            name = request.get("datastoreName") or f"datastore-{datastore_id[:8]}"
            row = {
                "id": datastore_id,
                "account": self._settings.account,
                "name": name,
                "status": "ACTIVE",
                "kms": request.get("kmsKeyArn"),
                "authorizer": request.get("lambdaAuthorizerArn"),
                "format": request.get("losslessStorageFormat", "HTJ2K"),
                "token": token,
                "request": wanted,
                "created": now,
                "updated": now,
            }
            self._store.put("datastores", row)
            if request.get("tags"):
                self._store.put("tags", {"arn": self.arn(datastore_id), "tags": request["tags"]})
        self._events.datastore(datastore_id, name, "CREATING")
        self._events.datastore(datastore_id, name, "ACTIVE")
        return {"datastoreId": datastore_id, "datastoreStatus": "CREATING"}

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetDatastore."""
        row = self.row(request["datastoreId"])
        more = {
            "kmsKeyArn": row["kms"],
            "lambdaAuthorizerArn": row["authorizer"],
            "losslessStorageFormat": row["format"],
        }
        return {"datastoreProperties": {k: v for k, v in (self._summary(row) | more).items() if v is not None}}

    def _summary(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "datastoreId": row["id"],
            "datastoreName": row["name"],
            "datastoreStatus": row["status"],
            "datastoreArn": self.arn(row["id"]),
            "createdAt": row["created"],
            "updatedAt": row["updated"],
        }

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListDatastores."""
        rows = [dict(r) for r in self._store.rows("SELECT * FROM datastores ORDER BY created DESC, id")]
        status = request.get("datastoreStatus")
        rows = [r for r in rows if r["status"] == status or (status is None and r["status"] != "DELETED")]
        items, token = page(rows, request, 50)
        return {"datastoreSummaries": [self._summary(r) for r in items], "nextToken": token}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteDatastore: only an empty one."""
        row = self.row(request["datastoreId"])
        alive = self._store.rows(
            "SELECT 1 FROM image_sets WHERE datastore_id = ? AND state <> 'DELETED' LIMIT 1", (row["id"],)
        )
        if alive:
            raise conflict("The data store still has image sets. Delete them first.")
        self._store.execute(
            "UPDATE datastores SET status = 'DELETED', updated = ? WHERE id = ?", (self._clock.now(), row["id"])
        )
        self._events.datastore(row["id"], row["name"], "DELETING")
        self._events.datastore(row["id"], row["name"], "DELETED")
        return {"datastoreId": row["id"], "datastoreStatus": "DELETING"}

    # -- tags -----------------------------------------------------------------------------------------------------

    def _tags(self, arn: str) -> dict[str, str]:
        parts = arn.partition(":datastore/")[2].split("/")
        self.row(parts[0])
        if len(parts) == 3 and self._store.image_set(parts[0], parts[2]) is None:  # noqa: PLR2004
            raise not_found("The image set does not exist.")
        rows = self._store.rows("SELECT tags FROM tags WHERE arn = ?", (arn,))
        return dict(json.loads(rows[0]["tags"])) if rows else {}

    def tag(self, request: dict[str, Any]) -> dict[str, Any]:
        """TagResource."""
        arn = request["resourceArn"]
        self._store.put("tags", {"arn": arn, "tags": self._tags(arn) | request["tags"]})
        return {}

    def untag(self, request: dict[str, Any]) -> dict[str, Any]:
        """UntagResource."""
        arn = request["resourceArn"]
        kept = {k: v for k, v in self._tags(arn).items() if k not in request["tagKeys"]}
        self._store.put("tags", {"arn": arn, "tags": kept})
        return {}

    def list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListTagsForResource."""
        return {"tags": self._tags(request["resourceArn"])}
