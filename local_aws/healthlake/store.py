"""What the emulated HealthLake remembers: data stores, jobs, lines of results that are not in S3 yet, resources.

Belongs here: tables, and rows as objects. Does not belong here: any rule of the service.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import orjson

from local_aws.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS datastores (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, name TEXT, status TEXT,
  token TEXT, request TEXT, created REAL, updated REAL);
CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, kind TEXT, datastore_id TEXT,
  name TEXT, status TEXT, role TEXT, input TEXT, output TEXT, kms TEXT, level TEXT, token TEXT, request TEXT,
  submitted REAL, started REAL, ended REAL, message TEXT, claimed INTEGER, seconds REAL, progress TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_token ON jobs (kind, datastore_id, token);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (ended, number);
CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT, folder TEXT, body BLOB);
CREATE INDEX IF NOT EXISTS lines_job ON lines (job_id);
CREATE TABLE IF NOT EXISTS resources (number INTEGER PRIMARY KEY, store INTEGER, type TEXT, id TEXT, version INTEGER,
  created REAL, updated REAL, deleted INTEGER, job INTEGER, body BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS resources_id ON resources (store, type, id);
CREATE TABLE IF NOT EXISTS history (resource INTEGER, version INTEGER, updated REAL, deleted INTEGER, body BLOB,
  PRIMARY KEY (resource, version));
CREATE TABLE IF NOT EXISTS values_found (parameter INTEGER, value TEXT, resource INTEGER,
  PRIMARY KEY (parameter, value, resource)) WITHOUT ROWID;
"""
WAITING = ("SUBMITTED", "QUEUED")
RUNNING = (*WAITING, "IN_PROGRESS")


@dataclass
class Progress:
    """How far a job came; written with the resources of which it tells: a kill loses and doubles nothing.

    Attributes:
        files: Input files that were scanned.
        bytes: Their bytes.
        others: Files below the prefix that are no .ndjson.
        files_read: Files of which every line was looked at.
        files_failed: Files that could not be read.
        scanned: Lines that are not blank.
        imported: Lines that were stored.
        imported_bytes: Their bytes.
        customer: Lines that were refused.
        server: Lines that failed by a fault.
        key: File that is being read, and those before it in key order are done; empty at the begin.
        offset: Bytes of it that are done.
        line: Lines of it that are done.
    """

    files: int = 0
    bytes: int = 0
    others: int = 0
    files_read: int = 0
    files_failed: int = 0
    scanned: int = 0
    imported: int = 0
    imported_bytes: int = 0
    customer: int = 0
    server: int = 0
    key: str = ""
    offset: int = 0
    line: int = 0


@dataclass
class Job:
    """One import or export job.

    Attributes:
        kind: `import` or `export`.
        claimed: Whether it has a slot.
        seconds: How long it takes, when that is not the settings' business: a job of somebody else's, which does
            nothing else.
    """

    id: str
    kind: str
    datastore_id: str
    name: str | None
    status: str
    role: str
    input: str | None
    output: str
    kms: str
    level: str | None
    token: str
    request: str
    submitted: float
    number: int | None = None
    started: float | None = None
    ended: float | None = None
    message: str | None = None
    claimed: bool = False
    seconds: float | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def folder(self) -> str:
        """URI of the folder of its results (developer guide, "Importing FHIR data", "Exporting FHIR data")."""
        return f"{self.output.rstrip('/')}/{self.datastore_id}-FHIR_{self.kind.upper()}-{self.id}/"


def _job(row: dict[str, Any]) -> Job:
    progress = Progress(**orjson.loads(row["progress"]))
    return Job(**row | {"claimed": bool(row["claimed"]), "progress": progress})


_JOB_NAMES = tuple(f.name for f in fields(Job))


class Store(State):
    """All state of the emulated HealthLake. Safe from several threads."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _SCHEMA)

    # -- jobs -----------------------------------------------------------------------------------------------------

    def jobs(self, where: str, parameters: Sequence[Any] = (), tail: str = "ORDER BY number") -> list[Job]:
        """Jobs by a condition of our own making (never a caller's text)."""
        rows = self.rows(f"SELECT {', '.join(_JOB_NAMES)} FROM jobs WHERE {where} {tail}", parameters)  # noqa: S608
        return [_job(dict(row)) for row in rows]

    def job(self, job_id: str) -> Job:
        """A job that there is."""
        return self.jobs("id = ?", (job_id,))[0]

    def put_job(self, job: Job) -> None:
        """Write a job."""
        self.put("jobs", {k: v for k, v in asdict(job).items() if k != "number" or v is not None})

    # -- lines of results -----------------------------------------------------------------------------------------

    def keep_lines(self, job_id: str, lines: dict[str, bytes]) -> None:
        """Keep lines of the results of the file that is being read, by folder."""
        for folder, body in lines.items():
            if body:
                self.execute("INSERT INTO lines (job_id, folder, body) VALUES (?, ?, ?)", (job_id, folder, body))

    def kept_lines(self, job_id: str) -> dict[str, bytes]:
        """Those lines."""
        found: dict[str, list[bytes]] = {}
        for row in self.rows("SELECT folder, body FROM lines WHERE job_id = ? ORDER BY number", (job_id,)):
            found.setdefault(row["folder"], []).append(row["body"])
        return {folder: b"".join(bodies) for folder, bodies in found.items()}

    def drop_lines(self, job_id: str) -> None:
        """They are in S3."""
        self.execute("DELETE FROM lines WHERE job_id = ?", (job_id,))
