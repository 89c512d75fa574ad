"""What a run costs beyond its work: the warm launcher against Dagster's default, in one sitting.

Launches a job with one empty op, one run at a time, and prints medians: wall seconds from the launch to the first
event of the op and to the end of the run, and CPU seconds of the run's own process from its start to its end.
Run it with `.venv/bin/python benchmarks/bench_launcher.py [runs]`.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import yaml

BUDGET_CPU_SECONDS = 1.5
LAUNCHERS = {
    "warm": {"module": "dagster_project.launcher", "class": "WarmRunLauncher"},
    "default": {"module": "dagster._core.launcher", "class": "DefaultRunLauncher"},
}


@dg.op
def report_cpu(context: dg.OpExecutionContext) -> None:
    """Nothing but its own measurement: CPU of this process up to here."""
    context.log.info("cpu=%.3f", time.process_time())


@dg.job(executor_def=dg.in_process_executor)
def empty() -> None:
    """One empty op."""
    report_cpu()


defs = dg.Definitions(jobs=[empty])


def measure(launcher: str, runs: int) -> Iterator[tuple[float, float, float]]:
    """Yield (seconds to the op's start, seconds to the run's end, CPU seconds to the op) for each run."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import PythonFileTarget

    with tempfile.TemporaryDirectory() as home:
        settings = {"run_launcher": LAUNCHERS[launcher], "telemetry": {"enabled": False}}
        Path(home, "dagster.yaml").write_text(yaml.safe_dump(settings))
        target = PythonFileTarget(str(Path(__file__).resolve()), "defs", None, "bench")
        with dg.DagsterInstance.from_config(home) as instance, WorkspaceProcessContext(instance, target) as process:
            workspace = process.create_request_context()
            job = workspace.get_code_location("bench").get_repository("__repository__").get_full_job("empty")
            for number in range(runs + 1):
                run = instance.create_run(
                    job_name="empty", run_id=None, run_config={}, status=None, tags={}, root_run_id=None,
                    parent_run_id=None, step_keys_to_execute=None, execution_plan_snapshot=None, job_snapshot=None,
                    parent_job_snapshot=None, asset_selection=None, asset_check_selection=None,
                    resolved_op_selection=None, op_selection=None, asset_graph=None,
                    remote_job_origin=job.get_remote_origin(), job_code_origin=job.get_python_origin(),
                )  # fmt: skip
                started = time.time()
                instance.launch_run(run.run_id, workspace)
                while not (run := instance.get_run_by_id(run.run_id)).is_finished:
                    time.sleep(0.05)
                assert run.status == dg.DagsterRunStatus.SUCCESS
                ended = instance.get_run_stats(run.run_id).end_time
                (line,) = [e for e in instance.all_logs(run.run_id) if e.user_message.startswith("cpu=")]
                if number:  # the first one pays for the fork server's imports
                    yield line.timestamp - started, ended - started, float(line.user_message[4:])


def main() -> None:
    """Print a table; exit 1 if a warm run costs more than the budget."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{runs} runs each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians in seconds")
    print(f"{'launcher':10}{'to the op':>12}{'to the end':>12}{'CPU':>12}")
    cpu = {}
    for launcher in LAUNCHERS:
        rows = list(measure(launcher, runs))
        to_op, to_end, cpu[launcher] = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{launcher:10}{to_op:12.2f}{to_end:12.2f}{cpu[launcher]:12.2f}")
    if cpu["warm"] > BUDGET_CPU_SECONDS:
        sys.exit(f"A warm run costs {cpu['warm']:.2f} s of CPU, above {BUDGET_CPU_SECONDS}")


if __name__ == "__main__":
    main()
