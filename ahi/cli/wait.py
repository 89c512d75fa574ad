"""`ahi wait`: until everything that was sent is through. Belongs here: saying what is still open."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ahi.cli import common

if TYPE_CHECKING:
    import sqlalchemy as sa
    from mypy_boto3_s3 import S3Client

    from ahi.aws import Aws
    from ahi.index.store import Index
    from ahi.settings import Settings

POLL_SECONDS = 0.5
LOOKUP = 500  # keys in one question to the catalog


def open_work(settings: Settings, aws: Aws, index: Index) -> list[str]:
    """What is not through, each as a phrase; empty if everything is.

    The bucket is asked last, since listing is the dear question: what lies there and is not in the ledger has not
    been announced yet, so a wait right after a send does not end too early.
    """
    from ahi.cli.queues import depths
    from ahi.closure import closure
    from ahi.index import catalog

    found = []
    for queue in depths(aws.sqs, settings):
        if queue.waiting or queue.in_flight:
            found.append(f"{queue.waiting + queue.in_flight} messages on the queue of {queue.name}")
        if queue.dead:
            found.append(
                f"{queue.dead} messages in the dead-letter queue of {queue.name}: see what they are, then redrive"
            )
    counted = closure(index.engine)
    for n, what in (
        (counted.pending_batches, "inbox batches not consumed"),
        (counted.in_flight, "objects in flight"),
        (counted.unsettled_jobs, "import jobs not settled"),
        (counted.not_indexed, "imported objects not indexed"),
        (counted.unexplained, "objects failed without a reason"),
        (_unpublished(index), "objects changed since the last publication"),
    ):
        if n:
            found.append(f"{n} {what}")
    if not counted.closes:
        found.append("the counts do not close")
    if not found:
        missing = unannounced(aws.s3, settings.landing_bucket, index.engine, catalog.objects)
        if missing:
            found.append(f"{missing} objects in the landing bucket that no event has announced")
    return found


def _unpublished(index: Index) -> int:
    import sqlalchemy as sa

    from ahi.index import catalog

    objects = catalog.objects
    shown = sa.select(sa.func.coalesce(sa.func.max(catalog.publications.c.seq), 0)).scalar_subquery()
    newer = sa.or_(objects.c.header_seq > shown, objects.c.indexed_seq > shown, objects.c.changed_seq > shown)
    with index.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(objects).where(newer)).scalar_one()


def unannounced(s3: S3Client, bucket: str, engine: sa.Engine, objects: sa.Table) -> int:
    """How many objects lie in a bucket, in their present version, that the ledger does not have."""
    import sqlalchemy as sa

    missing = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        listed = [(entry["Key"], entry["ETag"].strip('"')) for entry in page.get("Contents", [])]
        for start in range(0, len(listed), LOOKUP):
            part = listed[start : start + LOOKUP]
            known = sa.select(objects.c.key, objects.c.etag).where(
                objects.c.bucket == bucket, objects.c.key.in_([key for key, _ in part])
            )
            with engine.connect() as connection:
                rows = {(row.key, (row.etag or "").strip('"')) for row in connection.execute(known)}
            missing += sum(item not in rows for item in part)
    return missing


def wait(
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most; 0 looks once.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Wait until everything that arrived is through: imported, indexed and published, or failed with a reason.

    Looks at the queues, the inbox, the ledger and the landing bucket itself.

    Examples: `ahi send scans/ && ahi wait --timeout 120 && ahi failures`

    Exit code: 0 all through and the counts close, 1 something is open (it says what), 2 no stack.
    """
    settings = common.open_settings()
    common.landing_bucket(settings)
    deadline = time.monotonic() + timeout
    with common.aws_errors(settings):
        aws = common.connect()
        aws.s3.head_bucket(Bucket=settings.landing_bucket)
        index = common.open_index(settings)
        while (what := open_work(settings, aws, index)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    if as_json:
        common.print_json({"through": not what, "open": what})
    else:
        typer.echo(f"Still open: {'; '.join(what)}." if what else "Everything is through, and the counts close.")
    if what:
        raise typer.Exit(common.NO)
