"""What the emulated service remembers: SQLite for data stores, jobs, image sets and versions; files for documents.

Belongs here: rows and files under the home. Does not belong here: any rule of the service.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from local_aws.healthimaging.document import Packed
from local_aws.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS datastores (id TEXT PRIMARY KEY, account TEXT, name TEXT, status TEXT, kms TEXT,
  authorizer TEXT, format TEXT, token TEXT, request TEXT, created REAL, updated REAL);
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, datastore_id TEXT, name TEXT, status TEXT, role TEXT,
  input TEXT, output TEXT, token TEXT, request TEXT, submitted REAL, ended REAL, message TEXT, owner TEXT,
  configuration TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_token ON jobs (datastore_id, token);
CREATE INDEX IF NOT EXISTS jobs_status ON jobs (datastore_id, status);
CREATE TABLE IF NOT EXISTS image_sets (datastore_id TEXT, id TEXT, version INTEGER, is_primary INTEGER, state TEXT,
  workflow TEXT, study_uid TEXT, series_uid TEXT, grouping TEXT, study_grouping TEXT, tags TEXT, created REAL,
  updated REAL, deleted REAL, accessed REAL, PRIMARY KEY (datastore_id, id));
CREATE INDEX IF NOT EXISTS image_sets_series ON image_sets (datastore_id, study_uid, series_uid);
CREATE INDEX IF NOT EXISTS image_sets_updated ON image_sets (datastore_id, updated, id);
CREATE TABLE IF NOT EXISTS image_set_history (number INTEGER PRIMARY KEY, datastore_id TEXT, id TEXT, version INTEGER,
  is_primary INTEGER, state TEXT, workflow TEXT, study_uid TEXT, series_uid TEXT, grouping TEXT, study_grouping TEXT,
  tags TEXT, created REAL, updated REAL, deleted REAL);
CREATE INDEX IF NOT EXISTS image_set_history_updated ON image_set_history (datastore_id, id, number, updated);
CREATE TABLE IF NOT EXISTS versions (datastore_id TEXT, id TEXT, version INTEGER, is_primary INTEGER, state TEXT,
  workflow TEXT, updated REAL, deleted REAL, message TEXT, forced INTEGER,
  PRIMARY KEY (datastore_id, id, version));
CREATE TABLE IF NOT EXISTS frames (datastore_id TEXT, image_set_id TEXT, frame_id TEXT, file TEXT, offset INTEGER,
  length INTEGER, form TEXT, PRIMARY KEY (datastore_id, image_set_id, frame_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pixel_files (datastore_id TEXT, image_set_id TEXT, file TEXT,
  PRIMARY KEY (datastore_id, image_set_id, file)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pixel_files_file ON pixel_files (file);
CREATE TABLE IF NOT EXISTS pending_documents (datastore_id TEXT, id TEXT, version INTEGER);
"""
_STATE = (
    "datastore_id, id, version, is_primary, state, workflow, study_uid, series_uid, grouping, study_grouping, tags,"
    " created, updated, deleted"
)


@dataclass
class ImageSet:
    """The current state of one image set."""

    datastore_id: str
    id: str
    version: int
    is_primary: bool
    state: str
    workflow: str
    study_uid: str
    series_uid: str
    grouping: tuple[str, ...]
    study_grouping: tuple[str, ...]
    tags: dict[str, Any]
    created: float
    updated: float
    deleted: float | None = None
    accessed: float | None = None


@dataclass
class Job:
    """One import job."""

    id: str
    datastore_id: str
    name: str
    status: str
    role: str
    input: str
    output: str
    token: str
    request: str
    submitted: float
    ended: float | None = None
    message: str | None = None
    # Account of the input bucket, when it is not the caller's.
    owner: str | None = None
    # importConfiguration as JSON.
    configuration: str | None = None


def _beside(path: Path) -> Path:
    """The file for what lies beside a document."""
    return path.with_name(path.name.replace(".json", ".beside.json"))


