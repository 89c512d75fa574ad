"""Data stores of HealthLake, and their tags."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import FailDatastore
from local_aws.protocol.errors import ServiceError, conflict, not_found, validation
from local_aws.protocol.paging import TIME_AND_ID, Listing

if TYPE_CHECKING:
    from local_aws.bus import Entry
    from local_aws.healthlake.shared import Shared
    from local_aws.work import Begun, Finish, Work

LISTING = Listing("datastores", TIME_AND_ID, token="NextToken", most="MaxResults")  # noqa: S106 -- a name
MAX_TAGS = 200
# What a data store becomes when its time has come.
_ENDS = {"CREATING": "ACTIVE", "UPDATING": "ACTIVE", "DELETING": "DELETED"}
# What a data store is created or updated with, and Describe says again.
_KEPT = (
    *("SseConfiguration", "PreloadDataConfig", "IdentityProviderConfiguration", "AnalyticsConfiguration"),
    *("NlpConfiguration", "ProfileConfiguration"),
)
_SSE = {"KmsEncryptionConfig": {"CmkType": "AWS_OWNED_KMS_KEY"}}
_IDENTITY = {"AuthorizationStrategy": "AWS_AUTH", "FineGrainedAuthorizationEnabled": False}


class Datastores:
    """The operations on data stores, which become ACTIVE or DELETED after `fhir_datastore_seconds`."""

    def __init__(self, shared: Shared, work: Work) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._events = shared.events
        self._faults = shared.faults
        self._outbox = shared.outbox
        self._work = work
        work.register("datastore", self._settle, shared.settings.fhir_datastore_seconds)

    def row(self, datastore_id: str, *, deleted: bool = False) -> dict[str, Any]:
        """One data store that is not deleted, or may be.

        Raises:
            ServiceError: ResourceNotFoundException.
        """
        rows = self._store.rows("SELECT * FROM datastores WHERE id = ?", (datastore_id,))
        if not rows or (rows[0]["status"] == "DELETED" and not deleted):
            raise not_found("The data store does not exist.")
        return dict(rows[0])

    def active(self, datastore_id: str) -> dict[str, Any]:
        """One data store that jobs can work on.

        Raises:
            ServiceError: It does not exist or is not ACTIVE.
        """
        row = self.row(datastore_id)
        if row["status"] != "ACTIVE":
            raise ServiceError(self._settings.fhir_not_active_error, f"The data store is {row['status']}, not ACTIVE.")
        return row

    # -- create, update, delete -----------------------------------------------------------------------------------

    def create(self, request: dict[str, Any], *, at_once: bool = False) -> dict[str, Any]:
        """CreateFHIRDatastore. The same client token with the same parameters is the same data store.

        Args:
            request: The request.
            at_once: Whether it is ACTIVE when this returns, whatever the settings say.
        """
        wanted = json.dumps({k: v for k, v in request.items() if k not in {"ClientToken", "Tags"}}, sort_keys=True)
        token = request.get("ClientToken") or uuid.uuid4().hex
        with self._store.transaction():
            same = self._store.rows("SELECT * FROM datastores WHERE token = ?", (token,))
            if same:
                if same[0]["request"] != wanted and self._settings.fhir_idempotency_mismatch != "first":
                    raise validation("The client token was used with other parameters.")
                return self._answer(dict(same[0]))
            most = self._settings.fhir_max_datastores
            if len(self._store.rows("SELECT 1 FROM datastores WHERE status <> 'DELETED'")) >= most:
                raise validation(f"There are {most} data stores already.")
            datastore_id, now = uuid.uuid4().hex, self._clock.now()
            row = {
                "id": datastore_id,
                "name": request.get("DatastoreName") or f"datastore-{datastore_id[:8]}",
                "status": "CREATING",
                "token": token,
                "request": wanted,
                "created": now,
                "updated": now,
            }
            self._store.put("datastores", row)
            if request.get("Tags"):
                self._put_tags(self._events.arn(datastore_id), {t["Key"]: t["Value"] for t in request["Tags"]})
            begun = self._change(row, "CREATING", at_once=at_once)
        self._go_on(begun)
        return self._answer(row)

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        """UpdateFHIRDatastore: the name and the configurations that are given."""
        with self._store.transaction():
            row = self._at_rest(request["DatastoreId"])
            changed = {k: v for k, v in request.items() if k in {"DatastoreName", *_KEPT}}
            row["request"] = json.dumps(json.loads(row["request"]) | changed, sort_keys=True)
            row["name"] = request.get("DatastoreName") or row["name"]
            self._store.put("datastores", row)
            begun = self._change(row, "UPDATING")
        self._go_on(begun)
        return {"DatastoreProperties": self._properties(row | {"status": "UPDATING"})}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteFHIRDatastore, with all that is in it, unless a job works on it."""
        with self._store.transaction():
            row = self._at_rest(request["DatastoreId"])
            if self._store.jobs("datastore_id = ? AND ended IS NULL", (row["id"],)):
                raise conflict("Jobs of the data store have not ended.")
            begun = self._change(row, "DELETING")
        self._go_on(begun)
        return self._answer(row | {"status": "DELETING"})

    def _at_rest(self, datastore_id: str) -> dict[str, Any]:
        row = self.row(datastore_id)
        if row["status"] in _ENDS:
            raise conflict(f"The data store is {row['status']}.")
        return row

    def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "DatastoreId": row["id"],
            "DatastoreArn": self._events.arn(row["id"]),
            "DatastoreStatus": row["status"],
            "DatastoreEndpoint": self._events.endpoint(row["id"]),
        }

    def _change(self, row: dict[str, Any], status: str, *, at_once: bool = False) -> Begun | None:
        """Tell of the new status; the next one follows, now or later. Inside the transaction that sets it."""
        self._put_status(row["id"], status)
        told = self._events.datastore_entry(row["id"], row["name"], status)
        body = {"id": row["id"], "name": row["name"], "status": status}
        if at_once or self._settings.fhir_datastore_seconds <= 0:
            self._store.add_to_outbox([*told, *self._settle(body, None)()])
            return None
        return self._work.begin("datastore", body, told)

    def _go_on(self, begun: Begun | None) -> None:
        """After that transaction."""
        if begun:
            self._work.go_on(begun)
        else:
            self._outbox.send()

    def _put_status(self, datastore_id: str, status: str) -> None:
        self._store.execute(
            "UPDATE datastores SET status = ?, updated = ? WHERE id = ?", (status, self._clock.now(), datastore_id)
        )

    def _settle(self, body: dict[str, Any], _message: str | None) -> Finish:
        status = _ENDS[body["status"]]
        if body["status"] == "CREATING" and self._faults.take(FailDatastore, lambda f: f.serves("healthlake")):
            status = "CREATE_FAILED"

        def finish() -> list[Entry]:
            self._put_status(body["id"], status)
            if status == "DELETED":
                self._empty(body["id"])
            if body["status"] == "UPDATING":
                return []
            return self._events.datastore_entry(body["id"], body["name"], status)

        return finish

    def _empty(self, datastore_id: str) -> None:
        number = self.row(datastore_id, deleted=True)["number"]
        self._store.execute("DELETE FROM tags WHERE arn = ?", (self._events.arn(datastore_id),))
        self._store.execute(
            "DELETE FROM values_found WHERE resource IN (SELECT number FROM resources WHERE store = ?)", (number,)
        )
        self._store.execute(
            "DELETE FROM history WHERE resource IN (SELECT number FROM resources WHERE store = ?)", (number,)
        )
        self._store.execute("DELETE FROM resources WHERE store = ?", (number,))

    # -- describe and list ----------------------------------------------------------------------------------------

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeFHIRDatastore."""
        return {"DatastoreProperties": self._properties(self.row(request["DatastoreId"]))}

    def _properties(self, row: dict[str, Any]) -> dict[str, Any]:
        given = json.loads(row["request"])
        out = self._answer(row) | {
            "DatastoreName": row["name"],
            "CreatedAt": row["created"],
            "DatastoreTypeVersion": "R4",
            "SseConfiguration": _SSE,
            "IdentityProviderConfiguration": _IDENTITY,
        }
        if row["status"] == "CREATE_FAILED":
            out["ErrorCause"] = {"ErrorMessage": "The data store broke.", "ErrorCategory": "RETRYABLE_ERROR"}
        return out | {k: v for k, v in given.items() if k in _KEPT}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListFHIRDatastores, newest first; deleted ones only when they are asked for."""
        asked = request.get("Filter") or {}
        where, values = "status <> 'DELETED'", []
        if "DatastoreStatus" in asked:
            where, values = "status = ?", [asked["DatastoreStatus"]]
        for name, clause in (
            ("DatastoreName", "name = ?"),
            ("CreatedBefore", "created <= ?"),
            ("CreatedAfter", "created >= ?"),
        ):
            if name in asked:
                where += f" AND {clause}"
                values.append(asked[name].timestamp() if name.startswith("Created") else asked[name])
        after = LISTING.start(self._store.page_secret, request)
        if after:
            where += " AND (created < ? OR (created = ? AND id > ?))"
            values += [after[0], *after]
        size = request.setdefault("MaxResults", self._settings.fhir_list_size)
        rows = self._store.rows(
            f"SELECT * FROM datastores WHERE {where} ORDER BY created DESC, id LIMIT ?",  # noqa: S608 -- all of it is ours
            [*values, size + 1],
        )
        items, token = LISTING.turn(
            self._store.page_secret, request, [dict(r) for r in rows], lambda row: [row["created"], row["id"]]
        )
        return {"DatastorePropertiesList": [self._properties(r) for r in items], "NextToken": token}

    # -- tags -----------------------------------------------------------------------------------------------------

    def _tags(self, arn: str) -> dict[str, str]:
        """Tags of a data store.

        Raises:
            ServiceError: The ARN names none.
        """
        datastore_id = arn.rpartition("/")[2]
        if arn != self._events.arn(datastore_id):
            raise not_found("The resource does not exist.")
        self.row(datastore_id)
        rows = self._store.rows("SELECT tags FROM tags WHERE arn = ?", (arn,))
        return dict(json.loads(rows[0]["tags"])) if rows else {}

    def _put_tags(self, arn: str, tags: dict[str, str]) -> None:
        self._store.put("tags", {"arn": arn, "tags": tags})

    def tag(self, request: dict[str, Any]) -> dict[str, Any]:
        """TagResource."""
        arn = request["ResourceARN"]
        with self._store.transaction():
            tags = self._tags(arn) | {tag["Key"]: tag["Value"] for tag in request["Tags"]}
            if len(tags) > MAX_TAGS:
                raise validation(f"A resource has {MAX_TAGS} tags at most.")
            self._put_tags(arn, tags)
        return {}

    def untag(self, request: dict[str, Any]) -> dict[str, Any]:
        """UntagResource."""
        arn = request["ResourceARN"]
        with self._store.transaction():
            self._put_tags(arn, {k: v for k, v in self._tags(arn).items() if k not in request["TagKeys"]})
        return {}

    def list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListTagsForResource."""
        return {"Tags": [{"Key": k, "Value": v} for k, v in self._tags(request["ResourceARN"]).items()]}
