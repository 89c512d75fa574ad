"""What an emulated service remembers, in SQLite: transactions, rows, the outbox of events, the secret of page tokens.

Belongs here: what is the same for all services. Does not belong here: tables of one service (`healthimaging/store.py`,
`healthlake/store.py`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tags (arn TEXT PRIMARY KEY, tags TEXT);
CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB);
CREATE TABLE IF NOT EXISTS work (id TEXT PRIMARY KEY, kind TEXT, due REAL, body TEXT);
"""


class State:
    """The database of one service. Safe from several threads."""

    def __init__(self, folder: Path, schema: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / "state.sqlite", check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # A killed process loses nothing with WAL; only a power cut could cost the last commits, and this is no archive.
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA + schema)
        self._db.execute("INSERT OR IGNORE INTO secrets VALUES ('pages', randomblob(32))")
        # What seals the tokens of pages: a token outlives a restart, and nobody makes one.
        self.page_secret: bytes = self._db.execute("SELECT value FROM secrets WHERE name = 'pages'").fetchone()["value"]
        self._depth = 0

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside becomes true together, or not at all."""
        with self._lock:
            outer = self._depth == 0
            if outer:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                if outer:
                    self._db.execute("ROLLBACK")
                raise
            else:
                if outer:
                    self._db.execute("COMMIT")
            finally:
                self._depth -= 1

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of a query."""
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """One statement."""
        with self._lock:
            self._db.execute(sql, parameters)

    def insert(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """One INSERT; returns the number of its row."""
        with self._lock:
            return self._db.execute(sql, parameters).lastrowid or 0

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows."""
        with self._lock:
            self._db.executemany(sql, rows)

    def put(self, table: str, row: dict[str, Any]) -> None:
        """Insert or replace one row; lists and dicts become JSON."""
        values = [json.dumps(v) if isinstance(v, list | tuple | dict) else v for v in row.values()]
        self.execute(
            f"INSERT OR REPLACE INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608
            values,
        )

    # -- outbox ---------------------------------------------------------------------------------------------------

    def add_to_outbox(self, entries: Sequence[dict[str, Any]]) -> list[int]:
        """Keep events that are to be sent once this transaction is true; returns their numbers."""
        sql = "INSERT INTO outbox (entry) VALUES (?)"
        with self._lock:
            return [self._db.execute(sql, (json.dumps(entry),)).lastrowid or 0 for entry in entries]

    def outbox(self) -> list[tuple[int, dict[str, Any]]]:
        """Events that were not sent yet, or were when a kill came before that could be noted."""
        rows = self.rows("SELECT number, entry FROM outbox ORDER BY number")
        return [(r["number"], json.loads(r["entry"])) for r in rows]

    def clear_outbox(self, numbers: Sequence[int]) -> None:
        """These events are sent."""
        with self.transaction():
            self.execute_many("DELETE FROM outbox WHERE number = ?", [(number,) for number in numbers])
