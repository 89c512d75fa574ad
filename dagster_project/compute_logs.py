"""What runs print, kept in files as Dagster keeps it, without the programs it starts to copy them to a console.

Dagster starts two `tail` and two Python interpreters beside every run to repeat on the console what goes to its files:
a seventh of what a run costs here. The UI reads the files. Belongs here: redirecting. Does not belong here: where the
files are and how they are read, which is Dagster's.

Its base class is not public in Dagster: `tests/dagster_project/test_compute_logs.py` is the contract to move the pinned
version by; to have Dagster's own, delete `compute_logs` from `dagster.yaml`.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dagster._serdes import ConfigurableClassData


class ComputeLogs(LocalComputeLogManager):
    """Dagster's files of standard output and error, written by the run itself."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> ComputeLogs:
        """Make it from its settings. `base_dir` is Dagster's home; the files are where Dagster has them by default."""
        return cls(str(Path(config_value["base_dir"]) / "storage"), inst_data=inst_data)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Let what this process and its children print go to files until the end."""
        with ExitStack() as stack:
            for stream, extension in ((sys.stdout, "out"), (sys.stderr, "err")):
                path = Path(self.get_captured_local_path(log_key, extension))
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_redirected(stream, path))
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()  # type: ignore[no-untyped-call]


@contextmanager
def _redirected(stream: IO[str], path: Path) -> Iterator[None]:
    """Let a stream's file descriptor be a file: what C code and child processes print goes there, too."""
    descriptor = stream.fileno()
    before = os.dup(descriptor)
    try:
        with path.open("ab") as file:
            stream.flush()
            os.dup2(file.fileno(), descriptor)
        yield
    finally:
        stream.flush()
        os.dup2(before, descriptor)
        os.close(before)
