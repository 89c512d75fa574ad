"""Messages in their wire forms, parsed to typed records.

Belongs here: S3 event notifications, association manifests and HealthImaging's EventBridge events, as text in and
dataclasses out. Does not belong here: acting on them. An event is a hint; who acts re-reads the service.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class ObjectCreated:
    """An object version came to lie in S3 (event `ObjectCreated:*`, or found by a listing)."""

    bucket: str
    key: str
    version_id: str | None
    etag: str | None
    size: int | None
    """Bytes."""
    sequencer: str
    at: dt.datetime | None


@dataclass(frozen=True)
class ObjectRemoved:
    """A key or one version of it went (events `ObjectRemoved:*` and `LifecycleExpiration:*`)."""

    bucket: str
    key: str
    version_id: str | None
    """The one version that was deleted for good; None: the key, by a delete marker or in an unversioned bucket."""
    sequencer: str
    at: dt.datetime | None


@dataclass(frozen=True)
class AssociationClosed:
    """An association manifest: its sender will write nothing more under the prefix."""

    association_id: str
    bucket: str
    prefix: str
    n_objects: int | None


@dataclass(frozen=True)
class ImportJobEvent:
    """HealthImaging says something of an import job (`Import Job Submitted | In Progress | Completed | Failed`)."""

    event_id: str
    detail_type: str
    job_id: str
    job_name: str
    datastore_id: str
    status: str
    at: dt.datetime | None


@dataclass(frozen=True)
class ImageSetEvent:
    """HealthImaging says something of an image set (`Image Set Created | Updated | Deleted | ...`)."""

    event_id: str
    detail_type: str
    image_set_id: str
    datastore_id: str
    version: int | None
    at: dt.datetime | None


@dataclass(frozen=True)
class DataStoreEvent:
    """HealthImaging says something of a data store (`Data Store Creating | Created | Deleted | ...`). Recorded only."""

    event_id: str
    detail_type: str
    datastore_id: str
    status: str
    at: dt.datetime | None


@dataclass(frozen=True)
class UnknownEvent:
    """Well-formed, of a kind we do not know: recorded, so that nothing is silent."""

    event_id: str
    detail_type: str
    at: dt.datetime | None


@dataclass(frozen=True)
class Unreadable:
    """A message or record we cannot use. It goes to quarantine; its bytes stay in the inbox."""

    reason: Reason
    text: str


Upload = ObjectCreated | ObjectRemoved | AssociationClosed | Unreadable
ServiceEvent = ImportJobEvent | ImageSetEvent | DataStoreEvent | UnknownEvent | Unreadable


def parse_upload(body: str) -> list[Upload]:
    """Everything one message of the upload queue says.

    Takes S3 notifications (several records a message, keys URL-encoded; "Event message structure" of the S3 user
    guide), the same through EventBridge (keys plain), and association manifests. `s3:TestEvent` says nothing.
    """
    message = _object(body)
    if isinstance(message, Unreadable):
        return [message]
    if message.get("Event") == "s3:TestEvent":
        return []
    records = message.get("Records")
    if isinstance(records, list):
        return [_s3_record(record) for record in records]
    if message.get("source") == "aws.s3":
        return [_s3_over_eventbridge(message)]
    if "associationId" in message or "prefix" in message:
        return [_association(message)]
    return [Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "neither an S3 event nor an association manifest")]


def parse_service_event(body: str) -> ServiceEvent:  # noqa: PLR0911 - one answer for each form
    """The HealthImaging event in one message ("Amazon EventBridge" of the HealthImaging developer guide).

    The image set id is `imagesetId` in the guide and `imageSetId` in AWS's own consumers; version may be missing.
    """
    message = _object(body)
    if isinstance(message, Unreadable):
        return message
    detail_type, detail = message.get("detail-type"), message.get("detail")
    if not isinstance(detail_type, str) or not isinstance(detail, dict):
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "no detail-type or no detail: not an EventBridge event")
    event_id = str(message.get("id") or "")
    if not event_id:
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an EventBridge event without id")
    at = instant(message.get("time"))
    datastore_id = str(detail.get("datastoreId") or "")
    if detail_type.startswith("Import Job ") and detail.get("jobId"):
        status, name = str(detail.get("jobStatus") or ""), str(detail.get("jobName") or "")
        return ImportJobEvent(event_id, detail_type, str(detail["jobId"]), name, datastore_id, status, at)
    if detail_type in DATA_STORE_TYPES:
        return DataStoreEvent(event_id, detail_type, datastore_id, str(detail.get("datastoreStatus") or ""), at)
    if detail_type not in IMAGE_SET_TYPES:
        return UnknownEvent(event_id, detail_type, at)
    image_set_id = str(detail.get("imageSetId") or detail.get("imagesetId") or _image_set_in(message.get("resources")))
    if not IMAGE_SET_ID.fullmatch(image_set_id):
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an image set event without a valid image set id")
    return ImageSetEvent(event_id, detail_type, image_set_id, datastore_id, _int(detail.get("imageSetVersion")), at)


IMAGE_SET_TYPES = frozenset(
    f"Image Set {word}"
    for word in (
        "Created",
        "Copying",
        "Copying With Read Only Access",
        "Copied",
        "Copy Failed",
        "Updating",
        "Updated",
        "Update Failed",
        "Deleting",
        "Deleted",
    )
)
"""Every image set detail-type that HealthImaging documents."""


DATA_STORE_TYPES = frozenset(
    f"Data Store {word}" for word in ("Creating", "Creation Failed", "Created", "Deleting", "Deleted")
)
"""Every data store detail-type that HealthImaging documents."""


MAX_KEY_BYTES = 1_024
IMAGE_SET_ID = re.compile("[0-9a-z]{32}")
"""Form of an image set id, by the service's own model."""


