"""What searches look at: attributes of series and instances, taken out of the documents into tables of their own.

Belongs here: keeping the tables in step with the image sets. Does not belong here: queries (`search.py`).

The index is derived. It is brought up to date when it is asked, so imports and updates know nothing of it, and its
file may be removed at any time.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_aws.dicomweb import attributes
from local_aws.dicomweb.elements import Document, Vrs, elements
from local_aws.dicomweb.json_model import Written, data_set, written
from local_aws.healthimaging.image_sets import settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from local_aws.dicomweb.documents import Documents
    from local_aws.healthimaging.store import Store

# Raised with every change of what the tables hold; an index of another number is made anew.
FORM = 3
# Stands for no Instance Number, so that those come last.
LAST = 2**40
_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (datastore_id TEXT, image_set_id TEXT, series_uid TEXT, version INTEGER, entry TEXT,
  PRIMARY KEY (datastore_id, image_set_id, series_uid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (datastore_id TEXT, image_set_id TEXT, series_uid TEXT, sop_uid TEXT,
  sop_class TEXT, number INTEGER, warning TEXT, entry TEXT,
  PRIMARY KEY (datastore_id, image_set_id, series_uid, sop_uid)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS instances_number ON instances (datastore_id, number, sop_uid, sop_class, warning);
"""
# What is in memory of one data store: series by image set.
_Known = dict[str, list["Series"]]
_MATCHED = (*attributes.STUDY_KEYS, *attributes.SERIES_KEYS)


@dataclass
class Series:
    """One series of one image set.

    Attributes:
        image_set_id: Its image set.
        version: Version of the document it was read from.
        series_uid: Series Instance UID.
        values: Values of matching keys, by keyword.
        study: The default answer's attributes of the study.
        series: Those of the series.
        count: Number of instances.
        sop_classes: SOP classes of the instances.
        updated: When the image set changed last; not stored.
        study_uid: Study Instance UID; not stored.
    """

    image_set_id: str
    version: int
    series_uid: str
    values: dict[str, list[str]]
    study: Written
    series: Written
    count: int
    sop_classes: list[str]
    updated: float = 0.0
    study_uid: str = ""

    def __post_init__(self) -> None:
        """Read the study's UID out of the values."""
        self.study_uid = self.values.get("StudyInstanceUID", [""])[0]

    def packed(self) -> str:
        """What is stored."""
        kept = {"values": self.values, "study": self.study, "series": self.series}
        return json.dumps(kept | {"count": self.count, "sop_classes": self.sop_classes}, separators=(",", ":"))


@dataclass(frozen=True)
class InstanceRow:
    """One instance as the index has it."""

    image_set_id: str
    series_uid: str
    sop_uid: str
    sop_class: str
    warning: str


