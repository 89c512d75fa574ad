"""What a run prints is in the files that the UI shows, and no other program is started for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml

from tests.conftest import REPOSITORY

KEY = ["some-run", "compute_logs", "step"]
PROGRAM = "print('printed by a child')"


def test_what_runs_print_is_kept_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"compute_logs": settings["compute_logs"]}))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    # Without pytest's own redirection of the same descriptors.
    with capfd.disabled(), dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        manager, before = instance.compute_log_manager, psutil.Process().children()
        with manager.capture_logs(KEY):
            assert psutil.Process().children() == before
            assert not manager.is_capture_complete(KEY)
            subprocess.run([sys.executable, "-c", PROGRAM], check=True)
            os.write(sys.stderr.fileno(), b"to the error stream\n")
        logs = manager.get_log_data(KEY)
        assert (logs.stdout, logs.stderr) == (b"printed by a child\n", b"to the error stream\n")
        assert manager.is_capture_complete(KEY)
        assert manager.get_captured_local_path(KEY, "out").startswith(str(tmp_path / "storage" / KEY[0]))
