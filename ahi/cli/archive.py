"""`ahi archive`: add, list, plan. Belongs here: asking and printing what comes before an archive's import.

Does not belong here: commands on an import that runs, and what any of them does (`ahi.archive`).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.archive.choices import Period, Screen
from ahi.cli import common
from ahi.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ahi.archive.archives import Archive
    from ahi.archive.estimate import Estimate
    from ahi.archive.plan import Plan
    from ahi.pipeline import Pipeline

BAR = 24
"""Cells of the longest bar in a table."""

app = typer.Typer(
    name="archive",
    help="Import archives: buckets that hold years of DICOM. Plan first, then launch shards in the Dagster UI.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command("add")
def add(
    uri: Annotated[str, typer.Argument(help="Where it lies: s3://bucket or s3://bucket/folder/.")],
    name: Annotated[str | None, typer.Option(help="What to call it; it starts the keys of its shards.")] = None,
    inventory: Annotated[
        str | None, typer.Option(help="S3 Inventory: a manifest.json, or the folder whose newest report counts.")
    ] = None,
    continuous: Annotated[bool, typer.Option("--continuous", help="A schedule picks up what is added to it.")] = False,
) -> None:
    """Enter an archive. Nothing of it is read or imported yet.

    Example: `ahi archive add s3://old-pacs/2019/ --name pacs-2019`
    """
    from ahi.archive import archives

    with _pipeline() as pipeline:
        found = archives.add(pipeline, uri, name=name, report_uri=inventory, is_continuous=continuous)
    typer.echo(f"{found.archive_id} is {found.uri}. What an import would take: `ahi archive plan {found.archive_id}`")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Show the archives, what they hold and how many of their shards are in which state.

    Example: `ahi archive list`
    """
    from ahi.archive import archives, inventory
    from ahi.archive.progress import counts

    with _pipeline() as pipeline, pipeline.index.snapshot() as connection:
        rows = [
            (archive, inventory.newest(pipeline, archive), counts(connection, archive.archive_id).shards)
            for archive in archives.all_archives(pipeline)
        ]
    if as_json:
        common.print_json(
            [
                {"archive": asdict(archive), "look": asdict(look) if look else None, "shards": states}
                for archive, look, states in rows
            ]
        )
        return
    if not rows:
        typer.echo("There is no archive yet: `ahi archive add s3://bucket/folder/`")
        return
    columns = ("archive", "where", "keys", "size", "looked at", "planned", "shards")
    common.print_table(
        columns,
        [
            (
                archive.archive_id + (" (paused)" if archive.paused_at else ""),
                archive.uri,
                look.n_objects if look else None,
                size(look.n_bytes) if look else None,
                look.as_of if look else None,
                archive.last_planned_at,
                ", ".join(f"{n:,} {state}" for state, n in sorted(states.items())) or "none",
            )
            for archive, look, states in rows
        ],
    )


