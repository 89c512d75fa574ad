"""`python -m dagster_project.stack up|down`: the local stack in the background.

Four programs under supervisord: the embedded AWS, the code server, Dagster's daemon and its web server. Belongs here:
their supervision, from the first look at the ports to "everything answers" and to the end of the last process. Does
not belong here: what a program does once it runs (`program.py`, `local_aws`).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from dagster_project import database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
READY_SECONDS = 180.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1
MARK = "AHI_STACK"
"""Environment variable, inherited by every process of a stack, with the stack's home: how `down` knows its own."""

SUPERVISOR = """\
[supervisord]
logfile = {home}/logs/supervisord.log
pidfile = {home}/run/supervisord.pid
childlogdir = {home}/logs
directory = {repository}
loglevel = info
umask = 077

[unix_http_server]
file = {sockets}/supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{sockets}/supervisor.sock
"""

PROGRAM = """
[program:{name}]
command = {command}
priority = {priority}
autorestart = true
startsecs = 10
startretries = 5
stopasgroup = true
killasgroup = true
stopwaitsecs = 15
redirect_stderr = true
stdout_logfile = {home}/logs/{name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 2
"""

HEALTH = """
{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename
    ... on RepositoryLocation { name } ... on PythonError { message } } } } ... on PythonError { message } }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }
"""


class StackError(Exception):
    """The stack did not come up or go down; the text says why and what to do."""


@dataclass(frozen=True)
class Stack:
    """One local stack: its state folder and its two loopback ports."""

    home: Path
    ui_port: int = 3000
    aws_port: int = 4566
    database_url: str = ""
    """PostgreSQL for Dagster and the catalog; empty: SQLite."""

    @classmethod
    def from_environment(cls) -> Stack:
        """The stack that AHI_HOME, AHI_UI_PORT and AHI_AWS_PORT speak of, each with its default.

        Raises:
            StackError: A port is no number.
        """
        try:
            ports = int(os.environ.get("AHI_UI_PORT") or 3000), int(os.environ.get("AHI_AWS_PORT") or 4566)
        except ValueError as error:
            raise StackError(f"AHI_UI_PORT and AHI_AWS_PORT are port numbers: {error}.") from error
        return cls(Path(os.environ.get("AHI_HOME") or ".ahi").resolve(), *ports, os.environ.get(database.VARIABLE, ""))

    @property
    def ui(self) -> str:
        """Address of the Dagster UI."""
        return f"http://127.0.0.1:{self.ui_port}"

    @property
    def sockets(self) -> Path:
        """Folder of the Unix sockets. Their paths are limited to about 100 characters, which a home may exceed."""
        return Path(tempfile.gettempdir()) / f"ahi-{os.getuid()}-{hashlib.sha256(bytes(self.home)).hexdigest()[:12]}"

    def supervisor(self) -> psutil.Process | None:
        """The live supervisord of this stack, or None."""
        try:
            process = psutil.Process(int((self.home / "run" / "supervisord.pid").read_text()))
            return process if process.environ().get(MARK) == str(self.home) else None
        except (OSError, ValueError, psutil.Error):
            return None

    def processes(self) -> Iterator[psutil.Process]:
        """Every live process that descends from this stack, runs included."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except psutil.Error:
                continue

    def environment(self) -> dict[str, str]:
        """Variables of its programs, over those of the caller."""
        # Without compiled files every start compiles Dagster anew, in four processes.
        own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        own |= database.environment(self.database_url) if self.database_url else {}
        return own | {
            MARK: str(self.home),
            "AHI_HOME": str(self.home),
            "AHI_UI_PORT": str(self.ui_port),
            "AHI_CODE_SOCKET": str(self.sockets / "code.sock"),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "AHI_DAGSTER_EVENTS": str(self.home / "dagster" / "events"),
            "DAGSTER_RUN_STATUS_SENSOR_PROCESS_LIMIT": "25",  # Default 5 runs a tick: alerts fall behind a busy day.
            "PYTHONUNBUFFERED": "1",
        }

    def commands(self) -> dict[str, list[str]]:
        """Command of each program, in the order in which they depend on one another."""
        embedded_aws = ["-m", "local_aws", "--home", str(self.home), "--port", str(self.aws_port)]
        dagster = {name: ["-m", "dagster_project.program", name] for name in ("code", "daemon", "web")}
        return {name: [sys.executable, *arguments] for name, arguments in ({"aws": embedded_aws} | dagster).items()}

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a program's log."""
        log = self.home / "logs" / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def up(stack: Stack, say: Callable[[str], None]) -> bool:
    """Start the stack and return when everything answers.

    Args:
        stack: Which.
        say: Takes lines of progress for a person.

    Returns:
        False if it was up already.

    Raises:
        StackError: A port is taken, or a program did not come up; nothing of the stack then runs.
    """
    if stack.supervisor():
        return False
    end_processes(stack)  # Programs outlive a supervisor that was killed.
    for port, variable in ((stack.ui_port, "AHI_UI_PORT"), (stack.aws_port, "AHI_AWS_PORT")):
        if is_taken(port):
            raise StackError(f"Port {port} is taken by another program. Choose a free one: {variable}=... make up")
    write_files(stack)
    try:
        if stack.database_url:
            database.make_schemas(stack.database_url)
        start_supervisor(stack)
        wait_until_ready(stack, say)
    except BaseException:
        down(stack)
        raise
    return True


