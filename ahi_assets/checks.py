"""Asset checks: the promises, asked as questions. The counting is `ahi.closure` and SQL on the published index."""

import dagster as dg

from ahi.closure import closure, overdue, overdue_batches
from ahi.freshness import percentiles
from ahi.pipeline import Pipeline
from ahi_assets.dicom_objects import dicom_objects
from ahi_assets.published_index import published_index

LISTED = 25
"""Ids that a check names; the whole list is a query away."""


@dg.asset_check(asset=dicom_objects)
def closure_of_objects(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """Landed = imported + failed with a reason + set aside + in flight, and nothing is on its way for too long.

    What a pending inbox batch announces has not landed in the ledger yet, so an old one fails the check as well.
    """
    counted = closure(pipeline.index.engine)
    late = overdue(pipeline.index.engine, after_seconds=pipeline.settings.overdue_seconds)
    stuck = overdue_batches(pipeline.index.engine, after_seconds=pipeline.settings.overdue_seconds)
    named = [f"- `{item.sop_instance_uid or item.object_id}` {item.state}" for item in late]
    missing = "\n".join((named + [f"- inbox batch `{batch_id}`" for batch_id in stuck])[:LISTED])
    return dg.AssetCheckResult(
        passed=counted.closes and not late and not stuck,
        metadata={
            "landed": counted.landed,
            "imported": counted.imported,
            "failed": counted.failed,
            "set_aside": counted.set_aside,
            "in_flight": counted.in_flight,
            "without_reason": counted.unexplained,
            "not_indexed_yet": counted.not_indexed,
            "unreadable": counted.unreadable,
            "pending_batches": counted.pending_batches,
            "overdue": len(late),
            "overdue_batches": len(stuck),
            "missing": dg.MetadataValue.md(missing or "none"),
        },
    )


def _none_of(pipeline: Pipeline, sql: str) -> dg.AssetCheckResult:
    """Passes when a query on the published index finds nothing; else names what it finds."""
    rows = pipeline.index.query(sql).rows
    named = "\n".join(f"- `{' '.join(map(str, row))}`" for row in rows[:LISTED])
    return dg.AssetCheckResult(
        passed=not rows, metadata={"found": len(rows), "which": dg.MetadataValue.md(named or "none")}
    )


@dg.asset_check(asset="instances")
def no_orphan_instances(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """Every instance has its series, and every series that counts instances has them."""
    return _none_of(
        pipeline,
        """
        SELECT image_set_id, 'instances without series' AS what
        FROM instances_all ANTI JOIN series_all USING (image_set_id)
        UNION
        SELECT image_set_id, 'series without its instances'
        FROM series_all ANTI JOIN instances_all USING (image_set_id) WHERE n_instances > 0
        LIMIT 1000
        """,
    )


@dg.asset_check(asset="instances")
def one_current_row_per_key(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """No image set, study, patient or SOP instance of an image set has two current rows."""
    return _none_of(
        pipeline,
        """
        SELECT 'instances' AS what, SOPInstanceUID AS key FROM instances_all
        GROUP BY datastore_id, image_set_id, SOPInstanceUID HAVING count(*) > 1
        UNION ALL
        SELECT 'series', image_set_id FROM series_all GROUP BY datastore_id, image_set_id HAVING count(*) > 1
        UNION ALL
        SELECT 'studies', StudyInstanceUID FROM studies GROUP BY datastore_id, StudyInstanceUID HAVING count(*) > 1
        UNION ALL
        SELECT 'patients', patient_key FROM patients WHERE patient_key IS NOT NULL
        GROUP BY patient_key HAVING count(*) > 1
        LIMIT 1000
        """,
    )


@dg.asset_check(asset=published_index)
def freshness_of_index(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """95 of 100 objects that arrived in the last day were queryable in time."""
    hops = percentiles(pipeline.index.engine)
    whole = next((hop for hop in hops if hop.name == "arrival to queryable"), None)
    limit = pipeline.settings.freshness_seconds
    metadata: dict[str, float] = {"limit_seconds": limit, "objects": whole.count if whole else 0}
    for hop in hops:
        metadata |= {f"{hop.name} p50 s": hop.p50, f"{hop.name} p95 s": hop.p95, f"{hop.name} p99 s": hop.p99}
    return dg.AssetCheckResult(
        passed=whole is None or whole.p95 <= limit, severity=dg.AssetCheckSeverity.WARN, metadata=metadata
    )


ALL_CHECKS = [closure_of_objects, no_orphan_instances, one_current_row_per_key, freshness_of_index]
