"""The event log against Dagster's own class: the same file, the same answers, one engine."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage

from dagster_project.event_log import EventLog


def test_a_run_makes_one_engine_and_dagsters_own_class_reads_its_events(tmp_path: Path, monkeypatch) -> None:
    storage = {"module": EventLog.__module__, "class": EventLog.__name__, "config": {"base_dir": str(tmp_path / "log")}}

    @dg.asset
    def one() -> None: ...

    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"event_log_storage": storage}) as instance:
        made = []
        create = sa.create_engine

        def counted(url, **options):
            made.append(url)
            return create(url, **options)

        monkeypatch.setattr(sa, "create_engine", counted)
        result = dg.materialize([one], instance=instance)
        seen = [record.event_log_entry.message for record in instance.get_records_for_run(result.run_id).records]
        monkeypatch.undo()
    assert result.success
    assert len(made) <= 1
    reader = ConsolidatedSqliteEventLogStorage(base_dir=str(tmp_path / "log"))
    assert [record.message for record in reader.get_logs_for_run(result.run_id)] == seen
    assert len(seen) > 5
