"""`ahi export`: a copy of the index for elsewhere. Belongs here: options, summary. The work is `ahi.index.export`."""

from __future__ import annotations

from typing import Annotated

import typer

from ahi.cli import common
from ahi.index.columns import Tier


def export(
    destination: Annotated[str, typer.Argument(help="A new or empty folder, or s3://bucket/prefix.", metavar="DEST")],
    tier: Annotated[Tier, typer.Option(help="Which tier to copy.")] = Tier.IDENTIFIED,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was copied as JSON.")] = False,
) -> None:
    """Copy the index as plain Parquet with checksums and an `index.duckdb`, for a laptop or a bucket.

    The copy holds the current rows of primary image sets: one file for each table, sorted by study, for pandas, polars,
    pyarrow and DuckDB. It can be moved and zipped; README.txt in it says how to open it.

    Examples: `ahi export /tmp/index`, `ahi export s3://research/index --tier deidentified`
    """
    from dataclasses import asdict

    import duckdb

    from ahi.index.export import S3, ExportError
    from ahi.index.export import export as copy
    from ahi.index.query import IndexNotPublishedError, own_words
    from ahi.index.tiers.build import tier_root

    settings = common.open_settings()
    source = tier_root(settings.index_dir, tier) / "index.duckdb"
    s3 = common.connect().s3 if destination.startswith(S3) else None
    bucket = destination.removeprefix(S3).partition("/")[0] if s3 else ""
    try:
        with common.aws_errors(settings, destination=bucket):
            tables = copy(source, tier, destination, s3=s3)
    except (ExportError, IndexNotPublishedError) as error:
        common.fail(str(error))
    except duckdb.Error as error:
        common.fail(f"The copy cannot be made, and nothing of it is left: {own_words(error)}")
    if as_json:
        common.print_json([asdict(table) for table in tables])
        return
    common.print_table(("table", "rows", "bytes"), [(table.name, table.n_rows, table.n_bytes) for table in tables])
    typer.echo(f"{common.counted(len(tables), 'table')} of the {tier.value} tier in {destination}")
