"""`ahi fhir`: NDJSON into HealthLake, and a hand on its chain. Belongs here: asking and printing."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ahi.healthlake.control import BatchStatus, ImportStatus
    from ahi.healthlake.failures import Group, Warned
    from ahi.healthlake.plan import Planned
    from ahi.pipeline import Pipeline

app = typer.Typer(
    name="fhir",
    help="FHIR into AWS HealthLake: import NDJSON, follow the chain of jobs, correct what failed.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
POLICIES = {"stop": "stop", "continue": "continue", "ratio": "stop_if_ratio"}


@contextmanager
def opened(*, create: bool = False) -> Iterator[Pipeline]:
    """The pipeline, with what goes wrong as a sentence."""
    from ahi.errors import PermanentError
    from ahi.pipeline import connect

    settings = common.open_settings()
    if not create:
        common.open_index(settings)
    with common.aws_errors(settings):
        try:
            yield connect(settings)
        except PermanentError as error:
            common.fail(str(error))


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix/, or a file or folder of this machine.")],
    policy: Annotated[str, typer.Option(help="After a batch with errors: stop, continue, or ratio.")] = "stop",
    ratio: Annotated[float, typer.Option(help="With --policy ratio: a larger share of failed resources stops.")] = 0.01,
    ordered: Annotated[bool, typer.Option(help="Whether each batch waits for the one before it.")] = True,
    priority: Annotated[int, typer.Option(help="Higher goes before other imports.")] = 0,
    files_per_batch: Annotated[int | None, typer.Option(help="Fewer than AHI_FHIR_FILES_PER_JOB.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan every NDJSON file below a prefix as batches that go into HealthLake one after the other.

    Files go in by their keys, in order, at the versions they have now. A file that is planned already is not planned
    again. Dagster freezes, validates and starts the batches; `ahi fhir status` shows how far they are.

    Examples: `ahi fhir import s3://bucket/history/`, `ahi fhir import samples/fhir --policy continue`
    """
    from ahi.healthlake.plan import Terms, plan_import
    from ahi.index.catalog_fhir import Policy

    if policy not in POLICIES:
        common.fail(f"--policy is one of {', '.join(POLICIES)}.")
    terms = Terms(Policy(POLICIES[policy]), ratio, ordered, priority, files_per_batch)
    with opened(create=True) as pipeline:
        uri = source if source.startswith("s3://") else _upload(pipeline, Path(source))
        planned = plan_import(pipeline, uri, terms)
    if as_json:
        common.print_json(asdict(planned))
    elif not planned.batch_ids:
        typer.echo(
            f"Nothing new below {uri}: {common.counted(planned.n_known, 'file')} planned before, {_left(planned)}."
        )
    else:
        files = common.counted(planned.n_files, "file")
        batches = common.counted(len(planned.batch_ids), "batch", "batches")
        typer.echo(f"Import {planned.import_id}: {files}, {planned.n_bytes / 1e6:,.1f} MB in {batches}.")
        if planned.n_known or planned.n_skipped:
            typer.echo(f"{common.counted(planned.n_known, 'file')} planned before, {_left(planned)}.")


def _left(planned: Planned) -> str:
    return f"{common.counted(planned.n_skipped, 'object')} left out: not .ndjson, or empty"


