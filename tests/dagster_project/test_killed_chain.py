"""HealthLake's chain on a whole stack whose daemon and runs are killed: every batch goes in once, and in order."""

from __future__ import annotations

import itertools
import json
import signal

import pytest

from tests.conftest import wait_for
from tests.dagster_project.test_killed_processes import ahi, processes, runs, stack

__all__ = ["stack"]
BATCHES = 10


def status(stack):
    return json.loads(ahi(stack, "fhir", "status", "--json").stdout)["imports"]


def kill_daemon(stack):
    (daemon,) = processes(stack, "dagster_project.program daemon")[:1]
    daemon.send_signal(signal.SIGKILL)
    wait_for(lambda: [p for p in processes(stack, "dagster_project.program daemon") if p.pid != daemon.pid], seconds=60)


@pytest.mark.drill
def test_a_chain_outlives_its_daemon_and_its_runs(stack, tmp_path, monkeypatch):
    folder = tmp_path / "history"
    folder.mkdir()
    for number in range(BATCHES):
        body = json.dumps({"resourceType": "Patient", "id": f"p{number}"})
        (folder / f"{number:02d}.ndjson").write_text(f"{body}\n")
    assert ahi(stack, "fhir", "import", str(folder), "--files-per-batch", "1").returncode == 0
    for process in wait_for(lambda: runs(stack), seconds=120, what="a run"):
        process.send_signal(signal.SIGKILL)
    for share in (3, 7):
        wait_for(lambda share=share: status(stack)[0]["settled"] >= share, seconds=300, what="a part of the chain")
        kill_daemon(stack)
    done = ahi(stack, "fhir", "wait", "--timeout", "400")
    assert done.returncode == 0, done.stdout + done.stderr
    (chain,) = status(stack)
    assert (chain["batches"], chain["settled"], chain["imported"]) == (BATCHES, BATCHES, BATCHES)
    jobs = healthlake_jobs(stack, monkeypatch)
    assert len({job["JobName"] for job in jobs}) == len(jobs) == BATCHES
    ordered = sorted(jobs, key=lambda job: job["SubmitTime"])
    assert ordered == sorted(jobs, key=lambda job: job["JobName"])
    assert all(before["EndTime"] <= after["SubmitTime"] for before, after in itertools.pairwise(ordered))


def healthlake_jobs(stack, monkeypatch):
    import boto3
    from dotenv import dotenv_values

    for name, value in dotenv_values(stack.home / "stack.env").items():
        monkeypatch.setenv(name, value or "")
    import os

    lake, store = boto3.client("healthlake"), os.environ["AHI_FHIR_DATASTORE_ID"]
    return lake.list_fhir_import_jobs(DatastoreId=store, MaxResults=100)["ImportJobPropertiesList"]