def down(stack: Stack) -> bool:
    """Stop this stack and nothing else. State stays in its home.

    Returns:
        False if nothing of it ran.
    """
    supervisor = stack.supervisor()
    if supervisor:
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=STOP_SECONDS)
    stray = end_processes(stack)
    (stack.home / "stack.env").unlink(missing_ok=True)
    shutil.rmtree(stack.sockets, ignore_errors=True)
    return bool(supervisor or stray)


def end_processes(stack: Stack) -> bool:
    """End what still runs of the stack, first asking. Returns whether there was anything."""
    processes = list(stack.processes())
    for process in processes:
        process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS / 3)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=STOP_SECONDS / 3)
    return bool(processes)


def start_supervisor(stack: Stack) -> None:
    """Start supervisord, which goes to the background and starts the programs.

    Raises:
        StackError: It refuses its configuration.
    """
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(configuration(stack))]
    started = subprocess.run(command, env=stack.environment(), check=False, capture_output=True, text=True)  # noqa: S603
    if started.returncode:
        raise StackError(f"The supervisor does not start. {started.stderr.strip()}")


def is_taken(port: int) -> bool:
    """Whether a program listens on the loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def configuration(stack: Stack) -> Path:
    """Supervisord's configuration file."""
    return stack.home / "run" / "supervisord.conf"


def write_files(stack: Stack) -> None:
    """Write what the programs read at their start. Generated anew each time: settings and checkout may have moved."""
    for folder in ("run", "logs", "dagster"):
        (stack.home / folder).mkdir(parents=True, exist_ok=True)
    stack.home.chmod(0o700)  # Objects, inbox and index name patients. Programs add a umask of their own.
    stack.sockets.mkdir(mode=0o700, exist_ok=True)
    # Its appearance says that the embedded AWS of this start is ready.
    (stack.home / "stack.env").unlink(missing_ok=True)
    if stack.database_url:
        database.write_instance(REPOSITORY / "dagster.yaml", stack.home / "dagster" / "dagster.yaml")
    else:
        shutil.copyfile(REPOSITORY / "dagster.yaml", stack.home / "dagster" / "dagster.yaml")
    location = {"grpc_server": {"socket": str(stack.sockets / "code.sock"), "location_name": "ahi"}}
    (stack.home / "run" / "workspace.yaml").write_text(json.dumps({"load_from": [location]}))  # JSON is YAML
    text = SUPERVISOR.format(home=escape(stack.home), sockets=escape(stack.sockets), repository=escape(REPOSITORY))
    for priority, (name, command) in enumerate(stack.commands().items()):
        quoted = " ".join(f'"{escape(part)}"' for part in command)
        text += PROGRAM.format(name=name, command=quoted, priority=priority, home=escape(stack.home))
    configuration(stack).write_text(text)


