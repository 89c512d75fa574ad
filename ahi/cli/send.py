"""`ahi send`: files and folders to the landing bucket. Belongs here: finding and uploading them.

Object keys are neutral numbers, since names of files and folders often name patients. Which file became which key is
kept on this machine, in `uploads/<upload>.csv` under AHI_HOME; `ahi failures` looks there.
"""

from __future__ import annotations

import csv
import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ahi.cli import common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

PREFIX = "uploads/"
THREADS = 16


@dataclass(frozen=True)
class Skipped:
    """One path that is not sent, and why."""

    path: Path
    reason: str
    is_error: bool = True


@dataclass
class Found:
    """What the given paths hold: every entry is in one of the two lists."""

    files: list[tuple[Path, int]] = field(default_factory=list)
    """Path and size in bytes."""
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Upload:
    """What one call of `ahi send` did."""

    upload_id: str
    bucket: str
    sent: int
    bytes: int
    skipped: list[Skipped]

    @property
    def complete(self) -> bool:
        """Whether everything that was named has been sent."""
        return not any(item.is_error for item in self.skipped)


def find(paths: list[Path]) -> Found:
    """List the files under paths, folders with everything below them, in a stable order."""
    found, seen = Found(), set[Path]()
    for path in paths:
        for file in _walk(path, found):
            identity = file.resolve()
            if identity in seen:
                found.skipped.append(Skipped(file, "named twice", is_error=False))
                continue
            seen.add(identity)
            _admit(file, found)
    return found


def _walk(path: Path, found: Found) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        found.skipped.append(Skipped(path, f"folder cannot be read: {error.strerror}"))
        return
    if not entries:
        found.skipped.append(Skipped(path, "empty folder", is_error=False))
    for entry in entries:
        if entry.is_symlink():
            found.skipped.append(Skipped(entry, "symbolic link: name its target to send it", is_error=False))
        else:
            yield from _walk(entry, found)


def _admit(file: Path, found: Found) -> None:
    try:
        status = file.stat()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        found.skipped.append(Skipped(file, "does not exist" if gone else f"cannot be read: {error.strerror}"))
        return
    if not stat.S_ISREG(status.st_mode):
        found.skipped.append(Skipped(file, "neither file nor folder"))
    elif not os.access(file, os.R_OK):
        found.skipped.append(Skipped(file, "cannot be read: Permission denied"))
    else:
        found.files.append((file, status.st_size))


def upload(s3: S3Client, bucket: str, found: Found, *, home: Path, name: str = "", progress: bool = False) -> Upload:
    """Upload files, and keep which became which key.

    Args:
        s3: Client.
        bucket: Landing bucket.
        found: Files to send.
        home: AHI_HOME of the deployment, for the list of keys.
        name: Id of the upload; empty: one made of the time.
        progress: Whether to show a bar on stderr.
    """
    from boto3.s3.transfer import TransferConfig

    from ahi.clock import now

    upload_id = name or f"{now():%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    keys = [f"{PREFIX}{upload_id}/{number:06d}" for number in range(1, len(found.files) + 1)]
    receipt = home / "uploads" / f"{upload_id}.csv"
    receipt.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Before the first upload, since a list of too much beats one of too little; and for this user only, since names of
    # files often name patients.
    private = os.open(receipt, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(private, "w", newline="") as lines:
        csv.writer(lines).writerows(
            [("key", "file"), *((key, file.absolute()) for key, (file, _) in zip(keys, found.files, strict=True))]
        )
    config = TransferConfig(use_threads=False)  # the threads are ours, one file each
    skipped, sent, n_bytes = list(found.skipped), 0, 0
    with ThreadPoolExecutor(THREADS) as pool, common.progress("sending", len(found.files), shown=progress) as advance:
        tasks = [
            pool.submit(s3.upload_file, str(file), bucket, key, Config=config)
            for key, (file, _) in zip(keys, found.files, strict=True)
        ]
        try:
            for task, (file, size) in zip(tasks, found.files, strict=True):
                try:
                    task.result()
                    sent, n_bytes = sent + 1, n_bytes + size
                except OSError as error:
                    skipped.append(Skipped(file, f"cannot be read: {error.strerror}"))
                advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Upload(upload_id, bucket, sent, n_bytes, skipped)


def _print_json(done: Upload) -> None:
    skipped = [{"path": item.path, "reason": item.reason, "error": item.is_error} for item in done.skipped]
    counts = {"sent": done.sent, "bytes": done.bytes}
    common.print_json({"upload_id": done.upload_id, "bucket": done.bucket} | counts | {"skipped": skipped})


def _nothing(found: Found, bucket: str, *, as_json: bool) -> NoReturn:
    """End a send that has nothing to send, before it makes anything."""
    if as_json:
        _print_json(Upload("", bucket, 0, 0, found.skipped))
        raise typer.Exit(common.NO)
    wrong = [f"{item.path} {item.reason}" for item in found.skipped if item.is_error]
    rest = [f"{item.path}: {item.reason}" for item in found.skipped if not item.is_error]
    common.fail("; ".join(wrong) or f"nothing to send ({'; '.join(rest)})", common.NO)


def send(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders; a folder with everything below it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what happened as JSON.")] = False,
) -> None:
    """Send files to the landing bucket, where the pipeline takes them up.

    Every file is sent, DICOM or not: what it is decides the pipeline, which keeps account of each.
    What is not sent is listed with its reason: links, empty folders, what cannot be read or is not there.

    Examples: `ahi send scan.dcm`, `ahi send /archive/2024 more/`, `ahi send samples/dicom && ahi wait`

    Exit code: 0 all sent, 1 something could not be or there was nothing to send, 2 no stack.
    """
    settings = common.open_settings()
    bucket = common.landing_bucket(settings)
    found = find(paths)
    if not found.files:
        _nothing(found, bucket, as_json=as_json)
    with common.aws_errors(settings):
        s3 = common.connect().s3
        s3.head_bucket(Bucket=bucket)
        done = upload(s3, bucket, found, home=settings.home, progress=not as_json)
    if as_json:
        _print_json(done)
    else:
        typer.echo(f"Sent {common.counted(done.sent, 'file')}, {done.bytes / 1e6:,.1f} MB, as upload {done.upload_id}.")
        if done.skipped:
            common.print_table(("not sent", "why"), [(item.path, item.reason) for item in done.skipped])
        typer.echo("Next: `ahi wait` until it is through, `ahi status` meanwhile.")
    if not done.complete:
        raise typer.Exit(common.NO)
