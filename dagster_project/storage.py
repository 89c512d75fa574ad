"""Dagster's storage in SQLite files, with one engine for each in a process.

Dagster's own classes make an engine for every question, a hundred in a run, and SQLAlchemy then compiles each statement
anew: a fifth of what a run cost. Each opening also reads a hundred scripts of migrations, to see that none has to run:
four fifths of what a sensor's tick cost, since each opens the storage. Belongs here: those engines, and reading the
scripts once. Does not belong here: anything about runs, schedules or events.

`connect` and alembic's class are no interface of Dagster's: `tests/dagster_project/test_storage.py` is the contract to
move the pinned version by, and Dagster's own classes are three settings in `dagster.yaml` away, on the same files.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from alembic.config import Config
    from dagster._serdes import ConfigurableClassData

BUSY_SECONDS = 60.0


@cache
def _engine(url: str) -> sa.Engine:
    """Keeps no connection, so a fork may use it."""
    return sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})


@contextmanager
def _transaction(storage: EventLog | RunStorage | ScheduleStorage) -> Iterator[sa.Connection]:
    with _engine(storage._conn_string).connect() as connection, connection.begin():  # noqa: SLF001 - Dagster's
        yield connection


def _folder(config_value: Mapping[str, Any], name: str) -> str:
    """Where Dagster has its file by default, below its home, which is `base_dir` of the settings."""
    return str(Path(config_value["base_dir"]) / name)


class EventLog(ConsolidatedSqliteEventLogStorage):
    """Dagster's storage of all runs' events in one file."""

    _connect = _transaction


class RunStorage(SqliteRunStorage):
    """Dagster's storage of runs."""

    connect = _transaction

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> RunStorage:
        """Make it from its settings."""
        read_migrations_once()
        return cls.from_local(_folder(config_value, "history"), inst_data)


class ScheduleStorage(SqliteScheduleStorage):
    """Dagster's storage of ticks, of sensors and schedules."""

    connect = _transaction

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ScheduleStorage:
        """Make it from its settings."""
        read_migrations_once()
        # Dagster's type says less than it gives.
        return cast("ScheduleStorage", cls.from_local(_folder(config_value, "schedules"), inst_data))


@cache
def read_migrations_once() -> None:
    """Let this process and its forks find what the first opening of a storage read of alembic's scripts."""
    script = importlib.import_module("alembic.script.base")
    read = script.ScriptDirectory.from_config
    known: dict[str, object] = {}

    def from_config(config: Config) -> object:
        location = config.get_main_option("script_location") or ""
        if location not in known:
            known[location] = read(config)
        return known[location]

    script.ScriptDirectory.from_config = staticmethod(from_config)