class Index:
    """The attributes of all data stores. Safe from several threads."""

    def __init__(self, file: Path, store: Store, documents: Documents, heads: Callable[[], str]) -> None:
        """Open the index.

        Args:
            file: Where it lies.
            store: The image sets.
            documents: Their documents.
            heads: Name of the table of image sets that searches see: it may lag behind.
        """
        self._store = store
        self._documents = documents
        self._heads = heads
        self._lock = threading.RLock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if self._db.execute("PRAGMA user_version").fetchone()[0] != FORM:
            self._db.executescript("DROP TABLE IF EXISTS series; DROP TABLE IF EXISTS instances;")
        self._db.executescript(_SCHEMA + f"PRAGMA user_version = {FORM};")
        self._known: dict[str, _Known] = {}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def series(self, datastore_id: str, image_set_id: str = "") -> list[Series]:
        """Every series of the primary image sets, or of the one that is named.

        Args:
            datastore_id: The data store.
            image_set_id: One image set, primary or not.
        """
        with self._lock:  # from here on, or an older view of the image sets would undo a newer one
            heads = self._current(datastore_id)
            known = self._known.get(datastore_id)
            if known is None:
                known = self._load(datastore_id)
            self._follow(datastore_id, known, heads)
            out = []
            for found, _, is_primary, updated in heads:
                if found == image_set_id or (not image_set_id and is_primary):
                    for entry in known.get(found, ()):
                        entry.updated = updated
                        out.append(entry)
            return out

    def instances(
        self, datastore_id: str, image_sets: Iterable[str] | None, sop_uids: Iterable[str] | None
    ) -> Iterator[InstanceRow]:
        """Instances by InstanceNumber, then SOP Instance UID; those without a number last.

        Args:
            datastore_id: The data store.
            image_sets: Only those of these image sets.
            sop_uids: Only those of these UIDs.
        """
        names = "image_set_id, series_uid, sop_uid, sop_class, warning"
        where, given = "datastore_id = ?", [datastore_id]
        for column, wanted in (("image_set_id", image_sets), ("sop_uid", sop_uids)):
            if wanted is not None:
                where += f" AND {column} IN (SELECT value FROM json_each(?))"  # noqa: S608 -- names of our own
                given.append(json.dumps(sorted(wanted)))
        order = "ORDER BY number, sop_uid"
        sql = f"SELECT {names} FROM instances WHERE {where} {order}"  # noqa: S608
        with self._lock:
            rows = self._db.execute(sql, given).fetchall()
        return (InstanceRow(*row) for row in rows)

    def _current(self, datastore_id: str) -> list[tuple[str, int, bool, float]]:
        """Image sets as searches see them: id, version that counts, whether primary, last change."""
        columns = "id, version, state, workflow, is_primary, updated"
        sql = f"SELECT {columns} FROM {self._heads()} WHERE datastore_id = ? AND state <> 'DELETED'"  # noqa: S608
        rows = self._store.rows(sql, (datastore_id,))
        return [(i, settled(version, state, flow), bool(first), at) for i, version, state, flow, first, at in rows]

    def entry(self, datastore_id: str, row: InstanceRow) -> Written:
        """The default answer's attributes of an instance; nothing when it has gone since."""
        key = (datastore_id, row.image_set_id, row.series_uid, row.sop_uid)
        where = "datastore_id = ? AND image_set_id = ? AND series_uid = ? AND sop_uid = ?"
        with self._lock:
            found = self._db.execute(f"SELECT entry FROM instances WHERE {where}", key).fetchone()  # noqa: S608
        loaded: Written = json.loads(found[0]) if found else {}
        return loaded

    # -- keeping in step ------------------------------------------------------------------------------------------

    def _load(self, datastore_id: str) -> _Known:
        known = self._known[datastore_id] = {}
        sql = "SELECT image_set_id, version, series_uid, entry FROM series WHERE datastore_id = ?"
        for image_set_id, version, series_uid, entry in self._db.execute(sql, (datastore_id,)):
            one = Series(image_set_id, version, series_uid, **json.loads(entry))
            known.setdefault(image_set_id, []).append(one)
        return known

    def _follow(self, datastore_id: str, known: _Known, heads: list[tuple[str, int, bool, float]]) -> None:
        """Take in what changed since the last search."""
        current = {head[0] for head in heads}
        gone = known.keys() - current
        stale = [(i, version, have) for i, version, _, _ in heads if (have := _version(known, i)) != version]
        if not gone and not stale:
            return
        self._db.execute("BEGIN")
        try:
            for image_set_id in gone:
                self._forget(datastore_id, known, image_set_id)
            for image_set_id, version, have in stale:
                # A lag that was set since makes a newer one of no interest.
                found = self._documents.version(
                    datastore_id, image_set_id, version, above=have if have < version else 0
                )
                if found is not None:
                    self._forget(datastore_id, known, image_set_id)
                    self._take(datastore_id, known, image_set_id, *found)
        except BaseException:
            self._db.execute("ROLLBACK")
            self._known.pop(datastore_id, None)
            raise
        self._db.execute("COMMIT")

    def _forget(self, datastore_id: str, known: _Known, image_set_id: str) -> None:
        known.pop(image_set_id, None)
        for table in ("series", "instances"):
            self._db.execute(
                f"DELETE FROM {table} WHERE datastore_id = ? AND image_set_id = ?",  # noqa: S608
                (datastore_id, image_set_id),
            )

    def _take(self, datastore_id: str, known: _Known, image_set_id: str, version: int, document: Document) -> None:
        entries = known[image_set_id] = []
        for series_uid, body in document["Study"].get("Series", {}).items():
            entry = _series(image_set_id, version, series_uid, document)
            entries.append(entry)
            row = (datastore_id, image_set_id, series_uid, version, entry.packed())
            self._db.execute("INSERT INTO series VALUES (?, ?, ?, ?, ?)", row)
            self._db.executemany(
                "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (datastore_id, image_set_id, series_uid, *_instance(sop_uid, instance))
                    for sop_uid, instance in body.get("Instances", {}).items()
                ),
            )


def _version(known: _Known, image_set_id: str) -> int:
    entries = known.get(image_set_id)
    return entries[0].version if entries else 0


def texts(value: Any) -> list[str]:
    """Values of an attribute as text without padding, empty ones left out."""
    given = value if isinstance(value, list) else [value]
    return [text for v in given if v is not None and (text := str(v).strip())]


def _fragment(values: Mapping[str, Any], keywords: Iterable[str]) -> Written:
    """The attributes of a default answer."""
    wanted = [k for k in keywords if k not in attributes.OPTIONAL or k in values]
    return written(data_set(elements({k: values.get(k) for k in wanted}, Vrs({}, {})), lambda _: ""))


def _series(image_set_id: str, version: int, series_uid: str, document: Document) -> Series:
    body = document["Study"]["Series"][series_uid]
    instances = body.get("Instances", {})
    values: dict[str, Any] = {}
    for level in (*list(instances.values())[:1], document["Patient"], document["Study"], body):
        values.update(level.get("DICOM") or {})
    values["SeriesInstanceUID"] = values.get("SeriesInstanceUID") or series_uid
    classes = {c for i in instances.values() for c in texts((i.get("DICOM") or {}).get("SOPClassUID"))}
    matched = {k: found for k in _MATCHED if k in values and (found := texts(values[k]))}
    return Series(
        image_set_id,
        version,
        series_uid,
        matched,
        _fragment(values, attributes.STUDY_DEFAULT),
        _fragment(values, attributes.SERIES_DEFAULT),
        len(instances),
        sorted(classes),
    )


def _instance(sop_uid: str, body: Mapping[str, Any]) -> tuple[Any, ...]:
    values = dict(body.get("DICOM") or {}) | {"SOPInstanceUID": sop_uid}
    number = next(iter(texts(values.get("InstanceNumber"))), "")
    entry = json.dumps(_fragment(values, attributes.INSTANCE_DEFAULT), separators=(",", ":"))
    return (
        sop_uid,
        next(iter(texts(values.get("SOPClassUID"))), ""),
        int(number) if number.lstrip("+-").isdecimal() and len(number) < 13 else LAST,  # noqa: PLR2004 -- longest IS
        ",".join(texts(values.get("WarningReason"))),
        entry,
    )
