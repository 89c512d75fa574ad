"""Which image set an instance goes into, primary or not, and at which version.

Belongs here: the rules of "Understanding import jobs" and "Understanding image sets". Does not belong here: reading
or writing S3.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_aws.healthimaging import document
from local_aws.healthimaging.store import ImageSet

if TYPE_CHECKING:
    from local_aws.clock import Clock
    from local_aws.healthimaging.document import Document, Instance
    from local_aws.healthimaging.store import Store


@dataclass
class Touched:
    """One image set that a job makes or changes: its new state, its new document, the files that went into it."""

    head: ImageSet
    document: Document
    files: list[tuple[str, Instance]] = field(default_factory=list)
    exists: bool = False


class Grouping:
    """Places the instances of one job."""

    def __init__(self, store: Store, datastore_id: str, clock: Clock) -> None:
        self._store = store
        self._datastore_id = datastore_id
        self._clock = clock

    def place(self, read: list[tuple[str, Instance]]) -> list[Touched]:
        """Put instances, in key order, into image sets.

        A series without conflict has one primary image set, into which later instances merge as a new version; the
        same instance again replaces the older one. An instance that disagrees with its primary series, or with the
        study of the primaries, goes into a new image set that is not primary.

        Args:
            read: Keys and instances.

        Returns:
            Every image set touched, once each.
        """
        touched: dict[tuple[bool, tuple[str, ...]], Touched] = {}
        studies: dict[str, tuple[str, ...] | None] = {}
        primaries: dict[tuple[str, str], Touched] = {}
        for key, item in read:
            if item.study_uid not in studies:
                studies[item.study_uid] = self._study(item.study_uid)
            study = studies[item.study_uid]
            if study is None:
                study = studies[item.study_uid] = item.study_group
            series = (item.study_uid, item.series_uid)
            primary = primaries.get(series)
            if primary is None and study == item.study_group:
                primary = self._primary(item) or self._new(item, is_primary=True)
                primaries[series] = primary
            if primary is not None and primary.head.grouping == item.group:
                target = touched.setdefault((True, primary.head.grouping), primary)
            else:
                again = touched.get((False, item.group))
                target = again or touched.setdefault((False, item.group), self._new(item, is_primary=False))
            document.put(target.document, item)
            target.files.append((key, item))
        now = self._clock.now()
        for change in touched.values():
            if change.exists:
                change.head.version += 1
                change.head.workflow = "UPDATED"
            change.head.tags = document.search_tags(change.document)
            change.head.updated = now
        return list(touched.values())

    def _study(self, study_uid: str) -> tuple[str, ...] | None:
        """Study attributes of the primaries that are there already."""
        found = self._store.image_sets(
            "datastore_id = ? AND study_uid = ? AND is_primary = 1 AND state <> 'DELETED'",
            (self._datastore_id, study_uid),
            "ORDER BY created LIMIT 1",
        )
        return found[0].study_grouping if found else None

    def _primary(self, item: Instance) -> Touched | None:
        """The existing primary of a series."""
        found = self._store.image_sets(
            "datastore_id = ? AND study_uid = ? AND series_uid = ? AND is_primary = 1 AND state <> 'DELETED'",
            (self._datastore_id, item.study_uid, item.series_uid),
        )
        if not found:
            return None
        head = found[0]
        packed = self._store.read_document(head.datastore_id, head.id, head.version)
        if packed is None:
            return None
        return Touched(head, document.unpack(packed), exists=True)

    def _new(self, item: Instance, *, is_primary: bool) -> Touched:
        now = self._clock.now()
        head = ImageSet(
            datastore_id=self._datastore_id,
            id=uuid.uuid4().hex,
            version=1,
            is_primary=is_primary,
            state="ACTIVE",
            workflow="CREATED",
            study_uid=item.study_uid,
            series_uid=item.series_uid,
            grouping=item.group,
            study_grouping=item.study_group,
            tags={},
            created=now,
            updated=now,
        )
        return Touched(head, document.new(head.datastore_id, head.id, item))
