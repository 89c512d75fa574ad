"""Lines made from the index do not outlive what they tell of. Belongs here: deleting those of batches that are over.

Does not belong here: rows of the catalog (`ahi.healthlake.sent`), when a deletion is due (`ahi.erasure`), lines of
others: those are kept as long as the lake bucket's rule for `fhir/` says.

A batch of the index holds many studies, and all of it can be made again from the index. So its bytes are kept no
longer than the history of the index itself, whichever of its studies are deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from more_itertools import chunked

from ahi.clock import now
from ahi.healthlake import audit
from ahi.healthlake.audit import Entry
from ahi.healthlake.freeze import prefix_of, refused_key
from ahi.healthlake.sent import INDEX
from ahi.healthlake.service import SERVICE
from ahi.index import catalog
from ahi.index.catalog_fhir import fhir_batches, fhir_files, fhir_imports, fhir_parts

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

    from ahi.pipeline import Pipeline


MADE = ("fhir/made/", "fhir/corrected/")


def erase_lines(pipeline: Pipeline, before: dt.datetime) -> int:
    """Delete what batches of the index that ended before a moment left in S3. Returns how many batches.

    A killed run leaves the batch unmarked, and the next one goes on.
    """
    batch, table = fhir_batches, fhir_imports
    query = sa.select(batch.c.batch_id).join(table, table.c.import_id == batch.c.import_id)
    query = query.where(table.c.origin == INDEX, batch.c.settled_at <= before, batch.c.erased_at.is_(None))
    with pipeline.index.engine.connect() as connection:
        due = list(connection.execute(query.order_by(batch.c.batch_id)).scalars())
    for batch_id in due:
        with pipeline.index.engine.connect() as connection:
            prefixes = list(_prefixes(connection, pipeline.settings.lake_bucket, batch_id))
        for prefix in prefixes:
            _delete(pipeline, prefix)
        with pipeline.index.transaction() as connection:
            connection.execute(batch.update().where(batch.c.batch_id == batch_id).values(erased_at=now()))
            audit.note(connection, [Entry("lines erased", batch_id=batch_id)])
    _erase_unplanned(pipeline, before)
    return len(due)


def _erase_unplanned(pipeline: Pipeline, before: dt.datetime) -> None:
    """Delete sources of our own making that no batch has: a run was killed before it planned them."""
    s3, bucket, table = pipeline.aws.s3, pipeline.settings.lake_bucket, fhir_files
    for folder in MADE:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=folder):
            old = {entry["Key"] for entry in page.get("Versions", []) if entry["LastModified"] <= before}
            for some in chunked(sorted(old), 500):
                planned = sa.select(table.c.key).where(table.c.bucket == bucket, table.c.key.in_(some))
                with pipeline.index.engine.connect() as connection:
                    known = set(connection.execute(planned).scalars())
                for key in set(some) - known:
                    _delete(pipeline, key)


def _prefixes(connection: sa.Connection, bucket: str, batch_id: str) -> Iterator[str]:
    """Where lines of a batch, or HealthLake's answers about them, lie in the lake bucket."""
    yield prefix_of(batch_id)
    yield refused_key(batch_id, 0).rpartition("/")[0] + "/"
    made = sa.select(fhir_files.c.key).join(fhir_parts, fhir_parts.c.file_id == fhir_files.c.file_id).distinct()
    # Sources of our own making alone; corrected lines of a batch are the source of the next.
    ours = sa.and_(fhir_files.c.bucket == bucket, fhir_files.c.key.startswith("fhir/"))
    yield from connection.execute(made.where(fhir_parts.c.batch_id == batch_id, ours)).scalars()
    jobs, read = catalog.jobs, f"s3://{bucket}/{prefix_of(batch_id)}"
    folders = sa.select(jobs.c.output_folder).where(jobs.c.service == SERVICE, jobs.c.input_uri == read)
    for folder in connection.execute(folders.where(jobs.c.output_folder.is_not(None))).scalars():
        yield folder.removeprefix(f"s3://{bucket}/")


def _delete(pipeline: Pipeline, prefix: str) -> None:
    """Every version of the objects below a prefix, or with this key."""
    s3, bucket = pipeline.aws.s3, pipeline.settings.lake_bucket
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
