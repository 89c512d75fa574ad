"""Stage 1: what landed. The asset and nothing else; the work is `ahi.uploads`."""

import dagster as dg

from ahi import uploads
from ahi.dicom.headers import PARSER_VERSION
from ahi.header_keys import remake_header_keys
from ahi.inbox import Queue
from ahi.index import catalog
from ahi.index.registry import SCHEMA_VERSION
from ahi.pipeline import Pipeline
from ahi_assets.columns import catalog_schema, described, lineage_of_headers, view_schema
from ahi_assets.common import OWNERS, BatchConfig, batches, counts, day_rows, domain_errors, stage
from ahi_assets.told import CODE, code_of_day

_LANDED = catalog_schema(catalog.objects, "bucket", "key", "version_id", "etag", "size_bytes", "landed_at")

landing_objects = dg.AssetSpec(
    "landing_objects",
    group_name="ingest",
    description="DICOM as its senders put it into the landing bucket.",
    kinds={"s3", "dicom"},
    owners=OWNERS,
    metadata=described("landing_objects", _LANDED),
)

_CODE = f"{SCHEMA_VERSION}/{PARSER_VERSION}"


@stage(
    "headers",
    [landing_objects],
    {"s3", "dicom", "parquet"},
    view_schema("headers"),
    lineage=lineage_of_headers(_LANDED),
    code_version=_CODE,
)
def dicom_objects(
    context: dg.AssetExecutionContext, config: BatchConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """A ledger row for each uploaded object and a header row for each that is DICOM, read by ranged GET.

    Launched without a batch, it also gives the header rows of the day's objects the present patient key, as after a
    change of its secret; a header is not kept, so its other values stay as they were read, and the day stays stale.
    """
    remade = 0
    with domain_errors():
        reports = [uploads.process(pipeline, batch) for batch in batches(context, pipeline, config, Queue.UPLOADS)]
        if not config.batch:
            remade = remake_header_keys(pipeline, context.partition_keys)
    fresh = [report for report in reports if not report.already_committed]
    metadata = {
        "batches": len(reports),
        "batches_already_committed": len(reports) - len(fresh),
        "messages": sum(report.messages for report in reports),
        "objects": sum(report.objects for report in fresh),
        **day_rows(context, pipeline, catalog.objects),
        "duplicates": sum(report.duplicates for report in fresh),
        "superseded": sum(report.superseded for report in fresh),
        "quarantined_messages": sum(report.quarantined for report in fresh),
        "bytes_landed": sum(report.bytes_landed for report in fresh),
        "bytes_read": sum(report.bytes_read for report in fresh),
        **counts({"header_keys_remade": remade}),
    }
    for report in fresh:
        for name, numbers in (("state", report.states), ("reason", report.reasons), ("modality", report.modalities)):
            for key, value in counts(numbers, f"{name}: ").items():
                metadata[key] = metadata.get(key, 0) + value
    codes = (code_of_day(context, "dicom_objects", day, _CODE) for day in context.partition_keys)
    # Of several days, one that is not read by the present code.
    code = next((code for code in codes if code != _CODE), _CODE)
    return dg.MaterializeResult(metadata=metadata, tags={CODE: code})
