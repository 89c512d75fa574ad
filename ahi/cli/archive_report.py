"""`ahi archive report` and `retry`: the end of an import, and what can still be done. Belongs here: printing."""

from __future__ import annotations

import csv
from dataclasses import astuple, fields
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ahi.archive.report import Study
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
    instances of image sets, rows of the index. Exits with 1 while something does not agree.

    Example: `ahi archive report old-pacs --csv report/`
    """
    from ahi.archive import report as domain

    pipeline = _pipeline()
    with common.permanent_errors(), common.aws_errors(pipeline.settings):
        found = domain.studies(pipeline, archive)
        lost = list(domain.missing(pipeline, archive))
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        heads = [field.name for field in fields(domain.Study)]
        _write(folder / "studies.csv", [*heads, "open"], ((*astuple(one), one.open) for one in found))
        _write(folder / "missing.csv", [field.name for field in fields(domain.Missing)], map(astuple, lost))
        typer.echo(f"{len(found):,} studies in {folder}/studies.csv, {len(lost):,} objects in {folder}/missing.csv")
    unequal = [one for one in found if one.open]
    _print(found, unequal)
    if lost and not folder:
        rows = [(one.sop_uid, one.reason_code, one.reason_text, one.corrected_by or "no") for one in lost[:SHOWN]]
        title = f"{common.counted(len(lost), 'object')} that cannot be queried (--csv for all, with keys)"
        common.print_table(("SOP instance", "reason", "in words", "corrected"), rows, title=title)
    if unequal:
        raise typer.Exit(common.NO)


def _print(found: list[Study], unequal: list[Study]) -> None:
    names = (
        "inventory",
        "staged",
        "job_summary",
        "success_lines",
        "failure_lines",
        "image_set_instances",
        "index_rows",
    )
    sums = [(name.replace("_", " "), sum(getattr(one, name) for one in found)) for name in names]
    common.print_table(("counted in", "objects"), sums, title=f"{common.counted(len(found), 'study', 'studies')}")
    if unequal:
        rows = [(one.study_uid or "no study", one.open) for one in unequal[:SHOWN]]
        common.print_table(("study", "does not agree"), rows, title=f"{len(unequal):,} do not close")
    else:
        typer.echo("Every study closes six ways.")


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
) -> None:
    """Plan what failed once more: corrected files, linked to their originals; or what failed by no fault of a file.

    The partitions it names are launched in the UI like any other.

    Examples: `ahi archive retry old-pacs s3://old-pacs-corrected/`, `ahi archive retry old-pacs`
    """
    from ahi.archive import archives
    from ahi.archive import retry as domain

    pipeline = _pipeline()
    with common.permanent_errors(), common.aws_errors(pipeline.settings):
        found = archives.find(pipeline, archive)
        done = domain.corrected(pipeline, found, corrected) if corrected else domain.once_more(pipeline, found)
    left = (
        f"; {common.counted(done.unmatched, 'other')} there correspond to nothing that failed" if done.unmatched else ""
    )
    typer.echo(f"{common.counted(done.objects, 'object')} to try again{left}.")
    typer.echo(f"Launch in the UI: archive_imports, {', '.join(done.shard_keys)}")
