"""`ahi proof`: that nothing of a deleted study, series, instance or image set is left. The looking is `ahi.proof`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ahi.cli import common


def proof(
    uid: Annotated[str, typer.Argument(help="StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID or image set id.")],
    with_lake: Annotated[bool, typer.Option("--lake/--no-lake", help="Read every object of the lake bucket.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print every place as JSON.")] = False,
) -> None:
    """Show every place that could hold a UID, and what holds it: zero everywhere after a deletion was erased.

    A UID that a living object refers to is found in that object's rows for as long as it lives.

    Looks into the catalog, the published index with its history, each Parquet file by itself (retired ones, tiers and
    the folder of AHI_COPIES_TO too), and the lake bucket: kept documents, inbox batches, job outputs. Ends with 1 when
    something is left, or could not be read. An image set id, which says nothing of a patient, stays in inbox batches
    and job outputs until a lifecycle rule of the bucket removes them. The landing bucket and the staging bucket, whose
    copies expire after StagingDays of the template, are not looked at.

    Examples: `ahi proof 1.2.840.113619.2.55`, `ahi proof --no-lake --json 1.2.840.113619.2.55`
    """
    from ahi.index.export import S3
    from ahi.patients import known_secret
    from ahi.pipeline import connect
    from ahi.proof import prove

    if not uid.strip():
        common.fail("An empty UID is everywhere: give a UID or the id of an image set.")
    settings = common.open_settings()
    index = common.open_index(settings)
    if with_lake:
        common.landing_bucket(settings)
    in_bucket = settings.copies_to.startswith(S3)
    folder = Path(settings.copies_to).resolve() if settings.copies_to and not in_bucket else None
    copies = [folder] if folder and folder.is_dir() else []
    with common.aws_errors(settings):
        pipeline = connect(settings) if with_lake else None
        secret = known_secret(index, settings)
        places = prove(index, uid.strip(), secret=secret, pipeline=pipeline, copies=copies)
    left = [place for place in places if place.n and place.counts]
    unread = [place for place in places if place.unreadable]
    if as_json:
        common.print_json([asdict(place) for place in places])
    else:
        shown = [place for place in places if place.n or place.kind != "file" or place.unreadable]
        common.print_table(("place", "name", "holds", "note"), [(one.kind, one.name, one.n, one.note) for one in shown])
        files = sum(place.kind == "file" for place in places)
        typer.echo(f"{common.counted(files, 'file')} read one by one; those without the UID are not listed.")
    unread_ones = common.counted(len(unread), "file" if {one.kind for one in unread} <= {"file"} else "place")
    # Beside JSON, on stderr, is what it has no room for.
    if in_bucket:
        typer.echo(f"Copies in {settings.copies_to} are not searched: its lifecycle rule removes them.", err=as_json)
    if left:
        also = f"; {unread_ones} could not be read, see the notes" if unread else ""
        typer.echo(f"{common.counted(len(left), 'place')} hold it{also}.", err=as_json)
    elif unread:
        again = "run `ahi proof` again after the next upkeep"
        typer.echo(f"Nothing was found, but {unread_ones} could not be read: {again}.", err=as_json)
    elif not as_json:
        typer.echo("Nothing is left.")
    if left or unread:
        raise typer.Exit(1)
