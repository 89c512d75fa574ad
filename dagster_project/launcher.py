"""Starts each run as a fork of a server that has already imported everything.

Dagster's own launcher starts an interpreter for every run and imports Dagster and the code location again: about 6 s
of CPU before the first line of a run. Here a fork server (the standard library's) imports once, and a run is a fork.
Belongs here: starting, finding and ending the process of a run on this machine. Does not belong here: what is imported
beforehand (`preload.py`), and launching on other machines (Dagster's ECS and Kubernetes launchers do that).

Executing a run and its arguments are not public in Dagster: `tests/dagster_project/test_launcher.py` is the contract
to move the pinned version by, and `DefaultRunLauncher` is one setting in `dagster.yaml` away.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
from dagster import Array, DagsterInstance, DagsterRun, DagsterRunStatus, Field
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._serdes import ConfigurableClass, deserialize_value, serialize_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagster._config.config_schema import UserConfigSchema
    from dagster._core.instance import InstanceRef
    from dagster._serdes import ConfigurableClassData

WORKER_TAG = ".dagster/ahi-worker"
"""Run tag with host, process id and start time of the process; the UI hides tags of this prefix."""

PRELOAD = ("dagster_project.preload",)
"""Modules that the fork server imports unless `dagster.yaml` names others."""

BACKGROUND = ("archive_imports", "archive_shards", "index_checks", "index_copies", "index_tiers")
"""Assets and jobs whose runs step back for all others on a busy machine, unless `dagster.yaml` names others."""

NICENESS = 19
"""They get next to no CPU while another run wants it."""

_starting = threading.Lock()


class Worker(NamedTuple):
    """The process of one run. A process id alone comes back to other processes; with its start time it does not."""

    host: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Worker:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def of(cls, run: DagsterRun) -> Worker | None:
        """The process that a run says it is executed by, or None if it has not said so."""
        tag = run.tags.get(WORKER_TAG)
        return cls(*json.loads(tag)) if tag else None

    def process(self) -> psutil.Process | None:
        """The live process, or None if it has ended or is on another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            alive = process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


def start_fork_server(preload: Sequence[str] = PRELOAD) -> None:
    """Start this process's fork server if it does not run. Returns at once; the server imports in its own time.

    Args:
        preload: Modules it imports. They must leave no thread, socket or open file behind.
    """
    with _starting:
        forkserver.set_forkserver_preload(list(preload))
        forkserver.ensure_running()


class WarmRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Launches runs as forks of a warm process, knows whether they live, and ends them."""

    def __init__(
        self,
        preload: Sequence[str] = PRELOAD,
        background: Sequence[str] = BACKGROUND,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self._inst_data = inst_data
        self.preload = tuple(preload)
        self.background = frozenset(background)
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What `dagster.yaml` said, for Dagster to make the launcher again in another process."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Settings that `dagster.yaml` may give under `run_launcher: config:`."""
        description = "Modules imported once, before any run. They must start no thread and open no socket or file."
        stepping_back = "Assets and jobs whose runs leave the CPU to others first."
        return {
            "preload": Field(Array(str), is_required=False, default_value=list(PRELOAD), description=description),
            "background": Field(
                Array(str), is_required=False, default_value=list(BACKGROUND), description=stepping_back
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> WarmRunLauncher:
        """Make the launcher from its settings."""
        return cls(config_value["preload"], config_value["background"], inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork a process for the run. It records itself on the run before it executes anything."""
        run = context.dagster_run
        names = {run.job_name, *(key.to_user_string() for key in run.asset_selection or ())}
        niceness = NICENESS if self.background & names else 0
        arguments = (serialize_value(self._instance.get_ref()), run.run_id, niceness)
        start_fork_server(self.preload)
        process = multiprocessing.get_context("forkserver").Process(
            target=execute_run, args=arguments, name=f"run-{run.run_id}"
        )
        with _starting:
            process.start()

    def terminate(self, run_id: str) -> bool:
        """End a run: its process is asked to stop, and the run is then canceled by that process.

        Returns:
            True if the run is ending or, its process being gone, has been set down as canceled; False if it had ended.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if run.status != DagsterRunStatus.CANCELING:
            self._instance.report_run_canceling(run)
        worker = Worker.of(run)
        process = worker.process() if worker else None
        if process is None:
            self._instance.report_run_canceled(run, "The process of the run was already gone.")
            return True
        process.send_signal(signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Dagster's run monitoring may ask; runs of dead processes then fail within its poll interval."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run is alive. Works from any process of this machine, also after a restart."""
        worker = Worker.of(run)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The run has not recorded a process.")
        label = f"Process {worker.pid}"
        if worker.process() is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"{label} is alive.", run_worker_id=str(worker.pid))
        current = self._instance.get_run_by_id(run.run_id)
        if current is not None and current.is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS, f"{label} ended with its run.")
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{label} ended without finishing its run.")

    def join(self, timeout: int = 30) -> None:
        """Wait for the runs that this process launched.

        Args:
            timeout: Seconds for each.
        """
        for process in multiprocessing.active_children():
            if process.name.startswith("run-"):
                process.join(timeout)


def execute_run(instance_ref: str, run_id: str, niceness: int = 0) -> None:
    """Execute a run in this process, as `dagster api execute_run` does.

    Args:
        instance_ref: Serialized reference of the Dagster instance.
        run_id: A run of that instance, launched and not yet started.
        niceness: How far it steps back for other processes.
    """
    from dagster._cli.api import _execute_run_command_body
    from dagster._core.instance import InstanceRef
    from dagster._utils.interrupts import capture_interrupts

    os.nice(niceness)
    ref: InstanceRef = deserialize_value(instance_ref, InstanceRef)
    with capture_interrupts(), DagsterInstance.from_ref(ref) as instance:
        instance.add_run_tags(run_id, {WORKER_TAG: json.dumps(Worker.here())})
        _execute_run_command_body(run_id, instance, lambda _event: None, set_exit_code_on_failure=False)
