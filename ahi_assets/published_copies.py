"""Stage 5, for those outside: daily copies of the index and its tiers. The work is `ahi.index.copies`."""

import dagster as dg

from ahi.index.copies import refresh_copies
from ahi.index.export import S3
from ahi.pipeline import Pipeline
from ahi_assets.columns import described, lineage_by_name
from ahi_assets.common import OWNERS, SERVICE_RETRY, counts, domain_errors
from ahi_assets.published_index import INDEX_INFO, published_index
from ahi_assets.published_tiers import published_tiers


@dg.asset(
    deps=[published_index, published_tiers],
    group_name="index",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    pool="index-tiers",
    retry_policy=SERVICE_RETRY,
    metadata=described("index_info", INDEX_INFO, lineage_by_name(INDEX_INFO, {"published_index": INDEX_INFO})),
)
def published_copies(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """Plain Parquet files with checksums and an `index.duckdb` of each tier, where AHI_COPIES_TO says."""
    settings = pipeline.settings
    if not settings.copies_to:
        raise dg.Failure("AHI_COPIES_TO is not set: name a folder or s3://bucket/prefix.", allow_retries=False)
    s3 = pipeline.aws.s3 if settings.copies_to.startswith(S3) else None
    with domain_errors():
        copies = refresh_copies(settings.index_dir, settings.copies_tiers, settings.copies_to, s3=s3)
    metadata: dict[str, int | str] = {}
    for copy in copies:
        metadata |= {
            f"{copy.tier}: place": copy.place,
            f"{copy.tier}: is new": copy.is_new,
            **counts(copy.rows, f"{copy.tier} rows: "),
        }
    return dg.MaterializeResult(metadata=metadata)
