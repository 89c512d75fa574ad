"""Reconciliation. The work is `ahi.sweep`."""

import dagster as dg

from ahi import sweep as domain
from ahi.pipeline import Pipeline
from ahi_assets.common import OWNERS, SERVICE_RETRY, counts, permanent_failures


class SweepConfig(dg.Config):
    """How hard a sweep looks."""

    thorough: bool = False
    """List the landing bucket and all image sets now, whatever their intervals, and give nothing time to arrive."""


@dg.asset(group_name="upkeep", kinds={"s3", "aws"}, owners=OWNERS, retry_policy=SERVICE_RETRY)
def sweep_findings(config: SweepConfig, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """What no event told us, put into the inbox. All zero on a calm system."""
    with permanent_failures():
        found = domain.sweep(pipeline, thorough=config.thorough)
    return dg.MaterializeResult(metadata={"found": sum(found.values()), **counts(found)})
