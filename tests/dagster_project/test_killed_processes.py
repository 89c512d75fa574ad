"""The whole stack with its processes killed while it works: everything still ends where a calm run ends."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from dagster_project.stack import Stack
from tests.conftest import REPOSITORY, wait_for

SAMPLES = REPOSITORY / "samples"


def ahi(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AHI_"))}
    command = [sys.executable, "-m", "ahi.cli.main", *arguments]
    return subprocess.run(
        command, env=clean | {"AHI_HOME": str(stack.home)}, capture_output=True, text=True, check=False
    )


def processes(stack: Stack, word: str) -> list[psutil.Process]:
    supervisor = stack.supervisor()
    found = []
    for process in supervisor.children(recursive=True) if supervisor else ():
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def runs(stack: Stack) -> list[psutil.Process]:
    """Processes of runs: forks of the fork server, which is a child of the daemon."""
    return [p for server in processes(stack, "forkserver") for p in server.children() if p.is_running()]


@pytest.mark.drill
def test_killed_runs_and_a_killed_daemon_lose_nothing(stack):
    expected = list(csv.DictReader((SAMPLES / "MANIFEST.csv").read_text().splitlines()))
    assert ahi(stack, "send", str(SAMPLES / "dicom")).returncode == 0
    for _ in range(3):
        for process in wait_for(lambda: runs(stack), seconds=120, what="a run"):
            process.send_signal(signal.SIGKILL)
    (daemon,) = processes(stack, "dagster_project.program daemon")[:1]
    daemon.send_signal(signal.SIGKILL)
    wait_for(lambda: [p for p in processes(stack, "dagster_project.program daemon") if p.pid != daemon.pid], seconds=60)
    done = ahi(stack, "wait", "--timeout", "400")
    assert done.returncode == 0, done.stdout + done.stderr
    sql = "SELECT state, count(*) AS n, max(attempts) AS attempts FROM objects GROUP BY ALL"
    ends = {row["state"]: row for row in json.loads(ahi(stack, "query", "--json", sql).stdout)}
    assert sum(row["n"] for row in ends.values()) == len(expected)
    assert ends["imported"]["n"] == sum(row["expected"] == "indexable" for row in expected)
    assert ends["imported"]["attempts"] == 1  # nothing was imported twice
