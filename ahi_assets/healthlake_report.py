"""How HealthLake's chain stands: checks, and a report with pictures. The counting is `ahi.healthlake`."""

import datetime as dt

import dagster as dg

from ahi.clock import now
from ahi.healthlake import audit, control, failures, sent
from ahi.healthlake.closure import study_closure
from ahi.index import catalog_fhir
from ahi.pipeline import Pipeline
from ahi_assets.columns import catalog_schema, described, lineage_by_name
from ahi_assets.common import OWNERS, domain_errors, schemas
from ahi_assets.fhir_resources import fhir_changes
from ahi_assets.healthlake_jobs import healthlake_import_results
from ahi_assets.pictures import paired, stacked

_AUDIT = catalog_schema(catalog_fhir.fhir_audit)

REMEMBERED_DAYS = 30
LISTED = 25
"""Ids that a check names; the whole list is a query or `ahi fhir` away."""


@dg.asset(
    deps=[healthlake_import_results],
    group_name="healthlake",
    kinds={"sql"},
    owners=OWNERS,
    metadata=described("fhir_audit", _AUDIT, lineage_by_name(_AUDIT, schemas([healthlake_import_results]))),
)
def healthlake_report(pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """From receipt to ingestion: how long each hop takes, what is late, what fails and why."""
    engine = pipeline.index.engine
    with domain_errors():
        late = audit.breaches(pipeline)
    hops, groups, chains = audit.hops(engine), failures.groups(engine, is_open=True), control.imports(engine)
    gaps = sorted(audit.gaps(engine))
    ends = {
        one.import_id: {
            "settled": one.settled,
            "failed": one.failed,
            "waiting": one.batches - one.settled - one.failed,
        }
        for one in chains[-10:]
    }
    why = {f"{g.resource_type or 'no type'} {g.stage}"[:24]: {g.diagnostic[:10]: float(g.n_lines)} for g in groups[:12]}
    metadata: dict[str, dg.RawMetadataValue] = {
        "breaches": len(late),
        "late": dg.MetadataValue.md(_listed([f"`{one.batch_id}` {one.business_days} business days" for one in late])),
        "open_failures": sum(group.n_lines for group in groups),
        "batches by chain": stacked("Batches by chain", ends),
        "hops": paired("Hops: p50 over p95", {hop.name: (hop.p50, hop.p95) for hop in hops}, ("p50", "p95")),
        "failures": dg.MetadataValue.md(
            _listed([f"{g.n_lines} {g.resource_type or '?'} ({g.stage}): {g.diagnostic}" for g in groups])
        ),
    }
    if why:
        metadata["failures by type"] = stacked("Open failures by type", why)
    if gaps:
        metadata |= {"gap p50 s": gaps[len(gaps) // 2], "gap p95 s": gaps[min(len(gaps) - 1, int(len(gaps) * 0.95))]}
    return dg.MaterializeResult(metadata=metadata)


@dg.asset_check(asset=fhir_changes)
def one_imaging_study_per_study(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """Every study has exactly one current ImagingStudy, or one on its way, and every one of ours has its study."""
    if not pipeline.settings.fhir_datastore_id or not pipeline.index.path.exists():
        return dg.AssetCheckResult(passed=True, metadata={"which": "no HealthLake data store"})
    found = study_closure(pipeline)
    named = [
        f"{what} `{name}`"
        for what, names in (
            *(("without ImagingStudy", found.missing), ("changed since", found.stale), ("failed", found.failed)),
            *(("without study", found.orphans), ("more than one ImagingStudy", found.duplicates)),
            ("not in", found.lacking),
        )
        for name in names[:LISTED]
    ]
    # A study that was published a moment ago is planned by the next run: missing ones are a warning, no error.
    wrong = found.failed or found.orphans or found.duplicates or found.lacking
    return dg.AssetCheckResult(
        passed=found.closes,
        severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
        metadata={
            "studies": found.studies,
            "current": found.current,
            "pending": found.pending,
            "missing": len(found.missing),
            "stale": len(found.stale),
            "failed": len(found.failed),
            "lacking": len(found.lacking),
            "orphans": len(found.orphans),
            "duplicates": len(found.duplicates),
            "elsewhere": found.elsewhere,
            "which": dg.MetadataValue.md(_listed(named)),
        },
    )


@dg.asset_check(asset=healthlake_import_results)
def ingested_in_time(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """Every batch was ingested within the business days that the law gives (42 CFR 422.119(b)(1)).

    What was late and is in is told of for a month; `ahi fhir late` has all.
    """
    since = now() - dt.timedelta(days=REMEMBERED_DAYS)
    with domain_errors():
        late = [one for one in audit.breaches(pipeline) if one.ingested_at is None or one.ingested_at >= since]
    named = [f"`{one.batch_id}` due {one.deadline:%Y-%m-%d %H:%M} UTC" for one in late]
    return dg.AssetCheckResult(
        passed=not late, metadata={"late": len(late), "which": dg.MetadataValue.md(_listed(named))}
    )


@dg.asset_check(asset=healthlake_import_results)
def chains_are_going(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """No chain is stopped, no batch has failed for good, no job stands still, and the counts of every job add up."""
    chains = control.imports(pipeline.index.engine)
    stopped = [f"`{one.import_id}` {one.stopped_reason}" for one in chains if one.stopped_reason]
    unequal = [f"`{batch_id}` {why}" for batch_id, why in control.unequal(pipeline.index.engine)]
    stale = [f"`{batch_id}` {why}" for batch_id, why in control.stale(pipeline)]
    failed = sent.failed_batches(pipeline.index.engine)
    return dg.AssetCheckResult(
        passed=not (stopped or unequal or failed or stale),
        metadata={
            "stopped": len(stopped),
            "stale": len(stale),
            "failed_batches": len(failed),
            "open_failures": sum(one.open_failures for one in chains),
            "which": dg.MetadataValue.md(_listed(stopped + stale + unequal + [f"`{one}` failed" for one in failed])),
        },
    )


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines[:LISTED]) or "none"


HEALTHLAKE_CHECKS = [one_imaging_study_per_study, ingested_in_time, chains_are_going]
