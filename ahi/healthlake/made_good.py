"""Which batches need nobody's care any more, although they did not go in as they were.

Belongs here: conditions on rows of `fhir_batches`. Does not belong here: the alarms that ask for them
(`ahi.healthlake.audit`, `control`, `sent`).
"""

from __future__ import annotations

import sqlalchemy as sa

from ahi.index.catalog_fhir import BatchState, fhir_audit, fhir_batches, fhir_files, fhir_imports, fhir_parts, fhir_sent

INDEX = "index"
DISMISSED = "dismissed"


def is_dismissed() -> sa.ColumnElement[bool]:
    """Whether a person let it be, after it ended last."""
    batch, table = fhir_batches, fhir_audit
    own = sa.and_(table.c.batch_id == batch.c.batch_id, table.c.what == DISMISSED)
    return sa.exists().where(own, table.c.at >= batch.c.settled_at).correlate(batch)


def is_superseded() -> sa.ColumnElement[bool]:
    """Whether other batches carry all that it carried: later ones of the index, or a later import of its files."""
    batch, newer = fhir_batches, fhir_files.alias("newer")
    mine = sa.and_(fhir_imports.c.import_id == batch.c.import_id, fhir_imports.c.origin == INDEX)
    of_index = sa.exists().where(mine).correlate(batch)
    left = sa.exists().where(fhir_sent.c.batch_id == batch.c.batch_id).correlate(batch)
    # What has changed since comes with another version, under the same key.
    same = sa.and_(newer.c.bucket == fhir_files.c.bucket, newer.c.key == fhir_files.c.key)
    later = sa.and_(newer.c.import_id != batch.c.import_id, newer.c.planned_at >= batch.c.settled_at)
    imported = sa.exists().where(same, later).correlate(batch, fhir_files)
    parts = sa.and_(fhir_parts.c.batch_id == batch.c.batch_id, fhir_files.c.file_id == fhir_parts.c.file_id)
    lacking = sa.exists().where(parts, sa.not_(imported)).correlate(batch)
    imported_again = sa.and_(batch.c.state == BatchState.FAILED, sa.not_(of_index), sa.not_(lacking))
    return sa.or_(sa.and_(of_index, sa.not_(left)), imported_again)
