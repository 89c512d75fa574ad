"""What the commands share: connecting, complaining, printing. Does not belong here: what one command alone needs."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from ahi.aws import Aws
    from ahi.index.query import QueryResult
    from ahi.index.store import Index
    from ahi.settings import Settings

NO = 1
"""Exit code: the answer is no. Something is open, or could not be sent."""
CANNOT = 2
"""Exit code: the question cannot be answered, as when no stack is running."""
SHOWN_ROWS = 200
"""Rows of an answer that a person is shown."""


def fail(text: str, code: int = CANNOT) -> NoReturn:
    """End the command with one sentence on stderr."""
    typer.echo(f"ahi: {text}", err=True)
    raise typer.Exit(code)


def day(text: str) -> str:
    """A day as typed, in the one form in which days are kept, which compare as text."""
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError:
        fail(f"{text} is not a day: write it as 2026-11-01.")


def console() -> Console:
    """Where tables are printed."""
    from rich.console import Console

    return Console()


def open_settings() -> Settings:
    """Settings of this process; a wrong one is a sentence, not a traceback."""
    from pydantic import ValidationError

    from ahi.settings import Settings, load_settings

    try:
        adopt_stack(Settings().home)
        return load_settings()
    except ValidationError as error:
        wrong = "; ".join(f"AHI_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        fail(f"A setting is wrong. {wrong}.")


def adopt_stack(home: Path) -> None:
    """Point this process at the local stack of a home, if one is running, and at nothing else.

    The shell that `ahi` is typed into often has a profile, a region or an endpoint of its own. Any of them would send
    some calls of a local deployment to real AWS, or fail them, so none is obeyed.
    """
    from dotenv import dotenv_values

    stack = home / "stack.env"
    if not stack.exists():
        return
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update({name: value for name, value in dotenv_values(stack).items() if value is not None})


def landing_bucket(settings: Settings) -> str:
    """Name of the landing bucket, which the stack's environment gives."""
    if not settings.landing_bucket:
        fail(
            f"No stack is running for {settings.home}. Start one with `make up`; "
            "for a pipeline on AWS, set AHI_LANDING_BUCKET and the other outputs of infra/template.yaml."
        )
    return settings.landing_bucket


def open_index(settings: Settings) -> Index:
    """The index and its catalog; looking at it must not make one."""
    from ahi.index.store import Index

    if settings.catalog.startswith("sqlite") and not (settings.index_dir / "catalog.sqlite").exists():
        fail(f"Nothing has run in {settings.home} yet. Start the stack with `make up`, then send: `ahi send PATH`.")
    return Index(settings.index_dir, settings.catalog, datastore_id=settings.datastore_id)