@app.command("remove")
def remove(
    archive: Annotated[str, typer.Argument(help="Its name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget an archive: its keys, looks and shards. What it imported stays; its own bucket is not touched.

    Keys may name patients and UIDs: this is how they leave the lake.

    Example: `ahi archive remove pacs-2019`
    """
    from ahi.archive import archives

    with _pipeline() as pipeline:
        found = archives.find(pipeline, archive)
        if not yes:
            typer.confirm(f"Forget {found.archive_id}, its looks and its shards?", abort=True)
        n_objects = archives.remove(pipeline, found)
    typer.echo(f"{found.archive_id} is forgotten; {common.counted(n_objects, 'object')} left the lake.")


@app.command("plan")
def plan(
    archive: Annotated[str, typer.Argument(help="Its name, or s3://bucket/folder/, which is entered if it is new.")],
    look: Annotated[bool, typer.Option("--look", help="Look at its keys again, whenever that was done last.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Make the shards, so that they can be launched.")] = False,
    headers: Annotated[
        Screen, typer.Option(help="Headers to read for setting non-DICOM aside; the import reads all anyway.")
    ] = Screen.DOUBTFUL,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what an import would take: jobs, copies, time under the quotas, cost by item. Without --keep a dry run.

    Its keys are read first where that was never done. Nothing is imported by this command.

    Examples: `ahi archive plan s3://old-pacs/2019/`, `ahi archive plan pacs-2019 --look --keep`
    """
    from ahi.archive import inventory
    from ahi.archive.estimate import estimate
    from ahi.archive.plan import OutdatedPlanError, make_plan

    with _pipeline() as pipeline:
        known = _known(pipeline, archive)
        if look or inventory.newest(pipeline, known) is None:
            _look(pipeline, known, shown=not as_json)
        try:
            made = make_plan(pipeline, known, keep=keep, screening=headers)
        except OutdatedPlanError as error:
            common.fail(str(error))
        taken = estimate(pipeline, made)
    if as_json:
        common.print_json({"plan": asdict(made), "estimate": asdict(taken) | {"seconds": taken.seconds}})
        return
    _print(made, taken)


def _known(pipeline: Pipeline, name_or_uri: str) -> Archive:
    from ahi.archive import archives

    if name_or_uri.startswith("s3://") and not any(
        one.uri.rstrip("/") == name_or_uri.rstrip("/") for one in archives.all_archives(pipeline)
    ):
        return archives.add(pipeline, name_or_uri)
    return archives.find(pipeline, name_or_uri)


def _look(pipeline: Pipeline, archive: Archive, *, shown: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from ahi.archive import inventory

    columns = (SpinnerColumn(), TextColumn("keys"), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("keys", total=None)
        found = inventory.look(pipeline, archive, progress=lambda n: bar.advance(task, n))
    if shown and found.generation > 1:
        differences = f"{found.n_added:,} added, {found.n_changed:,} changed, {found.n_vanished:,} vanished"
        typer.echo(f"Since the look before: {differences}.")


def _print(made: Plan, taken: Estimate) -> None:
    """The plan and what it takes, for a person."""
    rows: list[tuple[str, object]] = [
        ("keys", made.look.n_objects),
        ("of the look at", made.look.as_of),
        ("in shards before", made.known.n_objects),
        *(
            (f"{'to restore first' if reason == Reason.ARCHIVED else 'set aside'}: {reason}", some.n_objects)
            for reason, some in sorted(made.set_aside.items())
        ),
        ("objects to import", taken.n_objects),
        ("their size", size(taken.n_bytes)),
        ("import jobs", taken.n_jobs),
        ("of these on folders in place", taken.n_jobs_in_place),
        ("objects copied", taken.n_copies),
        ("expected image sets", f"{taken.n_image_sets:,}  ({taken.image_sets_formula})"),
        ("  as the sample tells", "{:,} to {:,}".format(*taken.image_sets_range)),
    ]
    title = f"{made.archive.archive_id}, {made.archive.uri}"
    common.print_table(("plan", ""), [(name, f"{v:,}" if isinstance(v, int) else v) for name, v in rows], title=title)
    steps = [(s.name, duration(s.seconds), bar(s.seconds, taken.seconds), s.formula) for s in taken.steps]
    common.print_table(
        ("step", "takes", "", "formula"),
        steps,
        title=f"Time: {duration(taken.seconds)}; every shard goes through all steps, {taken.longest} takes longest",
    )
    most = max((item.usd or 0.0 for item in taken.items), default=0.0)
    items = [
        (item.name, money(item.usd), str(item.period), bar(item.usd or 0, most), item.formula) for item in taken.items
    ]
    common.print_table(
        ("item", "USD", "per", "", "formula"), items, title=f"Cost, {taken.prices_region}, {taken.prices_as_of}"
    )
    once, first = taken.usd(Period.ONCE), taken.usd(Period.FIRST_MONTH, Period.EACH_MONTH)
    later = taken.usd(Period.LATER_MONTHS, Period.EACH_MONTH)
    sums = f"Once {money(once)} USD, then {money(first)} for the first month and {money(later)} for each unread one."
    typer.echo(sums)
    typer.echo(taken.note)
    if cold := made.set_aside.get(Reason.ARCHIVED):
        what = f"{common.counted(cold.n_objects, 'object')}, {size(cold.n_bytes)}"
        typer.echo(f"{what}, can only be read after a restore: restore, copy to another class, then plan with --look.")
    if made.is_kept:
        typer.echo(f"{common.counted(taken.n_jobs, 'shard')} can be launched: asset archive_imports in the Dagster UI.")
    else:
        typer.echo(f"A dry run: `ahi archive plan {made.archive.archive_id} --keep` makes the shards.")


def bar(value: float, most: float) -> str:
    """A value as a bar."""
    return "█" * max(1 if value else 0, round(BAR * value / most)) if most else ""


def money(usd: float | None) -> str:
    """An amount as people write it, small ones to a millionth."""
    if usd is None:
        return "unknown"
    return f"{usd:,.2f}" if usd >= 1 or not usd else f"{usd:.6f}".rstrip("0").rstrip(".")


def size(n_bytes: float) -> str:
    """Bytes as people read them."""
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= bytes_:
            return f"{n_bytes / bytes_:,.1f} {unit}"
    return f"{n_bytes:,.0f} B"


def duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def _pipeline() -> Iterator[Pipeline]:
    """The pipeline of this process; what goes wrong with it is one sentence without a key."""
    from botocore.exceptions import BotoCoreError, ClientError

    from ahi.aws import without_contents
    from ahi.errors import PermanentError
    from ahi.pipeline import connect

    settings = common.open_settings()
    common.landing_bucket(settings)
    try:
        yield connect(settings)
    except PermanentError as error:
        common.fail(str(error))
    except ClientError as error:
        common.fail(f"{without_contents(error)}. Is the bucket there, and may this role list it? See docs/archives.md.")
    except BotoCoreError as error:
        common.fail(f"AWS cannot be reached: {type(error).__name__}. Start a stack with `make up`, or set the region.")
