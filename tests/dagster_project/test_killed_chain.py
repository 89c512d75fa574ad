"""HealthLake's chain on a whole stack in trouble: events lost, doubled and shuffled, the daemon and runs killed.

AHI_DRILL_BATCHES is how long the chain is; 300 takes a quarter of an hour.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from http import HTTPStatus

import pytest

from ahi.healthlake import control
from tests.ahi.healthlake.test_long_chain import passing_time
from tests.conftest import wait_for
from tests.dagster_project.archive_stack import aws_of, pipeline_of
from tests.dagster_project.test_killed_processes import ahi, processes, runs

BATCHES = int(os.environ.get("AHI_DRILL_BATCHES", "30"))
SETTINGS = {"AHI_FHIR_LOOK_SECONDS": "5", "AHI_CLAIM_SECONDS": "5"}
KILLS = ((0.2, "forkserver"), (0.4, "daemon"), (0.7, "daemon"))
"""After which share of the chain what is killed: a run at work, or the daemon."""


@pytest.fixture
def stack_settings() -> dict[str, str]:
    return SETTINGS


def kill(stack, what):
    if what == "daemon":
        (victim,) = processes(stack, "dagster_project.program daemon")[:1]
        victim.send_signal(signal.SIGKILL)
        others = lambda: [p for p in processes(stack, "dagster_project.program daemon") if p.pid != victim.pid]  # noqa: E731
        wait_for(others, seconds=60, what="the next daemon")
        return
    for process in wait_for(lambda: runs(stack), seconds=120, what="a run"):
        process.send_signal(signal.SIGKILL)


@pytest.mark.drill
def test_a_troubled_chain_outlives_its_daemon_and_its_runs(stack, tmp_path, monkeypatch, capsys):
    aws, index = aws_of(stack), pipeline_of(stack, monkeypatch).index
    aws.fault("drop_events", service="healthlake", probability=0.05, seed=1)
    aws.fault("duplicate_events", service="healthlake", copies=2)
    aws.fault("shuffle_events", service="healthlake", seconds=30, seed=2)
    aws.fault("slow_jobs", service="healthlake", seconds=60)
    folder = tmp_path / "history"
    folder.mkdir()
    for number in range(BATCHES):
        people = ({"id": "shared", "birthDate": f"{1700 + number}"}, {"id": f"p{number}"})
        body = "".join(json.dumps({"resourceType": "Patient"} | person) + "\n" for person in people)
        (folder / f"{number:04d}.ndjson").write_text(body)
    assert ahi(stack, "fhir", "import", str(folder), "--files-per-batch", "1").returncode == 0
    started = time.monotonic()
    with passing_time(aws, every=0.2):
        for share, what in KILLS:
            wait_for(
                lambda share=share: control.imports(index.engine)[0].settled >= share * BATCHES,
                seconds=120 + 10 * BATCHES,
                what="a part of the chain",
            )
            kill(stack, what)
        done = ahi(stack, "fhir", "wait", "--timeout", str(120 + 10 * BATCHES))
    assert done.returncode == 0, done.stdout + done.stderr
    (chain,) = control.imports(index.engine)
    assert (chain.batches, chain.settled, chain.imported) == (BATCHES, BATCHES, 2 * BATCHES)
    jobs = sorted(all_jobs(aws), key=lambda job: job["SubmitTime"])
    # A name is import, batch number, attempt and digest.
    names = [job["JobName"].rsplit("-", 2) for job in jobs]
    assert len(names) == BATCHES, "each once"
    assert {attempt for _, attempt, _ in names} == {"1"}
    assert [name for name, _, _ in names] == sorted(name for name, _, _ in names), "in order"
    spans = [(job["SubmitTime"], job["EndTime"]) for job in jobs]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), "no start while another runs"
    begun = [call for call in aws.calls("StartFHIRImportJob", service="healthlake") if call["status"] == HTTPStatus.OK]
    assert len(begun) >= BATCHES  # one whose answer a killed run never saw is asked for again by its token
    with capsys.disabled():
        sys.stdout.write(f"\n{BATCHES} batches in {time.monotonic() - started:.0f} s, {len(begun)} starts\n")


def all_jobs(aws):
    lake, found, more = aws.client("healthlake"), [], {}
    while True:
        page = lake.list_fhir_import_jobs(DatastoreId=aws.env["AHI_FHIR_DATASTORE_ID"], MaxResults=100, **more)
        found += page["ImportJobPropertiesList"]
        if not page.get("NextToken"):
            return found
        more = {"NextToken": page["NextToken"]}
