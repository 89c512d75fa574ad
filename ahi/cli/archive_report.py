"""`ahi archive report` and `retry`: the end of an import, and what can still be done. Belongs here: printing."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import astuple, fields
from itertools import islice
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ahi.archive.report import Account
    from ahi.archive.retry import Retry
    from ahi.pipeline import Pipeline

SHOWN = 50
"""Lines of each table on a terminal; the CSV files have all."""


def _pipeline() -> Pipeline:
    from ahi.pipeline import connect

    settings = common.open_settings()
    common.open_index(settings)
    return connect(settings)


def report(
    archive: Annotated[str, typer.Argument(help="Its name, as `ahi archive list` shows it.")],
    folder: Annotated[
        Path | None, typer.Option("--csv", help="Folder for studies.csv and missing.csv, with every line.")
    ] = None,
) -> None:
    """Hold every study of an archive against six counts, and name what is missing.

    Counted are: the look at the archive, what went into jobs, the jobs' summaries, their success and failure lines,
    instances of image sets, rows of the index. Exits with 1 while something does not agree, or is still to be planned,
    launched or imported.

    Example: `ahi archive report old-pacs --csv report/`
    """
    from ahi.archive import report as domain
    from ahi.archive.shard_account import Missing

    pipeline = _pipeline()
    with (
        common.permanent_errors(),
        common.aws_errors(pipeline.settings),
        domain.account(pipeline, archive) as found,
    ):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            heads = [field.name for field in fields(domain.Study)]
            _write(folder / "studies.csv", [*heads, "open"], ((*astuple(one), one.open) for one in found.studies()))
            _write(folder / "missing.csv", [one.name for one in fields(Missing)], map(astuple, found.missing()))
            missing = common.counted(found.n_missing, "object")
            typer.echo(f"{found.n_studies:,} studies in {folder}/studies.csv, {missing} in {folder}/missing.csv")
        unequal = _print(found)
        if found.n_missing and not folder:
            some = islice(found.missing(), SHOWN)
            rows = [(one.sop_uid or "none", one.reason_code, one.reason_text, one.corrected_by or "no") for one in some]
            title = f"{common.counted(found.n_missing, 'object')} that cannot be queried (--csv for all, with keys)"
            common.print_table(("SOP instance", "reason", "in words", "corrected"), rows, title=title)
    if unequal:
        raise typer.Exit(common.NO)


def _print(found: Account) -> int:
    """Sums over all studies, and the studies that do not close. Returns how many those are."""
    from ahi.archive.report import NUMBERS, SIX

    sums, shown, unequal = Counter[str](), list[tuple[str, str]](), 0
    for one in found.studies():
        for name in NUMBERS:
            sums[name] += getattr(one, name)
        if one.open:
            unequal += 1
            shown += [(one.study_uid or "no study", one.open)] if len(shown) < SHOWN else []
    rows: list[tuple[str, int | None]] = [(name.replace("_", " "), sums[name]) for name in SIX]
    # What makes the six differ by right.
    rows += [(f"  {name.replace('_', ' ')}", sums[name]) for name in NUMBERS if name not in SIX and sums[name]]
    common.print_table(("counted in", "objects"), rows, title=common.counted(found.n_studies, "study", "studies"))
    if unequal:
        common.print_table(("study", "does not agree"), shown, title=f"{unequal:,} do not close")
    else:
        typer.echo("Every study closes six ways.")
    return unequal


def _write(path: Path, heads: list[str], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(["" if value is None else value for value in row] for row in rows)


def retry(
    archive: Annotated[str, typer.Argument(help="Its name, as `ahi archive list` shows it.")],
    corrected: Annotated[
        str, typer.Argument(help="s3://bucket/prefix/ of corrected files, each under the key of its original.")
    ] = "",
    set_down: Annotated[
        bool, typer.Option("--set-down", help="Of shards that have stalled let fail what is refused; the rest goes in.")
    ] = False,
) -> None:
    """Plan what failed once more: corrected files, linked to their originals; or what failed by no fault of a file.

    Without a prefix, objects that S3 did not give are read again: mend policies and keys, and restore what is archived,
    before.

    The partitions it names are launched in the UI like any other.

    Examples: `ahi archive retry old-pacs s3://old-pacs-corrected/`, `ahi archive retry old-pacs`,
    `ahi archive retry old-pacs --set-down`
    """
    from ahi.archive import archives
    from ahi.archive import retry as domain

    pipeline = _pipeline()
    with common.permanent_errors(), common.aws_errors(pipeline.settings):
        found = archives.find(pipeline, archive)
        if set_down and corrected:
            common.fail("--set-down is for what stalled, a prefix for what failed: give one of them.")
        if set_down:
            done = domain.set_down(pipeline, found)
        else:
            done = domain.corrected(pipeline, found, corrected) if corrected else domain.once_more(pipeline, found)
    typer.echo(f"{common.counted(done.objects, 'object')} to try again{_beside(done)}.")
    if done.shard_keys:
        shards = common.counted(len(done.shard_keys), "partition")
        typer.echo(f"Launch in the UI: archive_imports, {shards}:")
    for block in _blocks(done.shard_keys):
        typer.echo("  " + (block[0] if len(block) == 1 else f"[{block[0]}...{block[-1]}]"))


def _beside(done: Retry) -> str:
    """What else there was, in words."""
    others = {
        "of an earlier retry, or unchanged": done.repeated,
        "that fail as before": done.still_failing,
        "that correspond to nothing that failed": done.unmatched,
    }
    return "".join(f"; {number:,} {what}" for what, number in others.items() if number)


def _blocks(shard_keys: Iterable[str]) -> Iterator[list[str]]:
    """Keys whose numbers follow each other, as the launch dialog takes them for a range."""
    block: list[str] = []
    for key in sorted(shard_keys):
        if block and int(key.rpartition("-")[2]) != int(block[-1].rpartition("-")[2]) + 1:
            yield block
            block = []
        block.append(key)
    if block:
        yield block
