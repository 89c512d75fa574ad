"""`ahi` as a person starts it, in a process of its own, forked from one that has imported its libraries already.

Belongs here: starting it and catching what it says. An interpreter for each of a hundred commands was a minute of CPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

from tests.forked import ForkServer, become

# The settings bring pydantic, half of what a command costs; reading them is still each command's own.
_SERVER = ForkServer(
    *("ahi.cli.main", "ahi.pipeline", "ahi.index.store", "ahi.index.query", "ahi.indexing", "ahi.settings"),
    *("boto3", "boto3.s3.transfer", "duckdb", "rich.markdown", "typer.rich_utils"),
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
        process = _SERVER.start(_be, command, own, files, Path.cwd())
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise subprocess.TimeoutExpired(command, seconds) from None
        return subprocess.CompletedProcess(command, code, files[1].read_text(), files[2].read_text())


def _be(command: list[str], environment: dict[str, str], files: list[Path], folder: Path) -> None:
    """Become the command. Whatever it raises is printed, and its exit code is 1, as the interpreter does."""
    streams = become(command, environment, folder, stdin=files[0], stdout=files[1], stderr=files[2])
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
