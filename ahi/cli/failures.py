"""`ahi failures`: what did not go through. Belongs here: asking the ledger and the quarantine, and printing."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    import sqlalchemy as sa

OBJECT = "object"


@dataclass(frozen=True)
class Failed:
    """One object or item that did not go through."""

    what: str
    """`object`, or the queue that an item in quarantine came by."""
    code: str
    reason: str
    advice: str
    where: str
    """S3 URI of the object, or the lake key and line where the item lies."""
    file: str
    """The file of this machine that it was, if `ahi send` sent it from here."""
    since: dt.datetime


def list_failures(engine: sa.Engine, home: Path) -> list[Failed]:
    """Failed objects and quarantined items, oldest first.

    Args:
        engine: Of the catalog.
        home: AHI_HOME, where `ahi send` keeps which file became which key.
    """
    import sqlalchemy as sa

    from ahi.index.catalog import ObjectState, objects, quarantine

    sent = _receipts(home)
    failed = sa.select(objects).where(objects.c.state == ObjectState.FAILED).order_by(objects.c.state_since)
    held = sa.select(quarantine).order_by(quarantine.c.first_seen)
    with engine.connect() as connection:
        from_ledger = [
            Failed(OBJECT, row.reason_code or "", row.reason_text or "", _advice(row.reason_code),
                   f"s3://{row.bucket}/{row.key}", sent.get(row.key, ""), row.state_since)
            for row in connection.execute(failed)
        ]  # fmt: skip
        from_quarantine = [
            Failed(row.source, row.reason_code, row.reason_text, _advice(row.reason_code),
                   row.evidence, "", row.first_seen)
            for row in connection.execute(held)
        ]  # fmt: skip
    return from_ledger + from_quarantine


def _advice(code: str | None) -> str:
    from ahi.reasons import ADVICE, Reason

    return ADVICE[Reason(code)] if code and code in Reason.__members__ else ""


def _near(file: str) -> str:
    from pathlib import Path

    return str(Path(file).relative_to(Path.cwd())) if file and Path(file).is_relative_to(Path.cwd()) else file


def _receipts(home: Path) -> dict[str, str]:
    sent = {}
    for receipt in (home / "uploads").glob("*.csv"):
        with receipt.open(newline="") as lines:
            sent.update({row["key"]: row["file"] for row in csv.DictReader(lines)})
    return sent


def failures(
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every field as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every field as JSON.")] = False,
) -> None:
    """List what did not go through: what, why, what to do, and where it is.

    Objects that failed, and messages that nobody could read. Nothing is deleted: both lie where the list says.

    Examples: `ahi failures`, `ahi failures --csv > failures.csv`
    """
    common.refuse_two_forms(as_json=as_json, as_csv=as_csv)
    settings = common.open_settings()
    found = list_failures(common.open_index(settings).engine, settings.home)
    if as_json:
        common.print_json([asdict(item) for item in found])
    elif as_csv:
        names = [field.name for field in fields(Failed)]
        common.print_csv(names, [[getattr(item, name) for name in names] for item in found])
    elif not found:
        typer.echo("Nothing has failed.")
    else:
        objects = [(item.code, item.reason, _near(item.file) or item.where) for item in found if item.what == OBJECT]
        items = [(item.code, item.reason, item.what, item.where) for item in found if item.what != OBJECT]
        if objects:
            common.print_table(("code", "why", "where"), objects, title="Objects that failed")
        if items:
            title = "Messages and documents that could not be used"
            common.print_table(("code", "why", "came by", "where"), items, title=title)
        for code in sorted({item.code for item in found}):
            typer.echo(f"{code}: {_advice(code)}")
