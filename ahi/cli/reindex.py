"""`ahi reindex`: rows from the kept documents, as the present code reads them. Belongs here: days, progress, summary.

The work is `ahi.indexing.index_again`, as in the runs that the UI starts for a day.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    import sqlalchemy as sa


def days_of(engine: sa.Engine, first: str | None, last: str | None) -> list[str]:
    """Days on which documents were read, oldest first, between two days inclusive."""
    import sqlalchemy as sa

    from ahi.index.catalog import documents

    query = sa.select(documents.c.day).distinct().order_by(documents.c.day)
    if first:
        query = query.where(documents.c.day >= first)
    if last:
        query = query.where(documents.c.day <= last)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def reindex(
    first: Annotated[str | None, typer.Option("--from", metavar="DAY", help="First day, such as 2026-11-01.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Write the index's rows anew from the documents in the lake bucket, as after an upgrade that reads them better.

    Asks HealthImaging nothing. Analysts see the old rows until the new ones are there. Rows of headers, of any day, get
    the present patient key. In the Dagster UI the same is a backfill of `instances` over days, and for those keys one
    of `dicom_objects`.

    Examples: `ahi reindex`, `ahi reindex --from 2026-11-01 --to 2026-11-07`
    """
    from ahi.header_keys import remake_header_keys
    from ahi.indexing import IndexReport, index_again
    from ahi.pipeline import connect

    first, last = first and common.day(first), last and common.day(last)
    settings = common.open_settings()
    common.landing_bucket(settings)
    days = days_of(common.open_index(settings).engine, first, last)
    report = IndexReport()
    with common.aws_errors(settings):
        pipeline = connect(settings)
        with common.progress("days", len(days), shown=sys.stderr.isatty()) as advance:
            for day in days:
                report += index_again(pipeline, day)
                advance()
        # Rows of headers have no day of a document, and need not be read again but for their key.
        remade = remake_header_keys(pipeline)
        pipeline.index.publish()
    done = {"days": len(days), "documents": report.documents, "quarantined": report.quarantined}
    done["header_keys"] = remade
    done |= {"cast_failures": report.cast_failures.total(), **dict(report.rows)}
    if as_json:
        common.print_json(done)
    else:
        read, rows = common.counted(report.documents, "document"), common.counted(report.rows["instances"], "instance")
        typer.echo(f"{read} of {common.counted(len(days), 'day')} read again; {rows} written and published.")
