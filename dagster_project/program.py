"""`python -m dagster_project.program code|daemon|web`: one Dagster program of the local stack.

The programs of the stack start side by side. Each imports Dagster meanwhile, which is most of its start, then waits
for what it depends on, and then becomes the program. Belongs here: that waiting and each program's arguments. Does not
belong here: starting and stopping the programs (`stack.py`).
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.05


def adopt_stack(env_file: Path) -> None:
    """Wait for the embedded AWS and point this process at it, and at nothing else.

    Args:
        env_file: The file that appears when it is ready. `make up` removes the one of an earlier start.
    """
    while not env_file.exists():
        time.sleep(POLL_SECONDS)
    # A profile, a token or an endpoint of one service in the caller's shell would send some calls to real AWS.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update({name: value for name, value in dotenv_values(env_file).items() if value is not None})


def wait_for_socket(path: Path) -> None:
    """Wait until a program answers on a Unix socket."""
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        time.sleep(POLL_SECONDS)


def create_storage(home: Path) -> None:
    """Make the databases of a new Dagster instance, one program at a time.

    Dagster's storage makes its tables when it is first opened, without a lock. Programs that opened a new one at the
    same moment each noted its schema version, and then none could start on it again ("more than one head present").

    Args:
        home: DAGSTER_HOME, with the instance's dagster.yaml.
    """
    from dagster import DagsterInstance

    with (home / ".storage.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with DagsterInstance.from_config(str(home)):
            pass


def code(home: Path, code_socket: Path) -> None:
    """Serve the definitions to the daemon and the web server."""
    from dagster._cli import main

    adopt_stack(home / "stack.env")
    create_storage(home / "dagster")
    code_socket.unlink(missing_ok=True)
    definitions = ["--module-name", "dagster_project.definitions", "--location-name", "ahi"]
    become(main, ["dagster", "api", "grpc", "--socket", str(code_socket), *definitions, "--log-level", "warning"])


def daemon(home: Path, code_socket: Path) -> None:
    """Run the sensors, schedules and queue of runs."""
    from dagster_project.daemon import main, warm_up

    adopt_stack(home / "stack.env")
    create_storage(home / "dagster")
    warm_up()
    wait_for_socket(code_socket)
    become(main, ["dagster-daemon", "run", "-w", str(home / "run" / "workspace.yaml")])


def web(home: Path, code_socket: Path) -> None:
    """Serve the UI on 127.0.0.1."""
    from dagster_webserver.cli import main

    adopt_stack(home / "stack.env")
    create_storage(home / "dagster")
    wait_for_socket(code_socket)
    workspace = str(home / "run" / "workspace.yaml")
    address = ["-h", "127.0.0.1", "-p", os.environ["AHI_UI_PORT"]]
    become(main, ["dagster-webserver", *address, "-w", workspace, "--dagster-log-level", "warning"])


def become(main: Callable[[], object], arguments: list[str]) -> None:
    """Be another program, without the cost of another interpreter."""
    sys.argv = arguments
    main()


PROGRAMS = {"code": code, "daemon": daemon, "web": web}


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](Path(os.environ["AHI_HOME"]), Path(os.environ["AHI_CODE_SOCKET"]))
