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
LISTING_SECONDS = 5.0
"""Time between two listings of the landing bucket, which may hold millions."""
LOOKUP = 500  # keys in one question to the catalog


class Watch:
    """Looks again and again at what is not through."""

    def __init__(self, settings: Settings, aws: Aws, index: Index) -> None:
        self._settings, self._aws, self.index = settings, aws, index
        self._listed_at: float | None = None
        self._unannounced: list[str] = []

    def look(self) -> list[str]:
        """What is not through, each as a phrase; empty if everything is.

        The bucket is asked only when all else is at rest, and seldom, since listing is the dear question: what lies
        there and is not in the ledger has not been announced yet, so a wait right after a send does not end too early.
        """
        from ahi.index import catalog

        found = open_work(self._settings, self._aws, self.index)
        at = time.monotonic()
        if found or (self._listed_at is not None and at - self._listed_at < LISTING_SECONDS):
            return found or self._unannounced
        bucket = self._settings.landing_bucket
        missing = unannounced(self._aws.s3, bucket, self.index.engine, catalog.objects)
        what = common.counted(missing, "object")
        self._unannounced = [f"{what} in the landing bucket that no event has announced"] if missing else []
        self._listed_at = time.monotonic()
        return self._unannounced


def open_work(settings: Settings, aws: Aws, index: Index) -> list[str]:
    """What queues, inbox, ledger and publication know to be open, each as a phrase."""
    from ahi.cli import batches
    from ahi.cli.queues import depths
    from ahi.closure import closure

    found = []
    for queue in depths(aws.sqs, settings):
        if queue.waiting or queue.in_flight:
            waiting = common.counted(queue.waiting + queue.in_flight, "message")
            found.append(f"{waiting} on the queue of {queue.name}")
        if queue.dead:
            dead = common.counted(queue.dead, "message")
            found.append(f"{dead} in the dead-letter queue of {queue.name}: see what is wrong, then redrive")
    counted = closure(index.engine)
    if counted.pending_batches:
        # A batch consumed between the two questions has set its objects on their way after they were counted.
        found += batches.phrases(batches.pending(index.engine)) or ["inbox batches consumed just now"]
    for n, what, how in (
        (counted.in_flight, "object", "in flight"),
        (counted.unsettled_jobs, "import job", "not settled"),
        (counted.not_indexed, "imported object", "not indexed"),
        (counted.unexplained, "object", "failed without a reason"),
        (_unpublished(index), "object", "changed since the last publication"),
    ):
        if n:
            found.append(f"{common.counted(n, what)} {how}")
    if not counted.closes:
        found.append("the counts do not close")
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
    from ahi.closure import closure

    settings = common.open_settings()
    common.landing_bucket(settings)
    deadline = time.monotonic() + timeout
    with common.aws_errors(settings):
        aws = common.connect()
        aws.s3.head_bucket(Bucket=settings.landing_bucket)
        watch = Watch(settings, aws, common.open_index(settings))
        while (what := watch.look()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        unreadable = closure(watch.index.engine).unreadable
    if as_json:
        common.print_json({"through": not what, "open": what, "unreadable": unreadable})
    else:
        typer.echo(f"Still open: {'; '.join(what)}." if what else "Everything is through, and the counts close.")
        if unreadable:
            whose = common.counted(unreadable, "imported object")
            typer.echo(f"{whose}: HealthImaging's document is not understood and lies in quarantine (`ahi failures`).")
    if what:
        raise typer.Exit(common.NO)
