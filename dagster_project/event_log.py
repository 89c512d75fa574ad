"""Dagster's event log in one SQLite file, with one engine for a process.

Dagster's own class makes an engine for every question, a hundred in a run, and SQLAlchemy then compiles each statement
anew: a fifth of what a run cost. Belongs here: that engine. Does not belong here: anything about events.

`_connect` is not public in Dagster: `tests/dagster_project/test_event_log.py` is the contract to move the pinned
version by, and `ConsolidatedSqliteEventLogStorage` is one setting in `dagster.yaml` away.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import sqlalchemy as sa
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_SECONDS = 60.0


class EventLog(ConsolidatedSqliteEventLogStorage):
    """Dagster's storage of one file; its engine keeps no connection, so a fork may use it."""

    @cached_property
    def _engine(self) -> sa.Engine:
        return sa.create_engine(self._conn_string, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection
