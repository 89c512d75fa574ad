"""`ahi` as a person starts it, in a process of its own, forked from one that has imported its libraries already.

Belongs here: starting it and catching what it says. An interpreter for each of a hundred commands was a minute of CPU.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    # The settings bring pydantic, half of what a command costs; reading them is still each command's own.
    [
        *("ahi.cli.main", "ahi.pipeline", "ahi.index.store", "ahi.index.query", "ahi.indexing", "ahi.settings"),
        *("boto3", "boto3.s3.transfer", "duckdb", "rich.markdown", "typer.rich_utils"),
    ]
)


def ahi(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, stdin: str = "", seconds: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run one command in the deployment at `home`, in an environment with no AHI_ or AWS_ variable but those of `env`.

    Raises:
        subprocess.TimeoutExpired: It took longer than `seconds`; it is killed then.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AHI_", "AWS_"))}
    own |= {"AHI_HOME": str(home), "COLUMNS": "160", **(env or {})}
    command = ["ahi", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("in", "out", "err")]
        files[0].write_text(stdin)
        process = _SERVER.Process(target=_be, args=(command, own, files, str(Path.cwd())))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, seconds)
        return subprocess.CompletedProcess(command, process.exitcode, files[1].read_text(), files[2].read_text())


def _be(command: list[str], environment: dict[str, str], files: list[Path], folder: str) -> None:
    """Become the command. Whatever it raises is printed, and its exit code is 1, as the interpreter does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    streams: list[IO[str]] = [files[0].open(), files[1].open("w"), files[2].open("w")]
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = streams
    sys.argv = command
    try:
        from ahi.cli.main import app

        app()
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001 - told, as any interpreter tells it
        traceback.print_exc()
        sys.exit(1)
    finally:
        for stream in streams[1:]:
            stream.flush()
