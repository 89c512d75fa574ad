"""`ahi query`: SQL over the published index. Belongs here: printing answers. The asking is `ahi.index.query`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ahi.cli import common
from ahi.index.columns import Tier


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT, DESCRIBE or SHOW; `-` reads it from standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as a JSON list of objects.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows as CSV.")] = False,
    tier: Annotated[Tier, typer.Option(help="Which tier to ask; the lower ones show less.")] = Tier.IDENTIFIED,
) -> None:
    """Ask the published index in SQL (DuckDB). It can only be read.

    Views: patients, studies, series, instances, frames (current, primary, not deleted), headers, objects, closure,
    freshness, and more: `ahi schema` lists them, `ahi schema series` says what the columns of one are.

    Examples: `ahi query "SELECT Modality, count(*) FROM series GROUP BY ALL"`,
    `ahi query --csv "FROM studies" > studies.csv`

    DuckDB itself opens the same file: `index/index.duckdb` under AHI_HOME, or `index/tiers/deidentified/index.duckdb`.
    """
    from ahi.index.query import IndexQueryError
    from ahi.index.query import query as ask
    from ahi.index.tiers.build import tier_root

    common.refuse_two_forms(as_json=as_json, as_csv=as_csv)
    settings = common.open_settings()
    try:
        path = tier_root(settings.index_dir, tier) / "index.duckdb"
        answer = ask(path, sys.stdin.read() if sql == "-" else sql, tier=tier)
    except IndexQueryError as error:
        common.fail(str(error))
    common.print_answer(answer, as_json=as_json, as_csv=as_csv)
