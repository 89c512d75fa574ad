"""Stage 5, for those who must not see everything: the tiers. The work is `ahi.index.tiers`."""

import dagster as dg

from ahi.index.tiers.refresh import refresh_tiers
from ahi.index.tiers.rules import LOWER
from ahi.pipeline import Pipeline
from ahi_assets.columns import described, lineage_by_name
from ahi_assets.common import OWNERS, counts
from ahi_assets.image_sets import TABLE_ASSETS
from ahi_assets.published_index import INDEX_INFO, published_index
from ahi_assets.told import CORE


@dg.asset(
    # Made from the live files of all tables, those that the index's own run does not depend on (see CORE) included.
    deps=[published_index, *(name for name in TABLE_ASSETS if name not in CORE)],
    group_name="index",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    pool="index-tiers",
    metadata={
        **described("index_info", INDEX_INFO, lineage_by_name(INDEX_INFO, {"published_index": INDEX_INFO})),
        "tiers": [tier.value for tier in LOWER],
    },
)
def published_tiers(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """The limited and the de-identified tier: files and an `index.duckdb` of their own, in step with the live index."""
    metadata: dict[str, int | bool] = {}
    for report in refresh_tiers(pipeline):
        metadata |= {
            f"{report.tier}: seq": report.seq,
            f"{report.tier}: commits behind": report.commits_behind,
            f"{report.tier}: is new": report.is_new,
            f"{report.tier}: files made": report.made,
            f"{report.tier}: files retired": report.retired,
            f"{report.tier}: files removed": report.removed,
            **counts(report.rows, f"{report.tier} rows: "),
        }
    return dg.MaterializeResult(metadata=metadata)