class Store(State):
    """All state of the emulated HealthImaging. Safe from several threads."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _SCHEMA)
        self._documents = folder / "documents"
        self._add_columns("jobs", Job)
        self._begin_history()

    def _add_columns(self, table: str, kind: type) -> None:
        """Give a table of an older state what it lacks."""
        known = {row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")}
        for column in fields(kind):
            if column.name not in known:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column.name} TEXT")

    def _begin_history(self) -> None:
        """Give the image sets of an older state the history they lack: they were always as they are."""
        self._db.execute("DROP TABLE IF EXISTS searchable")
        self._db.execute(
            f"INSERT INTO image_set_history ({_STATE}) SELECT {_STATE} FROM image_sets"  # noqa: S608 -- names of our own
            " WHERE NOT EXISTS (SELECT 1 FROM image_set_history)"
        )

    # -- image sets -----------------------------------------------------------------------------------------------

    def image_set(self, datastore_id: str, image_set_id: str) -> ImageSet | None:
        """One image set, deleted ones included."""
        found = self.image_sets("datastore_id = ? AND id = ?", (datastore_id, image_set_id))
        return found[0] if found else None

    def image_sets(
        self, where: str, parameters: Sequence[Any], tail: str = "", *, table: str = "image_sets"
    ) -> list[ImageSet]:
        """Image sets by a condition of our own making (never a caller's text)."""
        out = []
        for row in self.rows(f"SELECT * FROM {table} WHERE {where} {tail}", parameters):  # noqa: S608
            values = dict(row) | {
                "grouping": tuple(json.loads(row["grouping"])),
                "study_grouping": tuple(json.loads(row["study_grouping"])),
                "tags": json.loads(row["tags"]),
                "is_primary": bool(row["is_primary"]),
            }
            out.append(ImageSet(**values))
        return out

    @staticmethod
    def image_sets_at(moment: float) -> str:
        """The image sets as they were, to be read like the table; accesses are no change and count as they are now."""
        state = ", ".join(f"h.{name}" for name in _STATE.split(", "))
        return (
            f"(SELECT {state}, i.accessed FROM image_set_history h JOIN image_sets i USING (datastore_id, id)"  # noqa: S608
            " WHERE h.number IN (SELECT max(number) FROM image_set_history"
            f" WHERE updated <= {moment!r} GROUP BY datastore_id, id))"
        )

    def put_image_set(self, image_set: ImageSet, *, message: str | None = None, forced: bool | None = None) -> None:
        """Write the current state, the row of its version, and what an index that lags behind will see.

        Args:
            image_set: The state.
            message: Message of the version; None leaves the one it has, "" takes it away.
            forced: Whether the version was forced; None leaves it as it is.
        """
        state = asdict(image_set)
        self.put("image_sets", state)
        self.put("image_set_history", {key: value for key, value in state.items() if key != "accessed"})
        shared = ("datastore_id", "id", "version", "is_primary", "state", "workflow", "updated", "deleted")
        row = {k: getattr(image_set, k) for k in shared}
        before = self.rows(
            "SELECT message, forced FROM versions WHERE datastore_id = ? AND id = ? AND version = ?",
            (image_set.datastore_id, image_set.id, image_set.version),
        )
        self.put(
            "versions",
            row
            | {
                "message": before[0]["message"] if message is None and before else message or None,
                "forced": forced if forced is not None or not before else before[0]["forced"],
            },
        )

    # -- jobs -----------------------------------------------------------------------------------------------------

    def jobs(self, where: str, parameters: Sequence[Any], tail: str = "") -> list[Job]:
        """Jobs by a condition of our own making."""
        names = ", ".join(f.name for f in fields(Job))
        return [Job(**dict(r)) for r in self.rows(f"SELECT {names} FROM jobs WHERE {where} {tail}", parameters)]  # noqa: S608

    def put_job(self, job: Job) -> None:
        """Write a job."""
        self.put("jobs", asdict(job))

    # -- documents ------------------------------------------------------------------------------------------------

    def _path(self, datastore_id: str, image_set_id: str, version: int) -> Path:
        return self._documents / datastore_id / image_set_id[:2] / image_set_id / f"{version}.json.gz"

    def write_document(self, datastore_id: str, image_set_id: str, version: int, packed: Packed) -> None:
        """Keep the document of one version. Nobody is told of it yet, so its two files need not appear together."""
        path = self._path(datastore_id, image_set_id, version)
        path.parent.mkdir(parents=True, exist_ok=True)
        for place, data in ((_beside(path), packed.beside), (path, packed.text)):
            if not data:
                place.unlink(missing_ok=True)
                continue
            temporary = place.with_suffix(f".{threading.get_ident()}")
            temporary.write_bytes(data)
            temporary.replace(place)

    def drop_documents(self, datastore_id: str, image_set_id: str) -> None:
        """Forget the documents of all versions of an image set."""
        shutil.rmtree(self._path(datastore_id, image_set_id, 0).parent, ignore_errors=True)

    def read_document(self, datastore_id: str, image_set_id: str, version: int) -> Packed | None:
        """The document of one version; None when there is none."""
        path = self._path(datastore_id, image_set_id, version)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        beside = _beside(path)
        return Packed(text, beside.read_bytes() if beside.exists() else b"")

    # -- what becomes true together -------------------------------------------------------------------------------

    def note_pending_document(self, datastore_id: str, image_set_id: str, version: int) -> None:
        """Say that a document is about to be written, so that a start after a kill can remove it."""
        self.execute("INSERT INTO pending_documents VALUES (?, ?, ?)", (datastore_id, image_set_id, version))

    def keep_pending_documents(self) -> None:
        """They belong to image sets now. Call it inside the transaction that says so."""
        self.execute("DELETE FROM pending_documents")

    def discard_pending_documents(self) -> None:
        """Remove the documents of an import that did not come to its transaction."""
        for row in self.rows("SELECT datastore_id, id, version FROM pending_documents"):
            path = self._path(row["datastore_id"], row["id"], row["version"])
            path.unlink(missing_ok=True)
            _beside(path).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other versions are there, or nothing was written
                path.parent.rmdir()
        self.keep_pending_documents()
