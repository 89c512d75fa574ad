"""`ahi proof`: that nothing of a deleted study, series, instance or image set is left. The looking is `ahi.proof`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ahi.cli import common


def proof(
    uid: Annotated[str, typer.Argument(help="StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID or image set id.")],
    with_lake: Annotated[bool, typer.Option("--lake/--no-lake", help="Read every object of the lake bucket.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print every place as JSON.")] = False,
) -> None:
    """Show every place that could hold a UID, and what holds it: zero everywhere after a deletion was erased.

    Looks into the catalog, the published index with its history, each Parquet file by itself (retired ones and tiers
    too), and the lake bucket: kept documents, inbox batches, job outputs. Ends with 1 when something is left.

    Examples: `ahi proof 1.2.840.113619.2.55`, `ahi proof --no-lake --json 1.2.840.113619.2.55`
    """
    from ahi.patients import known_secret
    from ahi.pipeline import connect
    from ahi.proof import UNREADABLE, prove

    if not uid.strip():
        common.fail("An empty UID is everywhere: give a UID or the id of an image set.")
    settings = common.open_settings()
    index = common.open_index(settings)
    if with_lake:
        common.landing_bucket(settings)
    with common.aws_errors(settings):
        pipeline = connect(settings) if with_lake else None
        places = prove(index, uid.strip(), secret=known_secret(index, settings), pipeline=pipeline)
    left = [place for place in places if place.n and place.counts]
    if as_json:
        common.print_json([asdict(place) for place in places])
    else:
        unread = [place for place in places if place.note == UNREADABLE]
        shown = [place for place in places if place.n or place.kind != "file" or place in unread]
        common.print_table(("place", "", "holds", "note"), [(one.kind, one.name, one.n, one.note) for one in shown])
        files = sum(place.kind == "file" for place in places)
        typer.echo(f"{common.counted(files, 'file')} read one by one; those without the UID are not listed.")
        if unread:
            typer.echo(
                f"{common.counted(len(unread), 'file')} could not be read, only searched as bytes: see the notes."
            )
        typer.echo(f"{common.counted(len(left), 'place')} hold it." if left else "Nothing is left.")
    if left:
        raise typer.Exit(1)
