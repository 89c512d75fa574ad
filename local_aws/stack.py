"""Start and stop a server as a subprocess, and talk to it: what tests and scripts of any project need.

Belongs here: the process, its environment, its control API. Does not belong here: anything of pytest
(`pytest_plugin.py`) and of this project's own tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

START_SECONDS = 60.0


class StackError(Exception):
    """The server did not start; the text holds what it printed."""


def wait_for(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "the condition") -> Any:
    """Wait until a condition gives something true, and return it.

    Raises:
        TimeoutError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(0.02)
    return found


class Stack:
    """One `python -m local_aws` in a process of its own.

    Attributes:
        env: The variables that point boto3 at it, once it runs.
    """

    def __init__(
        self, home: Path, *, port: int = 0, template: str = "none", settings: Mapping[str, str] | None = None
    ) -> None:
        """Describe a server; `start` runs it.

        Args:
            home: State folder. The same folder again is the same state.
            port: Loopback port, 0 for a free one.
            template: CloudFormation template to apply, or "none".
            settings: Switches by name, such as `{"import_seconds": "5"}` (docs/emulator.md).
        """
        self._home = home.resolve()
        self._arguments = ["--home", str(self._home), "--port", str(port), "--template", template]
        self._settings = {f"LOCAL_AWS_{name.upper()}": value for name, value in (settings or {}).items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.env: dict[str, str] = {}

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Stack:
        """Start the server and wait until it is ready.

        Raises:
            StackError: It ended instead.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AHI_", "LOCAL_AWS_"))}
        path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- this very package
                [sys.executable, "-m", "local_aws", *self._arguments],
                env=kept | self._settings | {"PYTHONPATH": path},
                stdout=log,
                stderr=log,
            )
        self.env = wait_for(self._ready, seconds=START_SECONDS, what="the embedded AWS")
        return self

    def _ready(self) -> dict[str, str] | None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise StackError(f"The embedded AWS ended: {self.log()}")
        file = self._home / "stack.env"
        if not file.exists():
            return None
        env = dict(line.split("=", 1) for line in file.read_text().splitlines())
        return env if env["LOCAL_AWS_PID"] == str(self._process.pid) else None

    def log(self) -> str:
        """What the server printed, of all starts."""
        return (self._home / "server.log").read_text()

    def stop(self, *, kill: bool = False) -> None:
        """End the server: politely, which saves its state, or with SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(30)
            self._process = None

    # -- control API ----------------------------------------------------------------------------------------------

    def control(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call of the control API, such as `control("POST", "faults", {"kind": "hold_jobs"})`."""
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.env['AWS_ENDPOINT_URL']}/_local_aws/{path}"
        request = urllib.request.Request(url, data=data, method=method)  # noqa: S310 -- our own server
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            out: dict[str, Any] = json.loads(answer.read())
        return out

    def fault(self, kind: str, **values: Any) -> str:
        """Set a fault; returns its id."""
        return str(self.control("POST", "faults", {"kind": kind, **values})["id"])

    def advance(self, seconds: float) -> None:
        """Put the service's clock forward."""
        self.control("POST", "clock", {"advance": seconds})

    def reset(self) -> None:
        """No faults, an empty log of calls, full buckets of the configured call rates. The clock stays where it is."""
        self.control("POST", "reset")

    def calls(self, operation: str = "") -> list[dict[str, Any]]:
        """Calls of clients since the last reset, oldest first."""
        found = self.control("GET", "log")["calls"]
        return [c for c in found if c["source"] == "outside" and operation in {"", c["operation"]}]

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client of this server, whatever the environment says."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            region_name=self.env["AWS_REGION"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            config=Config(inject_host_prefix=False, **config),
        )

    def variables(self) -> Mapping[str, str]:
        """The variables for `os.environ` of code that shall use this server."""
        return {k: v for k, v in self.env.items() if k.startswith("AWS_")}
