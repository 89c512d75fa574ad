"""Copies of the index made by the clock, for analysts who must not reach the pipeline's own folder.

Belongs here: where each copy stands, which is the latest, which go. Does not belong here: what a copy is (`export`).

`<destination>/<tier>/<time>-<digest>/` holds a copy whole: plain Parquet with checksums, `index.duckdb`, README.txt.
`latest.json` beside it names the newest one and its files; in a folder, the link `current` leads to it, too. Both are
swapped after the copy is complete, so that a reader finds the old one or the new one and never a part.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ahi.aws import GONE, error_code
from ahi.clock import now
from ahi.index.export import S3, export
from ahi.index.tiers.build import tier_root

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_s3 import S3Client

    from ahi.index.columns import Tier

LATEST, CURRENT = "latest.json", "current"
# Whoever has opened the one before the newest may read on.
KEPT = 2


@dataclass(frozen=True)
class Copy:
    """The newest copy of a tier: where it stands, its tables and their rows, and whether it was made just now."""

    tier: Tier
    place: str
    rows: Mapping[str, int]
    is_new: bool


def refresh_copies(root: Path, tiers: Sequence[Tier], destination: str, *, s3: S3Client | None = None) -> list[Copy]:
    """Copy each tier that was published and has changed since its newest copy.

    Args:
        root: Folder of the index.
        tiers: Tiers to copy; one that was never published is passed over.
        destination: A folder, or `s3://bucket/prefix`. Copies in a bucket stay: a lifecycle rule removes them.
        s3: Client for such a one.

    Raises:
        ExportError: The destination is not reachable.
    """
    found = [(tier, tier_root(root, tier) / "index.duckdb") for tier in tiers]
    return [
        _refresh(source, tier, f"{destination.rstrip('/')}/{tier}", s3) for tier, source in found if source.exists()
    ]


def _refresh(source: Path, tier: Tier, destination: str, s3: S3Client | None) -> Copy:
    # Of what is there now: a copy that shows more than that is made anew next time, one that shows less would stay.
    digest = _digest(source)
    before = _read(f"{destination}/{LATEST}", s3)
    if before and before["source_sha256"] == digest:
        return Copy(tier, f"{destination}/{before['folder']}", before["rows"], is_new=False)
    moment = now()
    name = f"{moment:%Y%m%dT%H%M%S%f}Z-{digest[:8]}"
    tables = export(source, tier, f"{destination}/{name}", s3=s3)
    rows = {table.name: table.n_rows for table in tables}
    about = {"folder": name, "tier": tier.value, "made_at": moment.isoformat(), "source_sha256": digest, "rows": rows}
    _write(f"{destination}/{LATEST}", json.dumps(about, indent=1), s3)
    if not destination.startswith(S3):
        _point(Path(destination), name)
        _remove(Path(destination), name)
    return Copy(tier, f"{destination}/{name}", rows, is_new=True)


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _point(folder: Path, name: str) -> None:
    link = folder / f".{CURRENT}"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(folder / CURRENT)


def _remove(folder: Path, newest: str) -> None:
    """Remove all copies but the newest ones. What was deleted from the index leaves its copies with them."""
    others = sorted(path for path in folder.glob("*Z-*") if path.is_dir() and path.name != newest)
    for path in others[: max(0, len(others) - KEPT + 1)]:
        shutil.rmtree(path)


def _read(place: str, s3: S3Client | None) -> dict[str, Any] | None:
    try:
        if s3 is None or not place.startswith(S3):
            text = Path(place).read_text("utf-8")
        else:
            bucket, _, key = place.removeprefix(S3).partition("/")
            text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    except FileNotFoundError:
        return None
    except ClientError as error:
        if error_code(error) not in GONE:
            raise
        return None
    found: dict[str, Any] = json.loads(text)
    return found


def _write(place: str, text: str, s3: S3Client | None) -> None:
    if s3 is not None and place.startswith(S3):
        bucket, _, key = place.removeprefix(S3).partition("/")
        s3.put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json")
        return
    path = Path(place)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
