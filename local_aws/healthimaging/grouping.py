"""Which image set an instance goes into, primary or not, and at which version.

Belongs here: the rules of "Understanding import jobs" and "Understanding image sets". Does not belong here: reading
or writing S3.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.agreement import disagree, fill
from local_aws.healthimaging.document import Draft
from local_aws.healthimaging.instances import to_json, with_warnings
from local_aws.healthimaging.problems import COERCION, warning
from local_aws.healthimaging.store import ImageSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from local_aws.clock import Clock
    from local_aws.healthimaging.instances import Attributes, Instance
    from local_aws.healthimaging.store import Store


@dataclass(slots=True)
class File:
    """One object of an import that became an instance."""

    name: str
    sop_uid: str
    sop_class_uid: str
    warnings: tuple[dict[str, Any], ...]
    frame_ids: tuple[str, ...]
    # Its attributes of patient, study and series, as JSON; of files that agree one text.
    levels: bytes = b""


@dataclass
class Group:
    """Instances of one import that agree in all seven grouping elements."""

    first: Instance
    patient: Attributes = field(default_factory=dict)
    study: Attributes = field(default_factory=dict)
    series: Attributes = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    beside: dict[str, bytes] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)
    oversized: bool = False
    _bytes: int = 0
    _levels: dict[bytes, bytes] = field(default_factory=dict)

    def add(self, name: str, item: Instance, most_bytes: int, *, latest: bool) -> None:
        """Put an instance in; of the same instance twice the latter stays. Too much metadata is not kept at all."""
        for level, values in ((self.patient, item.patient), (self.study, item.study), (self.series, item.series)):
            fill(level, values, latest=latest)
        self._bytes += len(item.body) - len(self.bodies.get(item.sop_uid, b""))
        self.oversized |= self._bytes > most_bytes
        if self.oversized:
            self.bodies.clear()
            self.beside.clear()
        else:
            self.bodies[item.sop_uid] = item.body
            self.beside.pop(item.sop_uid, None)
            if item.beside:
                self.beside[item.sop_uid] = item.beside
        text = to_json([item.patient, item.study, item.series])
        levels = self._levels.setdefault(text, text)
        self.files.append(File(name, item.sop_uid, item.sop_class_uid, item.warnings, item.frame_ids, levels))

    def warn_of_coercion(self, patient: Attributes, study: Attributes, series: Attributes) -> None:
        """Mark the files of which an attribute is not what the image set says: it was modified in being stored."""
        true = (patient, study, series)
        coerced = {text: _differs(json.loads(text), true) for text in self._levels}
        # Of an instance that was sent twice the latter file is stored.
        stored = {file.sop_uid: file for file in self.files}
        for file in self.files:
            if coerced[file.levels]:
                file.warnings = (warning(COERCION), *file.warnings)
        for uid, file in stored.items():
            if coerced[file.levels] and uid in self.bodies:
                codes = [one["warning_reason_code"] for one in file.warnings]
                self.bodies[uid] = with_warnings(self.bodies[uid], codes)


def _differs(own: Sequence[Attributes], true: Sequence[Attributes]) -> bool:
    """Whether an attribute of a file is not what its image set says."""
    return any(disagree(items, level) for level, items in zip(true, own, strict=True))


class Gathered:
    """The instances of one import, group by group in the order in which they came."""

    def __init__(self, most_bytes: int, *, latest: bool = False) -> None:
        """Hold no more metadata of a group than an image set may have; `latest` as in `Draft.add_levels`."""
        self._latest = latest
        self._groups: dict[tuple[str, ...], Group] = {}
        self._most_bytes = most_bytes

    def add(self, name: str, item: Instance) -> None:
        """Put an instance into its group."""
        group = self._groups.get(item.group)
        if group is None:
            group = self._groups[item.group] = Group(item)
        group.add(name, item, self._most_bytes, latest=self._latest)

    def groups(self) -> list[Group]:
        """All groups."""
        return list(self._groups.values())


@dataclass
class Touched:
    """One image set that an import makes or changes: its new state, its new document, the files that went into it."""

    head: ImageSet
    draft: Draft
    files: list[File]
    # Whether there is too much metadata, so that the draft lacks it.
    oversized: bool = False


class Grouping:
    """Places the groups of one import. The caller holds the lock of those who change image sets."""

    def __init__(
        self, store: Store, datastore_id: str, clock: Clock, *, latest: bool = False, coercion: bool = True
    ) -> None:
        self._latest = latest
        self._coercion = coercion
        self._store = store
        self._datastore_id = datastore_id
        self._clock = clock

    def place(self, groups: Iterable[Group]) -> Iterator[Touched]:
        """Put groups, in their order, into image sets.

        A series without conflict has one primary image set, into which later instances merge as a new version; the
        same instance again replaces the older one. A group that disagrees with the primary of its series, or, when the
        series has none, with the oldest primary of its study, goes into a new image set that is not primary. Primaries
        of a study disagree once one of them was updated without the others.

        Args:
            groups: The groups of the import, first come first.

        Yields:
            Every image set touched, once each.
        """
        studies: dict[str, tuple[str, ...]] = {}
        made: set[tuple[str, str]] = set()
        for group in groups:
            first = group.first
            study = studies.get(first.study_uid) or self._study(first.study_uid) or first.study_group
            studies[first.study_uid] = study
            series = (first.study_uid, first.series_uid)
            primary = None if series in made else self._primary(first)
            change = None
            if primary and primary.grouping == first.group:
                change = self._merged(group, primary)
            elif primary is None and series not in made and study == first.study_group:
                made.add(series)
                change = self._new(group, is_primary=True)
            yield change or self._new(group, is_primary=False)

    def _study(self, study_uid: str) -> tuple[str, ...] | None:
        """Study attributes of the primaries that are there already."""
        found = self._store.image_sets(
            "datastore_id = ? AND study_uid = ? AND is_primary = 1 AND state <> 'DELETED'",
            (self._datastore_id, study_uid),
            "ORDER BY created LIMIT 1",
        )
        return found[0].study_grouping if found else None

    def _primary(self, item: Instance) -> ImageSet | None:
        """The existing primary of a series."""
        found = self._store.image_sets(
            "datastore_id = ? AND study_uid = ? AND series_uid = ? AND is_primary = 1 AND state <> 'DELETED'",
            (self._datastore_id, item.study_uid, item.series_uid),
        )
        return found[0] if found else None

    def _merged(self, group: Group, head: ImageSet) -> Touched | None:
        """A group put into an existing image set, as its next version."""
        packed = self._store.read_document(head.datastore_id, head.id, head.version)
        if packed is None:
            return None
        draft = Draft.unpack(packed)
        self._fill(draft, head.series_uid, group)
        head.version += 1
        head.workflow = "UPDATED"
        head.tags = draft.search_tags()
        head.updated = self._clock.now()
        return Touched(head, draft, group.files, group.oversized)

    def _fill(self, draft: Draft, series_uid: str, group: Group) -> None:
        """Put a group into a document, and warn of what that changes."""
        levels = draft.add_levels(series_uid, group.patient, group.study, group.series, latest=self._latest)
        if self._coercion:
            group.warn_of_coercion(*levels)
        draft.add(series_uid, group.bodies, group.beside)

    def _new(self, group: Group, *, is_primary: bool) -> Touched:
        """A group as an image set of its own."""
        now, first = self._clock.now(), group.first
        identity = uuid.uuid4().hex
        draft = Draft.new(self._datastore_id, identity, first)
        self._fill(draft, first.series_uid, group)
        head = ImageSet(
            datastore_id=self._datastore_id,
            id=identity,
            version=1,
            is_primary=is_primary,
            state="ACTIVE",
            workflow="CREATED",
            study_uid=first.study_uid,
            series_uid=first.series_uid,
            grouping=first.group,
            study_grouping=first.study_group,
            tags=draft.search_tags(),
            created=now,
            updated=now,
        )
        return Touched(head, draft, group.files, group.oversized)
