"""What runs tell of documents, tables and publications, be it as their own assets or of those of others.

Belongs here: metadata and materializations that several assets share. Does not belong here: an asset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ahi.closure import rows_of_day, rows_shown
from ahi.documents import PARSER_VERSION
from ahi.index import catalog
from ahi.index.registry import SCHEMA_VERSION, TABLES
from ahi_assets.common import counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

    from ahi.index.publish import Publication
    from ahi.indexing import IndexReport
    from ahi.pipeline import Pipeline

CORE = ("patients", "studies", "series", "instances")
"""Tables in which every image set has rows. What every run does depends on these only: Dagster asks its storage twice
for each asset that a step depends on, and with thirty of them a run cost half as much again."""

CODE_VERSION = f"{SCHEMA_VERSION}/{PARSER_VERSION}"
"""Of everything that is made from documents."""
CODE = "dagster/code_version"


def code_of_day(context: dg.AssetExecutionContext, asset: str, day: str, present: str) -> str:
    """Code version to state of a day that gets rows besides those it has: that of its last materialization, if any.

    With the present one, a day with rows of older code was no longer stale from the next batch on, and nobody was told
    to index it again. Only a run that makes all rows of the day anew states the present one.

    Args:
        context: Of the run.
        asset: An asset that each run which makes rows of the day materializes.
        day: The partition, `YYYY-MM-DD`.
        present: Version of the code that runs.
    """
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[day])
    records = context.instance.fetch_materializations(wanted, limit=1).records
    last = records[0].asset_materialization if records else None
    return ((last.tags if last else None) or {}).get(CODE) or present


def table_metadata(report: IndexReport, name: str, shown: Mapping[str, int]) -> dict[str, int]:
    """What indexing says of one table.

    Args:
        report: What was indexed.
        name: Name of the asset.
        shown: Rows that the index shows now, by table (`ahi.closure.rows_shown`).
    """
    numbers = {"documents": report.documents, "deleted": report.deleted, "stale": report.stale}
    numbers |= {"quarantined": report.quarantined, "cast_failures": report.cast_failures[name]}
    said = counts(numbers) | counts(report.modalities, "modality: ")
    said |= {"rows_written": report.rows.get(name, 0)} if name in TABLES else {}
    return said | ({"dagster/row_count": shown[name]} if name in shown else {})


def publication_metadata(pipeline: Pipeline, publication: Publication) -> dict[str, int | str | bool]:
    """What a publication says of the published index."""
    rows = rows_shown(pipeline.index.engine)
    return {
        "seq": publication.seq,
        "dagster/uri": str(pipeline.index.path),
        "is_new": publication.is_new,
        "dagster/row_count": rows["instances"],
        **counts(rows, "rows: "),
    }


def tell(
    context: dg.AssetExecutionContext,
    asset: str,
    metadata: Mapping[str, dg.RawMetadataValue],
    *,
    day: str | None = None,
    code: str | None = None,
) -> None:
    """Tell that an asset which this run does not name was brought up to date.

    Args:
        context: Of the run.
        asset: Its name.
        metadata: What is said of it.
        day: Its partition, `YYYY-MM-DD`.
        code: Version of the code that made it.
    """
    tags = {CODE: code} if code else None
    context.log_event(dg.AssetMaterialization(asset, partition=day, metadata=dict(metadata), tags=tags))


def tell_of_day(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    asset: str,
    table: sa.Table,
    day: str,
    numbers: Mapping[str, int],
) -> None:
    """Tell of an arrival day of an asset whose rows are in a table of the catalog, unless there is nothing to tell."""
    if said := counts(numbers):
        rows = rows_of_day(pipeline.index.engine, table, [day])
        tell(context, asset, said | {"dagster/partition_row_count": rows}, day=day)


def tell_of_documents(
    context: dg.AssetExecutionContext, pipeline: Pipeline, day: str, looked: Mapping[str, int], report: IndexReport
) -> None:
    """Tell of image sets that were looked at, of the tables that all have rows in, and of the others with new rows.

    Args:
        context: Of the run.
        pipeline: The pipeline.
        day: Partition of all of them, `YYYY-MM-DD`.
        looked: Counts of `ahi.image_sets.sight`.
        report: What was indexed.
    """
    tell_of_day(context, pipeline, "image_sets", catalog.documents, day, looked)
    if report.documents or report.deleted or report.quarantined:
        shown, code = rows_shown(pipeline.index.engine), code_of_day(context, CORE[-1], day, CODE_VERSION)
        for name in dict.fromkeys([*CORE, *(name for name, rows in report.rows.items() if rows)]):
            tell(context, name, table_metadata(report, name, shown), day=day, code=code)
