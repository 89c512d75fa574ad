"""Looks at archives. The work is `ahi.archive.inventory`."""

import dagster as dg

from ahi.archive import archives, inventory
from ahi.index import catalog_archives
from ahi.pipeline import Pipeline
from ahi_assets.columns import catalog_schema, described
from ahi_assets.common import OWNERS, SERVICE_RETRY, domain_errors

LOOKS = catalog_schema(catalog_archives.archive_looks)


class ArchiveConfig(dg.Config):
    """Which archive."""

    archive: str | None = None
    """Its name, as `ahi archive list` shows it; none: every archive."""


@dg.asset(
    group_name="archives",
    kinds={"s3", "parquet"},
    owners=OWNERS,
    retry_policy=SERVICE_RETRY,
    pool="archive_planning",  # one at a time: a run may take long, and live ones keep their slots
    metadata=described("archive_looks", LOOKS),
)
def archive_inventory(config: ArchiveConfig, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """All keys of an archive, by S3 listing or S3 Inventory, and what was added, changed or vanished since before.

    Archives are entered by `ahi archive add`. A look that broke off goes on where it was.
    """
    with domain_errors():
        chosen = [archives.find(pipeline, config.archive)] if config.archive else archives.all_archives(pipeline)
        found = [inventory.look(pipeline, archive) for archive in chosen]
    counts = ("n_objects", "n_bytes", "n_added", "n_changed", "n_vanished")
    rows = [
        dg.TableRecord(
            {"archive": look.archive_id, "as_of": look.as_of.isoformat(timespec="minutes")}
            | {name: getattr(look, name) for name in counts}
        )
        for look in found
    ]
    metadata: dict[str, dg.RawMetadataValue] = {"dagster/row_count": sum(look.n_objects for look in found)}
    return dg.MaterializeResult(metadata=metadata | ({"looks": dg.MetadataValue.table(rows)} if rows else {}))
