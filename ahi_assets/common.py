"""What every asset here shares: its partition, its config, how it retries, how it is decorated.

Belongs here: policy that assets name. Does not belong here: an asset.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from ahi import inbox
from ahi.aws import without_contents
from ahi.closure import rows_of_day
from ahi.errors import PermanentError
from ahi_assets.columns import described, lineage_by_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import sqlalchemy as sa

    from ahi.inbox import Batch, Queue
    from ahi.pipeline import Pipeline

ARRIVAL_DAY = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC", end_offset=1)
"""The UTC day on which a message was taken from its queue. The offset makes today a partition."""

ARCHIVE_SHARDS = dg.DynamicPartitionsDefinition(name="archive_shards")
"""A shard of an archive, which is one import job: `<archive_id>-<number>`. Planning adds them."""

FHIR_BATCHES = dg.DynamicPartitionsDefinition(name="fhir_batches")
"""A batch for HealthLake, which is one import job: `<import>-<number>`. The sensor of its queue adds them."""

OWNERS = ["team:imaging-platform"]

SERVICE_RETRY = dg.RetryPolicy(max_retries=4, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For steps that call AWS, on top of the SDK's own retries: about two minutes in all, spread out so that runs that
were throttled together do not come back together."""


class BatchConfig(dg.Config):
    """Which inbox batch a run processes."""

    batch: str | None = None
    """Id of one inbox batch; none: every batch of the partition's day."""

    pending_only: bool = False
    """Without a batch: only what no commit has consumed, as the sweep does each minute."""


def batches(context: dg.AssetExecutionContext, pipeline: Pipeline, config: BatchConfig, queue: Queue) -> list[Batch]:
    """The batch that the run names or, launched from the UI without one, those of its days."""
    if config.batch:
        return [inbox.find(pipeline, config.batch)]
    if config.pending_only:
        return inbox.pending(pipeline, queue, with_deferred=False)
    return [batch for day in context.partition_keys for batch in inbox.of_day(pipeline, queue, day)]


@contextmanager
def domain_errors() -> Iterator[None]:
    """Turn errors into what may stand in Dagster's event log, and fail without retries what a retry would repeat.

    The SDK's own texts quote URLs and keys, and a sender's key may name a patient.
    """
    try:
        yield
    except PermanentError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except (BotoCoreError, ClientError) as error:
        raise without_contents(error) from None


def stage(
    name: str,
    deps: Sequence[dg.AssetsDefinition | dg.AssetSpec],
    kinds: set[str],
    schema: dg.TableSchema,
    *,
    lineage: dg.TableColumnLineage | None = None,
    code_version: str | None = None,
) -> Callable[[Callable[..., dg.MaterializeResult[None]]], dg.AssetsDefinition]:
    """Decorator of one stage of the ingest: an asset by arrival day, whose table in the index is `name`.

    Without a lineage, columns come from their namesakes in `deps`.
    """
    return dg.asset(
        deps=deps,
        group_name="ingest",
        kinds=kinds,
        owners=OWNERS,
        partitions_def=ARRIVAL_DAY,
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=SERVICE_RETRY,
        metadata=described(name, schema, lineage or lineage_by_name(schema, schemas(deps))),
        code_version=code_version,
    )


def schemas(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> dict[str, dg.TableSchema]:
    """The columns that assets say they have, by asset."""
    specs = [spec for asset in assets for spec in (asset.specs if isinstance(asset, dg.AssetsDefinition) else [asset])]
    return {spec.key.to_user_string(): spec.metadata["dagster/column_schema"] for spec in specs}


def day_rows(context: dg.AssetExecutionContext, pipeline: Pipeline, table: sa.Table) -> dict[str, int]:
    """How many rows the run's partition has now, as Dagster's catalog shows it."""
    return {"dagster/partition_row_count": rows_of_day(pipeline.index.engine, table, list(context.partition_keys))}


def counts(numbers: Mapping[str, int], prefix: str = "") -> dict[str, int]:
    """Counters as metadata entries, zeroes left out."""
    return {f"{prefix}{name}": int(number) for name, number in sorted(numbers.items()) if number}
