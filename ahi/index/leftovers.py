"""What killed processes leave on the disk. Belongs here: finding and removing it once it is old.

Does not belong here: data files, which the catalog knows or does not (`compaction`), and sidecars (`sidecar`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SPILL = ".spill"
EXPORT = ".export-"


@contextmanager
def export_folder(parent: Path, mode: int = 0o777) -> Iterator[Path]:
    """A new folder to build an export in, of a mode less the umask, removed at the end if it is still there.

    It is locked as long: an upload can take hours in which nothing in it changes, and upkeep must not take it for one
    that was left. The system frees the lock when the process ends, killed or not.
    """
    folder = parent / f"{EXPORT}{uuid.uuid4().hex}"
    folder.mkdir(mode)
    with _opened(folder) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(root: Path, before: float) -> int:
    """Remove what killed processes left below an index: spilled blocks of DuckDB, and exports.

    Args:
        root: Folder of the index; its tiers lie below it.
        before: Only what was changed before this time is removed: somebody may be at work on the rest.

    Returns:
        Bytes that were removed.
    """
    n_bytes = 0
    for folder in (root, *root.glob("tiers/*")):
        n_bytes += _remove_old(folder / SPILL, before) + remove_exports(folder, before)
    return n_bytes


def remove_exports(folder: Path, before: float) -> int:
    """Remove what killed exports left in a folder and was changed before a time; gives its bytes."""
    n_bytes = 0
    for left in folder.glob(f"{EXPORT}*"):
        with suppress(FileNotFoundError, NotADirectoryError, BlockingIOError), _opened(left) as handle:
            if left.stat().st_mtime < before:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                n_bytes += sum(file.stat().st_size for file in left.rglob("*") if file.is_file())
                shutil.rmtree(left)
    return n_bytes


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def _remove_old(folder: Path, before: float) -> int:
    """Remove the old files below a folder, then the old folders without any; gives the bytes of the files."""
    n_bytes = 0
    for path, _, names in os.walk(folder, topdown=False):
        # Removing what is in it makes a folder young.
        is_old = _changed(Path(path)) < before
        for file in (Path(path, name) for name in names):
            with suppress(FileNotFoundError):
                status = file.stat()
                if status.st_mtime < before:
                    file.unlink()
                    n_bytes += status.st_size
        if is_old:
            with suppress(OSError):  # something is in it
                Path(path).rmdir()
    return n_bytes


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
