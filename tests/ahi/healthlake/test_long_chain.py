"""A chain of 300 batches under trouble: each goes in once, in order, and never two at a time."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.ahi.healthlake.conftest import lines, patient
from tests.conftest import REPOSITORY, AwsStack, wait_for

BATCHES = int(os.environ.get("AHI_DRILL_BATCHES", "300"))
TICK = 20.0


@contextmanager
def passing_time(stack: AwsStack, *, every: float = 0.05) -> Iterator[None]:
    """The emulator's clock goes on by 20 s at intervals of ours, in seconds."""
    over = threading.Event()

    def advance() -> None:
        while not over.wait(every):
            stack.control("POST", "clock", {"advance": TICK})

    thread = threading.Thread(target=advance)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    program = REPOSITORY / "tests" / "ahi" / "healthlake" / "worker.py"
    process = subprocess.Popen([sys.executable, str(program), "3600"], cwd=REPOSITORY, env=os.environ.copy())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.drill
def test_every_batch_goes_in_once_and_in_order_whatever_is_killed_or_lost(make_chain):
    chain = make_chain(fhir_look_seconds=2, claim_seconds=2)
    for number in range(BATCHES):
        body = lines(patient("shared", birthDate=f"{1700 + number}"), patient(f"p{number}"))
        chain.put(f"history/{number:04d}.ndjson", body)
    planned = chain.plan(files_per_batch=1)
    chain.stack.fault("drop_events", service="healthlake", probability=0.05, seed=1)
    chain.stack.fault("duplicate_events", service="healthlake", copies=2)
    chain.stack.fault("shuffle_events", service="healthlake", seconds=30, seed=2)
    chain.stack.fault("slow_jobs", service="healthlake", seconds=60)

    def settled() -> int:
        return sum(batch["state"] == "settled" for batch in chain.batches())

    with passing_time(chain.stack):
        for share in (0.2, 0.5, 0.8, 1.0):
            with worker() as process:
                wait_for(lambda share=share: settled() >= share * BATCHES, seconds=900, what="a part of the chain")
                process.send_signal(signal.SIGKILL)
    jobs = [job for job in chain.all_jobs() if job["DatastoreId"] == chain.datastore_id]
    names = [job["JobName"] for job in sorted(jobs, key=lambda job: job["SubmitTime"])]
    assert [name.rsplit("-", 2)[0] for name in names] == list(planned.batch_ids), "each once, in order"
    spans = sorted((job["SubmitTime"], job["EndTime"]) for job in jobs)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), "no start while another runs"
    assert {(batch["n_imported"], batch["attempt"]) for batch in chain.batches()} == {(2, 1)}
    assert chain.get("Patient/shared")["birthDate"] == str(1700 + BATCHES - 1), "the last to come is the last to stay"