def _upload(pipeline: Pipeline, path: Path) -> str:
    """Copy files of this machine to the lake, under names that follow their order and not their own."""
    import secrets

    found = sorted(one for one in path.rglob("*") if one.suffix.lower() == ".ndjson") if path.is_dir() else [path]
    if not path.exists() or not found:
        common.fail(f"{path} holds no .ndjson file.")
    prefix = f"fhir/received/{secrets.token_hex(4)}/"
    for number, file in enumerate(found):
        key = f"{prefix}{number:05d}.ndjson"
        pipeline.aws.s3.upload_file(str(file), pipeline.settings.lake_bucket, key)
    return f"s3://{pipeline.settings.lake_bucket}/{prefix}"


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show every chain: how many batches, how far, what stopped it."""
    from ahi.healthlake import audit, control

    with opened() as pipeline:
        found = control.imports(pipeline.index.engine)
        late = audit.breaches(pipeline)
        gaps = audit.gaps(pipeline.index.engine)
    if as_json:
        common.print_json({"imports": [asdict(one) for one in found], "breaches": [asdict(one) for one in late]})
        return
    if not found:
        typer.echo("No import yet: `ahi fhir import s3://bucket/history/`.")
        return
    columns = ("import", "batches", "settled", "failed", "held", "running", "sent", "imported", "open failures")
    common.print_table(columns, [_row(one) for one in found])
    for one in found:
        if one.stopped_reason:
            typer.echo(f"{one.import_id} is stopped: {one.stopped_reason}. `ahi fhir continue {one.import_id}`")
    if gaps:
        ordered = sorted(gaps)
        typer.echo(f"From the end of a job to the start of the next: {ordered[len(ordered) // 2]:.1f} s (median).")
    if late:
        typer.echo(f"{common.counted(len(late), 'batch', 'batches')} later than the law gives: `ahi fhir late`.")


def _row(one: ImportStatus) -> tuple[object, ...]:
    done = (one.batches, one.settled, one.failed, one.held, one.at_healthlake)
    return (one.import_id, *done, one.sent, one.imported, one.open_failures)


@app.command()
def batches(
    name: Annotated[str | None, typer.Argument(help="An import or a batch; else all.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Only what has not gone in.")] = False,
    as_json: AsJson = False,
) -> None:
    """List batches in the order in which they go: their ids are what the other commands take."""
    from ahi.healthlake import control

    with opened() as pipeline:
        found = control.batches(pipeline.index.engine, name, is_open=open_)
    if as_json:
        common.print_json([asdict(one) for one in found])
    elif not found:
        typer.echo("No batch.")
    else:
        columns = ("batch", "state", "lines", "refused", "sent", "imported", "errors", "why")
        common.print_table(columns, [_batch_row(one) for one in found])


def _batch_row(one: BatchStatus) -> tuple[object, ...]:
    marks = ("held",) if one.is_held else (one.job,) if one.job else ()
    numbers = (one.lines, one.refused, one.sent, one.imported, one.errors)
    why = one.reason or (f"corrects {one.parent_batch_id}" if one.parent_batch_id else "")
    return (one.batch_id, ", ".join((one.state, *marks)), *("" if n is None else n for n in numbers), why)


@app.command()
def again(batch: str) -> None:
    """Send a batch again whose job is over, as it was frozen: over whatever later batches brought."""
    from ahi.healthlake import control

    with opened() as pipeline:
        if not control.again(pipeline, batch):
            common.fail(f"A job of {batch} waits or runs: see `ahi fhir batches`.", common.NO)


@app.command()
def index(as_json: AsJson = False) -> None:
    """Plan FHIR of what changed in the index now, as Dagster does every five minutes."""
    from ahi.healthlake.from_index import plan_changes

    with opened() as pipeline:
        planned = plan_changes(pipeline)
    if as_json:
        common.print_json(dict(planned))
    else:
        studies = common.counted(planned["studies"], "study has", "studies have")
        resources = common.counted(planned["resources"], "resource")
        typer.echo(f"{studies} changed: {resources} planned, {planned['retracted']} of them taken back.")


@app.command()
def wait(
    name: Annotated[str | None, typer.Argument(help="An import; else all.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 600.0,
) -> None:
    """Wait until nothing of an import, or of any, waits or runs.

    Exit code 1 if that takes too long, or once only stopped imports are left.
    """
    import time

    from ahi.healthlake import control

    deadline = time.monotonic() + timeout
    with opened() as pipeline:
        while True:
            found = [one for one in control.imports(pipeline.index.engine) if name in (None, one.import_id)]
            if name and not found:
                common.fail(f"There is no import {name}: see `ahi fhir status`.")
            open_ = [one for one in found if one.settled + one.failed < one.batches]
            if not open_:
                return
            # A job at HealthLake goes on when its import is stopped.
            if all(one.stopped_reason and not one.at_healthlake for one in open_):
                common.fail(f"Stopped: {', '.join(one.import_id for one in open_)}. See `ahi fhir status`.", common.NO)
            if time.monotonic() > deadline:
                common.fail(f"Not done within {timeout:.0f} s: see `ahi fhir status`.", common.NO)
            time.sleep(0.5)


@app.command()
def failures(
    batch: Annotated[str | None, typer.Option(help="Of one batch.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Resubmitted and resolved ones too.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write the failed lines of --batch to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what did not go in, by type and reason; with --export, the lines themselves, byte for byte.

    Correct the exported lines and give them back: `ahi fhir resubmit BATCH FILE`.
    """
    from ahi.healthlake import control
    from ahi.healthlake import failures as domain
    from ahi.healthlake.resubmission import failed_lines

    with opened() as pipeline:
        if export:
            if not batch:
                common.fail("--export needs --batch.")
            control.batch_facts(pipeline.index.engine, batch)
            lines = failed_lines(pipeline, batch)
            export.write_bytes(b"".join(line.body + b"\n" for line in lines))
            typer.echo(f"{common.counted(len(lines), 'line')} in {export}.")
            return
        if batch:
            control.batch_facts(pipeline.index.engine, batch)
        groups = domain.groups(pipeline.index.engine, batch_id=batch, is_open=not all_)
    if as_json:
        common.print_json([asdict(group) for group in groups])
    elif not groups:
        typer.echo("No resource has failed.")
    else:
        columns = ("lines", "in", "stage", "type", "why")
        rows = [(g.n_lines, _where(g), g.stage, g.resource_type or "?", g.diagnostic) for g in groups]
        common.print_table(columns, rows)


