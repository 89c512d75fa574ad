"""Reconciliation. The work is `ahi.sweep`."""

import dagster as dg

from ahi import sweep as domain
from ahi.pipeline import Pipeline
from ahi_assets.columns import described
from ahi_assets.common import OWNERS, counts, domain_errors


class SweepConfig(dg.Config):
    """How hard a sweep looks."""

    thorough: bool = False
    """List the landing bucket and all image sets now, whatever their intervals, and give nothing time to arrive."""


# Without a retry policy: the sweep of the next minute is one, and a failed look has kept no other from its work.
@dg.asset(
    group_name="upkeep",
    kinds={"s3", "aws"},
    owners=OWNERS,
    metadata=described(
        "sweep_findings",
        dg.TableSchema(
            [
                dg.TableColumn("finding", "VARCHAR", "What no event told us; zeroes are left out."),
                dg.TableColumn("found", "BIGINT", "How many of them this sweep found."),
            ]
        ),
    ),
)
def sweep_findings(config: SweepConfig, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """What no event told us, put into the inbox. All zero on a calm system."""
    with domain_errors():
        found = domain.sweep(pipeline, thorough=config.thorough)
    named = counts(found)
    return dg.MaterializeResult(metadata={"found": sum(named.values()), "dagster/row_count": len(named), **named})