def newer(sequencer: str, other: str) -> bool:
    """Whether an S3 sequencer is later than another of the same key: hex of any length, padded on the left."""
    width = max(len(sequencer), len(other))
    return sequencer.upper().rjust(width, "0") > other.upper().rjust(width, "0")


def _object(body: str) -> dict[str, object] | Unreadable:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return Unreadable(Reason.MESSAGE_NOT_JSON, "not JSON")
    if not isinstance(message, dict):
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "JSON, but not an object")
    return message


def _s3_record(record: object) -> Upload:
    try:
        name, s3, at = record["eventName"], record["s3"], instant(record.get("eventTime"))  # type: ignore[index,attr-defined]
        bucket, entry = str(s3["bucket"]["name"]), s3["object"]
        key, sequencer = unquote_plus(str(entry["key"])), str(entry.get("sequencer") or "")
        version, etag = _text(entry.get("versionId")), _text(entry.get("eTag"))
        if not _usable(key):
            return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an S3 event whose key cannot be one")
        if name.startswith(("ObjectRemoved:", "LifecycleExpiration:")):
            return ObjectRemoved(bucket, key, None if name.endswith("MarkerCreated") else version, sequencer, at)
        if not name.startswith("ObjectCreated:"):
            return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an S3 event that is neither a creation nor a removal")
        return ObjectCreated(bucket, key, version, etag, _int(entry.get("size")), sequencer, at)
    except (KeyError, TypeError, AttributeError):
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an S3 event record that lacks bucket or key")


def _s3_over_eventbridge(message: Mapping[str, object]) -> Upload:
    detail, at = message.get("detail"), instant(message.get("time"))
    try:
        bucket, entry = str(detail["bucket"]["name"]), detail["object"]  # type: ignore[index]
        key, sequencer = str(entry["key"]), str(entry.get("sequencer") or "")
    except (KeyError, TypeError):
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an S3 event that lacks bucket or key")
    if not _usable(key):
        return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an S3 event whose key cannot be one")
    version, etag = _text(entry.get("version-id")), _text(entry.get("etag"))
    if message.get("detail-type") == "Object Deleted":
        marker = detail.get("deletion-type") == "Delete Marker Created"  # type: ignore[attr-defined]
        return ObjectRemoved(bucket, key, None if marker else version, sequencer, at)
    if message.get("detail-type") == "Object Created":
        return ObjectCreated(bucket, key, version, etag, _int(entry.get("size")), sequencer, at)
    return Unreadable(Reason.MESSAGE_NOT_UNDERSTOOD, "an S3 event that is neither a creation nor a removal")


def _association(message: Mapping[str, object]) -> Upload:
    association_id, bucket, prefix = (_text(message.get(name)) for name in ("associationId", "bucket", "prefix"))
    if not association_id or not bucket or not prefix:
        return Unreadable(Reason.MANIFEST_NOT_UNDERSTOOD, "a manifest needs associationId, bucket and prefix")
    if not prefix.endswith("/"):
        return Unreadable(Reason.MANIFEST_NOT_UNDERSTOOD, "the prefix of a manifest must end with /")
    return AssociationClosed(association_id, bucket, prefix, _int(message.get("numberOfObjects")))


def _usable(key: str) -> bool:
    """Whether S3 could hold such a key: UTF-8, not empty, at most 1,024 bytes; databases refuse NUL."""
    try:
        return 0 < len(key.encode()) <= MAX_KEY_BYTES and "\0" not in key
    except UnicodeEncodeError:
        return False


def _image_set_in(resources: object) -> str:
    if isinstance(resources, list) and resources and "/imageset/" in str(resources[0]).lower():
        return str(resources[0]).rsplit("/", 1)[-1]
    return ""


def instant(value: object) -> dt.datetime | None:
    """An ISO time of an event; without a zone it is UTC. None when it is none."""
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _int(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
