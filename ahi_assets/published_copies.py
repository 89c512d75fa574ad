"""Stage 5, for those outside: daily copies of the index and its tiers. The work is `ahi.index.copies`."""

import dagster as dg

from ahi.index.copies import refresh_copies
from ahi.index.export import S3, ExportError
from ahi.pipeline import Pipeline
from ahi_assets.columns import described, lineage_by_name
from ahi_assets.common import OWNERS, SERVICE_RETRY, counts, domain_errors
from ahi_assets.published_index import INDEX_INFO, published_index
from ahi_assets.published_tiers import published_tiers

# Not the columns of `index_info`: a lower tier has fewer of them.
_COPIES = dg.TableSchema(
    [
        dg.TableColumn("tier", "VARCHAR", "Tier that was copied"),
        dg.TableColumn("place", "VARCHAR", "Folder or prefix of its newest copy"),
        dg.TableColumn("rows", "MAP(VARCHAR, BIGINT)", "Rows of each table in it"),
    ]
)


@dg.asset(
    deps=[published_index, published_tiers],
    group_name="index",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    pool="index-tiers",
    retry_policy=SERVICE_RETRY,
    metadata=described(
        "copies", _COPIES, lineage_by_name(_COPIES, {"published_index": INDEX_INFO}, rows="rows_by_table")
    ),
)
def published_copies(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """Plain Parquet files with checksums and an `index.duckdb` of each tier, where AHI_COPIES_TO says."""
    settings = pipeline.settings
    if not settings.copies_to:
        raise dg.Failure("AHI_COPIES_TO is not set: name a folder or s3://bucket/prefix.", allow_retries=False)
    s3 = pipeline.aws.s3 if settings.copies_to.startswith(S3) else None
    with domain_errors():
        try:
            copies = refresh_copies(
                settings.index_dir, settings.copies_tiers, settings.copies_to, s3=s3, run_id=pipeline.run_id
            )
        except ExportError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
    there = {copy.tier for copy in copies}
    metadata: dict[str, int | str] = {
        f"{tier}: not published": True for tier in settings.copies_tiers if tier not in there
    }
    for copy in copies:
        metadata |= {
            f"{copy.tier}: place": copy.place,
            f"{copy.tier}: is new": copy.is_new,
            **counts(copy.rows, f"{copy.tier} rows: "),
        }
    return dg.MaterializeResult(metadata=metadata)
