"""Resources of a data store: upserts with versions, deletes, and what searches look for.

Belongs here: reading and writing them. Does not belong here: rules of a line (`validate.py`), parameters of a search
(`search.py`).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from local_aws.healthlake.events import iso
from local_aws.healthlake.terms import terms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from local_aws.healthlake.shared import Shared

_BY_ID = "SELECT number, version, updated, deleted, job, body FROM resources WHERE store = ? AND type = ? AND id = ?"
CREATED, UPDATED = 201, 200
# Number of a search parameter, value, number of the resource.
Term = tuple[int, str, int]


@cache
def parameter(store: int, kind: str, name: str) -> int:
    """Number of a search parameter of a type in a data store: drawn from its name, and short."""
    text = f"{store}/{kind}/{name}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


@dataclass(frozen=True)
class Version:
    """One version of a resource."""

    type: str
    id: str
    version: int
    updated: float
    deleted: bool
    body: bytes

    def json(self) -> bytes:
        """The resource as the service sends it: `meta` says version and time."""
        body = orjson.loads(self.body)
        meta = body.get("meta")
        told = {"versionId": str(self.version), "lastUpdated": iso(self.updated)}
        body["meta"] = (meta if isinstance(meta, dict) else {}) | told
        return orjson.dumps(body)


class Resources:
    """The resources of all data stores."""

    def __init__(self, shared: Shared) -> None:
        self._store = shared.store
        self._clock = shared.clock
        self._wins = shared.settings.fhir_duplicate_wins

    def store_of(self, datastore_id: str) -> int:
        """Number of a data store that there is."""
        rows = self._store.rows("SELECT number FROM datastores WHERE id = ?", (datastore_id,))
        return int(rows[0]["number"])

    # -- write ----------------------------------------------------------------------------------------------------

    def put_all(self, store: int, found: Iterable[tuple[str, str, dict[str, Any], bytes]], job: int) -> list[int]:
        """Store resources of an import job. Inside a transaction. Returns 201 or 200 for each."""
        now = self._clock.now()
        new: list[Term] = []
        out = [self._put((store, kind, name, now, job), body, text, new) for kind, name, body, text in found]
        self._index(new)
        return out

    def put(self, store: int, kind: str, name: str, body: dict[str, Any]) -> tuple[int, Version]:
        """Store one resource. Inside a transaction. Returns 201 or 200 and what is there now."""
        new: list[Term] = []
        status = self._put((store, kind, name, self._clock.now(), 0), body, orjson.dumps(body), new)
        self._index(new)
        found = self.get(store, kind, name)
        assert found is not None
        return status, found

    def _put(self, what: tuple[int, str, str, float, int], body: dict[str, Any], text: bytes, new: list[Term]) -> int:
        """Store a resource; what it is found by goes to `new`, for all of them together."""
        store, kind, name, now, job = what
        rows = self._store.rows(_BY_ID, (store, kind, name))
        if not rows:
            number = self._store.insert(
                "INSERT INTO resources (store, type, id, version, created, updated, deleted, job, body)"
                " VALUES (?, ?, ?, 1, ?, ?, 0, ?, ?)",
                (store, kind, name, now, now, job, text),
            )
            new += self._terms(store, kind, number, body)
            return CREATED
        row = rows[0]
        if job and row["job"] == job:
            # It may stand in this very job twice, and then its terms may not be written yet.
            self._index(new)
            new.clear()
            if not self._later_wins(job, name, row["version"]):
                text = row["body"]
                body = orjson.loads(text)
        self._keep(row)
        self._store.execute(
            "UPDATE resources SET version = version + 1, updated = ?, deleted = 0, job = ?, body = ? WHERE number = ?",
            (now, job, text, row["number"]),
        )
        self._forget(store, kind, row)
        new += self._terms(store, kind, row["number"], body)
        return CREATED if row["deleted"] else UPDATED

    def _later_wins(self, job: int, name: str, version: int) -> bool:
        """Whether the second of two lines of one job with the same type and id replaces the first."""
        drawn = random.Random(f"{job}/{name}/{version}").random()  # noqa: S311 -- no secret
        return self._wins == "last" or (self._wins == "random" and drawn < 0.5)  # noqa: PLR2004

    def _keep(self, row: Any) -> None:
        self._store.execute(
            "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?)",
            (row["number"], row["version"], row["updated"], row["deleted"], row["body"]),
        )

    def _terms(self, store: int, kind: str, number: int, body: dict[str, Any]) -> list[Term]:
        return [(parameter(store, kind, name), value, number) for name, value in terms(body)]

    def _index(self, new: list[Term]) -> None:
        # In the order of the table, which is faster.
        self._store.execute_many("INSERT OR IGNORE INTO values_found VALUES (?, ?, ?)", sorted(new))

    def _forget(self, store: int, kind: str, row: Any) -> None:
        """No search finds the resource by what it was."""
        if not row["deleted"]:
            self._store.execute_many(
                "DELETE FROM values_found WHERE parameter = ? AND value = ? AND resource = ?",
                self._terms(store, kind, row["number"], orjson.loads(row["body"])),
            )

    def delete(self, store: int, kind: str, name: str) -> Version | None:
        """Delete a resource. Inside a transaction. Returns what was there."""
        found = self.get(store, kind, name)
        if found is None or found.deleted:
            return found
        row = self._store.rows(_BY_ID, (store, kind, name))[0]
        self._keep(row)
        self._store.execute(
            "UPDATE resources SET version = version + 1, updated = ?, deleted = 1 WHERE number = ?",
            (self._clock.now(), row["number"]),
        )
        self._forget(store, kind, row)
        return found

    # -- read -----------------------------------------------------------------------------------------------------

    def get(self, store: int, kind: str, name: str, version: int | None = None) -> Version | None:
        """The current version of a resource, which may be deleted, or an older one; None when there is none."""
        rows = self._store.rows(_BY_ID, (store, kind, name))
        if not rows:
            return None
        row = rows[0]
        if version is not None and version != row["version"]:
            older = self._store.rows(
                "SELECT * FROM history WHERE resource = ? AND version = ?", (row["number"], version)
            )
            if not older:
                return None
            row = older[0]
        return Version(kind, name, row["version"], row["updated"], bool(row["deleted"]), row["body"])

    def history(self, store: int, kind: str, name: str) -> list[Version]:
        """All versions, newest first."""
        current = self.get(store, kind, name)
        versions = range(current.version, 0, -1) if current else ()
        return [found for version in versions if (found := self.get(store, kind, name, version))]
