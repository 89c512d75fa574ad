"""`ahi schema`: the tables and their columns. Belongs here: printing. What they are is `ahi.index.dictionary`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ahi.cli import common
from ahi.index.columns import Tier


def schema(
    table: Annotated[str | None, typer.Argument(help="One table; without it, the list of all.")] = None,
    tier: Annotated[Tier, typer.Option(help="Only what this tier shows.")] = Tier.IDENTIFIED,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print all as a page of Markdown.")] = False,
) -> None:
    """Say what the index holds: its tables, and of each column the type, the DICOM attribute and what it means.

    Needs no running stack.

    Examples: `ahi schema`, `ahi schema series`, `ahi schema instances --json`, `ahi schema --tier limited`
    """
    from ahi.index.dictionary import dictionary, markdown, only_above

    pages = dictionary(tier)
    if as_markdown:
        typer.echo(markdown(pages), nl=False)
        return
    if table is None:
        if as_json:
            common.print_json([asdict(page) for page in pages])
        else:
            shown = [(page.name, len(page.columns), page.description) for page in pages]
            common.print_table(("table", "columns", "what it shows"), shown)
        return
    page = next((page for page in pages if page.name == table), None)
    if page is None:
        if higher := only_above(tier, table):
            common.fail(higher)
        common.fail(f"There is no table {table}. There are: {', '.join(page.name for page in pages)}.")
    if as_json:
        common.print_json(asdict(page))
        return
    typer.echo(page.description)
    rows = [(one.name, one.duckdb_type, one.attribute, one.tier, one.description) for one in page.columns]
    common.print_table(("column", "type", "DICOM", "tier", "what it is"), rows)
