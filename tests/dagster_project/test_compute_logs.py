"""What a run prints is in the files that the UI shows, and no other program is started for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import yaml

from tests.conftest import REPOSITORY

LINE = "printed by a child"


@dg.op
def prints() -> int:
    subprocess.run([sys.executable, "-c", f"print({LINE!r}, flush=True)"], check=True)
    os.write(2, b"to the error stream\n")
    return len(psutil.Process().children())


@dg.job(executor_def=dg.in_process_executor)
def printing() -> None:
    prints()


def test_what_runs_print_is_kept_by_themselves(tmp_path: Path, monkeypatch, capfd) -> None:
    settings = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"compute_logs": settings["compute_logs"]}))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    # Without pytest's own redirection of the same descriptors.
    with capfd.disabled(), dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        before = len(psutil.Process().children())
        result = printing.execute_in_process(instance=instance)
        assert result.output_for_node("prints") == before
        (captured,) = [
            event.logs_captured_data for event in result.all_events if event.event_type_value == "LOGS_CAPTURED"
        ]
        key = [result.run_id, "compute_logs", captured.file_key]
        logs = instance.compute_log_manager.get_log_data(key)
        assert logs.stdout is not None
        assert LINE in logs.stdout.decode()
        assert logs.stderr is not None
        assert b"to the error stream" in logs.stderr
        assert instance.compute_log_manager.is_capture_complete(key)
    assert list((tmp_path / "storage" / result.run_id).rglob("*.out"))
