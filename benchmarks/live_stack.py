"""A stack of a benchmark's own: started in a temporary home on free ports, measured, stopped.

Belongs here: starting and stopping it, its processes' CPU and memory. Does not belong here: what is measured.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from dotenv import dotenv_values

from ahi.pipeline import Pipeline, connect
from ahi.settings import Settings
from dagster_project.demo import free_port
from dagster_project.stack import Stack, down, up

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def live_stack(**settings: str) -> Iterator[tuple[Stack, Pipeline]]:
    """A running stack and a pipeline that looks at it. `settings` are environment variables of the stack."""
    home = Path(tempfile.mkdtemp(prefix="ahi-bench-")).resolve()
    stack = Stack(home, ui_port=free_port(), aws_port=free_port())
    os.environ |= settings | {"AHI_HOME": str(home), "AHI_DAGSTER_EVENTS": str(home / "dagster" / "events")}
    try:
        up(stack, lambda line: print(f"   {line}"))
        os.environ |= {name: value for name, value in dotenv_values(home / "stack.env").items() if value}
        yield stack, connect(Settings())
    finally:
        down(stack)
        shutil.rmtree(home, ignore_errors=True)


def cpu_seconds(stack: Stack) -> float:
    """CPU that the stack's processes have used, those that ended included."""
    supervisor = stack.supervisor()
    if supervisor is None:
        return 0.0
    total = 0.0
    for process in [supervisor, *supervisor.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def run_cpu_seconds(stack: Stack) -> float:
    """CPU of all runs that have ended: what the launcher's fork server has reaped."""
    supervisor, total = stack.supervisor(), 0.0
    for process in supervisor.children(recursive=True) if supervisor else ():
        try:
            if "forkserver" in " ".join(process.cmdline()):
                times = process.cpu_times()
                total += times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return total


def memory(stack: Stack) -> dict[str, int]:
    """Resident bytes of the stack's processes by name and id."""
    supervisor, found = stack.supervisor(), {}
    for process in supervisor.children(recursive=True) if supervisor else ():
        try:
            command = " ".join(process.cmdline()[1:4])
            found[f"{process.pid} {command[:60]}"] = process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return found
