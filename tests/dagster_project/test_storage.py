"""The storage against Dagster's own classes: the same files, the same answers, one engine for each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage

from tests.conftest import REPOSITORY


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DAGSTER_HOME as `make up` leaves it."""
    shutil.copyfile(REPOSITORY / "dagster.yaml", tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("AHI_DAGSTER_EVENTS", str(tmp_path / "events"))
    return tmp_path


def test_a_run_makes_no_engine_and_dagsters_own_classes_read_what_it_left(home: Path, monkeypatch) -> None:
    @dg.asset
    def one() -> None: ...

    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs(limit=1)
        instance.all_instigator_state()
        instance.get_latest_materialization_event(dg.AssetKey("one"))
        made = []
        create = sa.create_engine

        def counted(url, **options):
            made.append(url)
            return create(url, **options)

        monkeypatch.setattr(sa, "create_engine", counted)
        result = dg.materialize([one], instance=instance)
        seen = [record.event_log_entry.message for record in instance.get_records_for_run(result.run_id).records]
        instance.all_instigator_state()
        monkeypatch.undo()
    assert result.success
    assert made == []
    events = ConsolidatedSqliteEventLogStorage(base_dir=str(home / "events"))
    assert [record.message for record in events.get_logs_for_run(result.run_id)] == seen
    assert len(seen) > 5
    runs = SqliteRunStorage.from_local(str(home / "history"))
    assert [run.run_id for run in runs.get_runs()] == [result.run_id]
    assert SqliteScheduleStorage.from_local(str(home / "schedules")).all_instigator_state() == []


def test_what_dagsters_own_classes_left_is_read(home: Path) -> None:
    ours = home / "dagster.yaml"
    kept = yaml.safe_load(ours.read_text())
    ours.write_text(yaml.safe_dump({name: block for name, block in kept.items() if not name.endswith("_storage")}))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.create_run_for_job(dg.job(name="one")(lambda: None))
    ours.write_text(yaml.safe_dump(kept))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [one.run_id for one in instance.get_runs()] == [run.run_id]


AGAIN = """
import sys
from dagster import DagsterInstance
with DagsterInstance.from_config(sys.argv[1]):
    pass
import alembic.script.base
def read(*_):
    raise SystemExit("the migrations are read again")
alembic.script.base.Script._from_path = read
with DagsterInstance.from_config(sys.argv[1]) as instance:
    instance.get_runs(limit=1)
"""


def test_an_instance_that_is_opened_again_reads_no_migrations(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(home)], check=False, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
