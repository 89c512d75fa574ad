"""What the programs of the stack do before they become themselves."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from dagster_project.stack import REPOSITORY

AT_ONCE = """
import multiprocessing, sys
from pathlib import Path
import dagster
from dagster_project.program import create_storage

context = multiprocessing.get_context("fork")
barrier = context.Barrier(4)
def start():
    barrier.wait()
    create_storage(Path(sys.argv[1]))
programs = [context.Process(target=start) for _ in range(4)]
for program in programs:
    program.start()
for program in programs:
    program.join()
sys.exit(max(program.exitcode for program in programs))
"""


def test_programs_that_start_at_once_make_one_storage(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "dagster.yaml", tmp_path / "dagster.yaml")
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path), "AHI_DAGSTER_EVENTS": str(tmp_path / "events")}
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, str(tmp_path)],
        check=False,
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    databases = [path for path in tmp_path.rglob("*.db") if path.name != "index.db"]
    assert len(databases) >= 3
    for path in databases:
        with sqlite3.connect(path) as connection:
            heads = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        assert len(heads) <= 1, f"{path.name}: {heads}"
