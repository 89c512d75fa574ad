"""What every asset here shares: its partition, its config, how it retries, how its table is described.

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
from ahi.index.registry import TABLES
from ahi.index.views import public_views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import sqlalchemy as sa

    from ahi.inbox import Batch, Queue
    from ahi.pipeline import Pipeline

ARRIVAL_DAY = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC", end_offset=1)
"""The UTC day on which a message was taken from its queue. The offset makes today a partition."""

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
        return inbox.pending(pipeline, queue)
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
    code_version: str | None = None,
) -> Callable[[Callable[..., dg.MaterializeResult[None]]], dg.AssetsDefinition]:
    """Decorator of one stage of the ingest: an asset by arrival day, whose table in the index is `name`."""
    return dg.asset(
        deps=deps,
        group_name="ingest",
        kinds=kinds,
        owners=OWNERS,
        partitions_def=ARRIVAL_DAY,
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=SERVICE_RETRY,
        metadata=described(name, schema),
        code_version=code_version,
    )


def described(name: str, schema: dg.TableSchema) -> dict[str, dg.TableSchema | str]:
    """Metadata of an asset's definition: the name of its table, and its columns."""
    return {"dagster/column_schema": schema, "dagster/table_name": name}


def column_schema(table_name: str) -> dg.TableSchema:
    """Dagster's description of a table of the registry."""
    table = TABLES[table_name]
    return dg.TableSchema(
        [
            dg.TableColumn(column.name, column.duckdb_type, column.description, tags={"tier": column.tier.value})
            for column in table.columns
        ]
    )


def view_schema(name: str) -> dg.TableSchema:
    """Dagster's description of a view of the published index."""
    (view,) = (view for view in public_views(TABLES) if view.name == name)
    types = {column.name: column.duckdb_type for column in TABLES["series"].columns} | dict(view.types)
    return dg.TableSchema([dg.TableColumn(column, types[column], text) for column, text in view.columns.items()])


def catalog_schema(table: sa.Table, *names: str) -> dg.TableSchema:
    """Dagster's description of a table of the catalog, or of some of its columns."""
    return dg.TableSchema(
        [
            dg.TableColumn(column.name, str(column.type), column.comment or None)
            for column in table.columns
            if not names or column.name in names
        ]
    )


def day_rows(context: dg.AssetExecutionContext, pipeline: Pipeline, table: sa.Table) -> dict[str, int]:
    """How many rows the run's partition has now, as Dagster's catalog shows it."""
    return {"dagster/partition_row_count": rows_of_day(pipeline.index.engine, table, list(context.partition_keys))}


def counts(numbers: Mapping[str, int], prefix: str = "") -> dict[str, int]:
    """Counters as metadata entries, zeroes left out."""
    return {f"{prefix}{name}": int(number) for name, number in sorted(numbers.items()) if number}
