"""The contract between the warm run launcher and the installed Dagster, on a real instance with real processes."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.launcher.base import WorkerStatus
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

from dagster_project.launcher import WarmRunLauncher, Worker

JOBS = Path(__file__).with_name("launched_jobs.py")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dagster_home")
    launcher = {"module": "dagster_project.launcher", "class": "WarmRunLauncher"}
    launcher |= {"config": {"background": ["stepping_back"]}}
    settings = {"run_launcher": launcher, "telemetry": {"enabled": False}, "run_monitoring": {"enabled": True}}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def launch(instance: dg.DagsterInstance, job: str) -> str:
    recon = ReconstructableJob.for_file(str(JOBS), job)
    run = instance.create_run_for_job(recon.get_definition(), job_code_origin=recon.get_python_origin())
    instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
    return run.run_id


def get(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def hang(instance: dg.DagsterInstance, job: str = "hanging") -> tuple[str, Worker]:
    run_id = launch(instance, job)
    wait_for(lambda: instance.get_run_step_stats(run_id) != [])
    worker = Worker.of(get(instance, run_id))
    assert worker is not None
    return run_id, worker


def test_a_run_succeeds_in_a_process_of_its_own(instance: dg.DagsterInstance) -> None:
    run_id = launch(instance, "trivial")
    wait_for(lambda: get(instance, run_id).is_finished)
    run = get(instance, run_id)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    worker = Worker.of(run)
    assert worker is not None
    assert worker.pid != os.getpid()
    wait_for(lambda: worker.process() is None)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.SUCCESS


def test_a_live_run_is_known_and_terminated_by_another_process(home: Path, instance: dg.DagsterInstance) -> None:
    run_id, worker = hang(instance)
    # A second instance stands for the web server or a restarted daemon: it has launched nothing itself.
    with dg.DagsterInstance.from_config(str(home)) as other:
        launcher = other.run_launcher
        assert isinstance(launcher, WarmRunLauncher)
        assert launcher.check_run_worker_health(get(other, run_id)).status == WorkerStatus.RUNNING
        assert launcher.terminate(run_id)
        wait_for(lambda: get(other, run_id).is_finished)
        assert get(other, run_id).status == dg.DagsterRunStatus.CANCELED
        assert not launcher.terminate(run_id)
    wait_for(lambda: worker.process() is None)


def test_run_monitoring_fails_the_run_of_a_killed_process(instance: dg.DagsterInstance) -> None:
    run_id, worker = hang(instance)
    psutil.Process(worker.pid).kill()
    wait_for(lambda: worker.process() is None)
    assert instance.run_launcher.check_run_worker_health(get(instance, run_id)).status == WorkerStatus.FAILED
    record = instance.get_run_record_by_id(run_id)
    assert record is not None
    monitor_started_run(instance, None, record, logging.getLogger("test"))  # type: ignore[arg-type]
    assert get(instance, run_id).status == dg.DagsterRunStatus.FAILURE


def test_terminating_a_run_whose_process_is_gone_cancels_it(instance: dg.DagsterInstance) -> None:
    run_id, worker = hang(instance)
    psutil.Process(worker.pid).kill()
    wait_for(lambda: worker.process() is None)
    assert instance.run_launcher.terminate(run_id)
    assert get(instance, run_id).status == dg.DagsterRunStatus.CANCELED


def test_a_stopped_machine_fails_the_run_rather_than_canceling_it(instance: dg.DagsterInstance) -> None:
    run_id, worker = hang(instance)
    psutil.Process(worker.pid).send_signal(signal.SIGTERM)
    wait_for(lambda: get(instance, run_id).is_finished)
    assert get(instance, run_id).status == dg.DagsterRunStatus.FAILURE


def test_background_runs_leave_the_cpu_to_others(instance: dg.DagsterInstance) -> None:
    niceness = []
    for job in ("hanging", "stepping_back"):
        _, worker = hang(instance, job)
        process = psutil.Process(worker.pid)
        niceness.append(process.nice())
        process.kill()
    assert niceness[1] > niceness[0] == os.nice(0)


def test_a_process_id_that_came_back_is_not_the_worker() -> None:
    here = Worker.here()
    assert here.process() is not None
    assert here._replace(started=here.started - 60).process() is None
    assert here._replace(host="another-machine").process() is None


def test_the_fork_server_holds_no_thread_and_no_connection(instance: dg.DagsterInstance) -> None:
    _, worker = hang(instance)
    process = psutil.Process(worker.pid)
    server = process.parent()
    assert server is not None
    process.kill()
    assert server.num_threads() == 1
    assert not [connection for connection in server.net_connections() if connection.raddr]
    assert not [file.path for file in server.open_files() if file.path.endswith((".db", ".sqlite"))]
