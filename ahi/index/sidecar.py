"""The SHA-256 beside each Parquet file, so that anybody can check a copy: `sha256sum -c *.sha256`.

Belongs here: a file's digest, and writing, removing and mending these small files. Does not belong here: digests of
what is still in memory (`writer`).

A sidecar is not synced by itself, which would double the disk's work of a small commit: the catalog has the digest too,
and upkeep writes a sidecar anew that a loss of power cut short, or that an older version of this code never wrote.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUFFIX = ".sha256"


def sidecar_of(path: Path) -> Path:
    """Where the digest of a file stands."""
    return path.with_name(path.name + SUFFIX)


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_sidecar(path: Path, sha256: str) -> None:
    """Put a file's digest beside it, in the form of sha256sum."""
    sidecar_of(path).write_text(f"{sha256}  {path.name}\n", "utf-8")


def remove_with_sidecar(path: Path) -> None:
    """Remove a file and its digest, whichever of them is there."""
    path.unlink(missing_ok=True)
    sidecar_of(path).unlink(missing_ok=True)


def mend_sidecars(root: Path, digests: Mapping[str, str], before: float) -> int:
    """Write what is missing or cut short, and remove the digests of files that are gone.

    Args:
        root: Folder of the index.
        digests: Digest of each file of the index, by path relative to the root.
        before: Only stray sidecars older than this time are removed: a writer may be about to use a newer one.

    Returns:
        Sidecars written anew.
    """
    sizes = {}
    for sidecar in (root / "data").glob(f"*/*/*.parquet{SUFFIX}"):
        try:
            status = sidecar.stat()
        except FileNotFoundError:
            continue
        sizes[sidecar.relative_to(root).as_posix().removesuffix(SUFFIX)] = status.st_size
        if status.st_mtime < before and not sidecar.with_name(sidecar.name.removesuffix(SUFFIX)).exists():
            sidecar.unlink(missing_ok=True)
    mended = 0
    for path, digest in digests.items():
        file = root / path
        if sizes.get(path) != len(digest) + 3 + len(file.name) and file.exists():
            write_sidecar(file, digest)
            mended += 1
    return mended
