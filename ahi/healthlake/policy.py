"""What errors of a batch mean for its chain. Belongs here: counting them, and stopping a chain by its policy.

Does not belong here: finding them (`ahi.healthlake.results`, `ahi.healthlake.freeze`).

A line that we refuse is as little in HealthLake as one that HealthLake refuses, so both count, once the rest of their
batch is in. What has been sent again since does not count any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from ahi.clock import now
from ahi.healthlake import audit
from ahi.healthlake.audit import Entry, What
from ahi.healthlake.failures import Stage, open_lines
from ahi.index.catalog_fhir import Policy, fhir_imports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def judge(connection: sa.Connection, batch: Mapping[str, Any] | sa.RowMapping, n_failed: int = 0) -> None:
    """Stop the chain of a settled batch if its policy says so.

    Args:
        connection: In a transaction.
        batch: Its row, with `import_id`, `batch_id` and `n_sent`.
        n_failed: Resources that were sent and are not in.
    """
    terms = connection.execute(
        sa.select(fhir_imports.c.policy, fhir_imports.c.stop_ratio).where(
            fhir_imports.c.import_id == batch["import_id"]
        )
    ).one()
    refused = open_lines(connection, batch["batch_id"], Stage.VALIDATION)
    errors, total = n_failed + refused, (batch["n_sent"] or 0) + refused
    limit = {Policy.STOP: 0.0, Policy.STOP_IF_RATIO: terms.stop_ratio}.get(terms.policy)
    if limit is not None and errors / max(1, total) > limit:
        stop(connection, batch, f"{errors} of {total} resources of a batch failed")


def stop(connection: sa.Connection, batch: Mapping[str, Any] | sa.RowMapping, reason: str) -> None:
    """Start nothing more of a batch's chain until a person continues it."""
    running = sa.and_(fhir_imports.c.import_id == batch["import_id"], fhir_imports.c.stopped_at.is_(None))
    change = fhir_imports.update().where(running).values(stopped_at=now(), stopped_reason=reason)
    if connection.execute(change).rowcount:
        audit.note(connection, [Entry(What.STOPPED, batch_id=batch["batch_id"], note=reason)])
