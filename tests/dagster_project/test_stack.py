"""The local stack, really started: it comes up, mends itself, and leaves nothing when it goes down."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dagster_project.demo import free_port
from dagster_project.stack import HEALTH, REPOSITORY, Stack, StackError, ask_dagster, down, is_taken, unhealthy, up
from tests.conftest import wait_for


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("home") / "a stack; of ours"  # both characters mean something to its readers
    made = Stack(home.resolve(), ui_port=free_port(), aws_port=free_port())
    lines: list[str] = []
    assert up(made, lines.append)
    assert len(lines) == 2
    yield made
    down(made)


def test_everything_answers(stack: Stack) -> None:
    entries = ask_dagster(stack, HEALTH)["workspaceOrError"]["locationEntries"]
    assert [entry["locationOrLoadError"]["name"] for entry in entries] == ["ahi"]
    assert unhealthy(stack) is None


def test_state_is_for_its_user_only(stack: Stack) -> None:
    assert stack.home.stat().st_mode & 0o777 == 0o700
    written = [path for path in (stack.home / "aws").rglob("*") if not path.is_symlink()]
    assert written
    assert [path for path in (*written, stack.home / "stack.env") if path.stat().st_mode & 0o077] == []


def test_a_second_start_does_nothing(stack: Stack) -> None:
    before = {process.pid for process in stack.processes()}
    assert not up(stack, lambda _: None)
    assert {process.pid for process in stack.processes()} >= before


def test_another_stack_on_its_port_is_refused_in_a_sentence(stack: Stack, tmp_path: Path) -> None:
    other = Stack(tmp_path.resolve(), ui_port=stack.ui_port, aws_port=free_port())
    with pytest.raises(StackError, match=rf"Port {stack.ui_port} is taken .*AHI_UI_PORT"):
        up(other, lambda _: None)
    assert list(other.processes()) == []


def test_a_program_that_dies_comes_back(stack: Stack) -> None:
    (daemon,) = [
        process for process in stack.processes() if process.cmdline()[-2:] == ["dagster_project.program", "daemon"]
    ]
    daemon.kill()

    def is_back() -> bool:
        found = [process for process in stack.processes() if process.cmdline()[-1:] == ["daemon"]]
        return bool(found) and found[0].pid != daemon.pid and unhealthy(stack) is None

    wait_for(is_back, seconds=90, what="a new daemon")


def test_going_down_leaves_nothing_even_without_the_supervisor(stack: Stack) -> None:
    supervisor = stack.supervisor()
    assert supervisor is not None
    supervisor.kill()
    psutil.wait_procs([supervisor], timeout=10)
    assert len(list(stack.processes())) >= 4
    assert down(stack)
    assert list(stack.processes()) == []
    assert not is_taken(stack.ui_port)
    assert not is_taken(stack.aws_port)
    assert not (stack.home / "stack.env").exists()
    assert not stack.sockets.exists()
    assert not down(stack)


def test_a_port_that_is_no_number_is_a_sentence(tmp_path: Path) -> None:
    environment = {"AHI_HOME": str(tmp_path), "AHI_UI_PORT": "three", "PATH": "/usr/bin"}
    command = [sys.executable, "-m", "dagster_project.stack", "up"]
    said = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr.startswith("AHI_UI_PORT and AHI_AWS_PORT are port numbers")