def escape(part: str | Path) -> str:
    """Text as supervisord's configuration file wants it."""
    return str(part).replace("%", "%%")


def wait_until_ready(stack: Stack, say: Callable[[str], None]) -> None:
    """Wait until every program answers, with a line for each.

    Raises:
        StackError: One of them keeps ending, or the time is over.
    """
    started = time.monotonic()
    waits: dict[str, Callable[[], str | None]] = {
        "embedded AWS": lambda: None if (stack.home / "stack.env").exists() else "has not written stack.env",
        "code location, daemon and UI": lambda: unhealthy(stack),
    }
    for name, missing in waits.items():
        while what := missing():
            given_up = failed_program(stack)
            if given_up:
                raise StackError(f"{given_up} does not start. The end of its log:\n{stack.tail(given_up)}")
            if time.monotonic() - started > READY_SECONDS:
                raise StackError(f"Not ready after {READY_SECONDS:.0f} s: {what}. See {stack.home}/logs.")
            time.sleep(POLL_SECONDS)
        say(f"{name} ready after {time.monotonic() - started:.1f} s")
    if stack.database_url:
        # For `ahi`, in whatever shell it is typed: what this home's catalog is.
        with (stack.home / "stack.env").open("a") as file:
            file.write(f"{database.VARIABLE}={shlex.quote(stack.database_url)}\n")


def failed_program(stack: Stack) -> str | None:
    """The program that supervisord has given up on, if any; "supervisord" if it has itself ended."""
    log = stack.home / "logs" / "supervisord.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    last_start = text.rfind("supervisord started with pid")
    for name in stack.commands():
        if f"gave up: {name} entered FATAL" in text[max(last_start, 0) :]:
            return name
    return None


def unhealthy(stack: Stack) -> str | None:
    """What is missing for the Dagster half to be ready, in words; None if nothing is.

    Raises:
        StackError: The definitions do not load, which waiting will not mend.
    """
    try:
        data = ask_dagster(stack, HEALTH)
    except (OSError, http.client.HTTPException, ValueError):
        return f"{stack.ui} does not answer"
    workspace = data["workspaceOrError"]
    for entry in workspace.get("locationEntries", []):
        found = entry["locationOrLoadError"] or {}
        if found.get("__typename") == "PythonError":
            raise StackError(f"The definitions do not load: {found['message']}")
        if entry["loadStatus"] != "LOADED":
            return "the code location is loading"
    statuses = data["instance"]["daemonHealth"]["allDaemonStatuses"]
    ill = [status["daemonType"] for status in statuses if status["required"] and not status["healthy"]]
    return f"no heartbeat yet of {', '.join(ill).lower()}" if ill else None


def ask_dagster(stack: Stack, query: str) -> dict[str, Any]:
    """Ask the web server's GraphQL.

    Raises:
        OSError: It does not answer.
        ValueError: It answers with something else than data.
    """
    connection = http.client.HTTPConnection("127.0.0.1", stack.ui_port, timeout=10)
    try:
        connection.request("POST", "/graphql", json.dumps({"query": query}), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if not answer.get("data"):
        raise ValueError(str(answer.get("errors")))
    data: dict[str, Any] = answer["data"]
    return data


def fail(text: str) -> NoReturn:
    """End with a sentence instead of a traceback."""
    sys.stderr.write(f"{text}\n")
    sys.exit(1)


def main() -> None:
    """The command behind `make up` and `make down`."""
    parser = argparse.ArgumentParser(prog="python -m dagster_project.stack", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["up", "down"])
    action = parser.parse_args().action

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        stack = Stack.from_environment()
        if action == "down":
            say("Stopped." if down(stack) else f"Nothing of {stack.home} was running.")
        elif up(stack, say):
            say(f"Up. Dagster UI: {stack.ui}   logs: {stack.home}/logs   stop: make down")
        else:
            say(f"It is already up: {stack.ui} (state in {stack.home}). `make down` stops it.")
    except StackError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
