"""Local folders go with their process, killed or not, and never while it works."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ahi.archive.parts import scratch

KILLED = """
import os, signal, sys, types, pathlib
from ahi.archive.parts import scratch
home = types.SimpleNamespace(settings=types.SimpleNamespace(home=pathlib.Path(sys.argv[1])))
with scratch(home) as folder:
    (folder / "part").write_bytes(b"1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_and_what_another_holds_stays(tmp_path: Path) -> None:
    home: Any = SimpleNamespace(settings=SimpleNamespace(home=tmp_path))
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -9
    [left] = (tmp_path / "scratch").iterdir()
    with scratch(home) as mine:
        (mine / "part").write_bytes(b"2")
        with scratch(home) as another:
            assert set((tmp_path / "scratch").iterdir()) == {mine, another}
        assert (mine / "part").exists()
    assert not left.exists()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_folders_made_at_once_do_not_take_each_other_for_leftovers(tmp_path: Path) -> None:
    home: Any = SimpleNamespace(settings=SimpleNamespace(home=tmp_path))

    def use(_: int) -> bool:
        with scratch(home) as folder:
            (folder / "file").write_bytes(b"x")
            return (folder / "file").exists()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(use, range(300)))
