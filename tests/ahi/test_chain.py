"""The job chain against a service in memory that keeps HealthImaging's rules for tokens and names."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahi import chain
from ahi.chain import BackPressureError, Job, Limits, Report
from ahi.clock import now
from ahi.index import catalog
from ahi.index.catalog import JobState
from ahi.index.store import Index


@dataclass
class Service:
    """A service that starts a job once per token, and can lose the answer or push back."""

    name: str = "test"
    started: dict[str, str] = field(default_factory=dict)
    script: list[str] = field(default_factory=list)
    most_running: int = 0
    over: set[str] = field(default_factory=set)
    lags: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def start(self, job: Job) -> str:
        if self.lags:
            # Some way there, some way back.
            lag = self.lags.pop()
            threading.Event().wait(lag)
            self.times.append(time.monotonic())
            threading.Event().wait(0.03 - lag)
        step = self.script.pop(0) if self.script else "ok"
        if step == "push back":
            raise BackPressureError("full")
        job_id = self.started.setdefault(str(job.client_token), f"id-{job.job_key}")
        self.most_running = max(self.most_running, len(self.started) - len(self.over))
        if step == "lose answer":
            raise ConnectionError
        return job_id

    def find(self, job: Job) -> str | None:
        return self.started.get(job.job_key)

    def describe(self, job_id: str) -> Report | None:
        return Report(job_id, "COMPLETED", ended=True, ended_at=now(), message=None, output_folder=None)


def make_index(folder, jobs):
    index = Index(folder / "index", f"sqlite:///{folder / 'catalog.sqlite'}")
    common = {
        "service": "test",
        "state": JobState.PLANNED,
        "day": "2026-11-21",
        "datastore_id": "d",
        "input_uri": "s3://a/",
    }
    common |= {"output_uri": "s3://b/", "in_place": False, "n_objects": 1, "n_bytes": 1}
    with index.transaction() as connection:
        for number in range(jobs):
            connection.execute(catalog.jobs.insert().values(job_key=f"k{number}", planned_at=now(), **common))
    return index


def clear_pauses(index):
    """The pause after a push-back is over."""
    with index.transaction() as connection:
        connection.execute(catalog.jobs.update().values(not_before=None))


def states(index):
    return [job.state for job in chain.jobs(index, "test", catalog.jobs.c.job_key.is_not(None))]


def test_the_oldest_is_claimed_first_and_only_while_there_is_room(tmp_path):
    index, limits = make_index(tmp_path, 3), Limits(in_flight=2, starts_per_second=1_000)
    claimed = [chain.claim(index, "test", limits, "me") for _ in range(3)]
    assert [job.job_key if isinstance(job, Job) else job for job in claimed] == ["k0", "k1", None]


def test_a_start_above_the_pace_says_how_long_to_wait(tmp_path):
    index, limits = make_index(tmp_path, 2), Limits(in_flight=9, starts_per_second=0.5)
    assert isinstance(chain.claim(index, "test", limits, "me"), Job)
    wait = chain.claim(index, "test", limits, "me")
    assert isinstance(wait, float)
    assert 1.5 < wait <= 2.0


def test_a_lost_answer_is_found_by_name(tmp_path):
    index, service = make_index(tmp_path, 1), Service(script=["lose answer"])
    job = chain.claim(index, "test", Limits(9, 1_000), "me")
    with pytest.raises(ConnectionError):
        chain.start(index, service, job)
    assert states(index) == [JobState.CLAIMED]
    assert chain.recover(index, service, silent_seconds=60) == (0, 0)
    assert chain.recover(index, service, silent_seconds=60, who="me") == (1, 0)
    assert states(index) == [JobState.SUBMITTED]


def test_a_claim_that_never_reached_the_service_is_given_back(tmp_path):
    index, service = make_index(tmp_path, 1), Service()
    chain.claim(index, "test", Limits(9, 1_000), "dead")
    assert chain.recover(index, service, silent_seconds=0) == (0, 1)
    assert states(index) == [JobState.PLANNED]


@given(st.lists(st.sampled_from(["ok", "push back", "lose answer"]), max_size=12), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_whatever_happens_each_job_is_started_once_within_the_limits(tmp_path_factory, script, room):
    index = make_index(tmp_path_factory.mktemp("chain"), 4)
    service, limits = Service(script=list(script)), Limits(room, 1_000_000)
    for _ in range(60):
        chain.recover(index, service, silent_seconds=0)
        job = chain.claim(index, "test", limits, "me")
        if isinstance(job, Job):
            try:
                chain.start(index, service, job)
            except (ConnectionError, BackPressureError):
                clear_pauses(index)
        else:
            for running in chain.jobs(index, "test", catalog.jobs.c.state == JobState.SUBMITTED):
                service.over.add(str(running.client_token))
                assert chain.ended(index, running, service.describe(str(running.job_id)))
                assert not chain.ended(index, running, service.describe(str(running.job_id)))
        if set(states(index)) == {JobState.ENDED}:
            break
    assert states(index) == [JobState.ENDED] * 4
    assert sorted(service.started) == ["k0", "k1", "k2", "k3"]
    assert service.most_running <= room


@given(st.lists(st.floats(0, 0.03), min_size=6, max_size=6), st.lists(st.floats(0, 0.1), min_size=6, max_size=6))
@settings(max_examples=3, deadline=None)
def test_starts_keep_the_rate_by_the_services_clock(tmp_path_factory, lags, staging):
    index = make_index(tmp_path_factory.mktemp("pace"), 6)
    service, limits = Service(lags=list(lags)), Limits(in_flight=9, starts_per_second=20)

    def run(who: str) -> None:
        while (job := chain.claim(index, "test", limits, who)) is not None:
            threading.Event().wait(job if isinstance(job, float) else staging[int(job.job_key[1:])])
            if isinstance(job, Job):
                chain.start(index, service, job, limits)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, ["a", "b", "c"]))
    assert len(service.times) == 6
    assert min(later - earlier for earlier, later in pairwise(sorted(service.times))) >= 0.05


def test_a_claim_that_was_taken_over_is_not_started(tmp_path):
    index, service = make_index(tmp_path, 1), Service()
    slow = chain.claim(index, "test", Limits(9, 1_000), "slow")
    chain.recover(index, service, silent_seconds=0)
    quick = chain.claim(index, "test", Limits(9, 1_000), "quick")
    assert chain.start(index, service, slow) is None
    assert chain.start(index, service, quick) == "id-k0"
    assert states(index) == [JobState.SUBMITTED]


def test_an_answer_that_comes_after_the_claim_was_given_back_is_recorded(tmp_path):
    index, service = make_index(tmp_path, 1), Service()
    job = chain.claim(index, "test", Limits(9, 1_000), "me")
    chain.give_back(index, job, after_seconds=0)
    chain.submitted(index, job, service.start(job))
    assert states(index) == [JobState.SUBMITTED]
