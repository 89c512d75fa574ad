"""Data stores and tags."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from local_aws.fault_kinds import FailDatastore
from local_aws.healthimaging.tokens import check_token
from local_aws.protocol.errors import ServiceError, conflict, not_found, validation
from local_aws.protocol.paging import TIME_AND_ID, Listing

if TYPE_CHECKING:
    from local_aws.bus import Entry
    from local_aws.healthimaging.shared import Shared
    from local_aws.outbox import Outbox
    from local_aws.work import Begun, Finish, Work

LISTING = Listing("datastores", TIME_AND_ID)

MAX_TAGS = 50
# What a data store becomes when its time has come.
_ENDS = {"CREATING": "ACTIVE", "DELETING": "DELETED"}


class Datastores:
    """The operations on data stores, which become ACTIVE or DELETED after `datastore_seconds`."""

    def __init__(self, shared: Shared, outbox: Outbox) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._clock = shared.clock
        self._events = shared.events
        self._faults = shared.faults
        self._outbox = outbox
        self._work: Work | None = None

    def attach(self, work: Work) -> None:
        """Let data stores take their time."""
        self._work = work
        work.register("datastore", self._settle, self._settings.datastore_seconds)

    def row(self, datastore_id: str, *, deleted: bool = False) -> dict[str, Any]:
        """One data store that is not deleted, or may be.

        Raises:
            ServiceError: ResourceNotFoundException.
        """
        rows = self._store.rows("SELECT * FROM datastores WHERE id = ?", (datastore_id,))
        if not rows or (rows[0]["status"] == "DELETED" and not deleted):
            raise not_found(f"Data store {datastore_id} does not exist.")
        return dict(rows[0])

    def active(self, datastore_id: str) -> dict[str, Any]:
        """One data store that is ACTIVE: the others can neither be searched nor imported into.

        Raises:
            ServiceError: It does not exist or is not ACTIVE.
        """
        row = self.row(datastore_id)
        if row["status"] != "ACTIVE":
            raise conflict(f"Data store {datastore_id} is {row['status']}, not ACTIVE.")
        return row

    def readable(self, datastore_id: str) -> dict[str, Any]:
        """One data store whose jobs and image sets may be read.

        Raises:
            ServiceError: It does not exist, or it is not ACTIVE and the settings say that this is a conflict.
        """
        return self.row(datastore_id) if self._settings.not_active_reads == "answer" else self.active(datastore_id)

    def arn(self, datastore_id: str) -> str:
        """ARN of a data store."""
        return f"arn:aws:medical-imaging:{self._settings.region}:{self._settings.account}:datastore/{datastore_id}"

    # -- create and delete ----------------------------------------------------------------------------------------

    def create(self, request: dict[str, Any], *, at_once: bool = False) -> dict[str, Any]:
        """CreateDatastore. The same client token with the same parameters is the same data store.

        Args:
            request: The request.
            at_once: Whether it is ACTIVE when this returns, whatever the settings say.
        """
        token = request.get("clientToken")
        wanted = json.dumps({k: v for k, v in request.items() if k != "clientToken"}, sort_keys=True)
        if len(request.get("tags") or ()) > MAX_TAGS:
            raise validation(f"A resource has {MAX_TAGS} tags at most.")
        with self._store.transaction():
            since = self._clock.now() - self._settings.token_seconds if self._settings.token_seconds else 0.0
            same = self._store.rows(
                "SELECT id, request FROM datastores WHERE token = ? AND created > ? AND status <> 'DELETED'"
                " ORDER BY created DESC",
                (token, since),
            )
            if same:
                if same[0]["request"] != wanted:
                    check_token(self._settings)
                return {"datastoreId": same[0]["id"], "datastoreStatus": "CREATING"}
            most = self._settings.max_datastores
            if len(self._store.rows("SELECT 1 FROM datastores WHERE status <> 'DELETED'")) >= most:
                raise ServiceError("ServiceQuotaExceededException", f"There are {most} data stores already.")
            datastore_id = uuid.uuid4().hex
            now = self._clock.now()
            name = request.get("datastoreName") or f"datastore-{datastore_id[:8]}"
            row = {
                "id": datastore_id,
                "account": self._settings.account,
                "name": name,
                "status": "CREATING",
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
            begun = self._change(datastore_id, name, "CREATING", at_once=at_once)
        self._go_on(begun)
        return {"datastoreId": datastore_id, "datastoreStatus": "CREATING"}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteDatastore: only an empty one."""
        with self._store.transaction():
            row = self.row(request["datastoreId"])
            if row["status"] in _ENDS:
                raise conflict(f"The data store is {row['status']}.")
            if self._used(row["id"]):
                raise conflict("The data store still has image sets or import jobs. Delete them, or wait for them.")
            self._put_status(row["id"], "DELETING")
            begun = self._change(row["id"], row["name"], "DELETING")
        self._go_on(begun)
        return {"datastoreId": row["id"], "datastoreStatus": "DELETING"}

    def resume(self) -> None:
        """Let those go on that a kill left between two statuses, with nothing remembered of them."""
        for row in self._store.rows("SELECT * FROM datastores WHERE status IN ('CREATING', 'DELETING')"):
            if not self._store.rows("SELECT 1 FROM work WHERE kind = 'datastore' AND body LIKE ?", (f"%{row['id']}%",)):
                with self._store.transaction():
                    begun = self._change(row["id"], row["name"], row["status"])
                self._go_on(begun)

    def _used(self, datastore_id: str) -> bool:
        return bool(
            self._store.rows(
                "SELECT 1 FROM image_sets WHERE datastore_id = ? AND state <> 'DELETED'"
                " UNION ALL SELECT 1 FROM jobs"
                " WHERE datastore_id = ? AND status IN ('SUBMITTED', 'IN_PROGRESS') LIMIT 1",
                (datastore_id, datastore_id),
            )
        )

    def _put_status(self, datastore_id: str, status: str) -> None:
        self._store.execute(
            "UPDATE datastores SET status = ?, updated = ? WHERE id = ?", (status, self._clock.now(), datastore_id)
        )

    def _change(self, datastore_id: str, name: str, status: str, *, at_once: bool = False) -> Begun | None:
        """Tell of the new status; the next one follows, now or later. Inside the transaction that sets it."""
        told = [self._events.datastore_entry(datastore_id, name, status)]
        body = {"id": datastore_id, "name": name, "status": status}
        if self._work is None or at_once or self._settings.datastore_seconds <= 0:
            self._store.add_to_outbox([*told, *self._settle(body, None)()])
            return None
        return self._work.begin("datastore", body, told)

    def _go_on(self, begun: Begun | None) -> None:
        """After that transaction."""
        if begun and self._work:
            self._work.go_on(begun)
        else:
            self._outbox.send()

    def _settle(self, body: dict[str, Any], _message: str | None) -> Finish:
        status = _ENDS[body["status"]]
        if status == "ACTIVE" and self._faults.take(FailDatastore, lambda fault: fault.serves("medical-imaging")):
            status = "CREATE_FAILED"

        def finish() -> list[Entry]:
            self._put_status(body["id"], status)
            if status == "DELETED":
                self._store.execute("DELETE FROM tags WHERE arn = ?", (self.arn(body["id"]),))
            return [self._events.datastore_entry(body["id"], body["name"], status)]

        return finish

    # -- get and list ---------------------------------------------------------------------------------------------

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """GetDatastore."""
        row = self.row(request["datastoreId"], deleted=self._settings.get_deleted_datastore)
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
        """ListDatastores, newest first; deleted ones only when they are asked for."""
        status = request.get("datastoreStatus")
        where, values = ("status = ?", [status]) if status else ("status <> 'DELETED'", [])
        after = LISTING.start(self._store.page_secret, request)
        if after:
            where += " AND (created < ? OR (created = ? AND id > ?))"
            values += [after[0], *after]
        rows = self._store.rows(
            f"SELECT * FROM datastores WHERE {where} ORDER BY created DESC, id LIMIT ?",  # noqa: S608
            [*values, LISTING.size(request) + 1],
        )
        items, token = LISTING.turn(
            self._store.page_secret,
            request,
            [dict(r) for r in rows],
            lambda row: [row["created"], row["id"]],
        )
        return {"datastoreSummaries": [self._summary(r) for r in items], "nextToken": token}

    # -- tags -----------------------------------------------------------------------------------------------------

    def _tags(self, arn: str) -> dict[str, str]:
        """Tags of a data store or an image set.

        Raises:
            ServiceError: The ARN names neither.
        """
        parts = arn.partition(":datastore/")[2].split("/")
        if arn.rpartition(":datastore/")[0] != self.arn("").rpartition(":datastore/")[0]:
            raise not_found("The resource does not exist.")
        self.row(parts[0])
        if len(parts) > 1:
            found = self._store.image_set(parts[0], parts[-1]) if parts[1:-1] == ["imageset"] else None
            if found is None or found.state == "DELETED":
                raise not_found("The image set does not exist.")
        rows = self._store.rows("SELECT tags FROM tags WHERE arn = ?", (arn,))
        return dict(json.loads(rows[0]["tags"])) if rows else {}

    def tag(self, request: dict[str, Any]) -> dict[str, Any]:
        """TagResource."""
        arn = request["resourceArn"]
        with self._store.transaction():
            tags = self._tags(arn) | request["tags"]
            if len(tags) > MAX_TAGS:
                raise validation(f"A resource has {MAX_TAGS} tags at most.")
            self._store.put("tags", {"arn": arn, "tags": tags})
        return {}

    def untag(self, request: dict[str, Any]) -> dict[str, Any]:
        """UntagResource."""
        arn = request["resourceArn"]
        with self._store.transaction():
            kept = {k: v for k, v in self._tags(arn).items() if k not in request["tagKeys"]}
            self._store.put("tags", {"arn": arn, "tags": kept})
        return {}

    def list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListTagsForResource."""
        return {"tags": self._tags(request["resourceArn"])}
