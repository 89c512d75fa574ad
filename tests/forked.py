"""Processes of tests, forked from one that has imported their libraries already: interpreters were minutes of CPU.

Belongs here: the server that forks, the process as its test sees it, what it becomes at first. Does not belong here:
what it runs. Multiprocessing's own fork server is left alone: there is one for all, and the run launcher's tests judge
it as it is in production.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import connection, context, forkserver, popen_forkserver, reduction
from pathlib import Path
from typing import Any


class Forked:
    """A process of a test, with what `subprocess.Popen` has of it."""

    def __init__(self, pid: int, end: int) -> None:
        self.pid, self.returncode = pid, None
        self._end = end

    returncode: int | None

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It runs still.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None and connection.wait([self._end], seconds):
            # Its parent writes the exit code there, negative for a signal.
            self.returncode = forkserver.read_signed(self._end)
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class _Passed:
    """Descriptors that a process inherits, such as an end of a pipe among its arguments."""

    DupFd = popen_forkserver.Popen.DupFd

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        """Called by whatever is pickled with a descriptor in it."""
        self.descriptors.append(descriptor)
        return len(self.descriptors) - 1


class ForkServer:
    """Imports modules once, when the first process is asked for, and forks processes that have them."""

    def __init__(self, *preload: str) -> None:
        self._server = forkserver.ForkServer()
        self._server.set_forkserver_preload(list(preload))

    def start(self, target: Callable[..., object], *arguments: object) -> Forked:
        """Call a function in a process of its own."""
        order, passed = io.BytesIO(), _Passed()
        context.set_spawning_popen(passed)  # type: ignore[attr-defined]
        try:
            reduction.dump({"sys_path": sys.path}, order)
            reduction.dump(multiprocessing.Process(target=target, args=arguments), order)
        finally:
            context.set_spawning_popen(None)  # type: ignore[attr-defined]
        end, ear = self._server.connect_to_new_process(passed.descriptors)
        with open(ear, "wb") as told:  # noqa: PTH123 - a descriptor
            told.write(order.getbuffer())
        return Forked(forkserver.read_signed(end), end)


def become(
    command: list[str], environment: Mapping[str, str], folder: Path, *, stdin: Path | None, stdout: Path, stderr: Path
) -> list[Any]:
    """Give this process the arguments, environment, folder and streams that its command shall have; the last returned.

    The streams are the caller's to flush.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    streams = [(stdin or Path(os.devnull)).open(), stdout.open("a"), stderr.open("a")]
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = streams
    sys.argv = command
    return streams
