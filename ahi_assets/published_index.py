"""Stage 5: what analysts open, and its upkeep. The work is `ahi.index`."""

import dagster as dg

from ahi.aws import in_words
from ahi.closure import live_files
from ahi.erasure import erase_deleted
from ahi.index import catalog
from ahi.overview import overview
from ahi.pipeline import Pipeline
from ahi_assets.columns import VIEWS, catalog_schema, described, lineage_by_name, view_schema
from ahi_assets.common import OWNERS, SERVICE_RETRY, schemas
from ahi_assets.dicom_objects import dicom_objects
from ahi_assets.image_sets import index_tables
from ahi_assets.import_jobs import import_results
from ahi_assets.pictures import paired, stacked
from ahi_assets.told import CORE, publication_metadata

INDEX_INFO, _FILES = view_schema("index_info"), catalog_schema(catalog.files)
_FRESHNESS = dg.TableSchema(
    [
        dg.TableColumn(name, "DOUBLE" if name.endswith("_s") else "VARCHAR", text)
        for name, text in VIEWS["freshness"].columns.items()
    ]
)


@dg.asset(
    deps=[dicom_objects, import_results, *CORE],
    group_name="index",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    retry_policy=SERVICE_RETRY,
    metadata={
        **described("index_info", INDEX_INFO, lineage_by_name(INDEX_INFO, schemas([index_tables]))),
        "views": dg.MetadataValue.table(
            [dg.TableRecord({"view": view.name, "shows": view.comment}) for view in VIEWS.values()]
        ),
    },
)
def published_index(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """`index.duckdb`: views over the live Parquet files, swapped whole, with the ledger beside them."""
    publication = pipeline.index.publish()
    # After it, so that analysts do not wait; they see the merged files in the next one.
    try:
        merged: int | str = pipeline.index.compact_batches().files_in
    except Exception as error:  # noqa: BLE001 - what is published is published; the upkeep meets it too, and fails
        merged = in_words(error)
        context.log.warning("Files of batches could not be merged, which the upkeep tries again: %s", merged)
    return dg.MaterializeResult(
        metadata=publication_metadata(pipeline, publication) | {"files of batches merged": merged}
    )


@dg.asset(
    deps=[published_index, import_results],
    group_name="upkeep",
    kinds={"duckdb"},
    owners=OWNERS,
    metadata=described("freshness", _FRESHNESS, lineage_by_name(_FRESHNESS, schemas([import_results]))),
)
def index_overview(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """Pictures of the index: arrivals by day and modality, seconds from hop to hop, casts that failed."""
    seen = overview(pipeline.index)
    return dg.MaterializeResult(
        metadata={
            "arrivals": stacked("Objects by arrival day and modality", seen.arrivals),
            "freshness": paired(
                "Seconds from hop to hop, objects of the last day",
                {hop.name: (hop.p50, hop.p95) for hop in seen.hops},
                ("p50", "p95"),
            ),
            "cast failures": stacked(
                "Values that did not fit their column, by keyword",
                {name: {"": number} for name, number in seen.cast_failures.items()},
            ),
        }
    )


@dg.asset(
    deps=[published_index],
    group_name="upkeep",
    kinds={"parquet"},
    owners=OWNERS,
    pool="index-upkeep",
    metadata=described(
        "files",
        _FILES,
        lineage_by_name(_FILES, {"published_index": INDEX_INFO}, path="files_by_table", n_rows="rows_by_table"),
    ),
)
def compacted_index(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """Small files merged, what was deleted erased in time, retired files removed after their grace; then published."""
    merged = pipeline.index.compact()
    erased = erase_deleted(pipeline)
    # A retired file is removed only when a publication without it has been out for the grace period.
    pipeline.index.publish()
    expired = pipeline.index.expire()
    numbers = {f"merged: {name}": value for name, value in vars(merged).items() if isinstance(value, int)}
    numbers |= {f"erased: {name}": value for name, value in vars(erased).items()}
    numbers |= {f"expired: {name}": value for name, value in vars(expired).items() if isinstance(value, int)}
    return dg.MaterializeResult(metadata={**numbers, "dagster/row_count": live_files(pipeline.index.engine)})