@app.command()
def warnings(
    batch: Annotated[str | None, typer.Option(help="Of one batch.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what was sent although it may not go in, or not as it is meant: types that HealthLake does not name, ..."""
    from ahi.healthlake import control
    from ahi.healthlake import failures as domain

    with opened() as pipeline:
        if batch:
            control.batch_facts(pipeline.index.engine, batch)
        found = domain.warned(pipeline.index.engine, batch_id=batch)
    if as_json:
        common.print_json([asdict(one) for one in found])
    elif not found:
        typer.echo("No warning.")
    else:
        rows = [(one.n_lines, _where(one), one.resource_type, one.diagnostic) for one in found]
        common.print_table(("lines", "in", "type", "what"), rows)


def _where(group: Group | Warned) -> str:
    more = group.n_batches - 1
    return group.first_batch + (f" and {common.counted(more, 'other', 'others')}" if more else "")


@app.command()
def resubmit(
    batch: Annotated[str, typer.Argument(help="Batch in which the lines failed.")],
    file: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="Corrected lines.")] = None,
    server_errors: Annotated[bool, typer.Option(help="The lines HealthLake itself failed on, unchanged.")] = False,
) -> None:
    """Send corrected lines, and only those, in a batch of their own that goes next in the chain."""
    from ahi.healthlake.resubmission import resubmit as plan

    if (file is None) is not server_errors:
        common.fail("Give a file of corrected lines, or --server-errors.")
    with opened() as pipeline:
        new = plan(pipeline, batch, file.read_bytes() if file else None)
    typer.echo(f"Planned as {new}.")


@app.command()
def dismiss(
    batch: Annotated[str, typer.Argument(help="A batch that is over.")],
    note: Annotated[str, typer.Option(help="Why, without anything of a patient: it stays in the account.")],
) -> None:
    """Let be what did not go in of a batch and never will: no check and no list warns of it any more."""
    from ahi.healthlake import control

    with opened() as pipeline:
        typer.echo(f"{common.counted(control.dismiss(pipeline, batch, note), 'line')} dismissed.")


@app.command()
def hold(name: Annotated[str, typer.Argument(help="A batch or an import.")]) -> None:
    """Keep batches that still wait from starting."""
    from ahi.healthlake import control

    with opened() as pipeline:
        typer.echo(f"{common.counted(control.hold(pipeline, name), 'batch', 'batches')} held.")


@app.command()
def release(name: Annotated[str, typer.Argument(help="A batch or an import.")]) -> None:
    """Let held batches go."""
    from ahi.healthlake import control

    with opened() as pipeline:
        typer.echo(f"{common.counted(control.hold(pipeline, name, release=True), 'batch', 'batches')} released.")


@app.command(context_settings={"ignore_unknown_options": True})
def priority(name: Annotated[str, typer.Argument(help="A batch or an import.")], value: int) -> None:
    """Let batches that still wait go before those of lower priority."""
    from ahi.healthlake import control

    with opened() as pipeline:
        typer.echo(f"{common.counted(control.prioritise(pipeline, name, value), 'batch', 'batches')} changed.")


@app.command()
def move(batch: str, before: Annotated[str, typer.Option(help="Batch of the same import.")]) -> None:
    """Put a batch that still waits before another."""
    from ahi.healthlake import control

    with opened() as pipeline:
        control.move(pipeline, batch, before=before)


@app.command()
def stop(name: Annotated[str, typer.Argument(help="An import.")]) -> None:
    """Start nothing more of an import. What HealthLake has taken runs to its end: it cannot be cancelled."""
    from ahi.healthlake import control

    with opened() as pipeline:
        control.stop(pipeline, name)


@app.command("continue")
def continue_(name: Annotated[str, typer.Argument(help="An import.")]) -> None:
    """Let a stopped import go on."""
    from ahi.healthlake import control

    with opened() as pipeline:
        control.go_on(pipeline, name)


@app.command()
def late(as_json: AsJson = False) -> None:
    """List batches that were not ingested within the business days that the law gives (42 CFR 422.119(b)(1))."""
    from ahi.healthlake import audit

    with opened() as pipeline:
        found = audit.breaches(pipeline)
    if as_json:
        common.print_json([asdict(one) for one in found])
    elif not found:
        typer.echo("Nothing is late.")
    else:
        columns = ("batch", "received", "deadline", "ingested", "business days")
        rows = [(b.batch_id, b.received_at, b.deadline, b.ingested_at or "not yet", b.business_days) for b in found]
        common.print_table(columns, rows)
