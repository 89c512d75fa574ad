"""Copies of the index made by the clock, for analysts who must not reach the pipeline's own folder.

Belongs here: where each copy stands, which is the latest, which go. Does not belong here: what a copy is (`export`).

`<destination>/<tier>/<time>-<digest>/` holds a copy whole: plain Parquet with checksums, `index.duckdb`, README.txt.
`latest.json` beside it names the newest one, its tables and their rows; in a folder, the link `current` leads to it,
too. Both are swapped after the copy is complete, so that a reader finds the old one or the new one and never a part.

**Erasure.** A copy shows what was erased from the index since. In a folder, every run removes the copies that a newer
one has followed, and what killed exports left; in a bucket, a lifecycle rule of the bucket does.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ahi.aws import GONE, error_code
from ahi.clock import now
from ahi.index.export import S3, ExportError, export
from ahi.index.leftovers import remove_exports
from ahi.index.sidecar import digest_of
from ahi.index.tiers.build import tier_root

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_s3 import S3Client

    from ahi.index.columns import Tier

LATEST, CURRENT = "latest.json", "current"
# In the name of a copy, before its digest.
MOMENT = "%Y%m%dT%H%M%S%fZ"
# Half of what lies between two runs: what a run finds of the one before goes, and one that is begun by hand beside it
# takes nothing from whoever reads.
KEPT_FOR = dt.timedelta(hours=12)


@dataclass(frozen=True)
class Copy:
    """The newest copy of a tier: where it stands, its tables and their rows, and whether it was made just now."""

    tier: Tier
    place: str
    rows: Mapping[str, int]
    is_new: bool


def refresh_copies(
    root: Path, tiers: Sequence[Tier], destination: str, *, s3: S3Client | None = None, run_id: str | None = None
) -> list[Copy]:
    """Copy each tier that was published and has changed since its newest copy, and remove old copies from a folder.

    Args:
        root: Folder of the index.
        tiers: Tiers to copy; one that was never published is passed over.
        destination: A folder that exists and has the mode that the copies are to have, or `s3://bucket/prefix`. Copies
            in a bucket stay: a lifecycle rule removes them.
        s3: Client for such a one.
        run_id: Dagster run that makes them, for the metadata of the files.

    Raises:
        ExportError: The destination is not there, or not reachable.
    """
    if not destination.startswith(S3) and not Path(destination).is_dir():
        # A process whose umask closes what it makes must not guess who is to read here.
        raise ExportError(f"{destination} is not a folder: make it first, with the mode that its readers need.")
    found = [(tier, tier_root(root, tier) / "index.duckdb") for tier in tiers]
    return [_refresh(source, tier, destination.rstrip("/"), s3, run_id) for tier, source in found if source.exists()]


def _refresh(source: Path, tier: Tier, destination: str, s3: S3Client | None, run_id: str | None) -> Copy:
    # Of what is there now: a copy that shows more than that is made anew next time, one that shows less would stay.
    digest = digest_of(source)
    above = None if destination.startswith(S3) else Path(destination)
    place = f"{destination}/{tier}"
    about = _read(f"{place}/{LATEST}", s3)
    if about and (about["source_sha256"] != digest or not _exists(f"{place}/{about['folder']}/index.duckdb", s3)):
        about = None
    is_new = about is None
    if about is None:
        moment = now()
        name = f"{moment:{MOMENT}}-{digest[:8]}"
        tables = export(source, tier, f"{place}/{name}", s3=s3, run_id=run_id)
        rows = {table.name: table.n_rows for table in tables}
        about = {"folder": name, "tier": tier.value, "made_at": moment.isoformat()}
        about |= {"source_sha256": digest, "rows": rows}
    if above:
        _open_to_readers(above, Path(place), about["folder"])
    if is_new:
        _write(f"{place}/{LATEST}", json.dumps(about, indent=1), s3)
    if above:
        _point(Path(place), about["folder"])
        _remove(Path(place), about["folder"])
    return Copy(tier, f"{place}/{about['folder']}", about["rows"], is_new)


def _open_to_readers(above: Path, folder: Path, name: str) -> None:
    """Give a copy and the folder of its tier the mode of the folder above: the pipeline's umask would close them."""
    mode = stat.S_IMODE(above.stat().st_mode)
    copy = folder / name
    for path in (*copy.rglob("*"), copy, folder):
        wanted = mode if path.is_dir() else _of_file(mode)
        if stat.S_IMODE(path.stat().st_mode) != wanted:
            path.chmod(wanted)


def _of_file(mode: int) -> int:
    return mode & 0o666


def _point(folder: Path, name: str) -> None:
    link = folder / f".{CURRENT}"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(folder / CURRENT)


def _remove(folder: Path, newest: str) -> None:
    """Remove old copies but the newest, and what killed exports left. What was deleted from the index goes with them.

    A system that holds files open keeps what a reader of a removed copy has open.
    """
    before = now() - KEPT_FOR
    for path in folder.glob("*Z-*"):
        if path.is_dir() and path.name != newest and (made := _made_at(path.name)) and made < before:
            shutil.rmtree(path)
    remove_exports(folder, before.timestamp())


def _made_at(name: str) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(name.rpartition("-")[0], MOMENT).replace(tzinfo=dt.UTC)
    except ValueError:
        return None  # none of ours


def _object_at(place: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = place.removeprefix(S3).partition("/")
    return bucket, key


def _exists(place: str, s3: S3Client | None) -> bool:
    if s3 is None or not place.startswith(S3):
        return Path(place).is_file()
    bucket, key = _object_at(place)
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error_code(error) not in GONE:
            raise
        return False
    return True


def _read(place: str, s3: S3Client | None) -> dict[str, Any] | None:
    """What `latest.json` says; None: there is none, or none that was written whole."""
    try:
        if s3 is None or not place.startswith(S3):
            text = Path(place).read_bytes()
        else:
            bucket, key = _object_at(place)
            text = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except FileNotFoundError:
        return None
    except ClientError as error:
        if error_code(error) not in GONE:
            raise
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"folder", "source_sha256", "rows"} <= found.keys() else None


def _write(place: str, text: str, s3: S3Client | None) -> None:
    if s3 is not None and place.startswith(S3):
        bucket, key = _object_at(place)
        s3.put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json")
        return
    path = Path(place)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # Else a crash of the machine may leave the new name with nothing in it.
        os.fsync(file.fileno())
    temporary.chmod(_of_file(path.parent.stat().st_mode))
    temporary.replace(path)
