"""What one process works with: settings, clients, index. Belongs here: putting them together, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ahi.aws import Aws
from ahi.index.store import Index

if TYPE_CHECKING:
    from ahi.settings import Settings


@dataclass(frozen=True)
class Pipeline:
    """Handed to every function of the domain that reaches outside."""

    settings: Settings
    aws: Aws
    index: Index
    run_id: str | None = None
    """Dagster run on whose behalf we work, stamped on rows; None outside a run."""


def connect(settings: Settings, *, run_id: str | None = None) -> Pipeline:
    """Build a pipeline. Clients connect at first use; the index folder and catalog are made if they are missing."""
    index = Index(
        settings.index_dir,
        settings.catalog,
        compact_files=settings.compact_files,
        small_file_bytes=settings.small_file_bytes,
        grace_seconds=settings.grace_seconds,
        datastore_id=settings.datastore_id,
    )
    return Pipeline(settings, Aws(), index, run_id)