@contextmanager
def aws_errors(settings: Settings, *, destination: str = "") -> Iterator[None]:
    """Turn what goes wrong on the way to AWS into one sentence.

    Args:
        settings: Whose landing bucket is asked.
        destination: Bucket of the caller's choice that is asked instead.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from ahi.aws import error_code

    try:
        yield
    except ClientError as error:
        code, where = error_code(error), settings.landing_bucket
        if code in {"NoSuchBucket", "404"}:
            if destination:
                fail(f"The bucket {destination} does not exist at this endpoint. Make it first, or name another.")
            fail(f"The landing bucket {where} does not exist at this endpoint. Is AHI_LANDING_BUCKET of another stack?")
        fail(f"AWS refused: {code}. Credentials and region come from the usual AWS_* variables.")
    except BotoCoreError as error:
        endpoint = getattr(error, "kwargs", {}).get("endpoint_url")
        if endpoint:
            fail(f"Nothing answers at {endpoint}. Start the stack with `make up`.")
        fail(f"AWS cannot be reached: {type(error).__name__}. Set region and credentials, or start a stack: `make up`.")


@contextmanager
def permanent_errors() -> Iterator[None]:
    """Turn what a person has to mend into one sentence."""
    from ahi.errors import PermanentError

    try:
        yield
    except PermanentError as error:
        fail(f"{error}.")


def connect() -> Aws:
    """Clients of AWS or of the local stack."""
    from ahi.aws import Aws

    return Aws()


@contextmanager
def progress(label: str, total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, or nothing; gives the function that moves it on by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def plain(value: object) -> object:
    """A value as JSON can hold it."""
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    return str(value)


def as_json_value(value: object) -> object:
    """A value with what JSON has no word for as text, at any depth: strict readers refuse NaN and Infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {_as_json_key(key): as_json_value(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json_value(one) for one in value]
    return value


def _as_json_key(key: object) -> str | int | None:
    """A key as JSON can hold it: those of a MAP may be of any type."""
    return key if key is None or isinstance(key, (str, int)) else str(plain(as_json_value(key)))


def to_json(value: object, indent: int | None = None) -> str:
    """A value as JSON that any reader takes."""
    return json.dumps(as_json_value(value), default=plain, indent=indent, ensure_ascii=False, allow_nan=False)


def print_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(to_json(value, indent=2))


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table as CSV; lists and structs are JSON inside their field."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        nested = (to_json(v) if isinstance(v, (list, tuple, dict)) else v for v in row)
        writer.writerow(["" if value is None else value for value in nested])


def refuse_two_forms(*, as_json: bool, as_csv: bool) -> None:
    """Complain when both JSON and CSV are asked for, before any work is done."""
    if as_json and as_csv:
        fail("--json and --csv are two forms of one answer: choose one.")


def print_answer(
    answer: QueryResult,
    *,
    as_json: bool,
    as_csv: bool,
    row: str = "row",
    for_eyes: Callable[[tuple[object, ...]], Sequence[object]] = tuple,
) -> None:
    """Print the answer of a query as JSON or CSV, or the first rows of it as a table.

    Args:
        answer: The answer.
        as_json: Print JSON.
        as_csv: Print CSV.
        row: What a row of it is called.
        for_eyes: Makes a row readable in the table.
    """
    if as_json:
        print_json(answer.dicts())
    elif as_csv:
        print_csv(answer.columns, answer.rows)
    else:
        print_table(answer.columns, [for_eyes(one) for one in answer.rows[:SHOWN_ROWS]])
        rest = len(answer.rows) - SHOWN_ROWS
        hidden = f", the last {rest:,} not shown: --csv gives all" if rest > 0 else ""
        typer.echo(counted(len(answer.rows), row) + hidden)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table for a person; one block of lines for each row where a table would have to break words."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    out = console()
    cells = [[shown(value) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    needed = 0
    for number, column in enumerate(columns):
        figures = rows and all(isinstance(row[number], (int, float)) or row[number] is None for row in rows)
        texts = [column, *(row[number] for row in cells)]
        word = max(cell_len(part) for text in texts for part in text.split() or [""])
        whole = max(cell_len(line) for text in texts for line in text.splitlines() or [""])
        # What has no space to break at keeps its width; rich would take it from every column alike.
        table.add_column(
            Text(column), justify="right" if figures else "left", overflow="fold", no_wrap=word == whole, min_width=word
        )
        needed += word + 2
    if needed > out.width and cells:
        print_blocks(columns, cells, title=title)
        return
    for row in cells:
        table.add_row(*map(Text, row))
    out.print(table)


def print_blocks(columns: Sequence[str], cells: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print each row as a block with one line for each column."""
    if title:
        typer.echo(title)
    for number, row in enumerate(cells, 1):
        typer.echo(f"-[ {number} ]-")
        for column, text in zip(columns, row, strict=True):
            typer.echo((f"{column}: " if column else "") + text.replace("\n", "\n  "))
    typer.echo()


def counted(number: int, one: str, many: str = "") -> str:
    """A number and its noun, whose plural ends in s unless given."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def shown(value: object) -> str:
    """A value for a person's eyes. What a terminal would take for a command is shown by its escape."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)
